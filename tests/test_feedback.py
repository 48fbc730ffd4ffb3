"""Tests of ground truth: each item is taken or refused by itself, the last word counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tests.test_predictions import AT, HOST, record
from webapp import db, feedback, registry
from webapp.audit import Actor
from webapp.db import Database
from webapp.predictions import log, truth
from webapp.predictions.log import Prediction
from webapp.predictions.truth import Outcome
from webapp.signature import Output, Signature

ANN = Actor("cli:ann")
KEY = "key1"
SIGNATURES = {
    "churn": Signature((), "frame", "classification", (Output("y", ("no", "yes")),), "table"),
    "counts": Signature((), "frame", "classification", (Output("y", (1, 2)),), "table"),
    "flags": Signature((), "frame", "classification", (Output("y", (False, True)),), "table"),
    "prices": Signature((), "frame", "regression", (Output("y"),)),
    "both": Signature(
        (), "frame", "classification", (Output("a", ("no", "yes")), Output("b")), "tables", multi_output=True
    ),
}


@pytest.fixture(autouse=True)
def models(database: Database) -> None:
    """A version of each model, and a prediction of each: the key has called two of them the same."""
    with database.transaction() as session:
        for name, signature in SIGNATURES.items():
            given = {"artifact": "0" * 64, "signature": signature.as_dict(), "report": {}, "card": {}}
            registry.add_version(session, ANN, b"secret", name, **given)
    made = [
        *(record(0, id=name, model=name, version=1, at=AT) for name in SIGNATURES),
        record(0, id="first", model="churn", version=1, client_id="order 1"),
        record(0, id="second", model="churn", version=1, client_id="order 1"),
        record(0, id="another's", model="churn", version=1, key_id="key2", client_id="order 1"),
        record(0, id="of no version", model="churn", version=9),
    ]
    with database.transaction() as session:
        log.insert(session, log.Piece(HOST, "segment", made, 1))


def tell(database: Database, *items: object) -> list[tuple[str, str]]:
    """Tell; give the status of each item, and the reason where there is one."""
    with database.transaction() as session:
        return [(answer.status, answer.code) for answer in feedback.take(session, KEY, items)]


def told(database: Database) -> dict[str, Any]:
    with database.reading() as session:
        return {row.prediction_id: row.value for row in session.scalars(sa.select(Outcome))}


def one(prediction: str, outcome: object, **more: object) -> dict[str, object]:
    return {"prediction_id": prediction, "outcome": outcome, **more}


ACCEPTED, CHANGED, UNCHANGED = ("accepted", ""), ("changed", ""), ("unchanged", "")


def test_what_is_told_stands_beside_the_prediction_and_the_last_word_counts(database: Database) -> None:
    assert tell(database, one("churn", "no"), one("prices", 12.5)) == [ACCEPTED, ACCEPTED]
    assert told(database) == {"churn": "no", "prices": 12.5}
    assert tell(database, one("churn", "no"), one("prices", 13)) == [UNCHANGED, CHANGED]
    assert tell(database, one("churn", "yes"), one("churn", "no"), one("churn", "yes")) == [CHANGED, CHANGED, CHANGED]
    assert told(database) == {"churn": "yes", "prices": 13}


def test_what_is_wrong_with_one_item_keeps_no_other_out(database: Database) -> None:
    wrong = {
        "an item that is none": (5, "not_an_object"),
        "a field that there is not": (one("churn", "no", weight=1), "unknown_field"),
        "no id": ({"outcome": "no"}, "id_missing"),
        "two ids": (one("churn", "no", id="order 1"), "id_missing"),
        "an id that is no text": (one(5, "no"), "id_unusable"),  # type: ignore[arg-type] # what a client may send
        "no outcome": ({"prediction_id": "churn"}, "outcome_missing"),
        "a class that there is not": (one("churn", "maybe"), "outcome_not_a_class"),
        "a text for a number": (one("prices", "twelve"), "outcome_not_a_number"),
        "a truth for a number": (one("prices", outcome=True), "outcome_not_a_number"),
        "no moment": (one("churn", "no", observed_at="yesterday"), "observed_at_unreadable"),
        "the moment of no calendar": (one("churn", "no", observed_at="2026-02-30"), "observed_at_unreadable"),
        "a moment to come": (one("churn", "no", observed_at="2999-01-01"), "observed_at_ahead"),
        "one of two outputs": (one("both", {"a": "no"}), "outcome_not_the_models"),
        "a version that is gone": (one("of no version", "no"), "unknown_version"),
    }
    items = [item for item, _ in wrong.values()]
    assert tell(database, one("churn", "no"), *items, one("prices", 1)) == [
        ACCEPTED,
        *(("refused", code) for _, code in wrong.values()),
        ACCEPTED,
    ]
    assert told(database) == {"churn": "no", "prices": 1.0}


@pytest.mark.parametrize(
    ("model", "outcome", "value"),
    [
        ("counts", 1, 1),
        ("counts", 2.0, 2),
        ("counts", "2", 2),
        ("counts", True, None),
        ("flags", True, True),
        ("flags", "False", False),
        ("flags", 1, None),
        ("both", {"a": "yes", "b": 0.5}, {"a": "yes", "b": 0.5}),
        ("prices", float("nan"), None),
        ("prices", "-1.5e1", -15),
        ("prices", 10**400, None),
        ("prices", [1], None),
    ],
    ids=repr,
)
def test_an_outcome_is_kept_as_predictions_have_it(
    database: Database, model: str, outcome: object, value: object
) -> None:
    (answer,) = tell(database, one(model, outcome))
    assert answer[0] == ("refused" if value is None else "accepted")
    kept = told(database).get(model)
    # A number may come back as another kind of number, a truth as nothing else.
    assert (kept, isinstance(kept, bool)) == (value, isinstance(value, bool))


def test_an_id_of_ones_own_names_each_prediction_that_has_it_and_none_of_others(database: Database) -> None:
    assert tell(database, {"id": "order 1", "outcome": "yes"}) == [ACCEPTED]
    assert told(database) == {"first": "yes", "second": "yes"}
    with database.transaction() as session:
        (answer,) = feedback.take(session, KEY, [{"id": "order 1", "outcome": "no"}])
    assert answer.as_dict() == {"status": "changed", "predictions": 2}
    assert (
        tell(database, one("another's", "no"), {"id": "order 2", "outcome": "no"})
        == [("unknown", "unknown_prediction")] * 2
    )
    assert "another's" not in told(database)


def test_when_it_turned_out_is_kept_in_utc_and_is_now_where_nobody_says(database: Database) -> None:
    before = db.now()
    tell(database, one("churn", "no", observed_at="2026-03-03T12:00:00+02:00"), one("flags", outcome=True))
    with database.reading() as session:
        churn, flags = truth.of(session, "churn"), truth.of(session, "flags")
    assert churn is not None
    assert flags is not None
    assert churn.observed_at == datetime(2026, 3, 3, 10, tzinfo=UTC)
    assert before <= flags.observed_at <= db.now()


def test_more_than_one_statement_can_name_is_taken_at_once(database: Database) -> None:
    count = 2 * truth.MOST_NAMED + 1
    made = [record(0, id=f"p{number}", model="churn", version=1) for number in range(count)]
    with database.transaction() as session:
        log.insert(session, log.Piece(HOST, "another", made, 1))
    assert set(tell(database, *(one(each["id"], "yes") for each in made))) == {ACCEPTED}
    assert len(told(database)) == count


def test_truth_goes_with_its_prediction(database: Database) -> None:
    tell(database, one("churn", "no"))
    later = datetime.fromtimestamp(AT, UTC) + timedelta(days=1)
    with database.transaction() as session:
        log.remove(session, later, 100)
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Prediction)) == 0
    assert told(database) == {}
