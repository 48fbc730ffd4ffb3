"""`modelport predictions`: take predictions out of the log, or what it has about somebody."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

import click

from webapp import artifacts, erasure
from webapp.cli import Console, Group, pass_console
from webapp.errors import Invalid
from webapp.predictions import exports, files, search
from webapp.predictions.search import Wanted
from webapp.signature import keeping

MOMENT = "2026-03-03 or 2026-03-03T12:00:00Z"


@click.group("predictions", cls=Group)
def group() -> None:
    """Take predictions out of the log, or delete what it has about somebody."""


@group.command()
@click.option("--model", help="Only of this model.")
@click.option("--version", type=click.IntRange(1), help="Only of this version.")
@click.option("--since", metavar="MOMENT", help=f"Only from then on: {MOMENT}.")
@click.option("--until", metavar="MOMENT", help="Only until then; of a date, its end is meant.")
@click.option("--format", "form", type=click.Choice(list(files.MIMETYPES)), default="jsonl", help="Default: jsonl.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; default: the output.")
@pass_console
def export(  # noqa: PLR0913 - one parameter per option
    console: Console,
    model: str | None,
    version: int | None,
    since: str | None,
    until: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Write predictions, the newest first, with what turned out to be true; it is noted in the audit log."""
    files.require(form)
    if output is None and form == "parquet" and sys.stdout.isatty():
        raise Invalid("output_missing", "Parquet is nothing to read on a terminal; name a file by --output.")
    wanted = Wanted(model=model, version=version, since=_moment(since), until=_moment(until, is_end=True))
    with console.database.transaction() as session:
        exports.note(session, console.actor, form, wanted, "")
    counted = _Counted(files.lines(console.database, wanted))
    with _opened(output) as file:
        for piece in files.written(counted, form):
            file.write(piece)
    if output is not None:
        said = f"{counted.rows:,} prediction{'' if counted.rows == 1 else 's'} in {output}."
        console.answer({"rows": counted.rows, "file": str(output)}, said)


@group.command("delete-subject")
@click.argument("value")
@click.option("--model", help="Only what this model answered; default: every model.")
@pass_console
def delete_subject(console: Console, value: str, model: str | None) -> None:
    """Delete all predictions about VALUE, as the models' metadata declare a subject; “-” reads it from the input.

    Batches that the subject is in, and exports, are removed as well. Done at once, and not to be undone.
    """
    whom = sys.stdin.readline().rstrip("\n") if value == "-" else value
    if not whom:
        raise Invalid("subject_missing", "Say whose predictions are to be deleted.")
    digests = keeping.subjects(console.settings.derive(keeping.KEY), whom)
    storage = artifacts.opened(console.settings).storage
    done = erasure.erase(console.database, storage, console.actor, digests, model)
    document = {"predictions": done.predictions, "batches": done.batches, "exports": done.exports}
    removed = ", ".join(f"{count:,} {name}" for name, count in document.items())
    console.answer(document, f"Removed: {removed}. What still waits in a spool is dropped when it comes to the log.")


def _moment(text: str | None, *, is_end: bool = False) -> datetime | None:
    return None if text is None else search.moment_from(text, is_end=is_end)


class _Counted:
    def __init__(self, found: Iterable[files.Line]) -> None:
        self._found = found
        self.rows = 0

    def __iter__(self) -> Iterator[files.Line]:
        for line in self._found:
            self.rows += 1
            yield line


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    """Give what is written to; a file has its name when all of it is there."""
    if output is None:
        # Whoever reads it may have enough of it, as `head` has.
        with suppress(BrokenPipeError):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        with tempfile.NamedTemporaryFile(dir=output.absolute().parent, prefix=f".{output.name}-", delete=False) as file:
            try:
                yield file
                Path(file.name).rename(output)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Invalid("output_unusable", f"{output} cannot be written: {error.strerror}.") from None
