"""`modelport serve`. It imports nothing that only the processes it starts need: the web waits for it."""

from __future__ import annotations

import os

import click

from webapp import installation, logs, supervisor
from webapp.cli import Command, Console, first_call, pass_console


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
    installation.check_alone(console.database, console.settings.replica)
    console.database.engine.dispose()
    supervisor.serve(
        console.settings,
        with_worker=not no_worker,
        on_ready=lambda: first_call.welcome(console.settings, console.database, sign_in),
    )
