"""Slots: small numbers that the processes of one host take and give back, so that their files are reused."""

from __future__ import annotations

import fcntl
import itertools
import os
from pathlib import Path


def hold(path: Path) -> None:
    """Wait until no other process holds this file; hold it as long as this process lives."""
    fcntl.flock(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)


class Slot:
    """A number held by this process as long as it lives: the kernel gives the lock back when it dies."""

    def __init__(self, folder: Path) -> None:
        """Take the lowest free number in `folder`."""
        for number in itertools.count(1):
            descriptor = os.open(folder / f"slot-{number}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            self.number, self._descriptor = number, descriptor
            return

    def release(self) -> None:
        """Give the number back before the process ends."""
        os.close(self._descriptor)
