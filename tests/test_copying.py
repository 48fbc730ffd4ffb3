"""Tests of moving to another database: every row of every table arrives as it was, or none at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import databases
from webapp import app, copying, db, installation, users
from webapp.audit import Actor
from webapp.db import Base, Database, Moment
from webapp.errors import Conflict

ANN = Actor("user:ann")
NUMBERS = itertools.count()
ROWS = 4
EARLY = datetime(2026, 3, 1, 12, tzinfo=UTC)
assert app  # importing the composition root declares every table
assert installation  # declares the other


@pytest.fixture
def url() -> Iterator[str]:
    """An empty database of PostgreSQL."""
    name = f"target_{next(NUMBERS)}"
    databases.cluster().create(name)
    yield databases.cluster().url(name)
    databases.cluster().execute(f"DROP DATABASE {name} (FORCE)")


@pytest.fixture
def target(url: str) -> Iterator[Database]:
    made = Database(url)
    yield made
    made.engine.dispose()


@pytest.fixture
def source(database: Database) -> Database:
    """A database with some rows in every table."""
    with database.transaction() as session:
        session.execute(sa.delete(Base.metadata.tables["generation"]))
        for table in Base.metadata.sorted_tables:
            for number in range(1, ROWS + 1):
                session.execute(table.insert(), {each.name: value(each, number) for each in table.columns})
    return database


def value(column: sa.Column[Any], number: int) -> Any:
    """Give what stands in a column of the row with a number: in the first rows nothing, where that is allowed."""
    if column.foreign_keys:
        return value(next(iter(column.foreign_keys)).column, number)
    if column.nullable and number == 1:
        return sa.null() if isinstance(column.type, sa.JSON) else None
    if isinstance(column.type, sa.JSON):
        return None if number == 2 else {"a": [0.1 + 0.2, 2**60, None, True, '\0 é 😀 "'], "b": {}, "": number}
    if isinstance(column.type, Moment):
        return EARLY + number * timedelta(hours=1, microseconds=1)
    if isinstance(column.type, sa.Text):
        return f"{column.name} {number} ' \\ % é 漢 😀\n"
    plain = {
        sa.Boolean: number % 2 == 1,
        sa.Double: number / 3,
        sa.Float: number / 3,
        sa.LargeBinary: b"\0\xff" * number,
    }
    return plain.get(type(column.type), number)


def content(database: Database) -> dict[str, list[Any]]:
    """Give all rows of all tables; of JSON's null and of no JSON, which Python calls by one name, also which it is."""
    found: dict[str, list[Any]] = {}
    with database.reading() as session:
        for table in Base.metadata.sorted_tables:
            nulls = [each.is_(None) for each in table.columns]
            found[table.name] = sorted(map(repr, session.execute(sa.select(*table.columns, *nulls))))
    return found


def test_every_row_of_every_table_arrives_as_it_was(source: Database, target: Database, url: str) -> None:
    before = content(source)
    assert [name for name, rows in before.items() if not rows] == []
    copying.make_ready(target, url)
    counts = copying.copy(source, target)
    assert content(target) == before == content(source)
    assert counts == {name: len(rows) for name, rows in before.items()}


def test_what_is_added_afterwards_gets_the_next_numbers(source: Database, target: Database, url: str) -> None:
    copying.make_ready(target, url)
    copying.copy(source, target)
    with target.transaction() as session:
        assert users.create(session, ANN, "mara", "admin").id == ROWS + 1


def test_a_database_that_holds_anything_is_refused(source: Database, target: Database, url: str) -> None:
    copying.make_ready(target, url)
    copying.copy(source, target)
    before = content(target)
    with pytest.raises(Conflict) as caught:
        copying.make_ready(target, url)
    assert caught.value.code == "target_not_empty"
    assert content(target) == before


def test_somebody_elses_tables_are_left_alone(target: Database, url: str) -> None:
    with target.transaction() as session:
        session.execute(sa.text("CREATE TABLE users (id integer)"))
    with pytest.raises(Conflict, match="target_not_empty"):
        copying.make_ready(target, url)
    assert sa.inspect(target.engine).get_table_names() == ["users"]


def test_a_row_that_does_not_fit_leaves_the_target_empty(
    source: Database, target: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying.make_ready(target, url)
    fresh = content(target)
    counted = copying._count
    monkeypatch.setattr(copying, "_count", lambda session, name: counted(session, name) + (name == "versions"))
    with pytest.raises(Conflict, match="versions"):
        copying.copy(source, target)
    assert content(target) == fresh
    monkeypatch.undo()
    copying.make_ready(target, url)
    copying.copy(source, target)
    assert content(target) == content(source)


def test_many_rows_are_copied_in_pieces(
    source: Database, target: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PIECE_ROWS", 1)
    copying.make_ready(target, url)
    copying.copy(source, target)
    assert content(target) == content(source)


def test_a_copy_back_into_a_file_holds_the_same(source: Database, target: Database, url: str, tmp_path: Path) -> None:
    copying.make_ready(target, url)
    copying.copy(source, target)
    back = f"sqlite:///{tmp_path}/back.db"
    made = Database(back)
    copying.make_ready(made, back)
    copying.copy(target, made)
    assert content(made) == content(source)
    assert db.revisions(made)[0] == db.revisions(made)[1]
    made.engine.dispose()
