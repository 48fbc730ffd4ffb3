"""`modelport serve` and the processes it supervises."""

from __future__ import annotations

import os
import warnings

import click

from webapp import log_writer, logs, metrics, supervisor, worker
from webapp.app import make_parts
from webapp.cli import Command, Console, first_call, pass_console
from webapp.fleet import HOST
from webapp.slots import Slot


@click.command(cls=Command)
@click.option("--bind", metavar="HOST:PORT", help="Overrides MODELPORT_BIND.")
@click.option("--workers", type=int, help="Overrides MODELPORT_WORKERS.")
@click.option("--threads", type=int, help="Overrides MODELPORT_THREADS.")
@click.option("--no-worker", is_flag=True, help="Leave batches to `modelport worker` elsewhere.")
@click.option("--sign-in", metavar="NAME", help="Print a sign-in link for this user when it serves.")
@pass_console
def serve(
    console: Console,
    bind: str | None,
    workers: int | None,
    threads: int | None,
    no_worker: bool,  # noqa: FBT001 - click's interface
    sign_in: str | None,
) -> None:
    """Serve until Ctrl-C or SIGTERM: web workers, the log writer, and the worker."""
    given = {"BIND": bind, "WORKERS": workers, "THREADS": threads}
    # The processes it starts read the environment too.
    os.environ.update({f"MODELPORT_{name}": str(value) for name, value in given.items() if value is not None})
    logs.set_up(console.settings.log_level)
    console.database.engine.dispose()
    supervisor.serve(
        console.settings,
        with_worker=not no_worker,
        on_ready=lambda: first_call.welcome(console.settings, console.database, sign_in),
    )


@click.command("worker", cls=Command)
@pass_console
def work(console: Console) -> None:
    """Work on batch jobs until Ctrl-C or SIGTERM."""
    supervisor.die_with_parent()
    logs.set_up(console.settings.log_level)
    console.database.engine.dispose()
    metrics.enter("worker")
    warnings.simplefilter("ignore")
    parts = make_parts(console.settings)
    parts.spool.start()
    parts.follower.start(slot=None)
    try:
        loops = (each(parts, HOST) for each in (worker.Inspector, worker.Recomputer))
        worker.run(worker.Worker(parts, HOST), *loops)
    finally:
        parts.follower.stop()
        parts.spool.stop()


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
    log_writer.run(console.database, console.settings.spool_dir, HOST)
