"""Tests of the traffic figures: every logged prediction counts once, whatever happens, and figures are read back."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given
from hypothesis import settings as rules
from hypothesis import strategies as st

from tests.conftest import eventually
from tests.test_predictions import AT, HOST, record, segment_of
from webapp.config import Settings
from webapp.db import Database
from webapp.log_writer import LogWriter
from webapp.predictions import log, spool, traffic
from webapp.predictions.log import Prediction
from webapp.predictions.traffic import DAY, HOUR, Chosen, HourlyTraffic, KeyTraffic, Series, Total

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)  # the hour of AT
WARNING = {"feature": "age", "code": "unseen_value", "message": "New."}

# Drains for ever: it is killed.
DRAINS = """
import sys
from pathlib import Path
from webapp.db import Database
from webapp.log_writer import LogWriter
from webapp import log_writer

log_writer.PIECE_RECORDS = 50
LogWriter(Database(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).run()
"""


def at(hours: float) -> float:
    """The moment that is so many hours after noon."""
    return (NOON + hours * HOUR).timestamp()


def insert(database: Database, *records: dict[str, Any]) -> None:
    with database.transaction() as session:
        log.insert(session, log.Piece(HOST, "segment", list(records), 1))


def cells(database: Database) -> dict[tuple[Any, ...], tuple[int, int]]:
    """What is counted, by hour, model, version, source and latency step."""
    with database.reading() as session:
        return {
            (each.hour, each.model, each.version, each.source, each.latency_step): (each.predictions, each.warned)
            for each in session.scalars(sa.select(HourlyTraffic))
        }


def keys(database: Database) -> dict[tuple[str, datetime], int]:
    with database.reading() as session:
        return {(each.key_id, each.hour): each.predictions for each in session.scalars(sa.select(KeyTraffic))}


def agrees_with_the_log(database: Database) -> bool:
    """Tell whether the counts are those of the rows of the log, counted one by one."""
    made: Counter[tuple[Any, ...]] = Counter()
    warned: Counter[tuple[Any, ...]] = Counter()
    asked: Counter[tuple[str, datetime]] = Counter()
    with database.reading() as session:
        for row in session.scalars(sa.select(Prediction)):
            hour = row.at.replace(minute=0, second=0, microsecond=0)
            cell = (hour, row.model, row.version, row.source, traffic.latency_step(row.latency_seconds))
            made[cell] += 1
            warned[cell] += len(row.warnings) > 0
            asked[row.key_id, hour] += 1
    counted = {cell: (number, warned[cell]) for cell, number in made.items()}
    return cells(database) == counted and keys(database) == dict(asked)


# --- Counting ---------------------------------------------------------------------------------------------


def test_predictions_are_counted_by_hour_model_version_source_and_latency(database: Database) -> None:
    insert(
        database,
        record(0),
        record(1, warnings=[WARNING, WARNING]),
        record(2, at=at(0.9999)),
        record(3, at=at(1)),
        record(4, model="prices"),
        record(5, version=4),
        record(6, source="batch", latency_seconds=0.0),
        record(7, key_id="key2", latency_seconds=1.0),
    )
    assert cells(database) == {
        (NOON, "churn", 3, "api", 6): (3, 1),
        (NOON + HOUR, "churn", 3, "api", 6): (1, 0),
        (NOON, "prices", 3, "api", 6): (1, 0),
        (NOON, "churn", 4, "api", 6): (1, 0),
        (NOON, "churn", 3, "batch", 0): (1, 0),
        (NOON, "churn", 3, "api", 16): (1, 0),
    }
    assert keys(database) == {("key1", NOON): 6, ("key1", NOON + HOUR): 1, ("key2", NOON): 1}


def test_counts_of_later_pieces_are_added(database: Database) -> None:
    insert(database, record(0), record(1, warnings=[WARNING]))
    insert(database, record(2), record(3, warnings=[WARNING]), record(4, warnings=[WARNING]))
    assert cells(database) == {(NOON, "churn", 3, "api", 6): (5, 3)}
    assert keys(database) == {("key1", NOON): 5}


def test_a_piece_without_records_counts_nothing(database: Database) -> None:
    insert(database)
    assert (cells(database), keys(database)) == ({}, {})


def test_a_prediction_that_is_there_already_does_not_count_again(database: Database) -> None:
    insert(database, record(0), record(1), record(0, model="again"))
    insert(database, record(1, model="again", key_id="again"), record(2))
    assert cells(database) == {(NOON, "churn", 3, "api", 6): (3, 0)}
    assert keys(database) == {("key1", NOON): 3}


def test_a_moment_that_is_rounded_into_the_next_hour_counts_where_the_log_has_it(database: Database) -> None:
    insert(database, record(0, at=math.nextafter(at(1), 0)))
    assert agrees_with_the_log(database)
    assert keys(database) == {("key1", NOON + HOUR): 1}


@rules(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(
            st.builds(
                lambda number, hour, **more: record(number, at=at(hour), **more),
                st.integers(0, 15),
                st.floats(-2, 2),
                model=st.sampled_from(["churn", "prices"]),
                version=st.integers(1, 2),
                source=st.sampled_from(["api", "test"]),
                key_id=st.sampled_from(["key1", "key2"]),
                warnings=st.sampled_from([[], [WARNING]]),
                latency_seconds=st.sampled_from([0.0, 0.001, 5.0]),
            ),
            max_size=12,
        ),
        max_size=4,
    )
)
def test_whatever_is_sent_again_the_counts_are_those_of_the_log(
    database: Database, pieces: list[list[dict[str, Any]]]
) -> None:
    with database.transaction() as session:
        for table in (Prediction, HourlyTraffic, KeyTraffic):
            session.execute(sa.delete(table))
    for piece in pieces:
        insert(database, *piece)
    assert agrees_with_the_log(database)


def test_a_segment_that_is_drained_again_after_a_crash_counts_once(settings: Settings, database: Database) -> None:
    folder = settings.spool_dir
    content = b"".join(spool.encode(record(number)) for number in range(5))
    segment_of(folder, content)
    LogWriter(database, folder, HOST).drain()
    # Its place is forgotten, or another host has a copy of it.
    for host in (HOST, "another-host"):
        LogWriter(database, folder, HOST).drain()
        segment_of(folder, content + spool.encode(record(5)))
        LogWriter(database, folder, host).drain()
    assert keys(database) == {("key1", NOON): 6}
    assert agrees_with_the_log(database)


def test_a_crash_before_the_commit_leaves_no_counts(database: Database) -> None:
    def interrupted() -> None:
        with database.transaction() as session:
            log.insert(session, log.Piece(HOST, "segment", [record(0)], 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (cells(database), keys(database)) == ({}, {})
    insert(database, record(0))
    assert keys(database) == {("key1", NOON): 1}


def test_log_writers_that_are_killed_at_any_time_count_everything_once(settings: Settings, database: Database) -> None:
    folder = settings.spool_dir
    records = [record(number, at=at(number / 500), key_id=f"key{number % 7}") for number in range(3000)]
    segment_of(folder, b"".join(spool.encode(each) for each in records))

    def logged() -> int:
        with database.reading() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(Prediction)) or 0

    command = [sys.executable, "-c", DRAINS, settings.sqlalchemy_url, str(folder), HOST]
    for _ in range(3):
        before = logged()
        with subprocess.Popen(command) as child:
            eventually(lambda before=before: logged() > before)
            child.send_signal(signal.SIGKILL)
        assert agrees_with_the_log(database)
    LogWriter(database, folder, HOST).drain()
    assert logged() == 3000
    assert agrees_with_the_log(database)


def test_log_writers_of_several_hosts_count_together(database: Database) -> None:
    def write(host: int) -> None:
        for number in range(10):
            insert(database, *(record(f"{host}-{number}-{row}", at=at(row)) for row in range(10)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert keys(database) == {("key1", NOON + hour * HOUR): 40 for hour in range(10)}
    assert agrees_with_the_log(database)


# --- Latencies --------------------------------------------------------------------------------------------


def test_each_step_is_up_to_twice_as_long_as_the_one_before() -> None:
    steps = [0.0, -1.0, 1e-9, 50e-6, 51e-6, 100e-6, 101e-6, 0.001, 52.0, 60.0, 1e9]
    assert [traffic.latency_step(seconds) for seconds in steps] == [0, 0, 1, 1, 2, 2, 3, 6, 21, 22, 22]


@given(st.lists(st.floats(1e-6, 52), min_size=1), st.sampled_from([1, 50, 95, 99, 100]))
@example([0.001] * 99 + [52.0], 99)
@example([50e-6, 100e-6], 50)
def test_a_percentile_is_at_most_a_factor_of_two_from_the_true_one(latencies: list[float], percent: int) -> None:
    true = sorted(latencies)[math.ceil(len(latencies) * percent / 100) - 1]
    read = traffic.percentile(Counter(map(traffic.latency_step, latencies)), percent)
    assert read is not None
    if true > 50e-6:
        assert true / 2 < read < true * 2
    else:
        assert 0 < read <= 50e-6


def test_what_nobody_waited_for_has_no_percentile() -> None:
    assert traffic.percentile({}, 50) is None
    assert traffic.percentile({0: 7}, 50) is None
    assert traffic.percentile({0: 1000, 6: 1}, 50) == pytest.approx(0.0016)


# --- Figures ----------------------------------------------------------------------------------------------


def test_totals_are_given_for_each_model_and_for_all_without_trials(database: Database) -> None:
    insert(
        database,
        *(record(f"p-{number}", model="prices", latency_seconds=0.01) for number in range(3)),
        record("c", warnings=[WARNING]),
        record("batch", source="batch", latency_seconds=0.0, version=4),
        record("test", source="test", latency_seconds=9.0),
        record("ui", source="ui", model="tried"),
        record("before", at=at(-0.001)),
    )
    with database.reading() as session:
        churn, prices = traffic.totals(session, NOON + HOUR / 2)
        overall = traffic.overall(session, NOON + HOUR / 2)
        with_trials = traffic.overall(session, NOON, without=())
        models = [total.model for total in traffic.totals(session, NOON, without=["test"])]
        assert traffic.totals(session, NOON + HOUR) == []
        assert traffic.overall(session, NOON + HOUR) == Total("", 0, 0, None, None, None)
    assert (churn.model, churn.predictions, churn.warned) == ("churn", 2, 1)
    assert churn.p50 == churn.p95 == churn.p99 == pytest.approx(0.0016)
    assert (prices.model, prices.predictions, prices.warned) == ("prices", 3, 0)
    assert prices.p99 == pytest.approx(0.0128)
    assert (overall.model, overall.predictions, overall.warned) == ("", 5, 1)
    assert overall.p50 == pytest.approx(0.0064 + 0.0064 / 3)
    assert with_trials.predictions == 7
    assert models == ["churn", "prices", "tried"]


def test_a_series_has_a_number_for_every_hour_of_up_to_seven_days(database: Database) -> None:
    hours = [0, 0.5, 2, 3]
    insert(database, *(record(number, at=at(hour)) for number, hour in enumerate(hours)))
    insert(database, record("p", at=at(1), model="prices"), record("t", at=at(1), source="test"))
    with database.reading() as session:
        series = traffic.series(session, NOON + HOUR / 2, NOON + 2.5 * HOUR)
        week = traffic.series(session, NOON, NOON + 7 * DAY)
        trials = traffic.series(session, NOON, NOON + 2 * HOUR, without=["api"])
        nothing = traffic.series(session, NOON, NOON)
    assert series == Series(NOON, HOUR, {"churn": [2, 0, 1], "prices": [0, 1, 0]})
    assert (week.step, len(week.counts["churn"])) == (HOUR, 7 * 24)
    assert trials.counts == {"churn": [0, 1]}
    assert nothing == Series(NOON, HOUR, {})


def test_a_longer_series_has_a_number_for_every_day(database: Database) -> None:
    insert(database, *(record(number, at=at(24 * number)) for number in range(10)), record("same day", at=at(11.9)))
    with database.reading() as session:
        series = traffic.series(session, NOON, NOON + 8 * DAY)
    assert series == Series(NOON - 12 * HOUR, DAY, {"churn": [2, *[1] * 7, 0]})


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 2, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis's interface
    st.timedeltas(timedelta(0), timedelta(days=20)),
)
@rules(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_steps_of_a_series_hold_its_whole_time(database: Database, since: datetime, length: timedelta) -> None:
    insert(database, *(record(number, at=AT - 86400 * number / 4) for number in range(300)))
    until = since + length
    with database.reading() as session:
        series = traffic.series(session, since, until)
    assert series.start <= since < series.start + series.step
    for numbers in series.counts.values():
        assert until <= series.start + len(numbers) * series.step < until + series.step


def test_each_key_that_is_asked_for_has_a_number(database: Database) -> None:
    insert(database, record(0), record(1, source="test"), record(2, at=at(-0.1)), record(3, key_id="key2"))
    with database.reading() as session:
        assert traffic.by_key(session, ["key1", "idle"], NOON) == {"key1": 2, "idle": 0}
        assert traffic.by_key(session, ["key1"], NOON - HOUR) == {"key1": 3}
        assert traffic.by_key(session, [], NOON) == {}


def test_each_version_that_predicted_has_a_number(database: Database) -> None:
    insert(database, record(0), record(1), record(2, version=10), record(3, model="prices"), record(4, source="ui"))
    with database.reading() as session:
        assert list(traffic.by_version(session, "churn", NOON).items()) == [(3, 2), (10, 1)]
        assert traffic.by_version(session, "churn", NOON, without=()) == {3: 3, 10: 1}
        assert traffic.by_version(session, "churn", NOON + HOUR) == {}


def test_the_hours_of_the_newest_predictions_are_no_more_than_are_needed(database: Database) -> None:
    insert(database, *(record(number, at=at(-number // 2), version=1 + number % 2) for number in range(12)))
    insert(database, record(90, at=at(0), version=1, source="test"))

    def newest(version: int, most: int, since: float = -9) -> list[datetime]:
        with database.reading() as session:
            times = NOON + since * HOUR, NOON + 2 * HOUR
            return traffic.newest_hours(session, record(0)["model"], version, *times, most)

    assert newest(1, 1) == [NOON]
    assert newest(1, 3) == [NOON - number * HOUR for number in range(3)]
    assert newest(1, 99, since=-2) == [NOON - number * HOUR for number in range(3)]
    assert newest(2, 1) == [NOON - HOUR]
    assert newest(3, 1) == []


def test_a_timeline_has_the_figures_of_every_hour_or_day_of_whom_is_meant(database: Database) -> None:
    insert(
        database,
        record(0, warnings=[WARNING]),
        record(1, at=at(2), latency_seconds=0.1),
        record(2, at=at(2), version=4),
        record(3, at=at(2), model="prices"),
        record(4, source="test"),
        record(5, at=at(-1)),
        record(6, at=at(3)),
    )
    with database.reading() as session:
        every = traffic.timeline(session, NOON + HOUR / 2, NOON + 2.5 * HOUR, Chosen())
        model = traffic.timeline(session, NOON, NOON + 3 * HOUR, Chosen("churn"))
        version = traffic.timeline(session, NOON, NOON + 3 * HOUR, Chosen("churn", 4))
        month = traffic.timeline(session, NOON - 30 * DAY, NOON + 3.5 * HOUR, Chosen())
    assert (every.start, every.step) == (NOON, HOUR)
    assert [each.predictions for each in every.totals] == [1, 0, 3]
    assert [each.warned for each in every.totals] == [1, 0, 0]
    assert [each.p50 is None for each in every.totals] == [False, True, False]
    assert [each.predictions for each in model.totals] == [1, 0, 2]
    assert model.totals[2].p99 == pytest.approx(0.1024)
    assert [each.predictions for each in version.totals] == [0, 0, 1]
    assert (month.start, month.step, len(month.totals)) == (NOON - NOON.hour * HOUR - 30 * DAY, DAY, 31)
    assert month.totals[-1].predictions == 6


def test_figures_tell_versions_apart_and_add_up_the_steps(database: Database) -> None:
    insert(
        database,
        record(0, warnings=[WARNING]),
        record(1, latency_seconds=0.1),
        record(2, version=4, source="batch", latency_seconds=0.0),
        record(3, model="prices"),
        record(4, at=at(1)),
        record(5, source="ui"),
    )
    with database.reading() as session:
        found = traffic.figures(session, NOON, NOON + HOUR, Chosen())
        churn = traffic.figures(session, NOON, NOON + HOUR, Chosen("churn", 3))
        nothing = traffic.figures(session, NOON + 2 * HOUR, NOON + 3 * HOUR, Chosen())
    told = [(done.model, number, done.predictions, done.warned) for number, done in found.versions]
    assert told == [("churn", 3, 2, 1), ("churn", 4, 1, 0), ("prices", 3, 1, 0)]
    assert (found.total.predictions, found.total.warned) == (4, 1)
    assert found.by_step == {0: 1, 6: 2, 12: 1}
    assert [number for number, _ in churn.versions] == [3]
    assert nothing == traffic.Figures(Total("", 0, 0, None, None, None), [], {})
