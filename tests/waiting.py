"""Waiting without sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], *, within_seconds: float = 30.0) -> T:
    """Look again and again until there is something to see; give it."""
    until = time.monotonic() + within_seconds
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < until, "it did not happen"
        threading.Event().wait(0.02)
