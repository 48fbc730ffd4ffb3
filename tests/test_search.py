"""Tests of searching the log: a page finds what people mean, misses nothing, and never reads more than it may."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as rules
from hypothesis import strategies as st

from tests import databases
from tests.test_predictions import AT, HOST, record, truth_of
from webapp.db import Database
from webapp.errors import Invalid, NotFound
from webapp.predictions import log, search, truth
from webapp.predictions.log import Prediction
from webapp.predictions.search import Page, Place, Wanted, place_from

MOMENT = datetime.fromtimestamp(AT, UTC)
SECOND = timedelta(seconds=1)

# Conditions of every kind that are met by some, in any combination.
WANTED = st.builds(
    Wanted,
    model=st.sampled_from([None, "churn", "prices"]),
    version=st.sampled_from([None, None, 1, 2]),
    key_id=st.sampled_from([None, "key1", "key2"]),
    source=st.sampled_from([None, None, "api"]),
    outcome=st.sampled_from([None, None, "high", "1"]),
    probability_from=st.sampled_from([None, None, 0.5]),
    since=st.sampled_from([None, MOMENT + SECOND]),
    until=st.sampled_from([None, MOMENT + 3 * SECOND]),
    feature=st.sampled_from([None, None, "age"]),
    warned=st.booleans(),
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            # Few moments: many predictions share one.
            "at": st.integers(0, 4).map(lambda seconds: AT + seconds),
            "model": st.sampled_from(["churn", "prices"]),
            "version": st.sampled_from([1, 2]),
            "key_id": st.sampled_from(["key1", "key2"]),
            "source": st.sampled_from(["api", "batch"]),
            "prediction": st.sampled_from(["high", "1", 1, 2.5]),
            "probability": st.sampled_from([None, 0.25, 0.75]),
            "instance": st.sampled_from([{"age": 35.0}, {"colour": "red"}]),
            "warnings": st.sampled_from([[], [{"feature": "age", "code": "unseen_value", "message": "New."}]]),
        }
    ),
    max_size=25,
)


def fill(database: Database, made: Sequence[dict[str, Any]]) -> None:
    with database.transaction() as session:
        log.insert(session, log.Piece(HOST, "segment", list(made), 1))


def empty(database: Database) -> None:
    with database.transaction() as session:
        session.execute(sa.delete(Prediction))


def page(database: Database, wanted: Wanted, **more: Any) -> Page:
    with database.reading() as session:
        return search.search(session, wanted, **more)


def ids(rows: Sequence[Prediction]) -> list[str]:
    return [row.id for row in rows]


def found(database: Database, wanted: Wanted) -> list[str]:
    """The ids of what is found, in the order in which it was made."""
    return ids(page(database, wanted).rows)[::-1]


def meets(made: dict[str, Any], wanted: Wanted) -> bool:
    """Decide the conditions of `WANTED` as one would on paper."""
    same = all(getattr(wanted, name) in {None, made[name]} for name in ("model", "version", "key_id", "source"))
    at = datetime.fromtimestamp(made["at"], UTC)
    return (
        same
        and (wanted.outcome is None or str(made["prediction"]) == wanted.outcome)
        and (wanted.probability_from is None or (made["probability"] or 0) >= wanted.probability_from)
        and (wanted.since is None or at >= wanted.since)
        and (wanted.until is None or at < wanted.until)
        and (wanted.feature is None or wanted.feature in made["instance"])
        and (not wanted.warned or bool(made["warnings"]))
    )


# --- Pages ------------------------------------------------------------------------------------------------


def test_the_newest_predictions_come_first_and_those_of_one_moment_in_the_order_of_their_ids(
    database: Database,
) -> None:
    fill(database, [record("b"), record("new", at=AT + 1), record("c"), record("old", at=AT - 1), record("a")])
    shown = page(database, Wanted())
    assert ids(shown.rows) == ["r-new", "r-c", "r-b", "r-a", "r-old"]
    assert (shown.newer, shown.older, shown.looked_at, shown.complete) == (None, None, 5, True)


def test_an_empty_log_is_one_complete_empty_page(database: Database) -> None:
    for wanted in (Wanted(), Wanted(outcome="yes")):
        assert page(database, wanted) == Page([], None, None, 0, complete=True)


@rules(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECORDS, WANTED, st.integers(1, 4), st.integers(1, 7))
def test_going_older_through_everything_and_back_newer_meets_exactly_what_is_wanted_in_order(
    database: Database, made: list[dict[str, Any]], wanted: Wanted, size: int, most: int
) -> None:
    logged = [{**record(number), **each} for number, each in enumerate(made)]
    empty(database)
    fill(database, logged)
    in_order = sorted(logged, key=lambda each: (each["at"], each["id"]), reverse=True)
    expected = [each["id"] for each in in_order if meets(each, wanted)]
    with pytest.MonkeyPatch.context() as patch, database.reading() as session:
        patch.setattr(search, "MOST_LOOKED_AT", most)
        older = [search.search(session, wanted, size=size)]
        while (place := older[-1].older) and len(older) <= len(logged) + 1:
            older.append(search.search(session, wanted, size=size, before=place_from(place.text)))
        newer = [older[-1]]
        while (place := newer[-1].newer) and len(newer) <= len(logged) + 1:
            newer.append(search.search(session, wanted, size=size, after=place_from(place.text)))
    assert [prediction_id for each in older for prediction_id in ids(each.rows)] == expected
    # The way back begins at the last page.
    assert [prediction_id for each in reversed(newer) for prediction_id in ids(each.rows)] == expected
    for each in (*older, *newer):
        assert len(each.rows) <= size
        assert each.looked_at <= max(most, size)
        assert each.complete or len(each.rows) < size


def test_predictions_that_are_made_meanwhile_move_nothing_on_the_older_pages(database: Database) -> None:
    fill(database, [record(number, at=AT + number) for number in range(6)])
    first = page(database, Wanted(), size=2)
    fill(database, [record(number, at=AT + number) for number in range(6, 9)])
    second = page(database, Wanted(), size=2, before=first.older)
    assert ids(second.rows) == ["r-3", "r-2"]
    assert ids(page(database, Wanted(), size=2, after=second.newer).rows) == ["r-5", "r-4"]
    newest = page(database, Wanted(), size=5, after=second.newer)
    assert ids(newest.rows) == ["r-8", "r-7", "r-6", "r-5", "r-4"]
    assert newest.newer is None


def test_a_page_that_looked_at_enough_says_so_and_the_next_one_goes_on_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_LOOKED_AT", 10)
    fill(database, [record(number, at=AT + number, prediction="no") for number in range(1, 25)])
    fill(database, [record("rare", at=AT, prediction="rare")])
    first = page(database, Wanted(outcome="rare"))
    second = page(database, Wanted(outcome="rare"), before=first.older)
    third = page(database, Wanted(outcome="rare"), before=second.older)
    looked = [(ids(each.rows), each.looked_at, each.complete) for each in (first, second, third)]
    assert looked == [([], 10, False), ([], 10, False), (["r-rare"], 5, True)]
    assert third.older is None
    # Without such a condition nothing is looked at in vain.
    assert page(database, Wanted(model="churn")).complete


@pytest.mark.parametrize("upward", [False, True])
@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Wanted(), "ix_predictions_at_predictions_id"),
        (Wanted(model="churn"), "ix_predictions_model_predictions_at_predictions_id"),
        (Wanted(key_id="key1"), "ix_predictions_key_id_predictions_at_predictions_id"),
        (Wanted(key_id="key1", model="churn"), "ix_predictions_key_id_predictions_at_predictions_id"),
        (Wanted(client_id="order 1"), "ix_predictions_caller"),
        (Wanted(client_id="order 1", key_id="key1", model="churn"), "ix_predictions_caller"),
        (Wanted(trace_id="a trace", client_id="order 1", model="churn"), "ix_predictions_trace"),
    ],
)
@pytest.mark.parametrize(
    "also",
    [
        {},
        {"since": MOMENT - SECOND, "until": MOMENT + SECOND},
        {"outcome": "no", "source": "api", "version": 1},
        {"truth": "untold"},
        {"truth": "wrong"},
    ],
)
def test_every_look_follows_one_index_and_sorts_nothing(
    database: Database, wanted: Wanted, index: str, also: dict[str, Any], *, upward: bool
) -> None:
    fill(database, [record(number, client_id="order 1", trace_id="a trace") for number in range(30)])
    asked: list[tuple[str, Any]] = []
    sa.event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, parameters, *_: asked.append((statement, parameters)),
    )
    place = Place(MOMENT, "r-15")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "MOST_LOOKED_AT", 7)
        page(database, replace(wanted, **also), **({"after": place} if upward else {"before": place}))
    looks = [(statement, parameters) for statement, parameters in asked if statement.startswith("SELECT")]
    assert len(looks) >= 2
    # The place is found by the index as well: the rows before it are not read.
    if databases.ON_POSTGRESQL:
        bounds = r"ROW\(at, \(?id\)?.*\) [<>]" if len(also) == 0 else ""
        way, wrong = rf"Index (Only )?Scan .*using {index} on predictions .*Index Cond: .*{bounds}", "Sort|Seq Scan"
        explain = "EXPLAIN (COSTS off)"
    else:
        bounds = r"\(.*\(at,id\)[<>]" if len(also) == 0 else r"\("
        way, wrong = rf"SEARCH predictions USING .*{index} {bounds}", "TEMP B-TREE|SCAN predictions"
        explain = "EXPLAIN QUERY PLAN"
    with database.engine.connect() as connection:
        if databases.ON_POSTGRESQL:
            # So few rows would be read and sorted.
            connection.exec_driver_sql("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off")
        for statement, parameters in looks:
            plan = " ".join(step for *_, step in connection.exec_driver_sql(f"{explain} {statement}", parameters))
            assert re.search(way, plan), plan
            assert not re.search(wrong, plan), plan


# --- The slowest, and traces --------------------------------------------------------------------------------


def test_the_slowest_are_found_among_the_newest_that_are_wanted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"slow": 0.5, "slower": 0.7, "quick": 0.1}
    fill(database, [record(name, at=AT + at, latency_seconds=each) for at, (name, each) in enumerate(seconds.items())])
    fill(database, [record("old", at=AT - 1, latency_seconds=9.0), record("batch", source="batch", latency_seconds=0)])
    fill(database, [record(each, source=each, latency_seconds=9.0) for each in ("test", "ui")])
    fill(database, [record("other", model="prices", latency_seconds=0.6)])
    with database.reading() as session:
        every = search.slowest(session, Wanted(since=MOMENT), 2)
        mine = search.slowest(session, Wanted(model="churn", version=3, since=MOMENT), 9)
        none = search.slowest(session, Wanted(model="churn", version=4), 9)
        monkeypatch.setattr(search, "MOST_LOOKED_AT", 2)
        newest = search.slowest(session, Wanted(), 9)
    assert (ids(every.rows), every.looked_at, every.complete) == (["r-slower", "r-other"], 7, True)
    assert ids(mine.rows) == ["r-slower", "r-slow", "r-quick"]
    assert none.rows == []
    assert (ids(newest.rows), newest.looked_at, newest.complete) == (["r-slower", "r-quick"], 2, False)


@pytest.mark.sqlite("what PostgreSQL plans for so few rows says nothing")
def test_the_search_for_the_slowest_reads_no_more_than_an_index_leads_to(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_LOOKED_AT", 7)
    fill(database, [record(number, at=AT + number) for number in range(30)])
    asked: list[tuple[str, Any]] = []
    sa.event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, parameters, *_: asked.append((statement, parameters)),
    )
    for wanted in (Wanted(), Wanted(since=MOMENT), Wanted(model="churn", version=3, since=MOMENT)):
        with database.reading() as session:
            search.slowest(session, wanted, 5)
    looks = [each for each in asked if each[0].startswith("SELECT")]
    assert len(looks) == 9
    with database.engine.connect() as connection:
        for statement, parameters in looks:
            plan = " ".join(
                step for *_, step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )
            assert "SCAN predictions" not in plan.replace("SCAN predictions USING COVERING INDEX", ""), plan
            if "latency_seconds DESC" in statement:
                assert re.search(r"SEARCH predictions USING INDEX ix_predictions_\w+ \(.*\(at,id\)>", plan), plan


def test_predictions_of_a_trace_are_found_together(database: Database) -> None:
    trace = {"trace_id": "a trace"}
    fill(database, [record(0, **trace), record(1, **trace, model="prices"), record(2, trace_id="b"), record(3)])
    assert found(database, Wanted(trace_id="a trace")) == ["r-0", "r-1"]
    assert found(database, Wanted(trace_id="a trace", model="prices")) == ["r-1"]
    with database.reading() as session:
        assert search.is_trace(session, "b")
        assert not search.is_trace(session, "c")
        assert not search.is_trace(session, "\0")


# --- Places -----------------------------------------------------------------------------------------------


@given(st.datetimes(timezones=st.just(UTC)), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_place_comes_back_from_its_text_which_may_stand_in_a_url(at: datetime, prediction_id: str) -> None:
    place = Place(at, prediction_id)
    assert place_from(place.text) == place
    assert re.fullmatch(r"[A-Za-z0-9_-]+", place.text)


def test_the_text_of_a_place_is_short() -> None:
    assert len(Place(MOMENT, "0123456789abcdef0123456789abcdef-12").text) < 75


@given(st.text() | st.binary().map(lambda some: some.hex()) | st.from_regex(r"[A-Za-z0-9_=-]{1,20}"))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    with suppress(Invalid):
        assert place_from(text).text == text


@pytest.mark.parametrize(
    "written", ["", "1", "x y", "1 a\0", "9" * 30 + " a", "9" * 5000 + " a", "01 a", " 1 a", "1_0 a"]
)
def test_what_is_no_place_is_refused(written: str) -> None:
    text = base64.urlsafe_b64encode(written.encode()).decode().rstrip("=")
    with pytest.raises(Invalid, match="cursor_unreadable"):
        place_from(text)


def test_a_place_far_from_everything_shows_an_empty_page_that_leads_back(database: Database) -> None:
    fill(database, [record(0)])
    for outcome in (None, "yes"):
        wanted = Wanted(outcome=outcome)
        past = page(database, wanted, before=Place(MOMENT - SECOND, "x"))
        assert (past.rows, past.older) == ([], None)
        assert past.newer is not None
        assert ids(page(database, wanted, after=past.newer).rows) == ["r-0"]
        future = page(database, wanted, after=Place(datetime.max.replace(tzinfo=UTC), "x"))
        assert (future.rows, future.newer) == ([], None)
        assert future.older is not None
        assert ids(page(database, wanted, before=future.older).rows) == ["r-0"]


# --- What people mean -------------------------------------------------------------------------------------

VALUES = [
    "1",
    1,
    1.0,
    10,
    1.5,
    "1.5",
    "1.0",
    True,
    "true",
    False,
    "false",
    None,
    "null",
    "red",
    "Red",
    "rot “ü” 🙂",
    'a"b\\',
    "",
]
MEANT = [
    ("1", ["1", 1, 1.0]),
    ("1.0", ["1.0", 1, 1.0]),
    ("1.5", [1.5, "1.5"]),
    ("15e-1", [1.5]),
    ("0", []),
    ("10", [10]),
    ("true", [True, "true"]),
    ("True", [True]),
    ("FALSE", [False]),
    ("null", [None, "null"]),
    ("red", ["red"]),
    ("Red", ["Red"]),
    ("re", []),
    ("rot “ü” 🙂", ["rot “ü” 🙂"]),
    ('a"b\\', ['a"b\\']),
    ("", [""]),
    ("%", []),
    ("nan", []),
    ("-inf", []),
    ("9" * 5000, []),
    ("\0", []),
    ("\ud800", []),
]


def plain(value: object) -> tuple[type, object]:
    return (float, float(value)) if type(value) is int else (type(value), value)


def meant(written: str) -> list[int]:
    """The positions of the values that people mean by what they write."""
    typed = [(type(value), value) for value in dict(MEANT)[written]]
    return [position for position, value in enumerate(VALUES) if (type(value), value) in typed]


def test_an_outcome_is_found_as_people_write_it(database: Database) -> None:
    fill(database, [record(number, at=AT + number, prediction=value) for number, value in enumerate(VALUES)])
    for written, _ in MEANT:
        expected = [f"r-{position}" for position in meant(written)]
        assert (written, found(database, Wanted(outcome=written))) == (written, expected)


@pytest.mark.parametrize("feature", ["age", "Größe “x”", 'a"b', "a.b$[0]", "100%"])
def test_a_feature_is_found_by_its_value_as_people_write_it(database: Database, feature: str) -> None:
    # Once as the last member of the instance and once before others, beside members that hold every other value.
    others = {f"other {number}": value for number, value in enumerate(VALUES)}
    others["text"] = json.dumps([{feature: value} for value in VALUES])
    made = [{feature: value} if number % 2 else {feature: value, **others} for number, value in enumerate(VALUES)]
    fill(database, [record(number, at=AT + number, instance=each) for number, each in enumerate(made)])
    fill(database, [record("without", instance=others)])
    for written, _ in MEANT:
        expected = [f"r-{position}" for position in meant(written)]
        assert (written, found(database, Wanted(feature=feature, value=written))) == (written, expected)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0.30000000000000004", 0.1 + 0.2),
        ("1e22", 1e22),
        ("1.25e-07", 1.25e-7),
        ("-2.5", -2.5),
        ("12345678901", 12345678901),
    ],
)
def test_a_number_is_found_by_the_text_that_shows_it(database: Database, written: str, number: float) -> None:
    fill(database, [record("there", prediction=number, instance={"age": number})])
    fill(database, [record("near", prediction=number * 1.001, instance={"age": number * 1.001})])
    assert found(database, Wanted(outcome=written)) == ["r-there"]
    assert found(database, Wanted(feature="age", value=written)) == ["r-there"]


def test_one_of_several_outputs_is_enough(database: Database) -> None:
    several = {"risk": "high", "amount": 3.5}
    fill(database, [record("both", prediction=several, probability={"risk": 0.75, "amount": 0.5}), record("one")])
    for outcome, expected in (("high", ["r-both"]), ("3.5", ["r-both"]), ("3", []), ("risk", []), ("yes", ["r-one"])):
        assert found(database, Wanted(outcome=outcome)) == expected
    assert found(database, Wanted(probability_from=0.0)) == ["r-one"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, None, ["r-1", "r-2"]),
        (None, 0.5, ["r-0", "r-1"]),
        (0.5, 0.5, ["r-1"]),
        (0.6, 0.7, []),
        (-1.0, 2.0, ["r-0", "r-1", "r-2"]),
    ],
)
def test_a_probability_is_found_within_bounds_that_belong_to_it(
    database: Database, low: float | None, high: float | None, expected: list[str]
) -> None:
    made = enumerate([0.0, 0.5, 1.0, None])
    fill(database, [record(number, at=AT + number, probability=each) for number, each in made])
    assert found(database, Wanted(probability_from=low, probability_to=high)) == expected


def test_a_time_has_its_beginning_and_not_its_end(database: Database) -> None:
    fill(database, [record(number, at=AT + number) for number in range(4)])
    assert found(database, Wanted(since=MOMENT + SECOND, until=MOMENT + 3 * SECOND)) == ["r-1", "r-2"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(version=2), ["r-1"]),
        (Wanted(version=10**30), []),
        (Wanted(source="batch"), ["r-2"]),
        (Wanted(warned=True), ["r-3"]),
        (Wanted(model="prices"), ["r-4", "r-8"]),
        (Wanted(key_id="key2"), ["r-5", "r-8"]),
        (Wanted(key_id="key2", model="prices"), ["r-8"]),
        (Wanted(key_id="key1", model="prices"), ["r-4"]),
        (Wanted(feature="new"), ["r-6"]),
        (Wanted(client_id="order 1"), ["r-7", "r-8"]),
        (Wanted(client_id="order 1", key_id="key2"), ["r-8"]),
        (Wanted(client_id="order 1", model="prices"), ["r-8"]),
        (Wanted(client_id="x" * 201), []),
    ],
)
def test_each_other_condition_finds_what_meets_it(database: Database, wanted: Wanted, expected: list[str]) -> None:
    warning = {"feature": "age", "code": "unseen_value", "message": "New."}
    changed: list[dict[str, Any]] = [
        {},
        {"version": 2},
        {"source": "batch"},
        {"warnings": [warning]},
        {"model": "prices"},
        {"key_id": "key2"},
        {"instance": {"new": None}},
        {"client_id": "order 1"},
        {"client_id": "order 1", "key_id": "key2", "model": "prices"},
    ]
    fill(database, [record(number, **each) for number, each in enumerate(changed)])
    assert found(database, wanted) == expected


@pytest.mark.parametrize(
    ("truth_is", "expected"),
    [("told", ["r-0", "r-1", "r-3", "r-4"]), ("untold", ["r-2"]), ("wrong", ["r-1", "r-4"])],
)
def test_what_turned_out_to_be_true_is_looked_for(
    database: Database, truth_is: search.Truth, expected: list[str]
) -> None:
    answers = ["yes", "yes", "yes", 2.5, {"a": "no", "b": 1.0}]
    fill(database, [record(number, at=AT + number, prediction=each) for number, each in enumerate(answers)])
    outcomes = {"r-0": "yes", "r-1": "no", "r-3": 2.5, "r-4": {"a": "yes", "b": 1.0}}
    with database.transaction() as session:
        truth.put(session, [truth_of(id_, value) for id_, value in outcomes.items()])
    assert found(database, Wanted(truth=truth_is)) == expected


@pytest.mark.parametrize(
    ("text", "begins", "ends"),
    [
        ("2026-03-03", datetime(2026, 3, 3, tzinfo=UTC), datetime(2026, 3, 4, tzinfo=UTC)),
        ("2026-03-03T12:00", datetime(2026, 3, 3, 12, tzinfo=UTC), datetime(2026, 3, 3, 12, tzinfo=UTC)),
        ("2026-03-03T12:00:00+02:00", datetime(2026, 3, 3, 10, tzinfo=UTC), datetime(2026, 3, 3, 10, tzinfo=UTC)),
    ],
)
def test_a_date_is_a_whole_day_and_a_time_itself(text: str, begins: datetime, ends: datetime) -> None:
    assert (search.moment_from(text), search.moment_from(text, is_end=True)) == (begins, ends)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "9999-12-31", "0001-01-01T00:00:00+09:00"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Invalid, match="2026-03-03T12:00:00Z"):
        search.moment_from(text, is_end=True)


def test_a_value_is_not_looked_for_without_its_feature(database: Database) -> None:
    with pytest.raises(Invalid, match="value_without_feature"):
        page(database, Wanted(value="35"))


# --- Single predictions -----------------------------------------------------------------------


def test_any_prediction_is_given_by_its_id(database: Database) -> None:
    fill(database, [record(0, key_id="somebody")])
    with database.reading() as session:
        assert search.get(session, "r-0").key_id == "somebody"
        with pytest.raises(NotFound, match="unknown_prediction"):
            search.get(session, "r-1")


def test_the_neighbours_of_a_prediction_are_those_of_its_model(database: Database) -> None:
    made = [record("a"), record("b"), record("c"), record("d", at=AT + 1), record("between", model="prices")]
    fill(database, made)
    expected = {"a": (None, "b"), "b": ("a", "c"), "c": ("b", "d"), "d": ("c", None), "between": (None, None)}
    with database.reading() as session:
        for name, (older, newer) in expected.items():
            beside = search.neighbours(session, search.get(session, f"r-{name}"))
            assert [each and each.id for each in beside] == [each and f"r-{each}" for each in (newer, older)]
