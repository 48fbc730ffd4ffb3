"""The parts of a process, for commands that ask versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from webapp.app import make_parts
from webapp.cli import Console
from webapp.web import Parts


@contextmanager
def started(console: Console) -> Iterator[Parts]:
    """Give parts that follow the committed state until the command ends."""
    made = make_parts(console.settings)
    made.follower.start(slot=None)
    try:
        yield made
    finally:
        made.follower.stop()
        made.database.engine.dispose()
