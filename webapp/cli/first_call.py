"""The first call that a newcomer pastes: the demo's key, kept so that it can be shown again."""

from __future__ import annotations

from pathlib import Path

import click

from webapp.config import Settings

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


def welcome(settings: Settings) -> None:
    """Say on stderr where the server is and, where there is a demo, how to call it."""
    click.echo(f"\nModelport serves on http://{settings.bind}", err=True)
    if key_file(settings).exists():
        click.echo(f"\nA first prediction:\n\n  {curl(settings)}\n", err=True)
