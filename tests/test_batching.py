"""Tests of shared calls: whoever comes while an estimator is busy is answered with others, as if alone."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from tests.conftest import eventually
from webapp.errors import Invalid
from webapp.serving import batching
from webapp.serving.batching import MOST_OWN_ROWS, MOST_ROWS, Shared, tried
from webapp.serving.predictor import Outcome, Predictor, assemble
from webapp.signature import Row
from webapp.signature.learn import learn

RANDOM = np.random.default_rng(5)
FRAME = pd.DataFrame(RANDOM.normal(size=(200, 3)), columns=["a", "b", "c"])
LABELS = (FRAME["a"] + FRAME["b"] * FRAME["c"] + RANDOM.normal(size=200) / 4 > 0).astype(int)
WAIT = 60.0
REFUSED = -1.0


class Gate(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Notes the rows of each call, lets calls through as it is told, and refuses or fails by the values."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.entered = threading.Semaphore(0)
        self.passes = threading.Semaphore(0)
        self.fails: Callable[[list[float]], BaseException | None] = lambda _values: None

    def predict(self, table: Any) -> Any:
        values = [row[0] for row in np.asarray(table).tolist()]
        self.calls.append(values)
        self.entered.release()
        assert self.passes.acquire(timeout=WAIT)
        if REFUSED in values:
            message = "no"
            raise ValueError(message)
        if error := self.fails(values):
            raise error
        return np.array(values) * 2


class Callers:
    """Threads that ask one shared predictor, with a gate that holds its calls."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        signature = learn(LinearRegression().fit(FRAME, LABELS), assemble, reference=FRAME, declared=()).signature
        self.gate = Gate()
        self.shared = Shared(Predictor(self.gate, signature))
        self._pool = pool

    def ask(self, *values: float) -> Future[list[Any]]:
        """Ask in a thread of its own; the answers are twice the values."""
        rows = [(value, 0.0, 0.0) for value in values]
        pointers = [f"/{value:g}" for value in values]
        return self._pool.submit(lambda: [outcome.prediction for outcome in self.shared.predict(rows, pointers)])

    def enter(self, *values: float) -> Future[list[Any]]:
        """Ask, and return when the estimator is busy with it."""
        asked = self.ask(*values)
        self.entered()
        return asked

    def wait(self, *values: float) -> Future[list[Any]]:
        """Ask, and return when it stands in line."""
        before = len(self.shared._waiting)
        asked = self.ask(*values)
        eventually(lambda: len(self.shared._waiting) == before + 1)
        return asked

    def entered(self) -> None:
        assert self.gate.entered.acquire(timeout=WAIT)

    def let(self, count: int = 1) -> None:
        self.gate.passes.release(count)


@pytest.fixture
def callers() -> Iterator[Callers]:
    with ThreadPoolExecutor(32) as pool:
        made = Callers(pool)
        yield made
        made.let(1000)


# --- Together ---------------------------------------------------------------------------------------------


def test_one_caller_asks_at_once_and_alone(callers: Callers) -> None:
    callers.let(2)
    assert callers.ask(1, 2).result(WAIT) == [2, 4]
    assert callers.ask(3).result(WAIT) == [6]
    assert callers.gate.calls == [[1, 2], [3]]


def test_those_who_come_while_it_is_busy_are_answered_by_one_call(callers: Callers) -> None:
    first = callers.enter(1)
    others = [callers.wait(value) for value in (2, 3, 4)]
    callers.let(2)
    assert [each.result(WAIT) for each in (first, *others)] == [[2], [4], [6], [8]]
    assert callers.gate.calls == [[1], [2, 3, 4]]
    # And then it is idle again.
    assert not callers.shared._busy


def test_nobody_waits_longer_than_those_who_came_later(callers: Callers) -> None:
    callers.enter(0)
    early = [callers.wait(*[1] * MOST_OWN_ROWS) for _ in range(MOST_ROWS // MOST_OWN_ROWS)]
    late = callers.wait(2)
    callers.let()
    callers.entered()
    # While those are answered, one more comes.
    latest = callers.wait(3)
    callers.let(2)
    assert [each.result(WAIT) for each in early] == [[2] * MOST_OWN_ROWS] * len(early)
    assert [late.result(WAIT), latest.result(WAIT)] == [[4], [6]]
    assert callers.gate.calls == [[0], [1] * MOST_ROWS, [2, 3]]


def test_a_request_with_many_rows_goes_alone_beside_the_others(callers: Callers) -> None:
    callers.enter(1)
    many = callers.enter(*range(MOST_OWN_ROWS + 1))
    callers.let(2)
    assert many.result(WAIT) == [value * 2 for value in range(MOST_OWN_ROWS + 1)]


# --- What goes wrong for one ------------------------------------------------------------------------------


def test_an_error_stays_with_the_one_who_caused_it(callers: Callers) -> None:
    first = callers.enter(1)
    good, bad, other = callers.wait(2), callers.wait(3, REFUSED), callers.wait(4)
    callers.let(100)
    assert [each.result(WAIT) for each in (first, good, other)] == [[2], [4], [8]]
    with pytest.raises(Invalid) as refusal:
        bad.result(WAIT)
    assert [problem.pointer for problem in refusal.value.problems] == ["/-1"]
    assert callers.gate.calls[1] == [2, 3, REFUSED, 4]


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(1)], ids=repr)
def test_when_the_leader_dies_the_others_are_answered(callers: Callers, error: BaseException) -> None:
    callers.gate.fails = lambda values: error if 2 in values else None
    first = callers.enter(1)
    leader, follower, last = callers.wait(2), callers.wait(3), callers.wait(*[4] * MOST_OWN_ROWS)
    callers.let(100)
    assert [each.result(WAIT) for each in (first, follower, last)] == [[2], [6], [8] * MOST_OWN_ROWS]
    with pytest.raises(type(error)):
        leader.result(WAIT)
    # The lead was not lost with it.
    assert callers.ask(5).result(WAIT) == [10]


