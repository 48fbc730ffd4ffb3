"""Tests of quality reports: what is counted for which version and day, what is left out, and how much is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

import pytest

from tests.test_predictions import HOST, record
from webapp import db, feedback, registry
from webapp.audit import Actor
from webapp.db import Database
from webapp.errors import Invalid
from webapp.monitoring import quality_report
from webapp.monitoring.quality_report import Report, VersionReport
from webapp.predictions import log
from webapp.signature import Output, Signature

ANN = Actor("cli:ann")
KEY = "key1"
DAY = timedelta(days=1)
CHURN = Signature((), "frame", "classification", (Output("y", ("no", "yes")),), "table")
PRICES = Signature((), "frame", "regression", (Output("y"),))
BOTH = Signature((), "frame", "classification", (Output("a", ("no", "yes")), Output("b")), "tables", multi_output=True)
_numbers = count(1)


def noon(days_ago: int = 0) -> datetime:
    """Give the middle of a day, or now where that is still to come."""
    moment = db.now()
    middle = datetime.combine(moment.date(), datetime.min.time(), UTC) + DAY / 2 - days_ago * DAY
    return min(middle, moment)


def version(database: Database, name: str = "churn", signature: Signature = CHURN, **card: Any) -> int:
    """Register a version, which is active from now on."""
    described = {"artifact": "0" * 64, "signature": signature.as_dict(), "report": {}, "card": card}
    with database.transaction() as session:
        number = registry.add_version(session, ANN, b"secret", name, **described).number
        registry.activate(session, ANN, name, number)
    return number


def predict(database: Database, predictions: Iterable[Any], days_ago: int = 0, **more: Any) -> list[str]:
    """Log predictions of the model `churn` unless it is said otherwise; give their ids."""
    facts = {"model": "churn", "version": 1, "at": noon(days_ago).timestamp(), "key_id": KEY, **more}
    made = [record(0, id=f"p{next(_numbers):08d}", prediction=each, **facts) for each in predictions]
    with database.transaction() as session:
        log.insert(session, log.Piece(HOST, "segment", made, 1))
    return [str(each["id"]) for each in made]


def tell(database: Database, ids: Sequence[str], outcomes: Iterable[Any], **more: Any) -> None:
    items = [{"prediction_id": id_, "outcome": each, **more} for id_, each in zip(ids, outcomes, strict=True)]
    with database.transaction() as session:
        assert {answer.status for answer in feedback.take(session, KEY, items)} <= {"accepted", "changed"}


def report(database: Database, name: str = "churn", window: str = "7d") -> Report:
    with database.reading() as session:
        return quality_report.report(session, name, quality_report.window(window))


def only(found: Report) -> VersionReport:
    [one] = found.versions
    return one


def test_truth_counts_for_the_day_of_the_prediction_whenever_it_was_told(database: Database) -> None:
    version(database, accuracy=0.9)
    early = predict(database, ["yes"] * 4, days_ago=3)
    late = predict(database, ["no"] * 2)
    predict(database, ["no"] * 5, days_ago=30)
    tell(database, early, ["yes", "yes", "yes", "no"])
    tell(database, late[:1], ["yes"])
    found = only(report(database))
    assert (found.period.predictions, found.period.told, found.period.scored) == (6, 5, 5)
    assert found.period.coverage == pytest.approx(5 / 6)
    assert [(each.predictions, each.told) for each in found.parts] == [(0, 0)] * 3 + [(4, 4)] + [(0, 0)] * 2 + [(2, 1)]
    assert [each.outputs["y"].of("accuracy").value for each in found.parts if each.told] == [0.75, 0.0]
    assert found.verdict.sentence == "collecting: 5 of the 100 that are needed"


def test_how_late_truth_comes_is_told_by_the_half_of_it(database: Database) -> None:
    version(database)
    first, second, third = predict(database, ["yes"] * 3, days_ago=5)
    for each, days in ((first, 1), (second, 2), (third, 4)):
        tell(database, [each], ["yes"], observed_at=(noon(5) + days * DAY).isoformat())
    assert only(report(database)).period.lag_seconds == pytest.approx(2 * 86_400, abs=1)


def test_trials_are_no_quality(database: Database) -> None:
    version(database)
    tell(database, predict(database, ["yes"]), ["yes"])
    for source in ("test", "ui"):
        tell(database, predict(database, ["yes"] * 300, source=source, probability=0.5), ["no"] * 300)
    tell(database, predict(database, ["yes"], source="batch"), ["yes"])
    found = only(report(database))
    assert (found.period.predictions, found.period.told, found.period.outputs["y"].n) == (2, 2, 2)
    assert found.period.outputs["y"].of("accuracy").value == 1
    assert found.estimates["y"].n == 2


def test_each_version_stands_for_itself_and_the_active_one_though_it_made_none(database: Database) -> None:
    for accuracy in (0.5, 0.6, 0.7):
        version(database, accuracy=accuracy)
    tell(database, predict(database, ["yes"] * 2), ["yes", "no"])
    tell(database, predict(database, ["yes"] * 2, version=2), ["yes", "yes"])
    found = report(database)
    assert [(each.number, each.active, each.period.predictions) for each in found.versions] == [
        (3, True, 0),
        (2, False, 2),
        (1, False, 2),
    ]
    assert [each.scores.of("accuracy").value for each in found.versions] == [None, 1.0, 0.5]
    assert [each.card for each in found.versions] == [{"accuracy": 0.7}, {"accuracy": 0.6}, {"accuracy": 0.5}]
    chosen, other, none = found.of(None), found.of(1), found.of(9)
    assert (chosen and chosen.number, other and other.number, none) == (3, 1, None)


def test_no_more_is_read_than_is_promised_and_all_truth_is_counted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_report, "MOST_SCORED", 3)
    monkeypatch.setattr(quality_report, "MOST_LOOKED_AT", 4)
    monkeypatch.setattr(quality_report, "MOST_VERSIONS", 1)
    version(database)
    old, new = predict(database, ["yes"] * 4, days_ago=2), predict(database, ["yes"] * 2)
    tell(database, old, ["no"] * 4)
    tell(database, new, ["yes"] * 2)
    found = only(report(database))
    assert (found.period.told, found.period.scored, found.estimates["y"].n) == (6, 3, 4)
    # The newest ones, whatever the order in which they were told.
    assert found.scores.of("accuracy").value == pytest.approx(2 / 3)
    assert [(each.told, each.scored) for each in found.parts if each.told] == [(4, 1), (2, 2)]
    predict(database, ["yes"], version=2)
    version(database)
    version(database)
    assert [each.number for each in report(database).versions] == [3, 2]


@pytest.mark.parametrize(("name", "days", "parts"), [("7d", 7, 7), ("30d", 30, 30), ("90d", 90, 13)])
def test_a_window_ends_with_today_and_its_parts_leave_nothing_out(name: str, days: int, parts: int) -> None:
    within = quality_report.window(name)
    assert within.until - within.since == days * DAY
    assert within.since < db.now() < within.until
    assert len(within.parts) == parts
    assert (within.parts[0][0], within.parts[-1][1]) == (within.since, within.until)
    assert all(first[1] == second[0] for first, second in pairwise(within.parts))


def test_a_window_begins_no_earlier_than_what_is_kept() -> None:
    assert len(quality_report.window("30d", kept_days=5).parts) == 5
    assert len(quality_report.window("7d", kept_days=90).parts) == 7
    with pytest.raises(Invalid, match="one of 7d, 30d, 90d, not “1y”"):
        quality_report.window("1y")


def test_each_of_several_outputs_has_scores_of_its_kind(database: Database) -> None:
    version(database, "both", BOTH, accuracy=0.99)
    said, true = {"a": "yes", "b": 2.0}, {"a": "yes", "b": 3.0}
    odds = {"probability": {"a": 0.8}, "probabilities": {"a": {"no": 0.2, "yes": 0.8}}}
    ids = predict(database, [said] * 120, model="both", **odds)
    tell(database, ids, [true] * 119 + [{"a": "no", "b": 3.0}])
    found = only(report(database, "both"))
    a, b = found.period.outputs["a"], found.period.outputs["b"]
    assert (a.task, a.of("accuracy").value, b.task, b.of("bias").value) == (
        "classification",
        119 / 120,
        "regression",
        -1,
    )
    assert a.of("log_loss").value is not None
    assert list(found.estimates) == ["a"]
    # A card says of no output which one it means.
    assert (found.verdict.state, found.card) == ("unjudged", {})
    assert found.verdict.sentence.startswith("a: accuracy 0.992 (0.954–")  # noqa: RUF001 - a span
    assert ". b: RMSE 1 over 120 of 120 predictions" in found.verdict.sentence


def test_numbers_are_judged_by_the_error_that_the_card_states(database: Database) -> None:
    version(database, "prices", PRICES, metrics={"mae": 1.0})
    ids = predict(database, [10.0 + at % 3 for at in range(150)], model="prices", probability=None, probabilities=None)
    tell(database, ids, [13.0] * 150)
    found = only(report(database, "prices"))
    assert (found.main, found.verdict.state, found.estimates) == ("mae", "worse", {})
    assert found.verdict.sentence.endswith("the card says 1: worse by more than 10 %")


def test_outliers_are_scored_as_classes_and_clusters_not_at_all(database: Database) -> None:
    for task, sentence in (("outlier detection", "accuracy 0.500"), ("clustering", "clusters have no ground truth")):
        name = task.replace(" ", "-")
        version(database, name, Signature((), "frame", task, (Output("y"),)))
        ids = predict(database, [1, -1] * 60, model=name, probability=None, probabilities=None)
        tell(database, ids, [1] * 120)
        assert only(report(database, name)).verdict.sentence.startswith(sentence)


def test_what_probabilities_promise_is_learned_from_the_truth_of_the_same_version(database: Database) -> None:
    version(database)
    ids = predict(database, ["yes"] * 200, probability=0.9, days_ago=3)
    assert only(report(database)).estimates["y"].accuracy == pytest.approx(0.9)
    tell(database, ids, ["yes", "no"] * 100)
    version(database)
    predict(database, ["yes"] * 50, probability=0.8, version=2)
    newer, older = report(database).versions
    assert older.estimates["y"].accuracy == pytest.approx(0.5)
    assert (older.estimates["y"].n, older.estimates["y"].calibrated_on) == (200, 200)
    assert (newer.estimates["y"].accuracy, newer.estimates["y"].calibrated_on) == (pytest.approx(0.8), 0)


def test_the_public_form_is_json_that_says_the_same(database: Database) -> None:
    version(database, accuracy=0.9)
    tell(database, predict(database, ["yes", "no"] * 60), ["yes"] * 120)
    found = quality_report.describe(report(database))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    [one] = found["versions"]
    assert (one["version"], one["active"], one["predictions"], one["with_truth"], one["coverage"]) == (
        1,
        True,
        120,
        120,
        1,
    )
    assert one["verdict"]["state"] == "worse"
    assert one["outputs"]["y"]["scores"]["accuracy"]["value"] == 0.5
    assert len(one["parts"]) == 7
