"""Tests of activation: prepared in every live web worker, committed at once or not at all, and what it asks first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import eventually
from tests.functional.switching import MODEL, TESTER, Stock
from webapp import activation, faults, fleet, keys, registry
from webapp.activation import Asked, Back, Switched
from webapp.artifacts import ArtifactStore
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.db import Database, now
from webapp.errors import Conflict
from webapp.fleet import Preparation, WebWorker
from webapp.follower import Follower
from webapp.generation import Signal
from webapp.keys import KeyRing
from webapp.serving.loaded import LoadedVersion
from webapp.serving.runtime import Runtime
from webapp.serving.turn import Turn
from webapp.signature import Feature, Output, Signature

DAMAGES = {
    "missing": "artifact_missing",
    "truncated": "artifact_damaged",
    "flipped": "artifact_damaged",
    "with its row": "version_damaged",
}
WITH_BOUND = Signature((Feature("x", minimum=0.0),), "frame", "regression", (Output("prediction"),))

HOST = "this-host"


class Workers:
    """Web workers, each with its slot, in this process."""

    def __init__(self, settings: Settings, stock: Stock) -> None:
        self.settings, self.stock = settings, stock
        self.signal = settings.run_dir / "generation"
        self.database = Database(settings.sqlalchemy_url, announce=Signal(self.signal).send)
        self.runtimes: list[Runtime] = []
        self.followers: list[Follower] = []
        self.loads: list[str] = []

    def start(self, count: int, store: ArtifactStore | None = None) -> None:
        for slot in range(len(self.followers) + 1, len(self.followers) + 1 + count):
            runtime = Runtime(store or self.stock.store, self.stock.secret, self._loaded)
            ring = KeyRing(self.settings.derive(keys.PEPPER))
            follower = Follower(self.database, runtime, ring, Signal(self.signal), "600/minute", HOST)
            follower.start(slot)
            self.runtimes.append(runtime)
            self.followers.append(follower)

    def _loaded(self, loaded: LoadedVersion) -> None:
        self.loads.append(f"{loaded.version.model} {loaded.version.number}")

    def activate(self, number: int, load: Callable[[ServedVersion], str] | None = None, **more: Any) -> Switched:
        load = load or Runtime(self.stock.store, self.stock.secret).prepare
        return activation.activate(self.database, load, TESTER, Asked(MODEL, number, **more))

    def rollback(self, expected: int | None = None) -> Switched:
        return activation.rollback(self.database, self.not_here, TESTER, Back(MODEL, expected=expected))

    @staticmethod
    def not_here(_version: ServedVersion) -> str:
        raise AssertionError

    def refused(self, number: int, **more: Any) -> Conflict:
        """Try what is refused; give the refusal, when nothing has changed."""
        before = self.stock.state()
        with pytest.raises(Conflict) as caught:
            self.activate(number, **more)
        assert self.stock.state() == before
        return caught.value

    def answers(self) -> list[float]:
        """What each worker says of the active version."""
        return [
            round(runtime.served(MODEL).predict([{"x": 1}], [""], ["0"])[0].document["prediction"], 6)
            for runtime in self.runtimes
        ]

    def stop(self) -> None:
        for follower in self.followers:
            follower.stop()
        self.database.engine.dispose()


@pytest.fixture
def stock(settings: Settings, database: Database) -> Iterator[Stock]:
    """Two versions, the first of them active."""
    made = Stock(settings.data_dir)
    for _ in range(2):
        made.add()
    made.activate(1)
    yield made
    made.close()


@pytest.fixture
def workers(settings: Settings, stock: Stock) -> Iterator[Workers]:
    made = Workers(settings, stock)
    yield made
    made.stop()


# --- Prepared first ---------------------------------------------------------------------------------------


def test_a_version_becomes_active_when_every_worker_has_loaded_it(workers: Workers, stock: Stock) -> None:
    workers.start(3)
    workers.loads.clear()
    done = workers.activate(2, load=workers.not_here, reason="better")
    assert (done.activation["act"], done.activation["from_version"], done.activation["version"]) == ("activate", 1, 2)
    assert done.activation["reason"] == "better"
    assert done.workers.describe() == {"total": 3, "switched": 3, "failures": []}
    assert workers.answers() == [2, 2, 2]
    assert workers.loads == [f"{MODEL} 2"] * 3


def test_the_workers_of_a_host_load_one_after_another(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    workers.start(3)
    busy, most = threading.Semaphore(0), []

    def load(runtime: Runtime, version: ServedVersion) -> LoadedVersion:
        busy.release()
        most.append(busy._value)
        threading.Event().wait(0.05)
        try:
            return whole(runtime, version)
        finally:
            busy.acquire()

    whole = Runtime._load
    monkeypatch.setattr(Runtime, "_load", load)
    workers.activate(2)
    assert most == [1, 1, 1]


def test_when_one_worker_cannot_load_it_nothing_changes_and_the_reason_is_given(
    workers: Workers, stock: Stock, tmp_path: Path
) -> None:
    workers.start(2)
    elsewhere = ArtifactStore(tmp_path / "elsewhere")
    elsewhere.put(stock.path(1).read_bytes())
    for golden in stock.folder.glob("??/*"):
        if golden != stock.path(2):
            elsewhere.put(golden.read_bytes())
    workers.start(1, elsewhere)
    refusal = workers.refused(2)
    assert refusal.code == "activation_failed"
    assert f"{HOST} slot 3: artifact_missing" in refusal.detail
    assert [(each["host"], each["slot"]) for each in refusal.more["failures"]] == [(HOST, 3)]  # type: ignore[attr-defined]
    assert workers.answers() == [1, 1, 1]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_version_whose_file_or_row_was_changed_is_refused_before_anything_changes(
    workers: Workers, stock: Stock, how: str
) -> None:
    workers.start(2)
    stock.damage(2, how)
    refusal = workers.refused(2)
    assert refusal.code == "activation_failed"
    assert DAMAGES[how] in refusal.detail
    assert workers.answers() == [1, 1]


def test_a_worker_that_says_nothing_is_not_waited_for_longer_than_the_limit(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.start(1)
    with workers.database.transaction() as session:
        fleet.report(session, "far", 7, 1, 1)
    monkeypatch.setattr(activation, "LIMIT_SECONDS", 0.5)
    refusal = workers.refused(2)
    assert "far slot 7: It did not become ready within 0 seconds." in refusal.detail
    with workers.database.reading() as session:
        assert session.scalars(sa.select(Preparation).where(Preparation.done_at.is_(None))).all() == []


def test_a_worker_that_was_not_heard_of_lately_is_left_out(workers: Workers) -> None:
    workers.start(1)
    with workers.database.transaction() as session:
        session.add(WebWorker(host="far", slot=7, pid=1, seen_at=now() - fleet.LEASE, generation=1, failure=""))
    assert workers.activate(2).workers.total == 1


def test_where_no_worker_lives_the_process_tries_the_version_itself(workers: Workers, stock: Stock) -> None:
    loaded: list[int] = []
    done = workers.activate(2, load=lambda version: loaded.append(version.number) or "")  # type: ignore[func-returns-value]
    assert (loaded, done.workers.total, stock.state()) == ([2], 0, (2, 2))
    refusal = workers.refused(1, load=lambda version: "as asked for")
    assert (refusal.code, "as asked for" in refusal.detail) == ("activation_failed", True)


def test_a_model_of_many_bytes_has_more_time(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "LARGE_BYTES", 10)
    with workers.database.reading() as session:
        model = registry.get_model(session, MODEL)
        assert activation._plan(session, model, 2).limit_seconds == activation.LARGE_LIMIT_SECONDS


# --- A worker that dies over it ---------------------------------------------------------------------------


def ask(database: Database, *slots: int) -> list[int]:
    with database.transaction() as session:
        for slot in slots:
            fleet.report(session, "host", slot, 1, 1)
        return fleet.ask(session, MODEL, 2)


def test_while_one_worker_loads_the_others_of_its_host_wait(database: Database) -> None:
    first, second = ask(database, 1, 2)
    with database.transaction() as session:
        assert fleet.is_turn(session, "host", 1)
        assert fleet.take(session, first)
        assert not fleet.is_turn(session, "host", 2)
        assert not fleet.take(session, second)
        assert fleet.is_turn(session, "another host", 2)
        fleet.finish(session, first, "")
        assert fleet.is_turn(session, "host", 2)
        assert fleet.progress(session, [first, second]).ready == 1


def test_a_lease_that_nobody_ends_holds_the_host_up_for_its_time_only(database: Database) -> None:
    first, _ = ask(database, 1, 2)
    with database.transaction() as session:
        fleet.take(session, first)
        session.get_one(Preparation, first).leased_until = now() - timedelta(seconds=1)
        assert fleet.is_turn(session, "host", 2)


def test_a_load_that_ended_its_worker_is_tried_once_more_and_then_counts_as_failed(database: Database) -> None:
    (asked,) = ask(database, 1)
    with database.transaction() as session:
        assert [fleet.take(session, asked) for _ in range(3)] == [True, True, False]
        state = fleet.progress(session, [asked])
        assert [each.failure for each in state.failed] == ["The web worker ended while it loaded the version, twice."]


def test_after_one_death_the_next_try_can_succeed(database: Database) -> None:
    (asked,) = ask(database, 1)
    with database.transaction() as session:
        fleet.take(session, asked)
        fleet.take(session, asked)
        fleet.finish(session, asked, "")
        assert fleet.progress(session, [asked]).ready == 1


def test_a_worker_that_left_is_not_waited_for(database: Database) -> None:
    ids = ask(database, 1, 2)
    with database.transaction() as session:
        fleet.leave(session, "host", 1)
        assert [each.slot for each in fleet.progress(session, ids).waiting] == [2]


def test_what_was_asked_long_ago_is_no_longer_prepared_and_later_forgotten(database: Database) -> None:
    ids = ask(database, 1)
    with database.transaction() as session:
        session.get_one(Preparation, ids[0]).asked_at = now() - fleet.PREPARATION_LIFE
        assert fleet.asked_of(session, "host", 1) is None
        fleet.forget(session)
        assert session.get(Preparation, ids[0]) is not None
        session.get_one(Preparation, ids[0]).asked_at = now() - fleet.FORGOTTEN
        session.flush()
        fleet.forget(session)
        assert session.scalars(sa.select(Preparation)).all() == []


# --- Committed once ---------------------------------------------------------------------------------------


def test_of_two_admins_at_once_one_is_told_that_the_other_was_faster(workers: Workers, stock: Stock) -> None:
    stock.add()
    together = threading.Barrier(2)

    def load(_version: ServedVersion) -> str:
        together.wait(30)
        return ""

    def attempt(number: int) -> str:
        try:
            return str(workers.activate(number, load=load).activation["version"])
        except Conflict as refusal:
            return refusal.code

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(attempt, (2, 3)))
    assert sorted(found)[1] == "activation_lost_race"
    assert stock.state() == (int(min(found)), 2)


def test_what_was_edited_while_it_was_prepared_is_not_activated(workers: Workers, stock: Stock) -> None:
    def load(_version: ServedVersion) -> str:
        with stock.database.transaction() as session:
            version = registry.get_version(session, registry.get_model(session, MODEL), 2)
            registry.edit_signature(session, TESTER, stock.secret, version, WITH_BOUND.as_dict())
        return ""

    refusal = workers.refused(2, load=load)
    assert (refusal.code, "edited meanwhile" in refusal.detail) == ("activation_lost_race", True)


def test_a_roll_back_is_the_same_act_and_loads_nothing(workers: Workers, stock: Stock) -> None:
    workers.start(2)
    workers.activate(2)
    workers.loads.clear()
    done = workers.rollback(expected=1)
    assert (done.activation["act"], done.activation["version"], done.workers.switched) == ("rollback", 1, 2)
    assert (workers.answers(), workers.loads) == ([1, 1], [])
    with pytest.raises(Conflict, match="nothing_to_roll_back_to"):
        workers.rollback()


def test_a_hundred_switches_leave_no_version_behind(workers: Workers, stock: Stock) -> None:
    workers.start(1)
    for _ in range(50):
        workers.activate(2)
        workers.rollback()
    (runtime,) = workers.runtimes
    assert workers.loads == [f"{MODEL} 1", f"{MODEL} 2"]
    assert (runtime._prepared, runtime._extra, len(runtime._state.previous)) == ({}, {}, 1)
    assert stock.state() == (1, 101)


def test_what_was_prepared_in_vain_is_let_go(workers: Workers, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(stock.store, stock.secret)
    with stock.database.reading() as session:
        version = registry.catalog(session).resolve(MODEL, 2)
    assert runtime.prepare(version) == ""
    runtime.forget_prepared()
    assert runtime.holds(version)
    monkeypatch.setattr("webapp.serving.runtime.PREPARED_SECONDS", -1.0)
    runtime.forget_prepared()
    assert not runtime.holds(version)


# --- What a person must know first ------------------------------------------------------------------------


def test_a_version_that_refuses_what_works_now_needs_the_models_name(workers: Workers, stock: Stock) -> None:
    number = stock.add(rules=WITH_BOUND)
    for confirm in ("", "yes", MODEL.upper()):
        refusal = workers.refused(number, confirm=confirm)
        assert (refusal.code, MODEL in refusal.detail) == ("signature_incompatible", True)
        assert refusal.more == {
            "differences": [{"feature": "x", "difference": "bounds", "detail": "was without bounds, is at least 0"}]
        }
    assert workers.activate(number, confirm=MODEL).activation["version"] == number


def test_a_roll_back_to_stricter_rules_needs_no_name(workers: Workers, stock: Stock) -> None:
    workers.activate(stock.add(rules=WITH_BOUND), confirm=MODEL)
    workers.activate(2)
    load = Runtime(stock.store, stock.secret).prepare
    done = activation.rollback(workers.database, load, TESTER, Back(MODEL))
    assert done.activation["version"] == 3


def test_a_version_of_another_scikit_learn_needs_its_number_named(workers: Workers, stock: Stock) -> None:
    number = stock.add(trained_with="1.5.2")
    for accept in ("", "1.5.1"):
        refusal = workers.refused(number, accept_trained_with=accept)
        assert (refusal.code, refusal.more) == ("version_needs_consent", {"trained_with": "1.5.2"})
    assert workers.activate(number, accept_trained_with="1.5.2").activation["version"] == number


# --- One load at a time on a host -------------------------------------------------------------------------


def test_a_load_waits_for_its_turn_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, began, order = tmp_path / "load.lock", threading.Event(), []

    def other() -> None:
        began.set()
        with Turn(lock).taken():
            order.append("other")

    with ThreadPoolExecutor(1) as pool:
        with Turn(lock).taken():
            waiting = pool.submit(other)
            began.wait(10)
            order.append("this")
        waiting.result(10)
        monkeypatch.setattr("webapp.serving.turn.PATIENCE_SECONDS", 0.05)
        with Turn(lock).taken():
            pool.submit(other).result(10)
    assert order == ["this", "other", "other"]


def test_a_switch_that_loads_nothing_waits_for_no_turn(stock: Stock) -> None:
    turns = 0

    def turn() -> Any:
        nonlocal turns
        turns += 1
        return threading.Lock()

    runtime = Runtime(stock.store, stock.secret, turn=turn)
    with stock.database.reading() as session:
        catalog = registry.catalog(session)
    for _ in range(2):
        assert runtime.switch(replace(catalog, generation=catalog.generation + 1)) == []
    assert turns == 1


# --- Fault points -----------------------------------------------------------------------------------------


def test_a_fault_point_does_nothing_unless_it_is_asked_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    faults.point("here")
    monkeypatch.setenv(faults.VARIABLE, f"here:raise@2,there:memory@{tmp_path}/armed")
    monkeypatch.setattr(faults, "_passes", type(faults._passes)())
    faults.point("here")
    faults.point("there")
    with pytest.raises(faults.Fault):
        faults.point("here")
    faults.point("here")
    (tmp_path / "armed").touch()
    with pytest.raises(MemoryError):
        faults.point("there")
    faults.point("there")


def test_a_worker_that_lacks_the_memory_refuses_and_goes_on(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workers.start(2)
    (tmp_path / "armed").touch()
    monkeypatch.setenv(faults.VARIABLE, f"runtime.load:memory@{tmp_path}/armed")
    refusal = workers.refused(2)
    assert "MemoryError" in refusal.detail
    assert workers.answers() == [1, 1]
    assert workers.activate(2).workers.switched == 2


def test_a_worker_started_while_others_are_asked_follows_the_commit(workers: Workers, stock: Stock) -> None:
    workers.start(1)
    workers.activate(2)
    workers.start(1)
    assert eventually(lambda: workers.answers() == [2, 2])