def test_what_fails_only_together_is_answered_alone_for_the_leader_too(callers: Callers) -> None:
    callers.gate.fails = lambda values: MemoryError() if len(values) > 1 else None
    first = callers.enter(1)
    others = [callers.wait(value) for value in (2, 3)]
    callers.let(100)
    assert [each.result(WAIT) for each in (first, *others)] == [[2], [4], [6]]


def test_a_failure_of_one_who_was_alone_is_its_own(callers: Callers) -> None:
    callers.let(100)
    with pytest.raises(Invalid) as refusal:
        callers.ask(REFUSED).result(WAIT)
    assert [problem.pointer for problem in refusal.value.problems] == ["/-1"]
    assert callers.ask(1).result(WAIT) == [2]


# --- Real estimators --------------------------------------------------------------------------------------

ESTIMATORS: dict[str, Any] = {
    "svc": make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)),
    "knn": KNeighborsClassifier(),
    "mlp": make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=3000, random_state=0)),
    "bayes": GaussianNB(),
    "forest": RandomForestClassifier(20, random_state=0),
}


class Held(Predictor):
    """A predictor whose first call takes until it is let go."""

    def hold(self) -> None:
        self.calls: list[int] = []
        self.entered, self.go = threading.Event(), threading.Event()

    def outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        self.calls.append(len(rows))
        self.entered.set()
        assert self.go.wait(WAIT)
        return super().outcomes(rows)


def predictor(estimator: Any, kind: type[Predictor] = Predictor) -> Any:
    with warnings.catch_warnings():
        # What estimators say to those who train them.
        warnings.simplefilter("ignore")
        estimator.fit(FRAME, LABELS)
        return kind(estimator, learn(estimator, assemble, reference=FRAME, declared=()).signature)


@pytest.fixture(scope="module", params=ESTIMATORS)
def held(request: pytest.FixtureRequest) -> Held:
    made: Held = predictor(ESTIMATORS[request.param], Held)
    return made


ROWS = st.tuples(*[st.floats(-1e6, 1e6)] * 3)


@given(st.lists(st.lists(ROWS, min_size=1, max_size=4), min_size=2, max_size=6))
@hypothesis_settings(max_examples=20, deadline=None)
def test_what_is_answered_together_is_what_each_gets_alone(held: Held, asked: list[list[Row]]) -> None:
    held.hold()
    shared = Shared(held)
    with ThreadPoolExecutor(len(asked)) as pool:
        first = pool.submit(shared.predict, asked[0], [""] * len(asked[0]))
        assert held.entered.wait(WAIT)
        others = [pool.submit(shared.predict, rows, [""] * len(rows)) for rows in asked[1:]]
        eventually(lambda: len(shared._waiting) == len(others))
        held.go.set()
        together = [outcome for each in (first, *others) for outcome in each.result(WAIT)]
    assert held.calls == [len(asked[0]), sum(map(len, asked[1:]))]
    alone = [held.predict([row], [""])[0] for rows in asked for row in rows]
    assert [outcome.prediction for outcome in together] == [outcome.prediction for outcome in alone]
    for one, other in zip(together, alone, strict=True):
        for name, share in one.probabilities.items():
            assert math.isclose(share, other.probabilities[name], rel_tol=1e-12, abs_tol=1e-12)


# --- Whether it may be shared -----------------------------------------------------------------------------


def usual() -> list[Row]:
    return [tuple(row) for row in FRAME.to_numpy()[:12].tolist()]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rows_of_usual_estimators_are_independent(name: str) -> None:
    trial = tried(predictor(ESTIMATORS[name]), usual())
    assert trial.independent
    assert trial.single_seconds is not None


def centred(table: pd.DataFrame) -> pd.DataFrame:
    return table - table.mean()


def test_an_estimator_that_looks_at_the_rows_beside_is_not_shared() -> None:
    estimator = make_pipeline(FunctionTransformer(centred), LinearRegression())
    assert not tried(predictor(estimator), usual()).independent


def test_an_estimator_that_draws_lots_is_not_shared() -> None:
    assert not tried(predictor(DummyClassifier(strategy="uniform", random_state=0)), usual()).independent


def test_an_estimator_that_refuses_what_it_is_tried_with_is_not_shared() -> None:
    assert tried(predictor(LinearRegression()), [(None, 0.0, 0.0), (0.0, 0.0, 0.0)]) == batching.Trial()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_rows_prove_nothing(count: int) -> None:
    assert not tried(predictor(LinearRegression()), usual()[:count]).independent


def test_a_slow_estimator_is_tried_with_two_rows_at_least_and_not_with_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_TRYING_SECONDS", 0.0)
    held: Held = predictor(LinearRegression(), Held)
    held.hold()
    held.go.set()
    assert tried(held, usual()).independent
    assert held.calls == [1, 1, 2]
