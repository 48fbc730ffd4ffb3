"""`modelport log-writer`, which `modelport serve` starts: moves the spool into the database."""

from __future__ import annotations

import click

from webapp import log_writer, logs, supervisor
from webapp.cli import Command, Console, pass_console
from webapp.slots import Slot


@click.command("log-writer", cls=Command, hidden=True)
@pass_console
def write_log(console: Console) -> None:
    """Move this host's spool into the database until SIGTERM."""
    supervisor.die_with_parent()
    logs.set_up(console.settings.log_level)
    folder = console.settings.run_dir / "log-writer"
    folder.mkdir(exist_ok=True)
    if Slot(folder).number != 1:
        message = "another log writer drains this spool"
        raise click.ClickException(message)
    log_writer.run(console.database, console.settings.spool_dir, console.settings.replica)
