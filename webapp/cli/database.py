"""`modelport db` and `modelport config`: the schema, and what is set."""

from __future__ import annotations

import os
from importlib import import_module

import click

from webapp import config, copying, db, fleet
from webapp.cli import Console, Group, pass_console, require_schema
from webapp.db import Database
from webapp.errors import Conflict, Unavailable


@click.group("db", cls=Group)
def group() -> None:
    """Bring the database to the schema of this release, check it, or copy it into another one."""


@group.command()
@pass_console
def upgrade(console: Console) -> None:
    """Create the tables, or bring them to this release. Safe to repeat."""
    console.begin()
    url = console.settings.sqlalchemy_url
    database = Database(url)
    before, _ = db.revisions(database)
    database.engine.dispose()
    if before is not None and not db.knows_revision(before):
        raise Unavailable("schema_newer", "The database has the schema of a newer release; run that release here.")
    db.upgrade(url)
    revision, _ = db.revisions(console.database)
    console.answer({"revision": revision, "from": before}, f"The database is at revision {revision}.")


@group.command()
@pass_console
def check(console: Console) -> None:
    """Tell whether the database has the schema of this release."""
    present, _ = db.revisions(console.database)
    console.answer({"revision": present}, f"The database is at revision {present}, which this release needs.")


@group.command()
@click.argument("url")
@pass_console
def copy(console: Console, url: str) -> None:
    """Copy everything into the empty database at URL, also of another kind: from SQLite to PostgreSQL.

    Stop what is served first. Artifacts and other files stay where they are; then set MODELPORT_DATABASE_URL to URL.
    """
    # It declares every table; the other commands need not wait for it.
    import_module("webapp.app")
    with console.database.reading() as session:
        if hosts := sorted({each.host for each in fleet.live(session)}):
            detail = f"It is still served ({', '.join(hosts)}): stop that first, or what comes in would be missing."
            raise Conflict("still_served", detail)
    target = Database(url)
    copying.make_ready(target, url)
    require_schema(target)
    counts = copying.copy(console.database, target)
    target.engine.dispose()
    lines = [f"{name:<20} {count:>12,}" for name, count in counts.items()]
    text = "\n".join([*lines, f"{target.place} holds the same {sum(counts.values()):,} rows; name it to all replicas."])
    console.answer({"rows": sum(counts.values()), "tables": counts}, text)


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
