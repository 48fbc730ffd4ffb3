"""Where the time of a prediction went and which trace it belonged to: from the request's headers into the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from tests.admin.conftest import REPORT, SIGNATURE, TESTER, artifact
from webapp import app, keys, metrics, registry
from webapp.config import Settings
from webapp.db import Database
from webapp.log_writer import LogWriter
from webapp.predictions import log, timings
from webapp.predictions.log import Prediction
from webapp.web import Parts

INSTANCE = {"age": 35, "income": 52_000.5}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Ask = Callable[..., TestResponse]


@pytest.fixture
def house(settings: Settings, database: Database) -> Iterator[tuple[Flask, str]]:
    """An application behind a trusted proxy, with one active model, and a key."""
    made = app.create_app(replace(settings, trusted_proxies=1))
    parts: Parts = made.extensions["modelport"]
    facts = {
        "artifact": parts.artifacts.put(artifact()),
        "signature": SIGNATURE.as_dict(),
        "report": REPORT,
        "card": {},
    }
    with database.transaction() as session:
        registry.add_version(session, TESTER, settings.derive("versions"), "churn", **facts)
        registry.activate(session, TESTER, "churn", 1)
        _, key = keys.create(session, TESTER, parts.ring.pepper, "timed")
    parts.spool.start()
    parts.follower.start(slot=None)
    yield made, key
    parts.follower.stop()
    parts.spool.stop()


@pytest.fixture
def ask(house: tuple[Flask, str]) -> Ask:
    """Ask for predictions, with headers."""
    made, key = house
    client = made.test_client()

    def post(instance: object = INSTANCE, **headers: str) -> TestResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post("/models/churn/predict", json=instance, headers={"X-API-Key": key, **given})

    return post


def logged(settings: Settings, database: Database) -> list[Prediction]:
    """Give what is in the log once the log writer was there."""
    LogWriter(database, settings.spool_dir, settings.replica).drain()
    with database.reading() as session:
        return list(session.scalars(sa.select(Prediction).order_by(Prediction.at, Prediction.id)))


def request_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(each) for each in caplog.records if each.getMessage() == "request"]


# --- Timings ------------------------------------------------------------------------------------------------


def test_a_prediction_says_where_its_time_went(ask: Ask, settings: Settings, database: Database) -> None:
    assert ask(X_Request_Start=f"t={time.time() - 0.25:.3f}").status_code == 200
    (row,) = logged(settings, database)
    spent = timings.seconds(row.timings)
    assert spent is not None
    assert list(spent) == ["waiting", "reading", "checking", "predicting", "answering"]
    waited = spent.pop("waiting")
    assert waited is not None
    assert 0.249 <= waited < 60
    # All that is no waiting is the latency; each part is rounded to a microsecond.
    assert sum(each or 0.0 for each in spent.values()) == pytest.approx(row.latency_seconds, abs=3e-6)
    assert all(each is not None and each >= 0 for each in spent.values())
    assert log.describe(row)["timings"] == {"waiting": waited, **spent}


IMPOSSIBLE = ("", "t=", "soon", "t=nan", "t=-inf", "t=inf", "t=99999999999", "t=1", "1772366400250")


def test_a_wait_that_cannot_be_is_not_known(ask: Ask, settings: Settings, database: Database) -> None:
    for given in IMPOSSIBLE:
        assert ask(X_Request_Start=given).status_code == 200
    rows = logged(settings, database)
    assert len(rows) == len(IMPOSSIBLE)
    assert {tuple(spent is None for spent in row.timings or ()) for row in rows} == {(True, False, False, False, False)}


def test_without_a_trusted_proxy_nobody_is_believed(
    house: tuple[Flask, str], settings: Settings, database: Database
) -> None:
    made, key = house
    parts: Parts = made.extensions["modelport"]
    made.extensions["modelport"] = replace(parts, settings=replace(parts.settings, trusted_proxies=0))
    headers = {"X-API-Key": key, "X-Request-Start": f"t={time.time() - 0.25:.3f}"}
    assert made.test_client().post("/predict", json=INSTANCE, headers=headers).status_code == 200
    (row,) = logged(settings, database)
    assert row.timings is not None
    assert row.timings[0] is None


def sample(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def test_the_log_writer_counts_the_time_of_each_request_once(ask: Ask, settings: Settings, database: Database) -> None:
    counted = "modelport_inference_duration_seconds"
    labels = {"model": "churn", "model_version": "1"}
    before, spent = sample(f"{counted}_count", **labels), sample(f"{counted}_sum", **labels)
    ask()
    ask({"instances": [INSTANCE] * 3})
    rows = logged(settings, database)
    assert len(rows) == 4
    assert sample(f"{counted}_count", **labels) == before + 2
    by_request = {row.request_id: (row.timings or [])[timings.PREDICTING] or 0 for row in rows}
    assert sample(f"{counted}_sum", **labels) - spent == pytest.approx(sum(by_request.values()) / 1e6)


def test_the_log_writer_says_when_it_had_everything(settings: Settings, database: Database) -> None:
    caught_up = "modelport_log_caught_up_timestamp_seconds"
    before = time.time()
    writer = LogWriter(database, settings.spool_dir, settings.replica)
    writer.stop()
    writer.run()
    assert before <= sample(caught_up) <= time.time()


def test_what_was_logged_before_there_were_timings_has_none() -> None:
    assert timings.seconds(None) is None
    assert list(timings.predicting([{"request_id": "r", "model": "m", "model_version": "1"}])) == []


def test_problems_of_instances_are_counted_by_their_code(ask: Ask) -> None:
    def counted() -> dict[str, float]:
        reasons = ("not_a_number", "required", "unknown_field")
        return {each: sample("modelport_validation_errors_total", model="churn", reason=each) for each in reasons}

    before = counted()
    assert ask({"instances": [INSTANCE | {"age": "much", "income": "more"}, {"weight": 1}]}).status_code == 422
    assert {name: count - before[name] for name, count in counted().items()} == {
        "not_a_number": 2,
        "required": 2,
        "unknown_field": 1,
    }


# --- Traces -------------------------------------------------------------------------------------------------


TRACES = (f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-03", f"cc-{TRACE}-{PARENT}-01-what")
NO_TRACES = (
    "",
    TRACE,
    f"00-{TRACE.upper()}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{PARENT}-01-more",
    f"ff-{TRACE}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}-1",
    f"00-{TRACE}-{PARENT}-0g",
    f"cc-{TRACE}-{PARENT}-01.what",
    # Two headers, as servers join them.
    f"00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01",
)


def test_a_trace_is_found_in_the_log_lines_and_with_the_prediction(
    ask: Ask, settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for header in TRACES:
            assert ask(traceparent=header).status_code == 200
        assert ask({"age": "much"}, traceparent=TRACES[0]).status_code == 422
    assert [line["trace_id"] for line in request_lines(caplog)] == [TRACE] * (len(TRACES) + 1)
    rows = logged(settings, database)
    assert [(row.trace_id, log.describe(row)["trace_id"]) for row in rows] == [(TRACE, TRACE)] * len(TRACES)


def test_a_header_that_is_no_trace_is_ignored(
    ask: Ask, settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for header in NO_TRACES:
            answer = ask(traceparent=header)
            assert answer.status_code == 200
            assert "traceparent" not in answer.headers
    assert [line.get("trace_id") for line in request_lines(caplog)] == [None] * len(NO_TRACES)
    assert [row.trace_id for row in logged(settings, database)] == [None] * len(NO_TRACES)


def test_what_goes_wrong_names_its_trace(house: tuple[Flask, str], caplog: pytest.LogCaptureFixture) -> None:
    made, _ = house

    def fail() -> str:
        raise RuntimeError

    made.view_functions["health.health"] = fail
    assert made.test_client().get("/health", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}).status_code == 500
    (line,) = [vars(each) for each in caplog.records if each.getMessage() == "unexpected"]
    assert line["trace_id"] == TRACE
