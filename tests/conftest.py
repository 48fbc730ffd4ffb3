"""What all tests share: complete settings on a folder of their own, and waiting without sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from webapp import config
from webapp.config import Settings

T = TypeVar("T")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Complete settings of a fresh installation."""
    return config.prepare(config.load({"MODELPORT_DATA_DIR": str(tmp_path / "data")}))


def eventually(look: Callable[[], T], *, within_seconds: float = 30.0) -> T:
    """Look again and again until there is something to see; give it."""
    until = time.monotonic() + within_seconds
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < until, "it did not happen"
        threading.Event().wait(0.02)
