"""The first call that a newcomer pastes: the demo's key, kept so that it can be shown again."""

from __future__ import annotations

from pathlib import Path

import click

from webapp import users
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Refusal

MODEL = "credit-risk"
INSTANCE = '{"age": 35, "income": 52000, "credit_score": 690}'


def key_file(settings: Settings) -> Path:
    """Where the demo's key is kept, readable by its owner only."""
    return settings.data_dir / "demo-key"


def curl(settings: Settings) -> str:
    """Give a first call on one line, which works when pasted."""
    key = key_file(settings).read_text(encoding="ascii")
    return (
        f"curl -s http://{settings.bind}/models/{MODEL}/predict -H 'X-API-Key: {key}'"
        f" -H 'Content-Type: application/json' -d '{INSTANCE}'"
    )


def welcome(settings: Settings, database: Database, sign_in: str | None) -> None:
    """Say on stderr where the server is, how a person gets in and, where there is a demo, how to call it."""
    click.echo(f"\nModelport serves on http://{settings.bind}", err=True)
    if key_file(settings).exists():
        click.echo(f"\nA first prediction:\n\n  {curl(settings)}", err=True)
    click.echo(f"\nThe admin UI: {settings.url}/admin", err=True)
    if sign_in:
        click.echo(_way_in(settings, database, sign_in), err=True)


def _way_in(settings: Settings, database: Database, name: str) -> str:
    try:
        with database.transaction() as session:
            token = users.make_link(session, users.get_user(session, name))
    except Refusal as refusal:
        return f"\nNo sign-in link: {refusal.detail}\n"
    minutes = int(users.LINK_LIFE.total_seconds() // 60)
    return f"\nSign in as {name} (this link works once, for {minutes} minutes):\n\n  {settings.url}/login/{token}\n"
