"""Activation under the faults that it must survive, with eight workers and a large model; prints its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.functional.conftest import new_server as new_server  # noqa: PLC0414 - a fixture of the functional tests
from tests.functional.server import Server
from tests.functional.switching import (
    Stock,
    activate,
    flipped,
    key_of,
    large,
    raced,
    refused_under_load,
    switched_under_load,
)
from webapp import faults

WORKERS = 8
MEGABYTES = 100
FLIPS = 50
RACES = 10
PAUSE_SECONDS = 0.2


class Patient(Server):
    """A server whose start takes long: eight workers load at once."""

    def _answers(self) -> bool:
        with suppress(requests.Timeout):
            return super()._answers()
        return False


@pytest.fixture
def heavy(tmp_path: Path) -> Iterator[tuple[Server, Stock]]:
    """A server with two large versions, the first of them active."""
    server = Patient(tmp_path / "data", workers=WORKERS, threads=4, rate_limit="10000000/minute")
    stock = Stock(server.data_dir)
    for number in (1, 2):
        stock.add(large(number, MEGABYTES))
    stock.activate(1)
    server.start()
    yield server, stock
    server.stop()
    stock.close()


def test_a_large_model_is_switched_under_load(heavy: tuple[Server, Stock]) -> None:
    server, _ = heavy
    print("\n" + switched_under_load(server, key_of(server), [2, 1, 2, 1], PAUSE_SECONDS))


def test_a_hundred_flips_and_two_admins_at_once(new_server: Callable[..., Server]) -> None:
    server = new_server(workers=WORKERS, rate_limit="10000000/minute")
    stock = Stock(server.data_dir)
    for _ in range(3):
        stock.add()
    stock.activate(1)
    server.start()
    key = key_of(server)
    print("\n" + flipped(server, key, FLIPS))
    print(raced(server, key, RACES))
    stock.close()


def test_a_large_model_that_cannot_be_loaded_is_refused(heavy: tuple[Server, Stock]) -> None:
    server, stock = heavy
    damaged = {how: stock.add(large(number, MEGABYTES)) for number, how in enumerate(("missing", "truncated"), start=3)}
    damaged |= {how: stock.add() for how in ("flipped", "with its row")}
    print("\n" + refused_under_load(server, key_of(server), stock, damaged))


def test_a_load_that_fails_in_one_worker_of_eight_changes_nothing(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    server, armed = new_server(workers=WORKERS), tmp_path / "armed"
    server.environment[faults.VARIABLE] = f"runtime.load:raise@{armed}"
    stock = Stock(server.data_dir)
    for _ in range(2):
        stock.add()
    stock.activate(1)
    server.start()
    key = key_of(server)
    armed.touch()
    turn = activate(server, key, 2)
    assert (turn.status, turn.body["failures"][0]["reason"]) == (409, "Fault")
    assert stock.state() == (1, 1)
    print(f"\nrefused after {turn.answered - turn.asked:.2f} s: {turn.body['failures']}")
    stock.close()
