"""Copies everything that one database holds into an empty one, also of another kind, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
import sqlalchemy.exc

from webapp import db
from webapp.db import Base, Database, Session
from webapp.errors import Conflict, Invalid

PIECE_ROWS = 1000
# What a fresh schema begins with.
BEGINNING = "generation"


def make_ready(target: Database, url: str) -> None:
    """Give an empty database the schema of this release; raise `Conflict` when it holds anything already."""
    present, _ = db.revisions(target)
    named = sa.inspect(target.engine).get_table_names()
    if present is None and not named:
        db.upgrade(url)
    elif present is None or _held(target):
        detail = f"{target.place} is not empty; name a new one, such as `createdb modelport` makes."
        raise Conflict("target_not_empty", detail)


def _held(target: Database) -> bool:
    """Whether a database of some release holds more than a fresh schema."""
    found = [name for name in sa.inspect(target.engine).get_table_names() if name not in {"alembic_version", BEGINNING}]
    with target.reading() as session:
        return any(session.scalar(sa.select(sa.exists().select_from(sa.table(name)))) for name in found)


def copy(source: Database, target: Database) -> dict[str, int]:
    """Copy all rows; give how many there are of each table. Nothing is copied when anything goes wrong."""
    counts = {}
    with source.reading() as reader, target.transaction() as writer:
        writer.execute(sa.delete(Base.metadata.tables[BEGINNING]))
        for table in Base.metadata.sorted_tables:
            counts[table.name] = _copy(reader, writer, table)
        faulty = [name for name, count in counts.items() if not count == _count(reader, name) == _count(writer, name)]
        if faulty:
            raise Conflict("copy_differs", f"Not all rows arrived ({', '.join(faulty)}); nothing was copied.")
    return counts


def _copy(reader: Session, writer: Session, table: sa.Table) -> int:
    count = 0
    for rows in _pieces(reader, table):
        try:
            writer.execute(table.insert(), rows)
        except sqlalchemy.exc.DataError as error:
            detail = f"A row of {table.name} holds what the other database cannot: {error.orig}. Nothing was copied."
            raise Invalid("row_not_copied", detail) from None
        count += len(rows)
    _continue_numbers(writer, table)
    return count


def _pieces(reader: Session, table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    found = reader.execute(sa.select(table), execution_options={"yield_per": PIECE_ROWS})
    for piece in found.mappings().partitions():
        yield [dict(row) for row in piece]


def _continue_numbers(writer: Session, table: sa.Table) -> None:
    """Have PostgreSQL number the next row after those that brought their numbers with them."""
    column = table.autoincrement_column
    if column is None or writer.get_bind().dialect.name != "postgresql":
        return
    sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
    highest = sa.select(sa.func.max(column)).scalar_subquery()
    writer.execute(sa.select(sa.func.setval(sequence, highest)))


def _count(session: Session, name: str) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(Base.metadata.tables[name])) or 0
