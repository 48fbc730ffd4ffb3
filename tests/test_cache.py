"""Tests of kept answers: they are those that would be computed, and what keeps them may fail, lie or be away."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression

from tests.redis_server import Server
from webapp import artifacts, metrics
from webapp.artifacts import ArtifactStore
from webapp.catalog import Catalog, ServedModel, ServedVersion
from webapp.errors import Invalid, Problem
from webapp.redis import REST_SECONDS
from webapp.serving import cache as kept
from webapp.serving import golden
from webapp.serving.batching import Trial
from webapp.serving.cache import MOST_ROWS, PredictionCache, VersionCache
from webapp.serving.loaded import LoadedVersion
from webapp.serving.plans import Plan
from webapp.serving.predictor import Outcome, Predictor, assemble
from webapp.serving.runtime import Runtime
from webapp.signature import Row
from webapp.signature.learn import learn

SECRET = b"the secret that nobody else has!"
VERSION = ServedVersion("m", 1, "1", "", "seal", {})
WAIT = 60.0
HOUR = 3600
# As in a version that was tried: slow enough to be kept in any case.
TRIAL = Trial(independent=True, single_seconds=10.0)


class Model:
    """What is asked where nothing is kept: notes the rows, refuses what begins with “no”, gives each row its own."""

    def __init__(self) -> None:
        self.calls: list[list[Row]] = []
        self.answer: Callable[[Row], Any] = repr
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Semaphore(0)

    def ask(self, rows: Sequence[Row], pointers: Sequence[str]) -> list[Outcome]:
        self.calls.append(list(rows))
        self.entered.release()
        assert self.go.wait(WAIT)
        if refused := [pointer for row, pointer in zip(rows, pointers, strict=True) if row[0] == "no"]:
            problems = tuple(Problem(pointer, "model_refused_input", "no") for pointer in refused)
            raise Invalid("model_refused_input", "no", problems=problems)
        return [Outcome(self.answer(row), 0.75, {"0": 0.25, "1": 0.75}) for row in rows]


def part(model: Model, cache: PredictionCache, version: ServedVersion = VERSION, by: str = "a plan") -> VersionCache:
    """Give a version's part of a cache; deciding on it asks once, which does not count."""
    made, caching = cache.of(version, by, model.ask, [(0.0,)], TRIAL)
    assert made is not None, caching
    model.calls.clear()
    model.entered = threading.Semaphore(0)
    return made


@pytest.fixture
def model() -> Model:
    return Model()


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    moment: float = 1000.0

    def __call__(self) -> float:
        return self.moment


def predictions(answered: tuple[list[Outcome], list[bool]]) -> list[Any]:
    return [outcome.prediction for outcome in answered[0]]


def ask(cache: VersionCache, *rows: Row) -> tuple[list[Outcome], list[bool]]:
    return cache.predict(rows, [f"/instances/{position}" for position in range(len(rows))])


# --- In one process ---------------------------------------------------------------------------------------


def test_what_was_computed_is_not_computed_again(model: Model) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR))
    first, second = ask(cache, (1.0, "a", None)), ask(cache, (1.0, "a", None))
    assert first[0] == second[0] == [Outcome("(1.0, 'a', None)", 0.75, {"0": 0.25, "1": 0.75})]
    assert (first[1], second[1]) == ([False], [True])
    assert model.calls == [[(1.0, "a", None)]]


def test_of_a_request_only_what_is_missing_is_computed_in_one_call(model: Model) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR))
    ask(cache, (2.0,))
    outcomes, cached = ask(cache, (1.0,), (2.0,), (3.0,), (1.0,))
    assert [outcome.prediction for outcome in outcomes] == ["(1.0,)", "(2.0,)", "(3.0,)", "(1.0,)"]
    assert cached == [False, True, False, False]
    assert model.calls == [[(2.0,)], [(1.0,), (3.0,), (1.0,)]]


VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text(), st.none(), st.sampled_from([0.0, -0.0])
)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=MOST_ROWS))
@hypothesis_settings(max_examples=200, deadline=None)
def test_kept_answers_are_those_that_would_be_computed(rows: list[Row]) -> None:
    model = Model()
    cache = part(model, PredictionCache(SECRET, HOUR))
    fresh = model.ask(rows, [""] * len(rows))
    assert ask(cache, *rows)[0] == fresh
    assert ask(cache, *rows)[0] == fresh
    for row in rows:
        assert ask(cache, row)[0] == model.ask([row], [""])


def test_values_of_different_types_are_different_rows(model: Model) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR))
    rows: list[Row] = [(value,) for value in (1.0, True, "1", "1.0", None, "null", 0.0, -0.0, False, "")]
    for row in rows:
        assert predictions(ask(cache, row)) == [repr(row)]
    assert len(model.calls) == len(rows)


@pytest.mark.parametrize("answer", [1, 1.0, True, "1", None, -0.0, 5e-324, 2**53 + 1, "é"], ids=repr)
def test_an_answer_comes_back_as_it_was(model: Model, answer: Any) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR))
    model.answer = lambda _row: answer
    ask(cache, (1.0,))
    [outcome], [cached] = ask(cache, (1.0,))
    assert cached
    assert repr(outcome.prediction) == repr(answer)


@pytest.mark.parametrize("answer", [2**70, "\ud800", (1, 2), math.nan, "x" * kept.MOST_VALUE_BYTES])
def test_an_answer_that_would_not_come_back_as_it_was_is_not_kept(model: Model, answer: Any) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR))
    model.answer = lambda _row: answer
    for _ in range(2):
        [outcome], [cached] = ask(cache, (1.0,))
        assert outcome.prediction is answer
        assert not cached


def test_a_row_that_json_cannot_hold_goes_past(model: Model) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR))
    for _ in range(2):
        assert ask(cache, ("\ud800",), (1.0,))[1] == [False, False]


def test_large_requests_go_past(model: Model) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR))
    for count, cached in ((MOST_ROWS, True), (MOST_ROWS + 1, False)):
        rows = [(float(number), count) for number in range(count)]
        ask(cache, *rows)
        assert ask(cache, *rows)[1] == [cached] * count


def test_an_answer_runs_out(model: Model) -> None:
    clock = Clock()
    cache = part(model, PredictionCache(SECRET, 60, clock=clock))
    ask(cache, (1.0,))
    clock.moment += 59.9
    assert ask(cache, (1.0,))[1] == [True]
    # Being asked for does not make it younger.
    clock.moment += 0.2
    assert ask(cache, (1.0,))[1] == [False]


def test_there_is_room_for_so_much_and_what_was_not_asked_for_the_longest_goes_first(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 3 * (kept.ENTRY_BYTES + 100))
    cache = part(model, PredictionCache(SECRET, HOUR))
    for number in (1.0, 2.0, 3.0, 1.0, 4.0):
        ask(cache, (number,))
    assert [ask(cache, (number,))[1] for number in (1.0, 3.0, 4.0)] == [[True]] * 3
    assert ask(cache, (2.0,))[1] == [False]


def test_hits_misses_and_what_was_skipped_are_counted(model: Model) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR), replace(VERSION, model="counted"))
    ask(cache, (1.0,), (2.0,))
    ask(cache, (1.0,), (3.0,))
    ask(cache, *[(1.0,)] * (MOST_ROWS + 1))
    counted = {
        result: metrics.CACHE_REQUESTS.labels("counted", result)._value.get() for result in ("hit", "miss", "skipped")
    }
    assert counted == {"hit": 1, "miss": 3, "skipped": MOST_ROWS + 1}


# --- What is refused, and what fails ----------------------------------------------------------------------


def test_a_refusal_names_every_row_by_its_own_pointer_and_is_not_kept(model: Model) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR))
    ask(cache, (1.0,))
    for _ in range(2):
        with pytest.raises(Invalid) as refusal:
            ask(cache, ("no", 1), (1.0,), ("no", 2), ("no", 1))
        assert [problem.pointer for problem in refusal.value.problems] == [f"/instances/{at}" for at in (0, 2, 3)]


