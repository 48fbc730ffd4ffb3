"""Refusals by the hour: rows that a version was asked and did not take, which the log has not, with the reasons.

They are counted in the transaction in which what told of them is done: a line of the spool, or a batch's chunk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment
from webapp.predictions import traffic
from webapp.predictions.traffic import DAY, HOUR, TRIALS, beginning
from webapp.signature.refused import Fields, Tally


class HourlyRefusals(Base):
    """What a version refused within an hour: one row, however much that was."""

    __tablename__ = "hourly_refusals"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's interface

    model: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    # Rows of requests that were refused, as a request is for one of its rows; and those that were the reason.
    asked: Mapped[int] = mapped_column(sa.BigInteger)
    refused: Mapped[int] = mapped_column(sa.BigInteger)
    fields: Mapped[Fields] = mapped_column(sa.JSON)


# --- Counting ---------------------------------------------------------------------------------------------


def count_lines(session: Session, lines: Iterable[Mapping[str, Any]]) -> None:
    """Count refusals as the spool has them."""
    found: defaultdict[tuple[str, int, datetime], Tally] = defaultdict(Tally)
    for each in lines:
        hour = beginning(datetime.fromtimestamp(each["at"], UTC), HOUR)
        found[each["model"], each["version"], hour] += Tally(each["asked"], each["refused"], each["fields"])
    # In one order, whoever adds: log writers of two hosts never wait for each other in a circle.
    for (model, version, hour), tally in sorted(found.items(), key=lambda item: item[0]):
        count(session, model, version, hour, tally)


def count(session: Session, model: str, version: int, at: datetime, tally: Tally) -> None:
    """Add to what a version refused in the hour of a moment."""
    there = _locked(session, model, version, beginning(at, HOUR))
    total = Tally(there.asked, there.refused, there.fields) + tally
    there.asked, there.refused, there.fields = total.asked, total.refused, total.fields


def _locked(session: Session, model: str, version: int, hour: datetime) -> HourlyRefusals:
    """Give the row of an hour, which is made where it is missing, to be changed by nobody else."""
    empty = {"asked": 0, "refused": 0, "fields": {}}
    made = db.insertion(session, HourlyRefusals).values(model=model, version=version, hour=hour, **empty)
    session.execute(made.on_conflict_do_nothing())
    return session.get_one(HourlyRefusals, (model, version, hour), with_for_update=True, populate_existing=True)


# --- Reading ----------------------------------------------------------------------------------------------


def by_day(session: Session, model: str, since: datetime, until: datetime) -> dict[tuple[int, datetime], Tally]:
    """Give what each version of a model was asked and refused on each day (in UTC); without trials."""
    row = HourlyRefusals
    chosen = sa.select(row).where(row.model == model, row.hour >= since, row.hour < until)
    found: defaultdict[tuple[int, datetime], Tally] = defaultdict(Tally)
    for each in session.scalars(chosen.order_by(row.version, row.hour)):
        found[each.version, beginning(each.hour, DAY)] += Tally(each.asked, each.refused, each.fields)
    for version, answered in traffic.daily(session, model, since, until=until, without=TRIALS).items():
        for day, rows in answered.items():
            found[version, day] += Tally(asked=rows)
    return dict(found)


def days(session: Session, model: str, version: int, since: datetime, until: datetime) -> set[datetime]:
    """Give the days (in UTC) on which a version refused anything."""
    row = HourlyRefusals
    chosen = sa.select(row.hour).where(row.model == model, row.version == version, row.hour >= since, row.hour < until)
    return {beginning(hour, DAY) for hour in session.scalars(chosen)}
