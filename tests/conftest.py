"""What all tests share: complete settings on a folder of their own, and waiting without sleeping."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# As in the product's processes, and before NumPy is imported: a process that was forked beside native threads can
# wait for them for ever.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import pytest

from tests import databases
from tests.waiting import eventually as eventually  # noqa: PLC0414 - the tests name it from here
from webapp import config
from webapp.config import Settings
from webapp.db import Database


def pytest_configure(config: pytest.Config) -> None:
    """Declare what a test says that is about one database itself."""
    config.addinivalue_line("markers", "sqlite(reason): not a test of PostgreSQL, because")
    config.addinivalue_line("markers", "postgresql(reason): not a test of SQLite, because")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about the other database."""
    other = "sqlite" if databases.ON_POSTGRESQL else "postgresql"
    of_other = [item for item in items if item.get_closest_marker(other)]
    config.hook.pytest_deselected(items=of_other)
    items[:] = [item for item in items if item not in of_other]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Complete settings of a fresh installation, whose database is still to be made."""
    given = {"MODELPORT_DATA_DIR": str(tmp_path / "data"), **databases.environment(tmp_path / "data")}
    return config.prepare(config.load(given))


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The database of a fresh installation."""
    databases.make_migrated(settings.data_dir)
    made = Database(settings.sqlalchemy_url)
    yield made
    made.engine.dispose()