class Callers:
    """Threads that ask one cache while the model is busy."""

    def __init__(self, model: Model, cache: VersionCache, pool: ThreadPoolExecutor) -> None:
        self._model = model
        self._cache = cache
        self._pool = pool

    def enter(self, *rows: Row) -> Future[Any]:
        """Ask, and return when the model is busy with it."""
        self._model.go.clear()
        asked = self._pool.submit(self._cache.predict, rows, [f"/first/{at}" for at in range(len(rows))])
        assert self._model.entered.acquire(timeout=WAIT)
        return asked

    def wait(self, count: int, *rows: Row) -> list[Future[Any]]:
        """Have so many ask the same, and return when all have looked."""
        looked = threading.Barrier(count + 1)

        class Signal(type(self._cache._lookup._local)):  # type: ignore[misc] # of the class that is in use
            def look(self, keys: Any) -> Any:
                found = super().look(keys)
                looked.wait(WAIT)
                return found

        self._cache._lookup._local.__class__ = Signal
        asked = [
            self._pool.submit(self._cache.predict, rows, [f"/{number}/{at}" for at in range(len(rows))])
            for number in range(count)
        ]
        looked.wait(WAIT)
        self._cache._lookup._local.__class__ = Signal.__base__
        return asked


@pytest.fixture
def callers(model: Model) -> Iterator[Callers]:
    with ThreadPoolExecutor(16) as pool:
        yield Callers(model, part(model, PredictionCache(SECRET, HOUR)), pool)
        model.go.set()


def test_what_many_ask_at_once_is_computed_once(model: Model, callers: Callers) -> None:
    first = callers.enter((1.0,))
    others = callers.wait(8, (1.0,))
    model.go.set()
    assert predictions(first.result(WAIT)) == ["(1.0,)"]
    assert [predictions(each.result(WAIT)) for each in others] == [["(1.0,)"]] * 8
    assert model.calls == [[(1.0,)]]


def test_two_requests_that_have_rows_in_common_do_not_wait_for_each_other_forever(
    model: Model, callers: Callers
) -> None:
    first = callers.enter((1.0,), (2.0,))
    [second] = callers.wait(1, (3.0,), (2.0,), (1.0,))
    model.go.set()
    assert predictions(first.result(WAIT)) == ["(1.0,)", "(2.0,)"]
    assert predictions(second.result(WAIT)) == ["(3.0,)", "(2.0,)", "(1.0,)"]
    assert sorted(model.calls) == [[(1.0,), (2.0,)], [(3.0,)]]


def test_when_it_is_refused_each_gets_a_refusal_of_its_own(model: Model, callers: Callers) -> None:
    first = callers.enter(("no",))
    others = callers.wait(3, ("no",))
    model.go.set()
    for asked, pointer in zip((first, *others), ("/first/0", "/0/0", "/1/0", "/2/0"), strict=True):
        with pytest.raises(Invalid) as refusal:
            asked.result(WAIT)
        assert [problem.pointer for problem in refusal.value.problems] == [pointer]


def test_a_refusal_names_the_rows_that_another_request_computes_too(model: Model, callers: Callers) -> None:
    first = callers.enter(("no", 1))
    [second] = callers.wait(1, ("no", 2), ("no", 1), (1.0,))
    model.go.set()
    for asked, pointers in ((first, ["/first/0"]), (second, ["/0/0", "/0/1"])):
        with pytest.raises(Invalid) as refusal:
            asked.result(WAIT)
        assert [problem.pointer for problem in refusal.value.problems] == pointers


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(1)], ids=repr)
def test_when_the_one_who_computes_dies_the_others_compute(
    model: Model, callers: Callers, error: BaseException
) -> None:
    first = callers.enter((1.0,))
    others = callers.wait(3, (1.0,))
    errors = iter([error])

    def answer(row: Row) -> str:
        for each in errors:
            raise each
        return repr(row)

    model.answer = answer
    model.go.set()
    with pytest.raises(type(error)):
        first.result(WAIT)
    assert [predictions(each.result(WAIT)) for each in others] == [["(1.0,)"]] * 3


