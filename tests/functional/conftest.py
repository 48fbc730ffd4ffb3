"""Servers for the functional tests: one that many tests share, and fresh ones for those that break things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One running server with the demo model; a test brings its own keys and models."""
    made = Server(tmp_path_factory.mktemp("shared") / "data", rate_limit="1000000/minute", default_model="credit-risk")
    made.demo()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Make fresh servers, not yet started; they are stopped after the test."""
    made: list[Server] = []

    def make(**settings: object) -> Server:
        made.append(Server(tmp_path / f"data-{len(made)}", **settings))
        return made[-1]

    yield make
    for each in made:
        each.stop()
