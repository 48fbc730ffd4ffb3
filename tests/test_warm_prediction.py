"""What one warm prediction costs in structure: no SQL, and few of our modules."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import joblib
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from webapp import app, db, keys, uploads
from webapp.audit import Actor
from webapp.config import Settings
from webapp.intake import Upload
from webapp.uploads import Desk, Wish
from webapp.web import Parts

INSTANCE = {f"x{position}": 1.0 for position in range(4)}
# With a plan and with kept answers, which is the longest way.
MOST_MODULES = 18


@pytest.fixture
def running(settings: Settings, tmp_path: Path) -> Iterator[tuple[FlaskClient, Parts, str]]:
    """An application in this process with one active model and a key; answers are kept, and predictions logged."""
    settings = replace(settings, cache="on")
    db.upgrade(settings.sqlalchemy_url)
    made = app.create_app(settings)
    parts: Parts = made.extensions["modelport"]
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), tmp_path / "iris.joblib")
    desk = Desk(settings, parts.database, parts.artifacts)
    uploads.upload(desk, Actor("a test"), Wish("iris", activate=True), Upload(tmp_path / "iris.joblib"))
    with parts.database.transaction() as session:
        _, key = keys.create(session, Actor("a test"), parts.ring.pepper, "warm")
    parts.spool.start()
    parts.follower.start(slot=None)
    yield made.test_client(), parts, key
    parts.follower.stop()
    parts.spool.stop()


def predict(client: FlaskClient, key: str, x0: float = 1.0) -> str:
    """Predict once, successfully; tell whether the answer was there already."""
    response = client.post("/models/iris/predict", json=INSTANCE | {"x0": x0}, headers={"X-API-Key": key})
    assert response.status_code == 200, response.text
    return response.headers["X-Cache"]


def modules_crossed(call: Callable[[], None]) -> Counter[str]:
    """Count the calls into each of our modules while `call` runs, in this thread."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("webapp"):
            calls[name] += 1

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls


def test_a_warm_prediction_needs_no_sql(running: tuple[FlaskClient, Parts, str]) -> None:
    client, _parts, key = running
    predict(client, key)
    statements: list[str] = []
    # A follower's own look at the generation, once a second in its thread, is not the prediction's.
    ours = threading.get_ident()

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if threading.get_ident() == ours:
            statements.append(statement)

    try:
        found = [predict(client, key, x0=number % 5) for number in range(10)]
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    print(f"\nSQL statements in 10 warm predictions: {len(statements)}")
    assert statements == []
    # One of the instances was asked for before.
    assert Counter(found) == {"miss": 4, "hit": 6}


def test_a_warm_prediction_crosses_few_modules(running: tuple[FlaskClient, Parts, str]) -> None:
    client, _, key = running
    predict(client, key)
    calls = modules_crossed(lambda: print(predict(client, key, x0=2.0)))
    print(f"\n{len(calls)} modules, {calls.total()} calls: {dict(calls)}")
    assert len(calls) <= MOST_MODULES
