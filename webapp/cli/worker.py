"""`modelport worker`: what runs off the request path."""

from __future__ import annotations

import warnings

import click

from webapp import logs, metrics, supervisor, worker
from webapp.app import make_parts
from webapp.cli import Command, Console, pass_console


@click.command("worker", cls=Command)
@pass_console
def work(console: Console) -> None:
    """Work on batches and uploads until Ctrl-C or SIGTERM, and move what that logs into the database."""
    logs.set_up(console.settings.log_level)
    console.database.engine.dispose()
    if not supervisor.is_supervised():
        supervisor.work()
        return
    supervisor.die_with_parent()
    metrics.enter("worker")
    warnings.simplefilter("ignore")
    parts = make_parts(console.settings)
    parts.spool.start()
    parts.follower.start(slot=None)
    try:
        worker.run(parts, console.settings.replica)
    finally:
        parts.follower.stop()
        parts.spool.stop()
