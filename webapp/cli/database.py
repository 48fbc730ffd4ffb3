"""`modelport db` and `modelport config`: the schema, and what is set."""

from __future__ import annotations

import os

import click

from webapp import config, db
from webapp.cli import Console, Group, pass_console
from webapp.db import Database
from webapp.errors import Unavailable


@click.group("db", cls=Group)
def group() -> None:
    """Bring the database to the schema of this release, or check it."""


@group.command()
@pass_console
def upgrade(console: Console) -> None:
    """Create the tables, or bring them to this release. Safe to repeat."""
    console.begin()
    url = console.settings.sqlalchemy_url
    before, _ = db.revisions(Database(url))
    if before is not None and not db.knows_revision(before):
        raise Unavailable("schema_newer", "The database has the schema of a newer release; run that release here.")
    db.upgrade(url)
    _, revision = db.revisions(Database(url))
    console.answer({"revision": revision, "from": before}, f"The database is at revision {revision}.")


@group.command()
@pass_console
def check(console: Console) -> None:
    """Tell whether the database has the schema of this release."""
    present, _ = db.revisions(console.database)
    console.answer({"revision": present}, f"The database is at revision {present}, which this release needs.")


@click.group("config", cls=Group)
def config_group() -> None:
    """Show the settings."""


@config_group.command()
@pass_console
def show(console: Console) -> None:
    """Show every setting as it could be given, and where it comes from; secrets are masked."""
    shown = config.describe(os.environ)
    lines = [f"{name}={each['value']}  ({each['source']})" for name, each in shown.items()]
    console.answer(shown, "\n".join(lines))
