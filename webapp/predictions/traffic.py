"""Traffic: predictions counted by the hour, in the transaction that logs them, so that figures need no log."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment

# Predictions that people make to try something out: they are no traffic.
TRIALS = ("test", "ui")
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
EPOCH = datetime.fromtimestamp(0, UTC)
MOST_HOURLY = timedelta(days=7)

# Latencies are counted in steps, each up to twice as long as the one before. Step 1 is everything up to 50 µs, step 22
# everything above 52 s. Step 0 counts predictions that nobody waited for (batches), which have no latency.
BOUNDS = tuple(50e-6 * 2.0**doubling for doubling in range(21))


class HourlyTraffic(Base):
    """How many predictions a version made within an hour for one source, by latency."""

    __tablename__ = "hourly_traffic"
    # The rows lie in the order of the key: what is asked for is always a range of hours.
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's interface

    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    model: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    latency_step: Mapped[int] = mapped_column(primary_key=True)
    predictions: Mapped[int]
    warned: Mapped[int]


class KeyTraffic(Base):
    """How many predictions a key asked for within an hour."""

    __tablename__ = "key_traffic"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's interface

    key_id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    predictions: Mapped[int]


@dataclass(frozen=True, slots=True)
class Total:
    """What a model did in a time; of all models together, `model` is empty."""

    model: str
    predictions: int
    warned: int
    # Seconds, read back from steps: between half and twice the true latency. None when nobody waited for any.
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Series:
    """Predictions over time: `counts[model][n]` were made in the `step` that begins at `start + n * step`."""

    start: datetime
    step: timedelta
    counts: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Whose predictions are meant: a model's, or one version's; everybody's where nothing is said. Never trials."""

    model: str | None = None
    version: int | None = None

    @property
    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Tell which counts are theirs."""
        found: list[sa.ColumnElement[bool]] = [HourlyTraffic.source.not_in(TRIALS)]
        if self.model is not None:
            found.append(HourlyTraffic.model == self.model)
        if self.version is not None:
            found.append(HourlyTraffic.version == self.version)
        return found


@dataclass(frozen=True, slots=True)
class Timeline:
    """What was done over time: `totals[n]` in the `step` that begins at `start + n * step`."""

    start: datetime
    step: timedelta
    totals: list[Total]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was done in a time: all together, by model and version, and how many predictions each latency step has."""

    total: Total
    versions: list[tuple[int, Total]]
    by_step: dict[int, int]


# --- Counting ---------------------------------------------------------------------------------------------


def count(session: Session, predictions: Iterable[Mapping[str, Any]]) -> None:
    """Count rows of the log that are inserted in this same transaction."""
    made: Counter[tuple[Any, ...]] = Counter()
    warned: Counter[tuple[Any, ...]] = Counter()
    asked: Counter[tuple[Any, ...]] = Counter()
    for each in predictions:
        hour = beginning(each["at"], HOUR)
        cell = (hour, each["model"], each["version"], each["source"], latency_step(each["latency_seconds"]))
        made[cell] += 1
        warned[cell] += bool(each["warnings"])
        asked[each["key_id"], hour] += 1
    _add(session, HourlyTraffic, [(*cell, number, warned[cell]) for cell, number in made.items()])
    _add(session, KeyTraffic, [(*cell, number) for cell, number in asked.items()])


def _add(session: Session, table: type[Base], rows: list[tuple[Any, ...]]) -> None:
    """Add the last columns of rows, which are numbers, to those of the row with the same key."""
    columns = Base.metadata.tables[table.__tablename__].columns
    statement = db.insertion(session, table)
    added = {each.name: each + statement.excluded[each.name] for each in columns if not each.primary_key}
    keys = [each.name for each in columns if each.primary_key]
    # In one order, whoever adds: log writers of two hosts never wait for each other in a circle.
    if named := [dict(zip(columns.keys(), row, strict=True)) for row in sorted(rows)]:
        session.execute(statement.on_conflict_do_update(index_elements=keys, set_=added), named)


def latency_step(seconds: float) -> int:
    """Give the step that a latency is counted in."""
    return 1 + bisect_left(BOUNDS, seconds) if seconds > 0 else 0


# --- Reading ----------------------------------------------------------------------------------------------


