"""One load at a time: the processes of a host take turns, so that loading leaves the machine to predictions."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_SECONDS = 0.02
# Whoever has waited for so long goes on beside the others: a load that hangs must not hold up a host.
PATIENCE_SECONDS = 15.0


class Turn:
    """A file lock; the kernel gives it back when its holder dies."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist yet."""
        self._path = path

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for one's turn, then hold it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
        else:
            return
