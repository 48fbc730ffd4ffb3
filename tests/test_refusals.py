"""Refused rows: counted by field and rule, never by value, once, within bounds; more than usual of them are drift."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from tests import test_batches
from tests.admin.conftest import REPORT, SIGNATURE, TESTER, artifact
from tests.test_batches import TASK
from tests.test_drift_report import MODEL as CREDIT
from tests.test_drift_report import VERSION, ago, begin, decide, predict, rows
from tests.test_predictions import HOST
from webapp import app, db, jobs, keys, registry, watching
from webapp.batches.computing import Task, compute
from webapp.config import Settings
from webapp.db import Database
from webapp.drift import rule
from webapp.drift.rule import Share
from webapp.errors import Invalid, Problem, member
from webapp.log_writer import LogWriter
from webapp.monitoring import drift_report, drift_watch, references
from webapp.monitoring.drift_report import REFUSED, DriftDecision, Terms
from webapp.predictions import failures, log, refusals
from webapp.predictions.refusals import HourlyRefusals
from webapp.serving.loaded import LoadedVersion
from webapp.signature import refused
from webapp.signature.refused import MOST_PLACES, OTHERS, UNKNOWN, WHOLE, Tally
from webapp.web import Parts

GOOD = {"age": 35, "income": 52_000.5}
SECRET = "ada@example.com"
DAY = timedelta(days=1)

# As the tests of reports have them.
parts = pytest.fixture(name="parts")(lambda settings, database: app.make_parts(settings))
loaded = test_batches.loaded


@dataclass
class Running:
    """An application in this process with one active model, two keys, and what its log writer does."""

    client: FlaskClient
    database: Database
    parts: Parts
    key: str
    test_key: str

    def ask(self, instances: Sequence[object], key: str | None = None, **more: Any) -> int:
        body = {"instances": list(instances)}
        answer = self.client.post("/models/churn/predict", json=body, headers={"X-API-Key": key or self.key}, **more)
        return answer.status_code

    def drain(self) -> None:
        LogWriter(self.database, self.parts.settings.spool_dir, HOST).drain()

    def counted(self) -> list[tuple[int, int, int, dict[str, dict[str, int]]]]:
        self.drain()
        return counted(self.database)


def counted(database: Database) -> list[tuple[int, int, int, dict[str, dict[str, int]]]]:
    with database.reading() as session:
        rows = session.scalars(sa.select(HourlyRefusals).order_by(HourlyRefusals.hour))
        return [(row.version, row.asked, row.refused, row.fields) for row in rows]


@pytest.fixture
def new_running(settings: Settings, database: Database) -> Iterator[Callable[..., Running]]:
    """Start an application with some settings changed."""
    made: list[Parts] = []

    def make(**changed: Any) -> Running:
        application = app.create_app(settings)
        parts: Parts = application.extensions["modelport"]
        for name, value in changed.items():
            object.__setattr__(parts.settings, name, value)
        stored = parts.artifacts.put(artifact())
        facts = {"artifact": stored, "signature": SIGNATURE.as_dict(), "report": REPORT, "card": {}}
        with database.transaction() as session:
            registry.add_version(session, TESTER, settings.derive("versions"), "churn", **facts)
            registry.activate(session, TESTER, "churn", 1)
            _, key = keys.create(session, TESTER, parts.ring.pepper, "app")
            _, test_key = keys.create(session, TESTER, parts.ring.pepper, "tests", test=True)
        parts.spool.start()
        parts.follower.start(slot=None)
        made.append(parts)
        return Running(application.test_client(), database, parts, key, test_key)

    yield make
    for each in made:
        each.follower.stop()
        each.spool.stop()


@pytest.fixture
def running(new_running: Callable[..., Running]) -> Running:
    return new_running()


# --- Counting -------------------------------------------------------------------------------------------------


def test_a_request_that_is_refused_counts_its_rows_by_field_and_rule(running: Running) -> None:
    asked = [GOOD, GOOD | {"age": 140}, GOOD | {"age": 150, "income": "much"}, {"age": 20}, GOOD | {SECRET: 1}]
    assert running.ask(asked) == 422
    assert running.ask([GOOD]) == 200
    assert running.counted() == [
        (
            1,
            5,
            4,
            {
                "age": {"out_of_bounds": 2},
                "income": {"not_a_number": 1, "required": 1},
                UNKNOWN: {"unknown_field": 1},
            },
        )
    ]


def test_one_instance_that_is_the_whole_body_counts_as_one_row(running: Running) -> None:
    answer = running.client.post("/models/churn/predict", json=GOOD | {"age": 7}, headers={"X-API-Key": running.key})
    assert answer.status_code == 422
    assert running.ask(["not an object"]) == 422
    assert running.counted() == [(1, 2, 2, {"age": {"out_of_bounds": 1}, WHOLE: {"not_an_object": 1}})]


def test_nothing_of_a_refused_value_is_written_down(running: Running) -> None:
    running.ask([GOOD | {"age": SECRET, SECRET: SECRET}])
    written = b"".join(each.read_bytes() for each in running.parts.settings.spool_dir.glob("*"))
    assert b"refused" in written
    assert SECRET.encode() not in written
    running.drain()
    assert SECRET not in repr(counted(running.database))


def test_tries_and_what_is_not_logged_are_not_counted(new_running: Callable[..., Running]) -> None:
    running = new_running(prediction_log=0.0)
    assert running.ask([GOOD | {"age": 7}]) == 422
    object.__setattr__(running.parts.settings, "prediction_log", 1.0)
    assert running.ask([GOOD | {"age": 7}], running.test_key) == 422
    assert running.counted() == []


def test_who_is_refused_is_told_so_although_the_spool_is_full(running: Running) -> None:
    running.parts.spool._full = running.parts.spool._refuse_when_full = True
    assert running.ask([GOOD | {"age": 7}]) == 422


def test_what_fails_is_counted_with_the_request_and_is_no_refusal(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr(LoadedVersion, "outcomes", fail)
        assert running.ask([GOOD, GOOD]) == 500
        assert running.ask([GOOD], running.test_key) == 500
    assert running.ask([GOOD]) == 200
    assert running.counted() == []
    with running.database.reading() as session:
        (failed,) = failures.of_hours(session, db.now())
    assert (failed.model, failed.version, failed.rows) == ("churn", 1, 2)
    assert re.fullmatch("[0-9a-f]{32}", failed.request_id)


def test_a_piece_that_is_taken_back_and_comes_again_is_counted_once(database: Database) -> None:
    line = {
        "at": ago(1).timestamp(),
        "model": CREDIT,
        "version": 1,
        "asked": 9,
        "refused": 2,
        "fields": {"a": {"b": 2}},
    }

    def insert(*, fails: bool) -> None:
        with database.transaction() as session:
            log.insert(session, log.Piece(HOST, "segment", [line, line], 1))
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        insert(fails=True)
    assert counted(database) == []
    insert(fails=False)
    assert counted(database) == [(1, 18, 4, {"a": {"b": 4}})]


def test_a_flood_of_refusals_is_one_row_an_hour_of_few_reasons(database: Database) -> None:
    names = [f"x{number}" for number in range(400)]
    for request in range(30):
        problems = tuple(
            Problem(member(f"/instances/{row}", names[row + request]), "required", "") for row in range(99)
        )
        found = refused.marks(Invalid("invalid_instances", "", problems=problems), ["/instances/0"], names)
        tally = refused.tally(100, found)
        assert sum(map(len, tally.fields.values())) == MOST_PLACES + 1
        with database.transaction() as session:
            refusals.count(session, CREDIT, 1, ago(1), tally)
    ((_, asked, count, fields),) = counted(database)
    assert (asked, count) == (3000, 2970)
    assert sum(map(len, fields.values())) <= MOST_PLACES + 1
    assert sum(rows for codes in fields.values() for rows in codes.values()) == 2970
    assert fields[OTHERS[0]][OTHERS[1]] > 1000


@pytest.mark.parametrize("name", ["a/b", "~1", "~", ""])
def test_a_field_is_known_by_its_name_whatever_that_holds(name: str) -> None:
    problem = Problem(member("/instances/3", name), "required", "")
    found = refused.marks(Invalid("invalid_instances", "", problems=(problem,)), ["/instances/3"], [name])
    assert found == {("/instances/3", name, "required")}


def test_rows_of_a_batch_count_as_well_and_those_of_a_test_key_do_not(loaded: Any) -> None:
    content = b"age,income\n30,1\n7,1\n8,x\n40,2\n9,1,1\n"
    computed = compute(loaded, TASK, content)
    fields = {"age": {"out_of_bounds": 2}, "income": {"not_a_number": 1}, WHOLE: {"csv_malformed": 1}}
    assert computed.refused == Tally(3, 3, fields)
    assert compute(loaded, Task("f" * 32, "key1", "test", "csv", 0), content).refused == Tally()


# --- The rule -------------------------------------------------------------------------------------------------

LEVEL = Terms().level


def drifts(before: float, here: float, rows: int, rows_before: int = 15_000, dispersion: float = 1.0) -> bool:
    """Whether a share is called drifted where exactly so many rows were refused."""
    usual, found = Share(round(before * rows_before), rows_before), Share(round(here * rows), rows)
    p = rule.grown(usual, found, level=LEVEL, dispersion=dispersion).p
    return p is not None and p < LEVEL


def test_chance_and_what_is_tolerated_are_no_alarm() -> None:
    random = np.random.default_rng(1)
    for share in (0.0, 0.001, 0.01, 0.2):
        # As large as is tolerated: the worst case of which nothing may be said.
        tolerated = float(np.sin(np.arcsin(np.sqrt(share)) + np.sqrt(rule.TOLERANCE) / 2) ** 2)
        usual = Share(round(share * 15_000), 15_000)
        for asked in (200, 1000, 20_000):
            found = random.binomial(asked, tolerated, size=3000)
            p = np.array([rule.grown(usual, Share(int(each), asked), level=LEVEL).p for each in np.unique(found)])
            alarms = np.isin(found, np.unique(found)[p < LEVEL]).mean()
            print(f"{share:.1%} -> {tolerated:.1%}, {asked:,} rows: {alarms:.4f}")
            assert alarms <= 3 * LEVEL + 1 / 3000


def test_a_growth_that_matters_is_an_alarm_and_a_trifle_is_none_however_many_rows() -> None:
    assert drifts(0.001, 0.032, 1000)
    assert drifts(0, 1, 200)
    assert drifts(0.2, 0.4, 500)
    assert not drifts(0.001, 0.008, 1_000_000, 1_000_000)
    assert not drifts(0.0, 0.02, 200)


def test_fewer_refusals_than_before_are_no_drift() -> None:
    assert not drifts(0.5, 0.0, 10_000)
    assert rule.grown(Share(500, 1000), Share(0, 1000)).effect == 0.0


def test_days_that_differ_much_anyway_need_more() -> None:
    assert drifts(0.05, 0.12, 1000)
    assert not drifts(0.05, 0.12, 1000, dispersion=20.0)


def test_the_growth_that_is_called_detectable_is_detected_four_of_five_times() -> None:
    usual, rows = Share(15, 15_000), 1000
    seen = rule.grown(usual, Share(1, rows), level=LEVEL).detectable
    assert seen is not None
    share = float(np.sin((usual.angle + np.sqrt(seen)) / 2) ** 2)
    found = np.random.default_rng(2).binomial(rows, share, size=2000).tolist()
    caught = np.mean([(rule.grown(usual, Share(each, rows), level=LEVEL).p or 1) < LEVEL for each in found])
    assert caught == pytest.approx(rule.POWER, abs=0.05)


# --- Days -----------------------------------------------------------------------------------------------------


def refuse(parts: Parts, days_ago: int, asked: int, count: int, version: int = VERSION, **fields: int) -> None:
    """Count refusals of a day; each field was out of bounds in so many rows."""
    tally = Tally(asked, count, {name: {"out_of_bounds": rows} for name, rows in (fields or {"age": count}).items()})
    with parts.database.transaction() as session:
        refusals.count(session, CREDIT, version, ago(days_ago) + DAY / 2, tally)


def month(parts: Parts, until: int = 1, share: float = 0.002) -> None:
    """Let days pass on which some rows were refused, and decide about them."""
    begin(parts)
    for number in range(10, until, -1):
        predict(parts, ago(number), rows(600, number))
        refuse(parts, number, 10, round(600 * share))
        decide(parts, ago(number))


def refused_of(decision: DriftDecision | None) -> dict[str, Any]:
    assert decision is not None
    return next(each for each in decision.findings if each["id"] == REFUSED)


def test_a_day_on_which_much_more_is_refused_is_drift_although_what_is_logged_is_as_ever(parts: Parts) -> None:
    month(parts)
    predict(parts, ago(1), rows(600, 1))
    refuse(parts, 1, 40, 30, age=28, region=2)
    found = decide(parts, ago(1))
    assert found is not None
    assert found.drifted == [REFUSED]
    finding = refused_of(found)
    said = finding["refused"]
    assert (said["asked"], said["refused"]) == (640, 30)
    assert said["refused_before"] / said["asked_before"] == pytest.approx(0.002, abs=0.0005)
    assert said["reasons"][0] == {"field": "age", "code": "out_of_bounds", "part": 0.9333, "part_before": 1.0}


def test_a_day_as_the_others_is_none(parts: Parts) -> None:
    month(parts)
    predict(parts, ago(1), rows(600, 1))
    refuse(parts, 1, 10, 4)
    found = decide(parts, ago(1))
    assert found is not None
    assert found.drifted == []


def test_a_day_on_which_everything_is_refused_is_decided_about(parts: Parts) -> None:
    month(parts, until=2)
    predict(parts, ago(2), rows(600, 2))
    # Nothing of the last day is in the log.
    refuse(parts, 1, 700, 700)
    with parts.database.reading() as session:
        assert drift_report.undecided(session, CREDIT, VERSION, ago(0)) == [ago(2), ago(1)]
    assert drift_watch.decide_all(parts.database, Terms()) >= 1
    decide(parts, ago(1))
    with parts.database.reading() as session:
        (*_, last) = drift_report.decisions(session, CREDIT, VERSION, ago(20))
        shown = drift_report.of_day(session, CREDIT, VERSION, ago(1), Terms())
    assert (last.day, last.drifted) == (ago(1), [REFUSED])
    assert refused_of(last)["severity"] == "major"
    assert shown.refused is not None
    assert shown.refused.share == 1.0
    assert shown.as_dict()["refused"]["share_before"] == pytest.approx(0.002, abs=0.001)


def test_a_version_that_takes_less_than_the_one_before_it_is_seen_on_its_first_day(parts: Parts) -> None:
    begin(parts)
    for number in range(6, 1, -1):
        refuse(parts, number, 500, 1, version=VERSION + 1)
    predict(parts, ago(1), rows(600, 1))
    refuse(parts, 1, 200, 100)
    found = decide(parts, ago(1))
    assert found is not None
    assert found.drifted == [REFUSED]


def test_days_that_were_not_well_are_nothing_to_compare_with(parts: Parts) -> None:
    month(parts, until=3)
    for number in (3, 2, 1):
        predict(parts, ago(number), rows(600, number))
        refuse(parts, number, 60, 60)
        found = decide(parts, ago(number))
        assert found is not None
        assert found.drifted == [REFUSED], number
        assert refused_of(found)["refused"]["refused_before"] == 7


def test_where_nothing_was_asked_before_nothing_can_be_said(parts: Parts) -> None:
    begin(parts)
    predict(parts, ago(1), rows(600, 1))
    refuse(parts, 1, 60, 60)
    found = decide(parts, ago(1))
    assert found is not None
    assert found.drifted == []
    assert refused_of(found)["p"] is None


def test_a_time_that_was_chosen_says_what_share_is_usual(parts: Parts) -> None:
    begin(parts)
    for number in range(9, 4, -1):
        predict(parts, ago(number), rows(600, number))
        refuse(parts, number, 60, 60)
    for number in (4, 3, 2):
        predict(parts, ago(number), rows(600, number))
    with parts.database.transaction() as session:
        references.choose(session, TESTER, CREDIT, VERSION, ago(9), ago(4))
    predict(parts, ago(1), rows(600, 1))
    refuse(parts, 1, 60, 60)
    found = decide(parts, ago(1))
    assert found is not None
    assert found.drifted == []
    assert refused_of(found)["refused"]["asked_before"] == 5 * 660


def test_refusals_become_an_alert_with_the_field_that_they_come_from(parts: Parts) -> None:
    month(parts)
    predict(parts, ago(1), rows(600, 1))
    refuse(parts, 1, 200, 150, age=140, region=10)
    decide(parts, ago(1))
    facts = {"artifact": parts.artifacts.put(b"x"), "signature": SIGNATURE.as_dict(), "report": REPORT, "card": {}}
    with parts.database.transaction() as session:
        registry.add_version(session, TESTER, parts.settings.derive("versions"), CREDIT, **facts)
        registry.activate(session, TESTER, CREDIT, VERSION)
    with parts.database.reading() as session:
        (alert,) = watching.drifted(session, db.now())
    assert alert.severity == "critical"
    assert alert.subject == f"v{VERSION} {REFUSED}"
    assert alert.sentence == (
        "credit v1: 18.8% of the rows were refused, 0.2% on the days before; age was outside its bounds in 93% of them."
    )


def test_refusals_of_batches_are_counted_with_the_chunk_and_once(database: Database, settings: Settings) -> None:
    order = jobs.Order("key1", test=False, model=CREDIT, version=1, form="csv")
    with database.transaction() as session:
        jobs.accept(session, order, jobs.new_id(), [5])
        claimed = jobs.claim(session, "here/1")
    assert claimed is not None
    _, chunk = claimed
    for _ in range(2):
        with database.transaction() as session:
            if jobs.finish(session, chunk, "here/1", 3):
                refusals.count(session, CREDIT, 1, db.now(), Tally(3, 3, {"age": {"required": 3}}))
    assert counted(database) == [(1, 3, 3, {"age": {"required": 3}})]
