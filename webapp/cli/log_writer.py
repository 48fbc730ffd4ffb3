"""`modelport log-writer`, which a supervisor starts: moves the spool into the database."""

from __future__ import annotations

import click

from webapp import log_writer, logs, metrics, supervisor
from webapp.cli import Command, Console, pass_console
from webapp.slots import hold


@click.command("log-writer", cls=Command, hidden=True)
@pass_console
def write_log(console: Console) -> None:
    """Move this host's spool into the database until SIGTERM."""
    supervisor.die_with_parent()
    logs.set_up(console.settings.log_level)
    # Where the web and the worker of a data directory are started apart, each brings one: one drains, the other waits.
    hold(console.settings.run_dir / "log-writer.lock")
    metrics.enter("log-writer")
    log_writer.run(console.database, console.settings.spool_dir, console.settings.replica)
