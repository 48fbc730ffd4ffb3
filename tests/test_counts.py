"""Counts for drift: written with the predictions that they are of, and the same when they are made again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from tests import databases
from tests.conftest import eventually
from tests.test_predictions import HOST, record
from webapp.db import Database
from webapp.drift import bins, layout
from webapp.drift.layout import Layout, Variable
from webapp.predictions import counts, log, recount, traffic
from webapp.predictions.counts import DriftReference, HourlyCounts
from webapp.predictions.log import Prediction

MODEL, VERSION = "credit", 3
HOUR = timedelta(hours=1)
BEGAN = datetime(2026, 3, 3, 10, tzinfo=UTC)
MEANT = Layout(
    (
        Variable("input", "age", bins.of_numbers([20.0, 30.0, 40.0])),
        Variable("prediction", "prediction", bins.of_categories([0, 1])),
    )
)


def reference(meant: Layout = MEANT, rows: int = 3) -> DriftReference:
    packed = layout.packed(np.zeros(meant.width, dtype=np.int64))
    return DriftReference(
        model=MODEL,
        version=VERSION,
        layout=meant.as_json(),
        counts=packed,
        rows=rows,
        origin="reference",
        made_at=BEGAN,
        since=None,
        until=None,
    )


def made(number: int, age: float | None = 25.0, **more: Any) -> dict[str, Any]:
    """Give a prediction, each six minutes after the one before it."""
    at = (BEGAN + number * HOUR / 10).timestamp()
    facts = {"instance": {"age": age}, "prediction": number % 2, "model": MODEL, "version": VERSION, "at": at}
    return record(number, **{**facts, **more})


def insert(database: Database, records: Sequence[dict[str, Any]], segment: str = "segment") -> None:
    with database.transaction() as session:
        log.insert(session, log.Piece(HOST, segment, list(records), 1))


def begin(database: Database, meant: Layout = MEANT) -> int:
    """Count from now on, and what there is, as the worker does."""
    wanted = reference(meant)
    with database.reading() as session:
        logged = traffic.hours(session, MODEL, VERSION)
        tallied = {hour: recount.tally(session, wanted, hour, count) for hour, count in logged.items()}
    with database.transaction() as session:
        return recount.begin(session, wanted, tallied)


def counted(database: Database) -> dict[datetime, tuple[int, list[int]]]:
    with database.reading() as session:
        rows = session.scalars(sa.select(HourlyCounts).order_by(HourlyCounts.hour))
        return {row.hour: (row.rows, layout.unpacked(row.counts).tolist()) for row in rows}


def stored(database: Database) -> list[tuple[datetime, int, bytes]]:
    with database.reading() as session:
        rows = session.scalars(sa.select(HourlyCounts).order_by(HourlyCounts.hour))
        return [(row.hour, row.rows, row.counts) for row in rows]


def test_what_is_logged_is_counted_by_the_hour(database: Database) -> None:
    begin(database)
    insert(database, [made(0, 10.0), made(1, None), made(9, 20.0), made(10, 50.0)])
    assert counted(database) == {
        BEGAN: (3, [1, 1, 1, 0, 0, 0, 0, 1, 2, 0, 0]),
        BEGAN + HOUR: (1, [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0]),
    }


def test_what_is_sent_again_or_only_tried_is_not_counted(database: Database) -> None:
    begin(database)
    insert(database, [made(0), made(0), made(1, source="test"), made(2, source="ui"), made(3, source="batch")])
    insert(database, [made(0)], "another")
    assert [rows for rows, _ in counted(database).values()] == [2]


def test_other_versions_are_none_of_it(database: Database) -> None:
    begin(database)
    insert(database, [made(0, version=4), made(1, model="churn")])
    assert counted(database) == {}


def test_what_was_logged_before_is_counted_when_counting_begins(database: Database) -> None:
    insert(database, [made(number) for number in range(25)])
    assert begin(database) == 3
    assert [rows for rows, _ in counted(database).values()] == [10, 10, 5]


def test_what_comes_while_counting_begins_is_counted_once(database: Database) -> None:
    insert(database, [made(number) for number in range(15)])
    wanted = reference()
    with database.reading() as session:
        logged = traffic.hours(session, MODEL, VERSION)
        tallied = {hour: recount.tally(session, wanted, hour, count) for hour, count in logged.items()}
    # Between the look and the change: into an hour that was looked at, and into a new one.
    insert(database, [made(15), made(29)], "another")
    with database.transaction() as session:
        recount.begin(session, wanted, tallied)
    insert(database, [made(16)], "a third")
    assert [rows for rows, _ in counted(database).values()] == [10, 7, 1]


def waits(database: Database) -> bool:
    """Whether somebody waits for another's transaction; on SQLite, where one writes at a time, nobody can tell."""
    if not databases.ON_POSTGRESQL:
        return True
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with database.reading() as session:
        return bool(session.scalar(sa.text(asked)))


