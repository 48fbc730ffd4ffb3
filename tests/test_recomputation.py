"""Tests of the checks of plans: a plan that answers wrongly is switched off, and a right one is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
import skops.io
import sqlalchemy as sa
from flask.testing import FlaskClient
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sqlalchemy.orm import Session

from tests.conftest import eventually
from webapp import app, keys, metrics, recomputation, registry
from webapp.audit import Actor, AuditRecord
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.db import Database, now
from webapp.errors import Conflict
from webapp.log_writer import LogWriter
from webapp.predictions.log import Prediction
from webapp.recomputation import LOGGED_WITHIN, MOST_ROWS, Recomputation
from webapp.serving.golden import same_within
from webapp.serving.loaded import LoadedVersion
from webapp.serving.plans import Plan
from webapp.serving.predictor import assemble
from webapp.signature import Row
from webapp.signature.learn import learn
from webapp.web import Parts
from webapp.worker.plans import Recomputer

TESTER = Actor("a test")
X, Y = load_iris(return_X_y=True)
INSTANCE = {f"x{position}": value for position, value in enumerate(X[0])}
Asked = Callable[[Any, Sequence[Row]], tuple[Any, Any]]


def by_itself(estimator: Any, rows: Sequence[Row]) -> tuple[Any, Any]:
    """A plan that answers as the estimator does."""
    matrix = np.array(rows)
    return estimator.predict(matrix), estimator.predict_proba(matrix) if hasattr(estimator, "predict_proba") else None


def with_another_label(estimator: Any, rows: Sequence[Row]) -> tuple[Any, Any]:
    """A plan that is wrong about every row of the first class."""
    labels, table = by_itself(estimator, rows)
    return np.where(labels == 0, 1, labels), table


def off_by_a_little(estimator: Any, rows: Sequence[Row]) -> tuple[Any, Any]:
    """A plan whose numbers are right in all but the last digits."""
    labels, table = by_itself(estimator, rows)
    return (labels, table * (1 + 1e-9)) if table is not None else (labels * (1 + 1e-9), None)


def in_another_order(estimator: Any, rows: Sequence[Row]) -> tuple[Any, Any]:
    """A plan that rounds otherwise, as linear algebra does over another number of rows."""
    labels, table = by_itself(estimator, rows)
    return (labels, table * (1 + 2e-16)) if table is not None else (labels * (1 + 2e-16), None)


@dataclass
class House:
    """An application in this process with one active model, asked by a key; the worker's check looks at its log."""

    client: FlaskClient
    parts: Parts
    headers: dict[str, str]
    recomputation: Recomputation

    def answer(self, instance: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self.client.post("/models/iris/predict", json=instance or INSTANCE, headers=self.headers)
        assert response.status_code == 200, response.text
        return dict(response.get_json())

    def look(self) -> int:
        """Move what was answered into the log, and look at it."""
        LogWriter(self.parts.database, self.parts.settings.spool_dir, "here").drain()
        return self.recomputation.look()

    @property
    def plan(self) -> Plan | None:
        """The plan that answers."""
        return self.parts.runtime.served("iris").predictor.plan

    def version(self) -> registry.Version:
        with self.parts.database.reading() as session:
            return registry.get_version(session, registry.get_model(session, "iris"), 1)

    def activate(self, estimator: Any) -> None:
        """Register an estimator, and have it answer."""
        digest = self.parts.artifacts.put(skops.io.dumps(estimator))
        signature = learn(estimator, assemble, reference=None, declared=()).signature.as_dict()
        secret = self.parts.settings.derive("versions")
        with self.parts.database.transaction() as session:
            version = registry.add_version(
                session, TESTER, secret, "iris", artifact=digest, signature=signature, report={}, card={}
            )
            session.flush()
            registry.activate(session, TESTER, "iris", version.number)


def planned_by(parts: Parts, ask: Asked) -> None:
    """Have what is loaded from now on computed by this plan, where a plan may compute it: it was proven by nobody."""
    load = parts.runtime._loader.load

    def load_with_plan(version: ServedVersion) -> LoadedVersion:
        loaded = load(version)
        estimator = loaded.predictor._estimator
        plan = Plan("a plan of the tests", lambda rows: ask(estimator, rows)) if version.may_plan else None
        return parts.runtime._loader._joined(replace(loaded, predictor=loaded.predictor.by(plan)))

    parts.runtime._loader.load = load_with_plan  # type: ignore[method-assign]


@pytest.fixture
def make(settings: Settings, database: Database) -> Iterator[Callable[..., House]]:
    """Give a function that makes the house, whose model is computed by this plan, or by the product's own."""
    started: list[Parts] = []

    def made(ask: Asked | None, estimator: Any = None) -> House:
        application = app.create_app(settings)
        parts: Parts = application.extensions["modelport"]
        if ask:
            planned_by(parts, ask)
        with parts.database.transaction() as session:
            _, key = keys.create(session, TESTER, parts.ring.pepper, "test")
        house = House(
            application.test_client(), parts, {"X-API-Key": key}, Recomputation(parts.database, parts.runtime)
        )
        house.activate(estimator or LogisticRegression(max_iter=500).fit(X, Y))
        started.append(parts)
        parts.spool.start()
        parts.follower.start(slot=None)
        house.look()
        return house

    yield made
    for parts in started:
        parts.follower.stop()
        parts.spool.stop()


def counted(name: str) -> float:
    """Give how often something was counted for the only version."""
    return metrics.REGISTRY.get_sample_value(name, {"model": "iris", "model_version": "1"}) or 0.0


# --- Looking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [by_itself, in_another_order, None])
@pytest.mark.parametrize(
    "estimator", [LogisticRegression(max_iter=500), LinearRegression()], ids=lambda each: type(each).__name__
)
def test_a_plan_that_answers_as_scikit_learn_does_is_left_alone(
    make: Callable[..., House], estimator: Any, ask: Asked | None
) -> None:
    house = make(ask, estimator.fit(X, Y))
    before = counted("modelport_plan_checks_total")
    for row in X[::15]:
        house.answer(dict(zip(INSTANCE, row, strict=True)))
    assert house.look() == 10
    assert counted("modelport_plan_checks_total") - before == 10
    assert house.look() == 0
    assert house.version().plan_off_at is None
    assert house.plan is not None
    print(f"\n{house.plan.name}")


@pytest.mark.parametrize("ask", [with_another_label, off_by_a_little])
def test_a_plan_that_answers_otherwise_is_switched_off(make: Callable[..., House], ask: Asked) -> None:
    house = make(ask)
    before = counted("modelport_plan_disagreements_total")
    wrong = house.answer()
    house.look()
    assert counted("modelport_plan_disagreements_total") - before == 1
    eventually(lambda: house.plan is None)
    right = house.answer()
    assert right["prediction"] == 0
    assert {**right, "prediction_id": ""} != {**wrong, "prediction_id": ""}
    itself = house.parts.runtime.served("iris").predictor._estimator
    assert list(right["probabilities"].values()) == itself.predict_proba(X[:1])[0].tolist()
    version = house.version()
    assert version.plan_off_at is not None
    assert wrong["prediction_id"] in (version.plan_off_reason or "")
    print(f"\n{version.plan_off_reason}")


def test_the_switch_is_noted_once_though_the_wrong_answers_are_many(make: Callable[..., House]) -> None:
    house = make(with_another_label)
    for _ in range(3):
        house.answer()
    house.look()
    # One who looks at the same answers before it has followed.
    with house.parts.database.transaction() as session:
        assert not registry.switch_plan_off(session, Actor("modelport"), "iris", 1, "again")
    with house.parts.database.reading() as session:
        noted = session.scalars(sa.select(AuditRecord).where(AuditRecord.action == "models.plan_off")).all()
    assert [(each.actor, each.subject) for each in noted] == [("modelport", "iris/1")]
    assert noted[0].detail["reason"].startswith("3 of 3 ")


def test_what_scikit_learn_refuses_and_a_plan_answers_is_a_disagreement(make: Callable[..., House]) -> None:
    house = make(lambda _estimator, rows: (np.zeros(len(rows), dtype=int), np.full((len(rows), 3), 1 / 3)))
    house.answer()
    # It is answered by a plan, and by nothing else.
    itself = house.parts.runtime.served("iris").predictor._estimator
    itself.coef_ = itself.coef_[:, :2]
    house.look()
    assert "scikit-learn refuses it" in (house.version().plan_off_reason or "")


def test_a_look_takes_no_more_than_the_newest_predictions(make: Callable[..., House]) -> None:
    house = make(by_itself)
    instances = [INSTANCE] * (MOST_ROWS + 10)
    response = house.client.post("/models/iris/predict", json={"instances": instances}, headers=house.headers)
    assert response.status_code == 200
    assert house.look() == MOST_ROWS
    assert house.look() == 0


def test_what_others_were_asked_is_not_searched_again_and_again(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(by_itself)
    searched = []
    newest_of = recomputation.log.newest_of

    def noted(session: Session, model: str, version: int, since: datetime, most: int) -> list[Prediction]:
        searched.append(since)
        return newest_of(session, model, version, since, most)

    monkeypatch.setattr(recomputation.log, "newest_of", noted)
    later = now() + timedelta(hours=1)
    with monkeypatch.context() as patch:
        patch.setattr(recomputation, "now", lambda: later)
        house.look()
        house.look()
    assert searched[1] == later - LOGGED_WITHIN
    assert searched[0] < searched[1]


def test_a_prediction_that_comes_into_the_log_after_a_look_is_checked_by_the_next(make: Callable[..., House]) -> None:
    house = make(by_itself)
    house.answer()
    assert house.recomputation.look() == 0
    assert house.look() == 1


def test_numbers_that_a_database_keeps_as_integers_are_the_same(make: Callable[..., House]) -> None:
    house = make(by_itself, LinearRegression().fit(X, np.ones(len(X))))
    house.answer({"x0": 1, "x1": 2, "x2": 3, "x3": 4})
    LogWriter(house.parts.database, house.parts.settings.spool_dir, "here").drain()
    with house.parts.database.transaction() as session:
        logged = session.scalars(sa.select(Prediction)).one()
        assert logged.prediction == pytest.approx(1.0)
        logged.instance = {"x0": 1, "x1": 2, "x2": 3, "x3": 4}
        logged.prediction = 1
    house.look()
    assert house.version().plan_off_at is None


def test_one_version_that_cannot_be_checked_does_not_end_the_loop(make: Callable[..., House]) -> None:
    house = make(by_itself)
    loop = Recomputer(house.parts, "here")
    assert not loop.work_once()
    house.answer()
    LogWriter(house.parts.database, house.parts.settings.spool_dir, "here").drain()
    with house.parts.database.transaction() as session:
        session.scalars(sa.select(Prediction)).one().instance = {"of another": "version"}
    loop._looked = float("-inf")
    assert not loop.work_once()
    house.answer()
    LogWriter(house.parts.database, house.parts.settings.spool_dir, "here").drain()
    loop._looked = float("-inf")
    before = counted("modelport_plan_checks_total")
    assert not loop.work_once()
    assert counted("modelport_plan_checks_total") > before


# --- Switching ------------------------------------------------------------------------------------------------------


def test_no_request_fails_while_the_plan_goes(make: Callable[..., House]) -> None:
    house = make(by_itself)
    done, answers, failures = threading.Event(), [0], []

    def ask() -> None:
        client = house.client.application.test_client()
        while not done.is_set():
            response = client.post("/models/iris/predict", json=INSTANCE, headers=house.headers)
            answers[0] += 1
            if response.status_code not in {200, 429}:
                failures.append(response.text)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(3):
            with house.parts.database.transaction() as session:
                registry.switch_plan_off(session, TESTER, "iris", 1, "a test")
            eventually(lambda: house.plan is None)
            with house.parts.database.transaction() as session:
                registry.allow_plan(session, TESTER, "iris", 1)
            eventually(lambda: house.plan is not None)
    finally:
        done.set()
        asking.join()
    assert not failures
    assert answers[0] > 0


def test_the_plan_goes_though_the_artifact_can_no_longer_be_read(make: Callable[..., House]) -> None:
    house = make(with_another_label)
    digest = house.version().artifact
    (house.parts.settings.artifacts_dir / digest[:2] / digest).unlink()
    house.answer()
    house.look()
    eventually(lambda: house.plan is None)
    assert house.answer()["prediction"] == 0


def test_the_way_back_stays_loaded_when_a_plan_goes(make: Callable[..., House]) -> None:
    house = make(by_itself)
    house.activate(LogisticRegression(C=0.5, max_iter=500).fit(X, Y))
    eventually(lambda: house.parts.runtime.served("iris").version.number == 2)
    with house.parts.database.transaction() as session:
        registry.switch_plan_off(session, TESTER, "iris", 2, "a test")
    eventually(lambda: house.plan is None)
    held = {each["version"]: each["role"] for each in house.parts.runtime.held()}
    assert held == {1: "previous", 2: "active"}


def test_a_plan_that_is_allowed_already_cannot_be_allowed(make: Callable[..., House]) -> None:
    house = make(by_itself)
    with house.parts.database.transaction() as session, pytest.raises(Conflict, match="plan_is_allowed"):
        registry.allow_plan(session, TESTER, "iris", 1)


def test_a_plan_that_is_allowed_again_is_not_judged_by_what_it_did_before(make: Callable[..., House]) -> None:
    house = make(with_another_label)
    house.answer()
    house.look()
    eventually(lambda: house.plan is None)
    house.look()
    with house.parts.database.transaction() as session:
        registry.allow_plan(session, TESTER, "iris", 1)
    eventually(lambda: house.plan is not None)
    assert house.look() == 0
    assert house.version().plan_off_at is None
    house.answer()
    assert house.look() == 1
    assert house.version().plan_off_at is not None


# --- Comparing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "scale"),
    [
        (1.0, 1.0, 1.0),
        (1, 1.0, 1.0),
        (0.1 + 0.2, 0.3, 0.0),
        (1e-17, 2e-17, 1.0),
        ({"a": 1, "b": 0}, {"b": 0.0, "a": 1.0}, 1.0),
        ("yes", "yes", 1.0),
        (None, None, 1.0),
        (True, True, 1.0),
    ],
)
def test_what_differs_by_rounding_is_the_same(one: Any, other: Any, scale: float) -> None:
    assert same_within(one, other, scale)


@pytest.mark.parametrize(
    ("one", "other", "scale"),
    [
        (1.0, 1.0 + 1e-11, 1.0),
        (1e-17, 2e-17, 0.0),
        (1, 2, 1.0),
        (1, True, 1.0),
        ("1", 1, 1.0),
        (None, 0.0, 1.0),
        ({"a": 1.0}, {"b": 1.0}, 1.0),
        ({"a": 1.0}, 1.0, 1.0),
        (float("nan"), 1.0, 1.0),
    ],
)
def test_what_differs_by_more_is_not(one: Any, other: Any, scale: float) -> None:
    assert not same_within(one, other, scale)
