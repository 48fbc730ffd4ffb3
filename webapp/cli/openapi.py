"""`modelport openapi`: the API's description, for tools that do not ask the server."""

from __future__ import annotations

import json

import click

from webapp import registry
from webapp.app import create_app
from webapp.cli import Command, Console, pass_console
from webapp.openapi import document


@click.command("openapi", cls=Command)
@click.option("--model", "name", metavar="NAME", help="With this model only; default: all that have an active version.")
@pass_console
def describe(console: Console, name: str | None) -> None:
    """Print the API's description in OpenAPI 3.1, as GET /openapi.json gives it to a key for these models."""
    with console.database.reading() as session:
        catalog = registry.catalog(session)
    versions = catalog.active_versions() if name is None else [catalog.resolve(name)]
    described = document.describe(create_app(console.settings), versions, console.settings.max_instances)
    # The same with and without --json: the document is the answer.
    console.answer(described, json.dumps(described, ensure_ascii=False, indent=2))
