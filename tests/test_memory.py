"""Tests of what a process keeps in memory, and what it says of it to others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_serving import SECRET, Shelf
from webapp import fleet
from webapp.db import Database
from webapp.serving import loading
from webapp.serving.memory import resident_bytes
from webapp.serving.runtime import MOST_EXTRA_VERSIONS, Runtime

MIB = 1024**2


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A shelf with four versions, of which the first is active."""
    made = Shelf(tmp_path)
    for _ in range(4):
        made.add()
    made.switch(m=1)
    return made


def limited(shelf: Shelf, most_extra_bytes: int) -> None:
    """Have the shelf served by a runtime with this much room."""
    shelf.runtime = Runtime(shelf.store, SECRET, shelf.loaded, most_extra_bytes=most_extra_bytes)
    shelf.switch(m=1)


def extra(shelf: Shelf) -> set[int]:
    return {each["version"] for each in shelf.runtime.held() if each["role"] == "extra"}


def test_resident_memory_grows_by_what_is_written() -> None:
    before = resident_bytes()
    kept = np.ones(64 * MIB, dtype=np.uint8)
    assert resident_bytes() - before >= 60 * MIB
    assert kept.size


def test_each_version_in_memory_is_described_once_with_the_part_that_it_plays(shelf: Shelf) -> None:
    shelf.answer(number=3)
    shelf.answer(number=4)
    shelf.switch(m=4)
    shelf.runtime.prepare(shelf.versions["m"][2])
    held = shelf.runtime.held()
    assert {each["version"]: each["role"] for each in held} == {4: "active", 1: "previous", 2: "prepared", 3: "extra"}
    assert len(held) == 4
    for each in held:
        assert each["memory_bytes"] >= shelf.path(shelf.versions["m"][each["version"]]).stat().st_size
        assert each["load_seconds"] > 0
        assert each["plan"] == "DummyClassifier asked without a table"
    # As it goes into the database: no figure is a number that JSON has not.
    assert json.loads(json.dumps(held, allow_nan=False)) == held


def test_the_version_that_was_not_asked_for_the_longest_goes_first(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is left is what a version takes at least, which is the same in each run: the size of its artifact.
    monkeypatch.setattr(loading, "resident_bytes", lambda: 0)
    sizes = sorted(shelf.path(shelf.versions["m"][number]).stat().st_size for number in (2, 3, 4))
    limited(shelf, sum(sizes[-2:]))
    for number in (2, 3, 2, 4):
        shelf.answer(number=number)
    assert extra(shelf) == {2, 4}
    assert shelf.answer(number=3)["prediction"] == "v3"
    assert extra(shelf) == {3, 4}


def test_without_any_room_the_last_one_asked_for_stays_alone(shelf: Shelf) -> None:
    limited(shelf, 0)
    for number in (2, 3, 4, 4):
        assert shelf.answer(number=number)["prediction"] == f"v{number}"
        assert extra(shelf) == {number}
    assert shelf.loads[-3:] == ["m/2", "m/3", "m/4"]


def test_the_number_of_versions_is_limited_too(shelf: Shelf) -> None:
    for _ in range(MOST_EXTRA_VERSIONS):
        shelf.add()
    shelf.switch(m=1)
    shelf.answer(number=2)
    for number in range(3, MOST_EXTRA_VERSIONS + 4):
        shelf.answer(number=2)
        shelf.answer(number=number)
    kept = extra(shelf)
    assert len(kept) == MOST_EXTRA_VERSIONS
    assert {2, MOST_EXTRA_VERSIONS + 3} <= kept
    assert 3 not in kept


def test_the_active_version_and_the_one_before_stay_whatever_they_take(shelf: Shelf) -> None:
    limited(shelf, 0)
    shelf.switch(m=2)
    shelf.answer(number=3)
    assert {each["version"]: each["role"] for each in shelf.runtime.held()} == {2: "active", 1: "previous", 3: "extra"}


# --- What others hear of it -----------------------------------------------------------------------------------------


def report(database: Database, slot: int, *held: dict[str, Any]) -> None:
    with database.transaction() as session:
        fleet.report(session, "host", slot, 1, 1)
        fleet.hold(session, "host", slot, list(held))


def test_who_holds_a_version_and_what_computes_it_is_known_to_all(database: Database) -> None:
    churn = {"model": "churn", "version": 1, "plan": None}
    report(database, 1, churn, {**churn, "version": 2})
    report(database, 2, {**churn, "plan": "9 trees"}, {**churn, "model": "fraud"})
    with database.reading() as session:
        assert [each.worker.slot for each in fleet.holding(session, "churn", 1)] == [1, 2]
        found = [fleet.computed_by(session, *asked) for asked in (("churn", 1), ("churn", 2), ("churn", 3))]
    assert found == ["9 trees", "scikit-learn", None]


def test_what_a_worker_no_longer_holds_is_forgotten_with_its_next_report(database: Database) -> None:
    report(database, 1, {"model": "churn", "version": 1, "plan": None})
    report(database, 1)
    with database.reading() as session:
        assert fleet.holding(session, "churn", 1) == []
