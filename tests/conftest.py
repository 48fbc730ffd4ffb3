"""What all tests share: complete settings on a folder of their own, and waiting without sleeping."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

# As in the product's processes, and before NumPy is imported: a process that was forked beside native threads can
# wait for them for ever.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import pytest

from webapp import config, db
from webapp.config import Settings
from webapp.db import Database

T = TypeVar("T")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Complete settings of a fresh installation."""
    return config.prepare(config.load({"MODELPORT_DATA_DIR": str(tmp_path / "data")}))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database's file, which each test gets a copy of."""
    file = tmp_path_factory.mktemp("migrated") / "modelport.db"
    db.upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def database(settings: Settings, migrated: Path) -> Iterator[Database]:
    """The database of a fresh installation."""
    shutil.copyfile(migrated, settings.data_dir / "modelport.db")
    made = Database(settings.sqlalchemy_url)
    yield made
    made.engine.dispose()


def eventually(look: Callable[[], T], *, within_seconds: float = 30.0) -> T:
    """Look again and again until there is something to see; give it."""
    until = time.monotonic() + within_seconds
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < until, "it did not happen"
        threading.Event().wait(0.02)
