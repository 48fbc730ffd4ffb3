"""Cuts Parquet into chunks of JSON lines, which a locked child makes of it: nothing of it is decoded here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import orjson

from webapp import child, parquet
from webapp.batches import cutting
from webapp.batches.cutting import Piece
from webapp.errors import Invalid, Malformed, TooLarge
from webapp.signature import Signature

COMMAND = child.command("webapp.batches.parquet_child")
# The lock holds one thread: the library would start others.
ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "ARROW_IO_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
MOST_HEAD_BYTES = 1024 * 1024


def table(signature: Signature, file: IO[bytes], most_bytes: int) -> Iterator[Piece]:
    """Cut a file whose columns are the model's; raise where it is none. Its rows may be `most_bytes` of JSON.

    What is wrong with single rows is found when they are computed.
    """
    with file, child.running(COMMAND, file, environment=ENVIRONMENT) as process:
        assert process.stdout is not None
        cutting.check_names(signature, _names(process.stdout))
        with _whole(process):
            yield from _limited(cutting.objects(process.stdout), most_bytes)


@contextmanager
def _whole(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Refuse what a child has given that did not come to the end: of a damaged file that is the first part."""
    try:
        yield
    except Invalid:
        if process.wait() == 0:
            raise
    if process.wait() != 0:
        raise _unreadable()


def _names(lines: IO[bytes]) -> list[str]:
    try:
        said = orjson.loads(lines.readline(MOST_HEAD_BYTES))
        refused, names = said.get("refused"), said.get("names")
    except (ValueError, AttributeError):
        raise _unreadable() from None
    if refused:
        raise Malformed("parquet_unusable", f"The file cannot be used. {refused}")
    return [str(name) for name in names]


def _limited(pieces: Iterator[Piece], most_bytes: int) -> Iterator[Piece]:
    size = 0
    for piece in pieces:
        size += len(piece.content)
        if size > most_bytes:
            raise TooLarge("body_too_large", f"Its rows, as JSON lines, have more than {most_bytes} bytes; send fewer.")
        yield piece


def _unreadable() -> Malformed:
    detail = (
        "The file cannot be read to its end: it is damaged, or a row group of it needs too much memory or time."
        f" Write it with row groups of some {parquet.GROUP_ROWS:,} rows."
    )
    return Malformed("parquet_unreadable", detail)
