"""Counts for drift: what predictions held, by version and hour, added up in the transaction that logs them.

An hour of a version is one row of numbers, whose meaning its layout says (`drift.layout`). Hours can be added, so every
window costs the same however many predictions were made in it, and none of them need be kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment
from webapp.drift import layout
from webapp.drift.bins import Counts
from webapp.drift.layout import Layout
from webapp.predictions.traffic import DAY, HOUR, TRIALS, beginning

# What a version answers first is usual for it, and, where it has no reference, what it is asked first.
FIRST_ROWS = 2000


class DriftReference(Base):
    """What a version's predictions are compared with, and in which cells they are counted."""

    __tablename__ = "drift_references"

    model: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    layout: Mapped[str] = mapped_column(sa.Text)
    # The counts of the reference itself, and of how many rows.
    counts: Mapped[bytes] = mapped_column(sa.LargeBinary)
    rows: Mapped[int]
    # `reference`: what was packed with the version. `predictions`: the first ones that it made.
    origin: Mapped[str] = mapped_column(sa.Text)
    made_at: Mapped[datetime] = mapped_column(Moment)
    # Predictions of this time are compared with instead.
    since: Mapped[datetime | None] = mapped_column(Moment)
    until: Mapped[datetime | None] = mapped_column(Moment)


class HourlyCounts(Base):
    """What the predictions that a version made within an hour held."""

    __tablename__ = "hourly_counts"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's interface

    model: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    rows: Mapped[int]
    counts: Mapped[bytes] = mapped_column(sa.LargeBinary)


# --- Counting ---------------------------------------------------------------------------------------------


def count(session: Session, predictions: Iterable[Mapping[str, Any]]) -> None:
    """Count rows of the log that are inserted in this same transaction."""
    by_version: defaultdict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for each in predictions:
        if each["source"] not in TRIALS:
            by_version[each["model"], each["version"]].append(each)
    if not by_version:
        return
    # Whoever begins to count a version waits until this is committed, and counts these too; or this waits for them.
    db.share(session, DriftReference)
    for (model, version), rows in sorted(by_version.items(), key=lambda item: item[0]):
        if (text := _layout_text(session, model, version)) is not None:
            _add(session, model, version, layout.from_json(text), rows)


def _layout_text(session: Session, model: str, version: int) -> str | None:
    chosen = sa.select(DriftReference.layout)
    return session.scalar(chosen.where(DriftReference.model == model, DriftReference.version == version))


def _add(session: Session, model: str, version: int, meant: Layout, rows: Iterable[Mapping[str, Any]]) -> None:
    by_hour: defaultdict[datetime, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_hour[beginning(row["at"], HOUR)].append(row)
    # In one order, whoever adds: log writers of two hosts never wait for each other in a circle.
    for hour, made in sorted(by_hour.items(), key=lambda item: item[0]):
        there = _locked(session, model, version, hour, meant)
        there.counts = layout.packed(layout.unpacked(there.counts) + meant.count(made))
        there.rows += len(made)


def _locked(session: Session, model: str, version: int, hour: datetime, meant: Layout) -> HourlyCounts:
    """Give the row of an hour, which is made where it is missing, to be changed by nobody else."""
    empty = {"rows": 0, "counts": layout.packed(np.zeros(meant.width, dtype=np.int64))}
    made = db.insertion(session, HourlyCounts).values(model=model, version=version, hour=hour, **empty)
    session.execute(made.on_conflict_do_nothing())
    return session.get_one(HourlyCounts, (model, version, hour), with_for_update=True, populate_existing=True)


# --- Reading ----------------------------------------------------------------------------------------------


def reference(session: Session, model: str, version: int) -> DriftReference | None:
    """Give what a version is compared with; None where it is not counted yet."""
    return session.get(DriftReference, (model, version))


def counted(session: Session) -> set[tuple[str, int]]:
    """Give the versions that are counted."""
    return {
        (model, version) for model, version in session.execute(sa.select(DriftReference.model, DriftReference.version))
    }


def compared_with(session: Session, reference: DriftReference, since: datetime) -> Counts:
    """Give the counts that predictions from a moment on are compared with.

    What a version answers is compared with what it answered first: the rows that it was trained on it knows, and
    answers more surely than any others. Before that is over, there is nothing to compare with: all zeros.
    """
    if reference.since is not None and reference.until is not None:
        return between(session, reference, reference.since, reference.until)
    meant = layout.from_json(reference.layout)
    packed = meant.parts(layout.unpacked(reference.counts))
    first = meant.parts(_first(session, reference, since))
    return np.concatenate(
        [mine if each.role == "input" else answered for (each, mine), (_, answered) in zip(packed, first, strict=True)]
    )


def _first(session: Session, reference: DriftReference, since: datetime) -> Counts:
    """Give the counts of the first hours in which so many predictions were made; zeros where they reach a moment."""
    row = HourlyCounts
    chosen = sa.select(row.rows, row.counts).where(
        row.model == reference.model, row.version == reference.version, row.hour < since
    )
    rows, stored = 0, []
    # Mostly the first few of a year of hours are enough: the others are not fetched, and no cursor stays open for them.
    with session.execute(chosen.order_by(row.hour), execution_options={"yield_per": 50}) as found:
        for made, content in found:
            rows += made
            stored.append(content)
            if rows >= FIRST_ROWS:
                return _sum(stored)
    return np.zeros(layout.from_json(reference.layout).width, dtype=np.int64)


def between(session: Session, reference: DriftReference, since: datetime, until: datetime) -> Counts:
    """Give what was counted of a version from one hour up to another."""
    each_day = by_day(session, reference, since, until).values()
    return sum(each_day, np.zeros(layout.from_json(reference.layout).width, dtype=np.int64))


def days(session: Session, model: str, version: int, since: datetime, until: datetime) -> set[datetime]:
    """Give the days (in UTC) on which a version predicted."""
    row = HourlyCounts
    chosen = sa.select(row.hour).where(row.model == model, row.version == version, row.hour >= since, row.hour < until)
    return {beginning(hour, DAY) for hour in session.scalars(chosen)}


def by_day(session: Session, reference: DriftReference, since: datetime, until: datetime) -> dict[datetime, Counts]:
    """Give what was counted of a version on each day (in UTC) on which it predicted."""
    found = session.execute(
        sa.select(HourlyCounts.hour, HourlyCounts.counts)
        .where(HourlyCounts.model == reference.model, HourlyCounts.version == reference.version)
        .where(HourlyCounts.hour >= since, HourlyCounts.hour < until)
        .order_by(HourlyCounts.hour)
    )
    by_day: defaultdict[datetime, list[bytes]] = defaultdict(list)
    for hour, counts in found:
        by_day[beginning(hour, DAY)].append(counts)
    return {day: _sum(stored) for day, stored in by_day.items()}


def _sum(stored: Sequence[bytes]) -> Counts:
    table = np.frombuffer(b"".join(stored), dtype=layout.STORED).reshape(len(stored), -1)
    total: Counts = table.sum(axis=0, dtype=np.int64)
    return total
