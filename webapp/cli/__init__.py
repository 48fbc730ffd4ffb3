"""The `modelport` command: every command takes --json, exits 0 done, 1 refused, 2 wrong usage or settings."""

from __future__ import annotations

import getpass
import json
import os
import sys
from functools import cached_property
from typing import Any

import click

from webapp import __version__, app, config, db
from webapp.config import InvalidSettings, Settings
from webapp.errors import Refusal, Unavailable
from webapp.web import Parts


class Console:
    """What a command works with: the settings, the parts, and the two ways to answer."""

    def __init__(self) -> None:
        """Nothing is read before a command asks for it."""
        self.as_json = False

    @cached_property
    def settings(self) -> Settings:
        """The complete settings."""
        return config.prepare(config.load(os.environ))

    @cached_property
    def parts(self) -> Parts:
        """The parts of this process, on a database that has the schema of this release."""
        parts = app.make_parts(self.settings)
        require_schema(parts)
        return parts

    @property
    def actor(self) -> str:
        """Who is noted for a change: the user of the operating system."""
        return f"cli:{getpass.getuser()}"

    def answer(self, document: dict[str, Any], text: str) -> None:
        """Answer on stdout: the one document with --json, else the text."""
        click.echo(json.dumps(document, ensure_ascii=False) if self.as_json else text)


def require_schema(parts: Parts) -> None:
    """Refuse to work on a database with another schema than this release's."""
    present, needed = db.revisions(parts.database)
    if present == needed:
        return
    if present is None:
        detail = "The database has no tables yet (MODELPORT_DATABASE_URL); run `modelport db upgrade`."
    elif db.knows_revision(present):
        detail = "The database has the schema of an older release; run `modelport db upgrade`."
    else:
        detail = "The database has the schema of a newer release; run that release here."
    raise Unavailable("schema_differs", detail)


class Command(click.Command):
    """A command with --json, whose refusals become a sentence and exit code 1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - click's own
        """Add the option that every command has."""
        super().__init__(*args, **kwargs)
        about = "Answer with one JSON document on stdout."
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, expose_value=False, callback=_note_json, help=about))

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own
        """Run the command; say on stderr what is wrong and what to do."""
        console = ctx.ensure_object(Console)
        try:
            return super().invoke(ctx)
        except InvalidSettings as error:
            for problem in error.problems:
                click.echo(f"modelport: {problem}", err=True)
            sys.exit(2)
        except Refusal as refusal:
            _say_refused(console, refusal)
            sys.exit(1)


def _note_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's interface
    ctx.ensure_object(Console).as_json = value


def _say_refused(console: Console, refusal: Refusal) -> None:
    if console.as_json:
        document = {"error": {"code": refusal.code, "detail": refusal.detail, **refusal.more}}
        click.echo(json.dumps(document, ensure_ascii=False))
    click.echo(f"modelport: {refusal.detail} [{refusal.code}]", err=True)
    findings = refusal.more.get("findings")
    for finding in findings if isinstance(findings, list) else []:
        click.echo(f"  {finding['name']}: {finding['meaning']}", err=True)


class Group(click.Group):
    """A group whose commands and groups are ours."""

    command_class = Command
    group_class = type


@click.group(cls=Group)
@click.version_option(__version__, prog_name="modelport")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Modelport puts scikit-learn models into production."""
    ctx.ensure_object(Console)


pass_console = click.make_pass_decorator(Console, ensure=True)

# The commands register themselves with `main`; they need it, so they come last.
from webapp.cli import database, demo, keys, models, processes  # noqa: E402, F401
