"""Fault points: named places where a test can end the process, make a step fail, or have it wait."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# Not a setting, and so without the settings' prefix: nobody sets it but tests.
#   point:act          at the first pass of each process; acts: exit (kill -9 of itself), raise, memory, wait
#   point:act@3        at its third pass
#   point:act@/a/path  at the pass that finds this file and takes it away, of whichever process; "wait" waits for it
# Several are separated by commas.
VARIABLE = "FAULT_POINTS"
LOOK_SECONDS = 0.01

_passes: Counter[str] = Counter()


class Fault(Exception):  # noqa: N818 - it names the fact
    """What a test asked for."""


def point(name: str) -> None:
    """Do what was asked for at this place: nothing, unless a test runs."""
    if VARIABLE not in os.environ:
        return
    _passes[name] += 1
    for asked in os.environ[VARIABLE].split(","):
        at, _, rest = asked.partition(":")
        act, _, when = rest.partition("@")
        if at == name and (act == "wait" or _is_due(name, when)):
            _ACTS[act](when)


def _is_due(name: str, when: str) -> bool:
    if not when.startswith("/"):
        return _passes[name] == int(when or 1)
    try:
        Path(when).unlink()
    except FileNotFoundError:
        return False
    return True


def _exit(_when: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(_when: str) -> None:
    message = "as asked for"
    raise Fault(message)


def _memory(_when: str) -> None:
    raise MemoryError


def _wait(when: str) -> None:
    while not Path(when).exists():
        time.sleep(LOOK_SECONDS)


_ACTS: dict[str, Callable[[str], None]] = {"exit": _exit, "raise": _raise, "memory": _memory, "wait": _wait}
