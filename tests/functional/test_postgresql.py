"""Tests of the whole product on PostgreSQL: moving there, and predicting while it is away."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests import databases
from tests.conftest import eventually
from tests.functional.server import Refused, Server

INSTANCE = {"age": 35, "income": 50_000, "credit_score": 700}
NUMBERS = itertools.count()


@pytest.fixture
def name() -> Iterator[str]:
    """An empty database."""
    made = f"functional_{next(NUMBERS)}"
    databases.cluster().create(made)
    yield made
    databases.cluster().execute(f"DROP DATABASE {made} (FORCE)")


def logged(name: str) -> list[str]:
    with databases.cluster().connect(name) as connection:
        return [found for (found,) in connection.execute("SELECT id FROM predictions")]


def test_an_installation_moves_to_postgresql_with_one_command(new_server: Callable[..., Server], name: str) -> None:
    server = new_server()
    server.demo()
    key = server.key()
    url = databases.cluster().url(name)
    server.start()
    answer = server.post("/predict", INSTANCE, key).json()
    server.logged(answer["prediction_id"])
    with pytest.raises(Refused) as caught:
        server.cli("db", "copy", url)
    assert caught.value.answer["error"]["code"] == "still_served"
    server.stop()

    copied = server.cli("db", "copy", url)
    assert copied["tables"]["predictions"] == 1
    assert copied["rows"] == sum(copied["tables"].values())
    server.environment["MODELPORT_DATABASE_URL"] = url
    server.start()
    again = server.post("/predict", INSTANCE, key).json()
    assert (again["prediction"], again["probability"]) == (answer["prediction"], answer["probability"])
    eventually(lambda: sorted(logged(name)) == sorted([answer["prediction_id"], again["prediction_id"]]))
    with pytest.raises(Refused) as caught:
        server.cli("db", "copy", url)


@pytest.mark.parametrize("fault", ["refusing", "hanging"])
def test_predictions_go_on_while_the_database_is_away(new_server: Callable[..., Server], name: str, fault: str) -> None:
    server = new_server(database_url=databases.cluster().url(name), rate_limit="1000000/minute")
    server.demo()
    key = server.key()
    server.start()
    away: Callable[[], AbstractContextManager[None]] = getattr(databases.cluster(), fault)
    answered, slowest = [], 0.0
    with away():
        until = time.monotonic() + 15
        while time.monotonic() < until:
            began = time.monotonic()
            answer = server.post("/predict", INSTANCE, key)
            slowest = max(slowest, time.monotonic() - began)
            assert answer.status_code == 200
            answered.append(answer.json()["prediction_id"])
        assert server.get("/readyz").json()["degraded"] == ["database"]
    back = time.monotonic()
    eventually(lambda: set(logged(name)) >= set(answered), within_seconds=60)
    drained = time.monotonic() - back
    assert len(logged(name)) == len(answered)
    print(f"{fault}: {len(answered)} predictions, slowest {slowest * 1000:.0f} ms, in the log after {drained:.1f} s")
    assert "kept-out-of-every-message" not in server.log.read_text()
