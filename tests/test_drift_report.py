"""Reports of drift: days that are over, whose traffic a change comes from, and what is compared with what."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.test_predictions import HOST, record
from webapp import app, db
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Database
from webapp.drift import layout
from webapp.errors import Invalid, NotFound
from webapp.monitoring import description, drift_report, drift_watch, references
from webapp.monitoring.drift_report import DAY, DriftDecision, Report, Terms
from webapp.monitoring.references import References
from webapp.predictions import counts, log
from webapp.predictions.traffic import beginning
from webapp.registry import Model, Version
from webapp.signature import Feature, Output, Signature
from webapp.web import Parts

MODEL, VERSION = "credit", 1
SIGNATURE = Signature(
    (Feature("age"), Feature("region", kind="string", observed_values=("n", "s"))),
    "frame",
    "classification",
    (Output("prediction", ("no", "yes")),),
    "table",
)
ACTOR = Actor("sam")


@pytest.fixture
def parts(settings: Settings, database: Database) -> Iterator[Parts]:
    """The parts of a worker's process, of which nothing is started."""
    made = app.make_parts(settings)
    yield made
    made.database.engine.dispose()


def rows(
    count: int, seed: int, *, age: float = 40.0, region: str | None = None, odds: float = 0.5
) -> list[dict[str, Any]]:
    """Give what a version was asked and answered."""
    random = np.random.default_rng(seed)
    ages = random.normal(age, 10, count).round(1).tolist()
    yes = random.random(count).tolist()
    return [
        {
            "instance": {"age": each, "region": region or "ns"[number % 2]},
            "prediction": "yes" if share < odds else "no",
            "probability": 0.5 + share / 2,
            "probabilities": {"no": 1 - share, "yes": share},
        }
        for number, (each, share) in enumerate(zip(ages, yes, strict=True))
    ]


def begin(parts: Parts) -> None:
    """Compare the version with 4,000 rows from now on."""
    records = rows(4000, 0)
    meant = layout.of(SIGNATURE, records)
    made = counts.DriftReference(
        model=MODEL,
        version=VERSION,
        layout=meant.as_json(),
        counts=layout.packed(meant.count(records)),
        rows=len(records),
        origin="reference",
        made_at=ago(0),
        since=None,
        until=None,
    )
    References(parts.database, parts.artifacts, parts.follower).begin(made)


def predict(parts: Parts, day: datetime, made: list[dict[str, Any]], key_id: str = "key1", hours: float = 24) -> None:
    """Log predictions, spread over a day."""
    step = timedelta(hours=hours) / len(made)
    records = [
        record(
            0, id=f"{key_id} {day:%d} {number}", at=(day + number * step).timestamp(), key_id=key_id,
            model=MODEL, version=VERSION, source="api", **each,
        )
        for number, each in enumerate(made)
    ]  # fmt: skip
    with parts.database.transaction() as session:
        log.insert(session, log.Piece(HOST, f"segment {day} {key_id}", records, 1))


def decide(parts: Parts, day: datetime, **terms: float) -> DriftDecision | None:
    with parts.database.transaction() as session:
        return drift_report.decide(session, MODEL, VERSION, day, Terms(**terms))


def seen(parts: Parts, since: datetime, until: datetime) -> Report:
    with parts.database.reading() as session:
        return drift_report.report(session, MODEL, VERSION, since, until, Terms())


def ago(days: int) -> datetime:
    """Give when a day began; asked anew each time: the tests may run past midnight."""
    return beginning(db.now(), DAY) - days * DAY


def test_a_month_in_which_nothing_changes_is_silent(parts: Parts) -> None:
    begin(parts)
    for number in range(28, 0, -1):
        predict(parts, ago(number), rows(600, number))
    decided = [decide(parts, ago(number)) for number in range(28, 0, -1)]
    assert [each.drifted for each in decided if each] == [[]] * 28


def test_a_change_is_noticed_on_its_day_with_the_key_that_brings_it_and_the_hour(parts: Parts) -> None:
    begin(parts)
    for number in range(10, 2, -1):
        predict(parts, ago(number), rows(400, number))
    predict(parts, ago(2), rows(400, 102))
    # A key of its own: usual until noon, then another age.
    predict(parts, ago(2), rows(100, 201) + rows(100, 202, age=75), "broker")
    days = [decide(parts, ago(number)) for number in range(10, 1, -1)]
    assert [each.drifted for each in days[:-1] if each] == [[]] * 8
    last = days[-1]
    assert last is not None
    assert last.drifted == ["input:age"]
    (source,) = (one for each in last.findings for one in each["sources"])
    assert (source["key_id"], source["of_traffic"]) == ("broker", pytest.approx(1 / 3, abs=0.01))
    assert source["part"] > 0.8
    began = datetime.fromisoformat(source["since"])
    assert abs(began - (ago(2) + timedelta(hours=12))) < timedelta(hours=1)


def test_a_day_is_decided_about_once(parts: Parts) -> None:
    begin(parts)
    predict(parts, ago(1), rows(600, 1))
    assert decide(parts, ago(1)) is not None
    assert decide(parts, ago(1)) is None
    assert decide(parts, ago(5)) is None
    with parts.database.reading() as session:
        assert [each.day for each in drift_report.decisions(session, MODEL, VERSION, ago(9))] == [ago(1)]


