"""Fair workers: each leaves a new connection to those that hold fewer, so that they share their clients evenly.

All workers wait on one listening socket, and whichever wakes first takes what has come. When clients connect at once
that is mostly the same one, and as they keep their connections, it then answers for all while the others wait.
"""

from __future__ import annotations

import mmap
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

# More than there can be workers on a host.
MOST_SLOTS = 256
# So long a worker that holds more waits for another one to take a connection.
PATIENCE_SECONDS = 0.001

# How many connections the worker in each slot holds, and one; 0 where there never was a worker. Made before the fork,
# so that all see what is written to it. The count of a worker that died stays until the next one takes its slot: until
# then it costs others their patience, and nobody a connection.
_held = memoryview(mmap.mmap(-1, MOST_SLOTS * 8)).cast("q")


def is_ahead(own: int, slot: int) -> bool:
    """Whether the worker in `slot`, which holds `own` connections, holds more than another one."""
    others = (count for at, count in enumerate(_held) if count and at != slot)
    return own + 1 > min(others, default=own + 1)


def note(slot: int, connections: int) -> None:
    """Say what the worker in `slot` holds."""
    _held[slot] = connections + 1


def leave(slot: int) -> None:
    """Say that there is no worker in `slot` any more."""
    _held[slot] = 0


class FairWorker(ThreadWorker):  # type: ignore[misc] # Gunicorn has no types
    """Gunicorn's threaded worker, which the hooks of `server` give its slot."""

    def notify(self) -> None:
        """Say with each turn of the loop that this worker lives, and what it holds."""
        super().notify()
        if hasattr(self, "slot"):
            note(self.slot.number, self.nr_conns)

    def accept(self, listener: Any) -> None:  # noqa: ANN401 - Gunicorn's socket
        """Take a connection that no other worker takes first."""
        if hasattr(self, "slot") and is_ahead(self.nr_conns, self.slot.number):
            time.sleep(PATIENCE_SECONDS)
        super().accept(listener)

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - Gunicorn's interface
        """Listen or not; a worker that is about to end does so for good."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self._leave_listeners()

    def _leave_listeners(self) -> None:
        """Take every connection that waits, then close the socket, so that whoever comes now is refused at once.

        Gunicorn keeps it until the last connection has ended. Until then the kernel would go on taking connections
        that nobody serves, for seconds, and reset them all in the end: a proxy cannot tell whether such a request was
        worked on. A refused one was not, and goes to the next replica.
        """
        while self.sockets:
            listener = self.sockets.pop()
            before = -1
            while before != self.nr_conns:
                before = self.nr_conns
                super().accept(listener)
            listener.close()