def totals(
    session: Session, since: datetime, *, until: datetime | None = None, without: Collection[str] = TRIALS
) -> list[Total]:
    """Give what each model did since the hour that `since` lies in, by name, leaving out sources in `without`.

    Hours that begin at `until` or later do not count.
    """
    by_model = groupby(_steps(session, since, without, until), key=attrgetter("model"))
    return [_total(model, steps) for model, steps in by_model]


def overall(session: Session, since: datetime, *, without: Collection[str] = TRIALS) -> Total:
    """Give what all models did together."""
    return _total("", _steps(session, since, without))


def series(session: Session, since: datetime, until: datetime, *, without: Collection[str] = TRIALS) -> Series:
    """Give predictions by the hour, or by the day (in UTC) where that would be more than a week of hours."""
    step = step_of(until - since)
    start = beginning(since, step)
    length = -((start - until) // step)
    statement = (
        sa.select(HourlyTraffic.hour, HourlyTraffic.model, sa.func.sum(HourlyTraffic.predictions))
        .where(HourlyTraffic.hour >= start, HourlyTraffic.hour < until, HourlyTraffic.source.not_in(without))
        .group_by(HourlyTraffic.hour, HourlyTraffic.model)
    )
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * length)
    for hour, model, predictions in session.execute(statement):
        counts[model][(hour - start) // step] += predictions
    return Series(start, step, dict(counts))


def step_of(span: timedelta) -> timedelta:
    """Give what a time is divided into: hours, or days (in UTC) where that would be more than a week of hours."""
    return DAY if span > MOST_HOURLY else HOUR


def timeline(session: Session, since: datetime, until: datetime, of: Chosen) -> Timeline:
    """Give what was done in each hour or day, from the one that `since` lies in."""
    step = step_of(until - since)
    start = beginning(since, step)
    statement = _summed(HourlyTraffic.hour, HourlyTraffic.latency_step).where(
        *of.conditions, HourlyTraffic.hour >= start, HourlyTraffic.hour < until
    )
    by_part: defaultdict[int, list[Any]] = defaultdict(list)
    for each in session.execute(statement):
        by_part[(each.hour - start) // step].append(each)
    length = -((start - until) // step)
    return Timeline(start, step, [_total(of.model or "", by_part[part]) for part in range(length)])


def figures(session: Session, since: datetime, until: datetime, of: Chosen) -> Figures:
    """Give what was done in the hours that begin in a time; versions by name and number."""
    cell = (HourlyTraffic.model, HourlyTraffic.version)
    statement = _summed(*cell, HourlyTraffic.latency_step).where(
        *of.conditions, HourlyTraffic.hour >= since, HourlyTraffic.hour < until
    )
    rows = session.execute(statement.order_by(*cell)).all()
    versions = [
        (number, _total(model, found)) for (model, number), found in groupby(rows, attrgetter("model", "version"))
    ]
    by_step: Counter[int] = Counter()
    for each in rows:
        by_step[each.latency_step] += each.predictions
    return Figures(_total(of.model or "", rows), versions, dict(by_step))


def _summed(*cell: sa.SQLColumnExpression[Any]) -> sa.Select[Any]:
    predictions, warned = sa.func.sum(HourlyTraffic.predictions), sa.func.sum(HourlyTraffic.warned)
    return sa.select(*cell, predictions.label("predictions"), warned.label("warned")).group_by(*cell)


def by_key(session: Session, key_ids: Collection[str], since: datetime) -> dict[str, int]:
    """Give how many predictions each key asked for, whatever their source."""
    found = session.execute(
        sa.select(KeyTraffic.key_id, sa.func.sum(KeyTraffic.predictions))
        .where(KeyTraffic.key_id.in_(key_ids), KeyTraffic.hour >= beginning(since, HOUR))
        .group_by(KeyTraffic.key_id)
    )
    return dict.fromkeys(key_ids, 0) | dict(found.all())


def by_version(session: Session, model: str, since: datetime, *, without: Collection[str] = TRIALS) -> dict[int, int]:
    """Give how many predictions each version of a model made; those that made none are not named."""
    found = session.execute(
        sa.select(HourlyTraffic.version, sa.func.sum(HourlyTraffic.predictions))
        .where(HourlyTraffic.hour >= beginning(since, HOUR), HourlyTraffic.source.not_in(without))
        .where(HourlyTraffic.model == model)
        .group_by(HourlyTraffic.version)
        .order_by(HourlyTraffic.version)
    )
    return dict(found.all())


def hours(session: Session, model: str, version: int) -> dict[datetime, int]:
    """Give the hours in which a version predicted, and how many predictions were logged then. No trials."""
    found = session.execute(
        sa.select(HourlyTraffic.hour, sa.func.sum(HourlyTraffic.predictions))
        .where(HourlyTraffic.model == model, HourlyTraffic.version == version, HourlyTraffic.source.not_in(TRIALS))
        .group_by(HourlyTraffic.hour)
        .order_by(HourlyTraffic.hour)
    )
    return {hour: int(logged) for hour, logged in found}


def newest_hours(
    session: Session, model: str, version: int, since: datetime, until: datetime, most: int
) -> list[datetime]:
    """Give the hours of a time that hold the newest `most` predictions of a version, the newest first. No trials."""
    found = session.execute(
        sa.select(HourlyTraffic.hour, sa.func.sum(HourlyTraffic.predictions))
        .where(HourlyTraffic.hour >= beginning(since, HOUR), HourlyTraffic.hour < until)
        .where(HourlyTraffic.model == model, HourlyTraffic.version == version, HourlyTraffic.source.not_in(TRIALS))
        .group_by(HourlyTraffic.hour)
        .order_by(HourlyTraffic.hour.desc())
    )
    hours, count = [], 0
    for hour, logged in found:
        hours.append(hour)
        count += logged
        if count >= most:
            break
    return hours


def daily(
    session: Session,
    model: str,
    since: datetime,
    *,
    until: datetime | None = None,
    without: Collection[str] = TRIALS,
) -> dict[int, Counter[datetime]]:
    """Give how many predictions each version of a model made on each day, in UTC; up to the hour of `until`."""
    ended = sa.true() if until is None else HourlyTraffic.hour < until
    found = session.execute(
        sa.select(HourlyTraffic.version, HourlyTraffic.hour, sa.func.sum(HourlyTraffic.predictions))
        .where(HourlyTraffic.hour >= beginning(since, DAY), ended, HourlyTraffic.source.not_in(without))
        .where(HourlyTraffic.model == model)
        .group_by(HourlyTraffic.version, HourlyTraffic.hour)
    )
    counts: defaultdict[int, Counter[datetime]] = defaultdict(Counter)
    for version, hour, predictions in found:
        counts[version][beginning(hour, DAY)] += predictions
    return dict(counts)


def percentile(by_step: Mapping[int, int], percent: int) -> float | None:
    """Give the latency that `percent` of all do not exceed, in seconds: `by_step` has how many are in each step.

    The true one (by nearest rank) lies in the same step, so this is less than twice and more than half of it; in the
    first step, at most 50 µs beside it. In the last step nothing is known but that it is more than 52 s.
    """
    timed = sorted((step, number) for step, number in by_step.items() if step > 0)
    rank = -(-percent * sum(number for _, number in timed) // 100)
    for step, number in timed:
        if rank <= number:
            high = BOUNDS[0] * 2.0 ** (step - 1)
            low = high / 2 if step > 1 else 0.0
            return low + (high - low) * rank / number
        rank -= number
    return None


def beginning(moment: datetime, step: timedelta) -> datetime:
    """Give when the hour or day (in UTC) began that a moment lies in."""
    return moment - (moment - EPOCH) % step


def _steps(session: Session, since: datetime, without: Collection[str], until: datetime | None = None) -> Iterable[Any]:
    """Give the counts of each model and latency step, the models one after the other."""
    ended = sa.true() if until is None else HourlyTraffic.hour < until
    return session.execute(
        _summed(HourlyTraffic.model, HourlyTraffic.latency_step)
        .where(HourlyTraffic.hour >= beginning(since, HOUR), ended, HourlyTraffic.source.not_in(without))
        .order_by(HourlyTraffic.model)
    )


def _total(model: str, steps: Iterable[Any]) -> Total:
    by_step: Counter[int] = Counter()
    warned = 0
    for each in steps:
        by_step[each.latency_step] += each.predictions
        warned += each.warned
    p50, p95, p99 = (percentile(by_step, percent) for percent in (50, 95, 99))
    return Total(model, by_step.total(), warned, p50, p95, p99)
