"""Tests of alerts: one thing is one alert; people act on it; it tells of itself when it should, and is silent else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from webapp import alerts, audit, db, fleet, generation, jobs, keys, registry, watching, webhooks
from webapp.alerts import Alert, Found, rounds
from webapp.alerts.rounds import Round
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Database, Session
from webapp.errors import Conflict, Invalid, NotFound
from webapp.fleet import Heartbeat, WebWorker
from webapp.predictions import failures, traffic
from webapp.webhooks import EVENTS
from webapp.webhooks.deliveries import Delivery

MARA = Actor("user:mara", "192.0.2.7")
SLOW = Found("latency", "churn answers slowly.", model="churn", details={"p99_seconds": 0.2})
OWNER = "a-host/1"


@pytest.fixture
def told(database: Database) -> Callable[[], list[tuple[str, str]]]:
    """A webhook that wants to know everything; give what it was told so far, with the sentence."""
    with database.transaction() as session:
        facts: dict[str, Any] = {"url": "https://example.com/hook", "form": "standard", "private": False}
        webhooks.create(session, MARA, name="everyone", events=EVENTS, **facts)

    def look() -> list[tuple[str, str]]:
        with database.reading() as session:
            return [(row.event, row.sentence) for row in session.scalars(sa.select(Delivery).order_by(Delivery.id))]

    return look


def see(database: Database, found: Found = SLOW) -> int:
    with database.transaction() as session:
        return alerts.see(session, found).id


def settle(database: Database, *still_true: Found, kind: str = "latency") -> int:
    with database.transaction() as session:
        return alerts.settle(session, kind, still_true)


def alert(database: Database, alert_id: int) -> Alert:
    with database.reading() as session:
        return alerts.get_alert(session, alert_id)


def do(database: Database, act: Callable[..., Alert], alert_id: int, *more: str) -> None:
    with database.transaction() as session:
        act(session, MARA, alert_id, *more)


def every(database: Database) -> list[Alert]:
    with database.reading() as session:
        return list(session.scalars(sa.select(Alert).order_by(Alert.id)))


def alter(database: Database, statement: sa.Update) -> None:
    """Do to rows what otherwise time does."""
    with database.transaction() as session:
        assert session.execute(statement).rowcount > 0  # type: ignore[attr-defined] # an UPDATE's result has it


def wake(database: Database, alert_id: int) -> None:
    past = db.now() - timedelta(seconds=1)
    alter(database, sa.update(Alert).where(Alert.id == alert_id).values(snoozed_until=past))


# --- By itself ------------------------------------------------------------------------------------------------


def test_a_thing_that_is_seen_again_is_the_same_alert_with_what_is_known_now(
    database: Database, told: Callable[[], list[tuple[str, str]]]
) -> None:
    first = see(database)
    again = see(database, Found("latency", "churn answers very slowly.", model="churn", details={"p99_seconds": 0.9}))
    found = alert(database, first)
    assert (again, found.times_seen, found.state) == (first, 2, "open")
    assert (found.sentence, found.details) == ("churn answers very slowly.", {"p99_seconds": 0.9})
    assert told() == [("alert.opened", "churn answers slowly.")]


def test_things_that_differ_in_kind_model_or_subject_are_alerts_of_their_own(database: Database) -> None:
    others = [
        Found("latency", "", model="prices"),
        Found("drift", "", model="churn"),
        Found("drift", "", subject="age"),
    ]
    assert len({see(database, each) for each in [SLOW, *others]}) == 4


def test_what_is_so_no_more_is_resolved_by_itself_and_told(
    database: Database, told: Callable[[], list[tuple[str, str]]]
) -> None:
    slow, other = see(database), see(database, prices := Found("latency", "prices too.", model="prices"))
    drift = see(database, Found("drift", "age differs.", model="churn", subject="age"))
    assert settle(database, prices) == 1
    assert [alert(database, each).state for each in (slow, other, drift)] == ["resolved", "open", "open"]
    assert (found := alert(database, slow)).resolved_by == alerts.ITSELF
    assert found.ended_at is not None
    assert told()[-1] == ("alert.resolved", "Resolved: churn answers slowly.")
    with database.reading() as session:
        last = session.scalars(sa.select(Delivery).order_by(Delivery.id.desc())).first()
    assert last is not None
    assert last.data["state"] == "resolved"
    assert settle(database, prices) == 0


def test_what_is_so_again_after_it_was_resolved_is_a_new_alert(database: Database) -> None:
    first = see(database)
    settle(database)
    second = see(database)
    assert second != first
    assert [each.state for each in every(database)] == ["resolved", "open"]


def test_what_a_person_resolved_opens_nothing_as_long_as_it_goes_on(
    database: Database, told: Callable[[], list[tuple[str, str]]]
) -> None:
    first = see(database)
    do(database, alerts.resolve, first)
    assert see(database) == first
    assert (alert(database, first).state, alert(database, first).times_seen) == ("resolved", 2)
    assert [event for event, _ in told()] == ["alert.opened", "alert.resolved"]
    settle(database)
    assert alert(database, first).resolved_by == "user:mara"
    assert see(database) != first
    assert [event for event, _ in told()] == ["alert.opened", "alert.resolved", "alert.opened"]


def test_a_snoozed_alert_tells_nobody_until_the_snooze_ends(
    database: Database, told: Callable[[], list[tuple[str, str]]]
) -> None:
    slow = see(database)
    do(database, alerts.snooze, slow, "1h")
    see(database)
    with database.reading() as session:
        assert alerts.telling(session) == {}
    assert (alert(database, slow).state, len(told())) == ("snoozed", 1)
    wake(database, slow)
    assert alert(database, slow).state == "open"
    see(database)
    see(database)
    assert [event for event, _ in told()] == ["alert.opened", "alert.opened"]


def test_that_a_snoozed_alert_is_over_is_told_when_the_snooze_ends(
    database: Database, told: Callable[[], list[tuple[str, str]]]
) -> None:
    slow = see(database)
    do(database, alerts.snooze, slow, "24h")
    settle(database)
    until = alert(database, slow).snoozed_until
    assert until is not None
    with database.reading() as session:
        opened, resolved = session.scalars(sa.select(Delivery).order_by(Delivery.id))
    assert (opened.event, resolved.event, resolved.due_at) == ("alert.opened", "alert.resolved", until)


def test_two_who_see_the_same_at_once_open_one_alert(
    database: Database, told: Callable[[], list[tuple[str, str]]]
) -> None:
    both = threading.Barrier(2)

    def look(_number: int) -> int:
        both.wait()
        return see(database)

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(look, range(2)))) == 1
    assert (every(database)[0].times_seen, len(told())) == (2, 1)


# --- By people ------------------------------------------------------------------------------------------------


def test_each_act_changes_the_state_and_is_noted(database: Database) -> None:
    slow = see(database)
    acts: list[tuple[Callable[..., Alert], tuple[str, ...], str]] = [
        (alerts.acknowledge, (), "acknowledged"),
        (alerts.snooze, ("7d",), "snoozed"),
        (alerts.reopen, (), "open"),
        (alerts.resolve, (), "resolved"),
        (alerts.reopen, (), "open"),
    ]
    for act, more, state in acts:
        do(database, act, slow, *more)
        assert alert(database, slow).state == state
    with database.reading() as session:
        noted = audit.about(session, f"alert {slow}")[::-1]
    assert [row.action for row in noted] == [f"alerts.{act.__name__}" for act, _, _ in acts]
    assert {row.actor for row in noted} == {"user:mara"}


def test_what_cannot_be_done_says_why(database: Database) -> None:
    slow = see(database)
    with pytest.raises(Conflict, match="open already"):
        do(database, alerts.reopen, slow)
    with pytest.raises(Invalid, match="1h, 24h, 7d"):
        do(database, alerts.snooze, slow, "a year")
    settle(database)
    for act, more in ((alerts.acknowledge, ()), (alerts.snooze, ("1h",)), (alerts.resolve, ())):
        with pytest.raises(Conflict, match="resolved already"):
            do(database, act, slow, *more)
    with pytest.raises(Conflict, match="a new alert"):
        do(database, alerts.reopen, slow)
    with pytest.raises(NotFound):
        do(database, alerts.resolve, slow + 1)


def test_alerts_are_found_by_state_and_model_the_newest_first(database: Database) -> None:
    made = [see(database, Found("latency", "", model=f"m{number}")) for number in range(4)]
    do(database, alerts.acknowledge, made[1])
    do(database, alerts.snooze, made[2], "1h")
    do(database, alerts.resolve, made[3])
    with database.reading() as session:
        assert alerts.count_by_state(session) == dict.fromkeys(alerts.STATES, 1)
        assert [each.id for each in alerts.search(session, alerts.STATES)] == made[::-1]
        assert [each.id for each in alerts.search(session, ["acknowledged", "snoozed"])] == [made[2], made[1]]
        assert [each.id for each in alerts.search(session, alerts.STATES, models=["m0", "m3"])] == [made[3], made[0]]
        assert [each.id for each in alerts.search(session, alerts.STATES, before=made[2], most=1)] == [made[1]]
        # One that somebody looks after still counts; one that sleeps does not.
        assert alerts.telling(session) == {("latency", "warning"): 2}


def test_alerts_that_ended_long_ago_are_removed_and_no_others(database: Database) -> None:
    old, _standing = see(database), see(database, Found("drift", "", model="churn"))
    settle(database)
    alter(database, sa.update(Alert).values(opened_at=db.now() - timedelta(days=99)))
    alter(database, sa.update(Alert).where(Alert.id == old).values(ended_at=db.now() - timedelta(days=98)))
    recent = see(database)
    settle(database)
    with database.transaction() as session:
        assert alerts.remove(session, db.now() - timedelta(days=90), 10) == 1
    assert [each.id for each in every(database)] == [_standing, recent]


# --- Kinds ----------------------------------------------------------------------------------------------------


def found(database: Database, kind: str) -> list[Found]:
    with database.reading() as session:
        return watching.BY_NAME[kind].look(session, db.now())


def count(database: Database, hours_ago: float, seconds: float, number: int, source: str = "api") -> None:
    """Count predictions of churn in an hour."""
    moment = (db.now() - timedelta(hours=hours_ago)).replace(minute=0, second=0, microsecond=0)
    row = (moment, "churn", 1, source, traffic.latency_step(seconds), number, 0)
    with database.transaction() as session:
        traffic._add(session, traffic.HourlyTraffic, [row])


def fail(database: Database, rows: int, request_id: str = "ab12", hours_ago: float = 0) -> None:
    """Count rows that churn could not answer in an hour."""
    at = (db.now() - timedelta(hours=hours_ago)).timestamp()
    line = {"at": at, "model": "churn", "version": 1, "request_id": request_id, "failed": rows}
    with database.transaction() as session:
        failures.count_lines(session, [line])


def test_a_quiet_installation_has_no_alerts(database: Database) -> None:
    assert watching.look(database, OWNER)
    assert every(database) == []


@pytest.mark.parametrize(
    ("before", "lately", "predictions", "slow"),
    [
        (0.002, 0.05, 100, True),
        (0.002, 0.05, 99, False),
        (0.002, 0.004, 1000, False),
        (0.05, 0.002, 1000, False),
    ],
)
def test_a_model_is_slow_when_its_p99_is_four_times_that_of_the_week_before(
    database: Database, before: float, lately: float, predictions: int, *, slow: bool
) -> None:
    count(database, 30, before, 500)
    count(database, 0, lately, predictions)
    alerted = found(database, "latency")
    assert bool(alerted) is slow
    if slow:
        (each,) = alerted
        assert (each.model, each.details["predictions"]) == ("churn", 100)
        assert each.details["p99_seconds"] > 4 * each.details["p99_seconds_before"]


def test_batches_tests_and_a_model_without_a_week_before_are_not_slow(database: Database) -> None:
    count(database, 0, 0.5, 1000)
    assert found(database, "latency") == []
    count(database, 24 * 8, 0.001, 1000)
    assert found(database, "latency") == []
    count(database, 30, 0.001, 1000, source="test")
    count(database, 30, 0, 1000, source="batch")
    assert found(database, "latency") == []


@pytest.mark.parametrize(
    ("failed", "answered", "severity"),
    [(4, 0, None), (5, 496, None), (5, 495, "warning"), (5, 96, "warning"), (5, 95, "critical"), (9, 0, "critical")],
)
def test_a_version_that_cannot_answer_a_share_of_what_it_is_asked_is_an_alert(
    database: Database, failed: int, answered: int, severity: str | None
) -> None:
    count(database, 0, 0.002, answered)
    # Nobody waited for these, and they were not asked over the same way.
    count(database, 0, 0, 10_000, source="batch")
    fail(database, failed)
    fail(database, 1000, hours_ago=3)
    assert [each.severity for each in found(database, "errors")] == ([severity] if severity else [])


def test_it_says_whose_failures_they_are_and_where_to_look(database: Database) -> None:
    count(database, 0, 0.002, 90)
    fail(database, 9, "first")
    fail(database, 1, "last")
    (each,) = found(database, "errors")
    assert (each.model, each.subject) == ("churn", "1")
    assert each.sentence.startswith("churn v1 could not answer 10.0% of what it was asked since ")
    assert each.details == {"failed": 10, "share": 0.1, "request_id": "last"}


def test_a_key_that_ends_within_two_weeks_is_told_of_once(
    database: Database, settings: Settings, told: Callable[[], list[tuple[str, str]]]
) -> None:
    with database.transaction() as session:
        pepper = settings.derive(keys.PEPPER)
        row, _ = keys.create(session, MARA, pepper, "till", owner="Ada", life=timedelta(days=13))
        keys.create(session, MARA, pepper, "later", life=timedelta(days=15))
        revoked, _ = keys.create(session, MARA, pepper, "revoked", life=timedelta(days=3))
        keys.revoke(session, MARA, revoked.id)
    look_again(database)
    look_again(database)
    (only,) = every(database)
    assert (only.kind, only.subject, only.severity, only.times_seen) == ("key_expiring", row.id, "warning", 2)
    assert "ask Ada" in only.sentence
    assert [event for event, _ in told()] == ["alert.opened", "key.expiring"]
    with database.transaction() as session:
        keys.revoke(session, MARA, row.id)
    look_again(database)
    assert every(database)[0].state == "resolved"


def look_again(database: Database) -> None:
    """Look as if the last look had been a minute ago."""
    past = db.now() - 2 * rounds.EVERY
    with database.transaction() as session:
        session.execute(sa.update(Round).values(looked_at=past))
    assert watching.look(database, OWNER)


def test_a_batch_that_fails_is_told_of_at_once_and_is_an_alert_for_a_day(
    database: Database, told: Callable[[], list[tuple[str, str]]]
) -> None:
    order = jobs.Order("key1", test=False, model="churn", version=3, form="json")
    with database.transaction() as session:
        job = jobs.accept(session, order, jobs.new_id(), [1, 2])
        jobs.fail(session, job, "It was too much.")
        job_id = job.id
    assert told() == [("job.failed", "A batch of 3 rows for churn v3 failed. It was too much.")]
    (each,) = found(database, "job_failed")
    assert (each.model, each.subject, "It was too much." in each.sentence) == ("churn", job_id, True)
    alter(database, sa.update(jobs.Job).values(failed_at=db.now() - timedelta(hours=25)))
    assert found(database, "job_failed") == []


def test_a_log_writer_that_is_silent_beside_live_web_workers_is_an_alert(database: Database) -> None:
    with database.transaction() as session:
        for host in ("here", "there", "gone"):
            fleet.beat(session, host, fleet.LOG_WRITER)
        fleet.report(session, "here", 0, 1, 1)
        fleet.report(session, "there", 0, 1, 1)
    assert found(database, "log_lag") == []
    silent = sa.update(Heartbeat).where(Heartbeat.host.in_(["there", "gone"]))
    alter(database, silent.values(seen_at=db.now() - timedelta(minutes=2)))
    assert [each.subject for each in found(database, "log_lag")] == ["there"]


def test_a_worker_that_cannot_load_or_has_not_followed_for_a_look_is_an_alert(database: Database) -> None:
    with database.transaction() as session:
        for slot, failure in enumerate(("", "It has no memory left.", "")):
            fleet.report(session, "here", slot, 1, 1, failure)
        # One that is only starting.
        fleet.report(session, "here", 3, 1, 0)
    assert [each.subject for each in found(database, "not_serving")] == ["here/1"]
    with database.transaction() as session:
        generation.advance(session)
    # What has just been committed need not be followed yet.
    assert [each.subject for each in found(database, "not_serving")] == ["here/1"]
    watching.look(database, OWNER)
    with database.transaction() as session:
        fleet.report(session, "here", 2, 1, 2)
    assert [each.subject for each in found(database, "not_serving")] == ["here/0", "here/1"]
    alter(database, sa.update(WebWorker).values(seen_at=db.now() - timedelta(minutes=1)))
    assert found(database, "not_serving") == []


def add_version(session: Session, settings: Settings) -> None:
    facts: dict[str, Any] = {"signature": {}, "report": {}, "card": {}}
    registry.add_version(session, MARA, settings.derive("versions"), "churn", artifact="ab" * 32, **facts)


def test_a_plan_that_was_switched_off_is_an_alert_until_it_is_allowed_again(
    database: Database, settings: Settings
) -> None:
    with database.transaction() as session:
        add_version(session, settings)
        registry.switch_plan_off(session, MARA, "churn", 1, "1 of 9 differed.")
    (each,) = found(database, "plan_off")
    assert (each.model, each.subject, each.details["reason"]) == ("churn", "1", "1 of 9 differed.")
    with database.transaction() as session:
        registry.allow_plan(session, MARA, "churn", 1)
    assert found(database, "plan_off") == []


def test_switching_versions_is_told_with_who_and_why(
    database: Database, settings: Settings, told: Callable[[], list[tuple[str, str]]]
) -> None:
    with database.transaction() as session:
        add_version(session, settings)
        add_version(session, settings)
    for number in (1, 2):
        with database.transaction() as session:
            registry.activate(session, MARA, "churn", number, "better")
    with database.transaction() as session:
        registry.rollback(session, MARA, "churn", "worse")
    assert told() == [
        ("model.activated", "churn v1 was activated. better"),
        ("model.activated", "churn v2 was activated. better"),
        ("model.rolled_back", "churn v1 answers again. worse"),
    ]

    def twice() -> None:
        with database.transaction() as session:
            registry.activate(session, MARA, "churn", 2, "taken back")
            registry.activate(session, MARA, "churn", 2)

    with pytest.raises(Conflict):
        twice()
    # Told with the change, or not at all.
    assert len(told()) == 3


# --- Rounds ---------------------------------------------------------------------------------------------------


def test_one_worker_of_the_fleet_looks_a_minute(database: Database) -> None:
    assert watching.look(database, "here/1")
    assert not watching.look(database, "there/1")
    alter(database, sa.update(Round).values(looked_at=db.now() - rounds.EVERY))
    assert watching.look(database, "there/1")


def test_a_look_that_a_killed_worker_left_is_taken_over(database: Database) -> None:
    with database.transaction() as session:
        assert rounds.claim(session, "here/1")
    assert not watching.look(database, "there/1")
    alter(database, sa.update(Round).values(leased_until=db.now() - timedelta(seconds=1)))
    assert watching.look(database, "there/1")
    with database.transaction() as session:
        assert not rounds.finish(session, "here/1")


def test_a_kind_that_breaks_ends_neither_the_others_nor_its_own_alerts(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = see(database)

    def broken(_session: Session, _moment: datetime) -> list[Found]:
        raise ZeroDivisionError

    others = [kind for kind in watching.KINDS if kind.name != "latency"]
    monkeypatch.setattr(watching, "KINDS", (watching.Kind("latency", "", broken, "", "model"), *others))
    with database.transaction() as session:
        keys.create(session, MARA, settings.derive(keys.PEPPER), "till", life=timedelta(days=3))
    assert watching.look(database, OWNER)
    assert alert(database, slow).state == "open"
    assert [each.kind for each in every(database)] == ["latency", "key_expiring"]


def test_every_kind_says_what_to_do() -> None:
    for kind in watching.KINDS:
        assert kind.title, kind.name
        assert kind.advice.endswith("."), kind.name