def test_the_worker_decides_about_each_day_that_is_over(parts: Parts) -> None:
    begin(parts)
    for number in (3, 2, 1, 0):
        predict(parts, ago(number), rows(300, number), hours=0.001)
    expected = 3 if db.now() - ago(0) > drift_watch.SETTLED else 2
    assert drift_watch.decide_all(parts.database, Terms()) == expected
    assert drift_watch.decide_all(parts.database, Terms()) == 0


def test_days_with_few_predictions_are_looked_at_together(parts: Parts) -> None:
    begin(parts)
    for number in range(20, 0, -1):
        predict(parts, ago(number), rows(60, number))
    found = decide(parts, ago(1))
    assert found is not None
    assert (found.since, found.rows) == (ago(9), 540)


def test_too_few_predictions_are_no_verdict(parts: Parts) -> None:
    begin(parts)
    predict(parts, ago(1), rows(150, 1, age=90))
    found = decide(parts, ago(1))
    assert found is not None
    assert found.drifted == []
    assert not seen(parts, ago(1), ago(0)).enough


def test_what_is_answered_is_not_compared_with_what_was_learned(parts: Parts) -> None:
    begin(parts)
    # A version is surer of the rows that it was trained on: that is no drift, from the first day on.
    for number in range(12, 2, -1):
        predict(parts, ago(number), rows(600, number, odds=0.2))
    days = [decide(parts, ago(number)) for number in range(12, 2, -1)]
    assert [each.drifted for each in days if each] == [[]] * 10
    predict(parts, ago(2), rows(600, 2, odds=0.9))
    found = decide(parts, ago(2))
    assert found is not None
    assert found.drifted == ["prediction:prediction"]


def test_a_decided_day_reads_as_it_was_decided(parts: Parts) -> None:
    begin(parts)
    predict(parts, ago(1), rows(800, 1, region="x"))
    decide(parts, ago(1))
    with parts.database.reading() as session:
        shown = drift_report.of_day(session, MODEL, VERSION, ago(1), Terms())
    assert [each.id for each in shown.drifted] == ["input:region"]
    assert shown.findings[0].new == 1.0
    assert shown.findings[0].sources[0].key_id == "key1"
    assert shown.as_dict()["drifted"] == ["input:region"]
    live = seen(parts, ago(1), ago(0))
    assert [each.id for each in live.findings] == [each.id for each in shown.findings]
    assert (live.rows, live.reference_rows) == (shown.rows, shown.reference_rows) == (800, 4000)


def test_what_is_tolerated_can_be_chosen(parts: Parts) -> None:
    begin(parts)
    predict(parts, ago(1), rows(5000, 1, age=43))
    found = decide(parts, ago(1), tolerance=0.5)
    assert found is not None
    assert found.drifted == []
    assert [each.id for each in seen(parts, ago(1), ago(0)).drifted] == ["input:age"]


def test_a_time_of_its_own_predictions_can_be_compared_with(parts: Parts) -> None:
    begin(parts)
    for number in range(9, 0, -1):
        predict(parts, ago(number), rows(500, number, age=60))
    assert [each.id for each in seen(parts, ago(1), ago(0)).drifted] == ["input:age"]
    with parts.database.transaction() as session:
        references.choose(session, ACTOR, MODEL, VERSION, ago(9), ago(4))
    assert seen(parts, ago(1), ago(0)).drifted == []
    assert seen(parts, ago(1), ago(0)).reference_rows == 2500
    with parts.database.transaction() as session:
        references.choose_packed(session, ACTOR, MODEL, VERSION)
    assert [each.id for each in seen(parts, ago(1), ago(0)).drifted] == ["input:age"]


def test_a_time_with_few_predictions_cannot_be_compared_with(parts: Parts) -> None:
    begin(parts)
    predict(parts, ago(1), rows(500, 1))
    with parts.database.transaction() as session, pytest.raises(Invalid, match=r"has 500 predictions.*needs 2,000"):
        references.choose(session, ACTOR, MODEL, VERSION, ago(1), ago(0))


def test_a_version_that_is_not_counted_says_what_is_missing(parts: Parts) -> None:
    with parts.database.reading() as session, pytest.raises(NotFound, match="came without a reference"):
        drift_report.report(session, MODEL, VERSION, ago(1), ago(0), Terms())


def test_numbers_are_described_as_the_reference_is(parts: Parts) -> None:
    begin(parts)
    made = rows(1000, 1, age=50)
    predict(parts, ago(1), made)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["age", "region"], *[(each["instance"]["age"], "n") for each in rows(1000, 2)]])
    stored = parts.artifacts.put(text.getvalue().encode())
    version = Version(number=VERSION, signature=SIGNATURE.as_dict(), reference=stored)
    version.model = Model(name=MODEL)
    assert description.numbers_of(version) == ["age"]
    with parts.database.reading() as session:
        newest = description.newest(session, MODEL, VERSION, ago(1), ago(0))
    (found,) = description.describe(parts.artifacts, version, ["age"], newest)
    ages = np.array([each["instance"]["age"] for each in made])
    assert (found.here.rows, found.here.mean) == (1000, pytest.approx(ages.mean()))
    assert found.here.deviation == pytest.approx(ages.std(ddof=1))
    assert (found.here.minimum, found.here.maximum) == (ages.min(), ages.max())
    assert found.reference is not None
    assert found.reference.mean == pytest.approx(40, abs=1)
    assert found.ks is not None
    assert found.ks > 0.3
    assert found.ks_p is not None
    assert found.ks_p < 1e-6
