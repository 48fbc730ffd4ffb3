"""`modelport serve` and the processes it supervises."""

from __future__ import annotations

import os

import click

from webapp import log_writer, logs, supervisor, worker
from webapp.cli import Console, demo, main, pass_console, require_schema
from webapp.follower import HOST
from webapp.slots import Slot


@main.command()
@click.option("--bind", metavar="HOST:PORT", help="Overrides MODELPORT_BIND.")
@click.option("--workers", type=int, help="Overrides MODELPORT_WORKERS.")
@click.option("--threads", type=int, help="Overrides MODELPORT_THREADS.")
@click.option("--no-worker", is_flag=True, help="Leave batches to `modelport worker` elsewhere.")
@pass_console
def serve(console: Console, bind: str | None, workers: int | None, threads: int | None, no_worker: bool) -> None:  # noqa: FBT001 - click's interface
    """Serve until Ctrl-C or SIGTERM: web workers, the log writer, and the worker."""
    given = {"BIND": bind, "WORKERS": workers, "THREADS": threads}
    # The processes it starts read the environment too.
    os.environ.update({f"MODELPORT_{name}": str(value) for name, value in given.items() if value is not None})
    logs.set_up(console.settings.log_level)
    require_schema(console.parts)
    console.parts.database.engine.dispose()
    supervisor.serve(console.settings, with_worker=not no_worker, on_ready=lambda: demo.welcome(console.settings))


@main.command("worker")
@pass_console
def work(console: Console) -> None:
    """Work on batch jobs until Ctrl-C or SIGTERM."""
    supervisor.die_with_parent()
    parts = console.parts
    logs.set_up(parts.settings.log_level)
    parts.spool.start()
    parts.follower.start(slot=None)
    try:
        worker.run(worker.Worker(parts, HOST))
    finally:
        parts.follower.stop()
        parts.spool.stop()


@main.command("log-writer", hidden=True)
@pass_console
def write_log(console: Console) -> None:
    """Move this host's spool into the database until SIGTERM."""
    supervisor.die_with_parent()
    parts = console.parts
    logs.set_up(parts.settings.log_level)
    folder = parts.settings.run_dir / "log-writer"
    folder.mkdir(exist_ok=True)
    if Slot(folder).number != 1:
        message = "another log writer drains this spool"
        raise click.ClickException(message)
    log_writer.run(parts.database, parts.settings.data_dir / "spool", HOST)