def test_a_log_writer_waits_while_counting_begins(database: Database) -> None:
    insert(database, [made(0)])
    with database.transaction() as session:
        recount.begin(session, reference(), {})
        writer = threading.Thread(target=insert, args=(database, [made(1)], "another"))
        writer.start()
        eventually(lambda: waits(database))
    writer.join()
    assert [rows for rows, _ in counted(database).values()] == [2]


def test_counts_made_again_are_the_same_to_the_bit(database: Database) -> None:
    begin(database)
    random = np.random.default_rng(5)
    for piece in range(8):
        ages = [None if age < 12 else age for age in random.normal(30, 15, 40).round(1).tolist()]
        insert(database, [made(piece * 40 + number, age) for number, age in enumerate(ages)], f"segment {piece}")
    before = stored(database)
    assert len(before) == 32
    begin(database)
    assert stored(database) == before


def test_what_fails_with_its_log_is_not_counted(database: Database) -> None:
    begin(database)
    insert(database, [made(0)])
    before = stored(database)

    def killed() -> None:
        with database.transaction() as session:
            log.insert(session, log.Piece(HOST, "another", [made(1), made(12)], 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert stored(database) == before
    insert(database, [made(1), made(12)], "another")
    after = stored(database)
    begin(database)
    assert stored(database) == after


def test_hours_whose_predictions_were_removed_keep_their_counts(database: Database) -> None:
    begin(database)
    insert(database, [made(number) for number in range(20)])
    before = stored(database)
    with database.transaction() as session:
        log.remove(session, BEGAN + HOUR / 2, 1000)
    begin(database)
    assert stored(database) == before
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Prediction)) == 15


def test_another_layout_begins_anew_with_what_is_left(database: Database) -> None:
    begin(database)
    insert(database, [made(number) for number in range(20)])
    with database.transaction() as session:
        log.remove(session, BEGAN + HOUR / 2, 1000)
    begin(database, Layout(MEANT.variables[:1]))
    assert [rows for rows, _ in counted(database).values()] == [5, 10]
    assert {len(found) for _, found in counted(database).values()} == {len(MEANT.variables[0].binning.cells)}


def test_days_are_sums_of_their_hours(database: Database) -> None:
    begin(database)
    insert(database, [made(number) for number in range(300)])
    with database.reading() as session:
        wanted = counts.reference(session, MODEL, VERSION)
        assert wanted is not None
        by_day = counts.by_day(session, wanted, BEGAN, BEGAN + timedelta(days=3))
        whole = counts.between(session, wanted, BEGAN, BEGAN + timedelta(days=3))
    assert {day.day: int(found[:6].sum()) for day, found in by_day.items()} == {3: 140, 4: 160}
    assert whole[:6].sum() == 300


def test_what_a_version_answers_is_compared_with_what_it_answered_first(database: Database) -> None:
    begin(database)
    enough = counts.FIRST_ROWS
    insert(database, [made(number // 100, prediction=1, id=f"first {number}") for number in range(enough)])
    insert(database, [made(900 + number, prediction=0) for number in range(10)], "another")
    with database.reading() as session:
        wanted = counts.reference(session, MODEL, VERSION)
        assert wanted is not None
        early = counts.compared_with(session, wanted, BEGAN)
        later = counts.compared_with(session, wanted, BEGAN + timedelta(days=2))
    width = len(MEANT.variables[0].binning.cells)
    assert early.sum() == 0
    # The reference of these tests holds nothing: of the input, that is what counts.
    assert later[:width].sum() == 0
    assert later[width:].tolist() == [0, 0, enough, 0, 0]


def test_a_row_that_is_like_no_other_ends_no_log_writer(database: Database) -> None:
    begin(database)
    insert(database, [made(0, instance={}), made(1, instance={"age": "hashed"}, prediction={"a": 1})])
    assert [rows for rows, _ in counted(database).values()] == [2]


def test_an_hour_takes_few_bytes() -> None:
    variables = tuple(
        Variable("input", f"x{number}", bins.of_numbers(np.arange(100.0).tolist())) for number in range(20)
    )
    content = layout.packed(Layout(variables).count([{"instance": {}}]))
    print(f"\n{len(content)} bytes an hour, {len(content) * 24 * 365 / 1e6:.1f} MB a year")
    assert len(content) == 20 * 13 * 4