def test_who_has_no_memory_to_look_leaves_nobody_waiting(callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kept, "_Flight", Mock(side_effect=[kept._Flight(), MemoryError]))
        with pytest.raises(MemoryError):
            ask(callers._cache, (1.0,), (2.0,))
    # What is being computed is what others would wait for.
    assert not callers._cache._lookup._local._flights
    assert predictions(ask(callers._cache, (1.0,), (2.0,))) == ["(1.0,)", "(2.0,)"]


# --- Whether it is used -----------------------------------------------------------------------------------


def decided(cache: PredictionCache, seconds: float | None, *, independent: bool = True) -> kept.Caching:
    return cache.of(VERSION, "a plan", Model().ask, [(0.0,)], Trial(independent, seconds))[1]


def test_what_is_computed_faster_than_it_is_looked_up_is_not_kept() -> None:
    cache = PredictionCache(SECRET, HOUR)
    fast, slow = decided(cache, 1e-7), decided(cache, 1.0)
    assert (fast.local, slow.local) == (False, True)
    assert fast.local_seconds is not None
    assert "0.1 µs" in fast.reason


def test_the_setting_has_the_last_word_where_answers_do_not_vary() -> None:
    on, off = PredictionCache(SECRET, HOUR, "on"), PredictionCache(SECRET, HOUR, "off")
    assert decided(on, 1e-7).local
    assert not decided(off, 1.0).local
    assert not decided(PredictionCache(SECRET, 0, "on"), 1.0).local
    assert not decided(on, 1.0, independent=False).local
    assert not decided(on, None).local


# --- Versions ---------------------------------------------------------------------------------------------

FRAME = pd.DataFrame(np.random.default_rng(3).normal(size=(40, 2)), columns=["a", "b"])
INSTANCE = {"a": 0.5, "b": -1.0}


@dataclass
class Shelf:
    """Stored versions of one model, with golden rows, and a runtime that keeps answers."""

    folder: Path
    cache: PredictionCache = field(default_factory=lambda: PredictionCache(SECRET, HOUR, "on"))
    versions: dict[int, ServedVersion] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = ArtifactStore(self.folder)
        self.runtime = Runtime(self.store, SECRET, cache=self.cache)

    def add(self, estimator: Any, *, deterministic: bool = True) -> None:
        """Store the next version, as a trial leaves it: what draws lots has no golden rows."""
        number = len(self.versions) + 1
        learned = learn(estimator, assemble, reference=FRAME, declared=())
        digest = self.store.put(skops.io.dumps(estimator))
        rows = golden.record(Predictor(estimator, learned.signature), learned.signature, learned.rows)
        kept_rows = self.store.put(kept.orjson.dumps(rows.as_dict())) if deterministic else None
        signature = learned.signature.as_dict()
        seal = artifacts.seal(SECRET, "m", number, digest, signature, golden=kept_rows)
        self.versions[number] = ServedVersion("m", number, f"v{number}", digest, seal, signature, kept_rows)

    def switch(self, number: int) -> None:
        model = ServedModel("m", number, dict(self.versions))
        assert self.runtime.switch(Catalog(self.runtime.catalog.generation + 1, {"m": model})) == []

    def loaded(self) -> LoadedVersion:
        return self.runtime.served("m")

    def ask(self) -> tuple[Any, bool]:
        [answer] = self.loaded().predict([INSTANCE], [""], ["request-0"])
        assert answer.document["model_version"] == f"v{answer.document['prediction']:g}"
        return answer.document["prediction"], answer.cached


def constant(number: float) -> LinearRegression:
    return LinearRegression().fit(FRAME, np.full(len(FRAME), number))


