"""The `modelport` command: every command takes --json, exits 0 done, 1 refused, 2 wrong usage or settings."""

from __future__ import annotations

import json
import os
import pwd
import sys
from functools import cached_property
from importlib import import_module
from typing import Any

import click

from webapp import __version__, config, db, installation
from webapp.audit import Actor
from webapp.config import InvalidSettings, Settings
from webapp.db import Database
from webapp.errors import NotFound, Refusal, Unavailable, having_room
from webapp.generation import Signal

# Each command lives in a module that is imported when it is asked for: most need no scikit-learn, whose import
# takes longer than all they do.
COMMANDS = {
    "alerts": "alerts:group",
    "audit": "audit:group",
    "config": "database:config_group",
    "db": "database:group",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "drift": "drift:group",
    "feedback": "feedback:tell",
    "keys": "keys:group",
    "log-writer": "log_writer:write_log",
    "models": "models:group",
    "openapi": "openapi:describe",
    "pack": "pack:pack",
    "predictions": "predictions:group",
    "serve": "serve:serve",
    "users": "users:group",
    "worker": "worker:work",
}


class Console:
    """What a command works with: the settings, the database, and the two ways to answer."""

    def __init__(self) -> None:
        """Nothing is read before a command asks for it."""
        self.as_json = False

    @cached_property
    def settings(self) -> Settings:
        """The complete settings of an installation that is there: looking at one must not begin another."""
        loaded = config.load(os.environ)
        if not loaded.data_dir.exists():
            detail = (
                f"There is no Modelport data in {loaded.data_dir.absolute()} (MODELPORT_DATA_DIR); go where it is,"
                " or begin here with `modelport db upgrade`."
            )
            raise NotFound("no_data", detail)
        return config.prepare(loaded)

    def begin(self) -> None:
        """Make the data directory and its secret, where they are missing."""
        config.prepare(config.load(os.environ))

    @cached_property
    def database(self) -> Database:
        """The database, which has the schema of this release."""
        signal = Signal(self.settings.run_dir / "generation")
        database = Database(self.settings.sqlalchemy_url, announce=signal.send)
        require_schema(database)
        installation.begin(database, self.settings)
        return database

    @property
    def actor(self) -> Actor:
        """Who is noted for a change: the user of the operating system."""
        try:
            return Actor(f"cli:{pwd.getpwuid(os.getuid()).pw_name}")
        except KeyError:
            return Actor(f"cli:uid {os.getuid()}")

    def close(self) -> None:
        """Give back the connections, if there are any."""
        if "database" in vars(self):
            self.database.engine.dispose()

    def answer(self, document: dict[str, Any], text: str) -> None:
        """Answer on stdout: the one document with --json, else the text."""
        click.echo(json.dumps(document, ensure_ascii=False) if self.as_json else text)


def require_schema(database: Database) -> None:
    """Refuse to work on a database with another schema than this release's."""
    present, needed = db.revisions(database)
    if present == needed:
        return
    if present is None:
        detail = f"{database.place} has no tables yet; run `modelport db upgrade`, or run this where the data is."
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
        self.params.append(
            click.Option(["--json", "as_json"], is_flag=True, expose_value=False, callback=_note_json, help=about)
        )

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own
        """Run the command; say on stderr what is wrong and what to do."""
        console = ctx.ensure_object(Console)
        try:
            with having_room():
                return super().invoke(ctx)
        except InvalidSettings as error:
            for problem in error.problems:
                click.echo(f"modelport: {problem}", err=True)
            sys.exit(2)
        except Refusal as refusal:
            _say_refused(console, refusal)
            sys.exit(1)
        finally:
            console.close()


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


class LazyGroup(Group):
    """The outermost group: knows the names of its commands, imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Give the names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's interface
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"webapp.cli.{module}"), name)
        return command


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="modelport")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Modelport puts scikit-learn models into production."""
    # What is made here belongs to the user who runs it, and to nobody else.
    os.umask(0o077)
    ctx.ensure_object(Console)


pass_console = click.make_pass_decorator(Console, ensure=True)
