"""Failures by the hour: rows that a version was asked and could not answer, through no fault of who asked.

The log has none of them. They are counted in the transaction in which the line of the spool that told of them is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment
from webapp.predictions.traffic import HOUR, beginning


class HourlyFailures(Base):
    """How many rows a version could not answer within an hour."""

    __tablename__ = "hourly_failures"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's interface

    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    model: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    rows: Mapped[int] = mapped_column(sa.BigInteger)
    # One of the requests, under whose id the process's own log says what went wrong.
    request_id: Mapped[str] = mapped_column(sa.Text)


@dataclass(frozen=True, slots=True)
class Failed:
    """How many rows a version could not answer in a time, and the id of a request that was for some of them."""

    model: str
    version: int
    rows: int
    request_id: str


def count_lines(session: Session, lines: Iterable[Mapping[str, Any]]) -> None:
    """Count failures as the spool has them."""
    rows: Counter[tuple[datetime, str, int]] = Counter()
    requests: dict[tuple[datetime, str, int], str] = {}
    for each in lines:
        cell = (beginning(datetime.fromtimestamp(each["at"], UTC), HOUR), each["model"], each["version"])
        rows[cell] += each["failed"]
        requests[cell] = each["request_id"]
    if not rows:
        return
    statement = db.insertion(session, HourlyFailures)
    new = statement.excluded
    # In one order, whoever adds: log writers of two hosts never wait for each other in a circle.
    named = [
        {"hour": hour, "model": model, "version": version, "rows": rows[cell], "request_id": requests[cell]}
        for cell in sorted(rows)
        for hour, model, version in [cell]
    ]
    added = {"rows": HourlyFailures.rows + new.rows, "request_id": new.request_id}
    session.execute(statement.on_conflict_do_update(index_elements=["hour", "model", "version"], set_=added), named)


def of_hours(session: Session, since: datetime) -> list[Failed]:
    """Give what each version could not answer since the hour that `since` lies in, by model and version."""
    row = HourlyFailures
    chosen = sa.select(row).where(row.hour >= beginning(since, HOUR)).order_by(row.hour)
    found: dict[tuple[str, int], Failed] = {}
    for each in session.scalars(chosen):
        cell = (each.model, each.version)
        before = found[cell].rows if cell in found else 0
        found[cell] = Failed(*cell, before + each.rows, each.request_id)
    return [found[cell] for cell in sorted(found)]