def test_activation_and_roll_back_never_give_the_answer_of_the_other_version(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.add(constant(1))
    shelf.add(constant(2))
    seen = []
    for number in (1, 2, 1, 2):
        shelf.switch(number)
        seen += [shelf.ask(), shelf.ask()]
    assert [round(prediction) for prediction, _ in seen] == [1, 1, 2, 2, 1, 1, 2, 2]
    # What was kept before is still there after a roll back.
    assert [cached for _, cached in seen] == [False, True, False, True, True, True, True, True]


def test_a_plan_that_is_switched_off_leaves_none_of_its_answers(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.add(constant(1))
    shelf.switch(1)
    wrong = Plan("a wrong plan", lambda rows: (np.full(len(rows), 7.0), None))
    loaded = shelf.loaded()
    planned = shelf.runtime._loader._joined(replace(loaded, predictor=loaded.predictor.by(wrong)))
    for cached in (False, True):
        [answer] = planned.predict([INSTANCE], [""], ["request-0"])
        assert (answer.document["prediction"], answer.cached) == (7.0, cached)
    shelf.runtime._state.active["m"] = planned
    shelf.versions[1] = replace(shelf.versions[1], may_plan=False)
    shelf.switch(1)
    assert shelf.ask() == (1.0, False)
    assert shelf.loaded().predictor.plan is None


def test_the_way_back_needs_no_artifact_when_the_plan_of_the_version_before_goes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.add(constant(1))
    shelf.add(constant(2))
    shelf.switch(1)
    assert shelf.loaded().predictor.plan
    shelf.switch(2)
    shelf.versions[1] = replace(shelf.versions[1], may_plan=False)
    shelf.store.get = lambda digest: pytest.fail(f"{digest} is read")  # type: ignore[method-assign]
    shelf.switch(2)
    assert shelf.runtime.served("m", 1).predictor.plan is None
    shelf.switch(1)
    assert shelf.loaded().predictor.plan is None
    assert shelf.ask()[0] == pytest.approx(1.0)


def test_a_version_that_draws_lots_is_neither_kept_nor_shared(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    estimator = DummyClassifier(strategy="uniform", random_state=None).fit(FRAME, ["x", "y"] * 20)
    shelf.add(estimator, deterministic=False)
    shelf.switch(1)
    loaded = shelf.loaded()
    assert loaded.cache is None
    assert loaded.shared is None
    assert "may differ" in loaded.caching.reason


def test_calls_of_the_estimator_are_shared_and_those_of_other_plans_are_not(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.add(constant(1))
    shelf.switch(1)
    loaded = shelf.loaded()

    def joined(plan: Plan | None) -> LoadedVersion:
        return shelf.runtime._loader._joined(replace(loaded, predictor=loaded.predictor.by(plan)))

    one = Plan("one", lambda rows: (np.ones(len(rows)), None))
    assert joined(None).shared is not None
    assert joined(replace(one, is_itself=True)).shared is not None
    assert joined(one).shared is None


def test_a_version_without_a_reference_is_tried_with_made_up_rows(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.add(constant(1))
    one = golden.Golden(((0.5, 0.5),), (Outcome(1.0),))
    signature = shelf.versions[1].signature
    rows = shelf.store.put(kept.orjson.dumps(one.as_dict()))
    seal = artifacts.seal(SECRET, "m", 1, shelf.versions[1].artifact, signature, golden=rows)
    shelf.versions[1] = replace(shelf.versions[1], golden=rows, seal=seal)
    shelf.switch(1)
    assert len(shelf.loaded().usual) > 1
    assert shelf.loaded().cache is not None


# --- In a Redis -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


@pytest.fixture
def redis(server: Server) -> Server:
    server.client.flushall()
    return server


def process(model: Model, redis: Server, *, secret: bytes = SECRET, version: ServedVersion = VERSION) -> VersionCache:
    """Give the part of a version in a process of its own, which has nothing in its memory."""
    # A busy machine must not make it a test of its patience.
    return part(model, PredictionCache(secret, HOUR, "on", f"{redis.url}?socket_timeout=30"), version)


def stored(redis: Server, model: Model) -> list[bytes]:
    """Have one row answered; give the names under which something is kept now, but for what was measured with."""
    before = set(redis.client.keys())
    cache = process(model, redis)
    measured = set(redis.client.keys()) - before
    ask(cache, (1.0,))
    return [name for name in redis.client.scan_iter() if name not in before | measured]


def test_what_one_process_computed_another_does_not(model: Model, redis: Server) -> None:
    ask(process(model, redis), (1.0,), (2.0,))
    other = Model()
    outcomes, cached = ask(process(other, redis), (1.0,), (3.0,), (2.0,))
    assert [outcome.prediction for outcome in outcomes] == ["(1.0,)", "(3.0,)", "(2.0,)"]
    assert cached == [True, False, True]
    assert other.calls == [[(3.0,)]]


def test_what_is_kept_there_runs_out_and_shows_no_instance(model: Model, redis: Server) -> None:
    [name] = stored(redis, model)
    assert 0 < redis.client.ttl(name) <= HOUR
    assert b"1.0" not in name
    assert len(name) == len("modelport:") + 64


def test_no_name_there_is_the_key_that_names_are_made_with(model: Model, redis: Server) -> None:
    cache = process(model, redis)
    ask(cache, (1.0,))
    assert f"modelport:{cache._lookup._key.hex()}".encode() not in set(redis.client.scan_iter())


def test_answers_of_another_version_or_secret_are_none(model: Model, redis: Server) -> None:
    ask(process(model, redis), (1.0,))
    for other in (
        process(model, redis, version=replace(VERSION, number=2)),
        process(model, redis, version=replace(VERSION, seal="another")),
        process(model, redis, version=replace(VERSION, model="n")),
        process(model, redis, secret=b"another secret"),
    ):
        assert ask(other, (1.0,))[1] == [False]


def swapped(redis: Server, name: bytes, model: Model) -> None:
    """Put the whole, well signed answer of another row under this name."""
    before = set(redis.client.keys())
    ask(process(model, redis), (2.0,))
    [other] = set(redis.client.keys()) - before
    redis.client.set(name, redis.client.get(other))


LIES: dict[str, Callable[[Server, bytes, Model], object]] = {
    "garbage": lambda redis, name, _: redis.client.set(name, bytes(range(256))),
    "nothing": lambda redis, name, _: redis.client.set(name, b""),
    "truncated": lambda redis, name, _: redis.client.set(name, redis.client.get(name)[:-1]),
    "half a tag": lambda redis, name, _: redis.client.set(name, redis.client.get(name)[:10]),
    "another value": lambda redis, name, _: redis.client.set(name, redis.client.get(name).replace(b"0.75", b"0.25")),
    "unsigned": lambda redis, name, _: redis.client.set(name, b'["a lie",1,{}]'),
    "another type": lambda redis, name, _: (redis.client.delete(name), redis.client.lpush(name, b"x")),
    "another row's": swapped,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_redis_is_no_answer(model: Model, redis: Server, lie: str) -> None:
    [name] = stored(redis, model)
    LIES[lie](redis, name, model)
    other = Model()
    outcomes, cached = ask(process(other, redis), (1.0,))
    assert outcomes == [Outcome("(1.0,)", 0.75, {"0": 0.25, "1": 0.75})]
    assert not any(cached)


def test_when_redis_dies_predictions_go_on_and_when_it_is_back_it_is_used(model: Model, tmp_path: Path) -> None:
    redis = Server(tmp_path)
    try:
        cache = process(model, redis)
        ask(cache, (1.0,))
        redis.kill()
        assert predictions(ask(cache, (1.0,), (2.0,), (3.0,))) == ["(1.0,)", "(2.0,)", "(3.0,)"]
        redis.start()
        # It is left alone for a while, and then tried again.
        names = set(redis.client.keys())
        ask(cache, (4.0,))
        assert set(redis.client.keys()) == names
        remote = cache._lookup._remote
        assert remote is not None
        remote._reads._rests_until -= REST_SECONDS
        ask(cache, (5.0,))
        assert len(set(redis.client.keys()) - names) == 1
    finally:
        redis.close()


def test_a_redis_that_hangs_is_not_waited_for_again_and_again(model: Model, redis: Server) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR, "on", redis.url))
    redis.process.send_signal(signal.SIGSTOP)
    try:
        assert predictions(ask(cache, (1.0,))) == ["(1.0,)"]
        remote = cache._lookup._remote
        assert remote is not None
        assert remote._reads.failed
        rests_until = remote._reads._rests_until = math.inf
        assert predictions(ask(cache, (2.0,))) == ["(2.0,)"]
        # Nobody tried it.
        assert remote._reads._rests_until == rests_until
    finally:
        redis.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("answer", [5, True, [], [None, None], None, b"x", "x", {}], ids=repr)
def test_what_is_no_answer_to_the_question_is_none(model: Model, redis: Server, answer: Any) -> None:
    cache = process(model, redis)
    remote = cache._lookup._remote
    assert remote is not None
    remote._client.mget = lambda _names: answer  # type: ignore[method-assign]
    assert ask(cache, (1.0,))[1] == [False]


def test_one_that_takes_nothing_more_is_still_read(
    model: Model, redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    ask(process(model, redis), (1.0,), (2.0,))
    other = process(model, redis)
    before = redis.client.config_get("maxmemory")
    redis.client.config_set("maxmemory", 1)
    try:
        assert ask(other, (3.0,))[1] == [False]
        assert ask(other, (1.0,))[1] == [True]
        assert ask(other, (4.0,), (2.0,))[1] == [False, True]
    finally:
        redis.client.config_set("maxmemory", before["maxmemory"])
    assert [record.message for record in caplog.records].count("redis.away") == 1


def test_while_one_tries_a_redis_that_failed_no_other_does(model: Model, redis: Server) -> None:
    cache = process(model, redis)
    remote = cache._lookup._remote
    assert remote is not None
    tried, go = threading.Semaphore(0), threading.Event()

    def mget(_names: object) -> None:
        tried.release()
        # As long as it may take to find out what an address stands for.
        assert go.wait(WAIT)
        raise OSError

    go.set()
    remote._client.mget = mget  # type: ignore[method-assign]
    ask(cache, (1.0,))
    go.clear()
    remote._reads._rests_until -= REST_SECONDS
    with ThreadPoolExecutor(2) as pool:
        assert tried.acquire(timeout=WAIT)
        trying = pool.submit(ask, cache, (2.0,))
        assert tried.acquire(timeout=WAIT)
        # So much later, the first one has no answer yet.
        remote._reads._rests_until -= REST_SECONDS
        other = pool.submit(ask, cache, (3.0,))
        try:
            assert predictions(other.result(WAIT)) == ["(3.0,)"]
            assert not tried.acquire(blocking=False)
        finally:
            go.set()
        assert predictions(trying.result(WAIT)) == ["(2.0,)"]


def test_a_redis_that_was_never_there_costs_no_answer(model: Model, tmp_path: Path) -> None:
    cache, caching = PredictionCache(SECRET, HOUR, "auto", f"unix://{tmp_path}/nothing").of(
        VERSION, "a plan", model.ask, [(0.0,)], TRIAL
    )
    assert cache is not None
    assert caching.shared_seconds == kept.ASSUMED_REDIS_SECONDS
    assert [ask(cache, (1.0,))[1] for _ in range(2)] == [[False], [True]]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0?no_such_option=1", "unix:///dev/null", "redis://no.invalid/0"])
def test_an_address_that_is_wrong_costs_no_answer(model: Model, url: str) -> None:
    cache = part(model, PredictionCache(SECRET, HOUR, "on", url))
    assert predictions(ask(cache, (1.0,))) == ["(1.0,)"]
