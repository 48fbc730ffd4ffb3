"""SIGTERM and SIGINT, heard by a thread of their own.

A handler of Python's interrupts the main thread wherever it is, also in the middle of an `Event` or of the handler
before it, and waits for ever for a lock that is held there. Here nothing is done but to pass the number on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

ENDING = (signal.SIGTERM, signal.SIGINT)


def when_asked_to_end(act: Callable[[], object]) -> None:
    """Have something done whenever this process is asked to end."""
    heard, told = os.pipe()
    # A pipe that is full has been told often enough.
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in ENDING:
        signal.signal(number, lambda *_: None)

    def listen() -> None:
        while number := os.read(heard, 1):
            if number[0] in ENDING:
                act()

    threading.Thread(target=listen, name="signals", daemon=True).start()
