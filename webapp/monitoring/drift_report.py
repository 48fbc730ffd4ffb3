"""Drift of a version: what a time held, compared with its reference; what was decided about each closed day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.config import Settings
from webapp.db import Base, Moment, now
from webapp.drift import layout, rule
from webapp.drift.bins import ABOVE, BELOW, MISSING, NEW, Counts
from webapp.drift.layout import Layout, Variable
from webapp.monitoring import attribution, references, refusal_report
from webapp.monitoring.attribution import Source
from webapp.monitoring.refusal_report import Place, Refused
from webapp.predictions import counts, refusals
from webapp.predictions.counts import DriftReference
from webapp.predictions.traffic import DAY, beginning

# A day with fewer rows is looked at together with those before it, up to so many days.
FEWEST_ROWS, MOST_DAYS = 500, 30
WEEK_DAYS = 7
# Days before it, in which nothing had drifted, say how much days differ anyway; fewer say nothing.
CALIBRATING_DAYS, FEWEST_CALIBRATING = 30, 5
# A day and the week that it ends are looked at: each spends half of the budget of false alarms.
LOOKS_PER_YEAR = 2 * 365
# What was refused is looked at as one more variable.
REFUSED = "refused:rows"
Role = Literal[layout.Role, "refused"]
# A day is decided about within minutes of its end; hours later, something is wrong.
LATE = timedelta(hours=2)
# What can be asked for: the days before and after are there, too.
FIRST_YEAR, LAST_YEAR = 1970, 9000


@dataclass(frozen=True, slots=True)
class Terms:
    """How strict to be: which change is tolerated, and how many false alarms a year."""

    tolerance: float = rule.TOLERANCE
    alarms_per_year: float = rule.ALARMS_PER_YEAR

    @property
    def level(self) -> float:
        """The probability of a false alarm at one look."""
        return self.alarms_per_year / LOOKS_PER_YEAR


def terms(settings: Settings) -> Terms:
    """Give how strict an installation is."""
    return Terms(settings.drift_tolerance, settings.drift_alarms_per_year)


def read_day(text: str) -> datetime:
    """Read a date as people write it; `ValueError` where it is none, or one that no prediction can be of."""
    day = datetime.combine(date.fromisoformat(text), time.min, UTC)
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(text)
    return day


@dataclass(frozen=True, slots=True)
class Finding:
    """One input or output of a version in a time, or its refusals. Shares are of all rows, from 0 to 1."""

    id: str
    role: Role
    name: str
    drifted: bool
    severity: str
    effect: float
    p: float | None
    detectable: float | None
    dispersion: float
    # Here and in the reference: what is missing; what lies below or above everything that the reference has.
    missing: tuple[float, float]
    outside: tuple[float, float]
    new: float
    # How many days were looked at.
    days: int
    # Whose traffic the change comes from, where it was looked up.
    sources: tuple[Source, ...] = ()
    # Of refusals: how many there were, and why.
    refused: Refused | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the public form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found out about a time; findings are ordered by how surely they have changed."""

    model: str
    version: int
    since: datetime
    until: datetime
    rows: int
    reference_rows: int
    findings: tuple[Finding, ...]

    @property
    def drifted(self) -> list[Finding]:
        """Those that have changed by more than is tolerated."""
        return [each for each in self.findings if each.drifted]

    @property
    def enough(self) -> bool:
        """Whether there were enough rows to say anything."""
        return self.rows >= rule.FEWEST_ROWS

    @property
    def refused(self) -> Refused | None:
        """What was refused; None where nothing was, here and before."""
        return next((each.refused for each in self.findings if each.refused), None)

    def as_dict(self) -> dict[str, Any]:
        """Give the public form."""
        times = {"since": self.since.isoformat(), "until": self.until.isoformat()}
        findings = [_public(each) for each in self.findings if each.refused is None]
        refused = next((_refusals(each) for each in self.findings if each.refused), None)
        found = {"findings": findings, "drifted": [each.id for each in self.drifted], "refused": refused}
        return asdict(self) | times | found


def _public(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in finding.as_dict().items() if name != "refused"}


def _refusals(finding: Finding) -> dict[str, Any]:
    """Give refusals with what was found of them: they are of rows, and not of values."""
    found = ("drifted", "severity", "effect", "p", "detectable", "dispersion", "days")
    assert finding.refused is not None, "it is of refusals"
    return finding.refused.as_dict() | {name: getattr(finding, name) for name in found}


class DriftDecision(Base):
    """What was decided about a day of a version when it was over."""

    __tablename__ = "drift_decisions"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's interface

    model: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    # From when the rows are: earlier than the day where that had few.
    since: Mapped[datetime] = mapped_column(Moment)
    rows: Mapped[int]
    # Findings by their ids, and those that have drifted, in the day itself or in the week that it ends.
    findings: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON)
    drifted: Mapped[list[str]] = mapped_column(sa.JSON)
    decided_at: Mapped[datetime] = mapped_column(Moment)


# --- A time ---------------------------------------------------------------------------------------------------


def report(session: Session, model: str, version: int, since: datetime, until: datetime, terms: Terms) -> Report:
    """Compare what a version predicted in a time with its reference. `NotFound` where there is none."""
    reference = references.get(session, model, version)
    return _report(session, reference, _Time(counts.between(session, reference, since, until), since, until), terms)


@dataclass(frozen=True, slots=True)
class _Time:
    """A time and what it held; where there was little, more of it is looked at for what was refused, or less."""

    window: Counts
    since: datetime
    until: datetime
    refused_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Beside:
    """The counts of a variable in a time and in what it is compared with, and how much its days differ anyway."""

    variable: Variable
    here: Counts
    reference: Counts
    dispersion: float

    def compared(self, terms: Terms) -> rule.Comparison:
        """Compare them."""
        return rule.compare(
            self.reference,
            self.here,
            ordered=self.variable.binning.is_ordered,
            tolerance=terms.tolerance,
            dispersion=self.dispersion,
            level=terms.level,
        )

    def finding(self, result: rule.Comparison, days: int, *, drifted: bool) -> Finding:
        """Say what came of it."""
        cells = self.variable.binning.cells
        here, reference = (dict(zip(cells, _shares(each), strict=True)) for each in (self.here, self.reference))
        return Finding(
            self.variable.id,
            self.variable.role,
            self.variable.name,
            drifted,
            result.severity,
            result.effect,
            result.p,
            result.detectable,
            self.dispersion,
            (here[MISSING], reference[MISSING]),
            (_outside(here), _outside(reference)),
            here.get(NEW, 0.0),
            days,
        )


def _outside(shares: dict[str, float]) -> float:
    return shares.get(BELOW, 0.0) + shares.get(ABOVE, 0.0)


def _report(session: Session, reference: DriftReference, asked: _Time, terms: Terms) -> Report:
    beside = list(_beside(session, reference, asked.window, asked.since))
    results = [each.compared(terms) for each in beside]
    refused = _refused(session, reference, asked, terms)
    p_by_id = {each.variable.id: result.p for each, result in zip(beside, results, strict=True)}
    drifted = rule.alarms(p_by_id | {each.id: each.p for each in refused}, terms.level)
    findings = [
        *(
            each.finding(result, (asked.until - asked.since).days, drifted=each.variable.id in drifted)
            for each, result in zip(beside, results, strict=True)
        ),
        *(replace(each, drifted=each.id in drifted) for each in refused),
    ]
    # Every variable is counted in every row.
    rows, reference_rows = results[0].rows, results[0].reference_rows
    ordered = tuple(sorted(findings, key=_order))
    return Report(reference.model, reference.version, asked.since, asked.until, rows, reference_rows, ordered)


def _refused(session: Session, reference: DriftReference, asked: _Time, terms: Terms) -> list[Finding]:
    """Give what is found of refusals, nothing where there are none; whether they drifted is decided with the rest."""
    since = asked.refused_since or asked.since
    unwell = _unwell(session, reference.model, since - refusal_report.USUAL_DAYS * DAY)
    beside = refusal_report.beside(session, reference, since, asked.until, unwell)
    if beside is None:
        return []
    found = beside.compared(terms.tolerance, terms.level)
    none = (0.0, 0.0)
    return [
        Finding(
            REFUSED,
            "refused",
            "refused rows",
            drifted=False,
            severity=found.severity,
            effect=found.effect,
            p=found.p,
            detectable=found.detectable,
            dispersion=beside.dispersion,
            missing=none,
            outside=none,
            new=0.0,
            days=beside.days,
            refused=beside.refused,
        )
    ]


def _unwell(session: Session, model: str, since: datetime) -> set[Place]:
    """Give the days of a model's versions on which more was refused than is usual."""
    row = DriftDecision
    chosen = sa.select(row.version, row.day, row.drifted).where(row.model == model, row.day >= since)
    return {(version, day) for version, day, drifted in session.execute(chosen) if REFUSED in drifted}


def _beside(session: Session, reference: DriftReference, window: Counts, since: datetime) -> Iterator[_Beside]:
    meant = layout.from_json(reference.layout)
    against = counts.compared_with(session, reference, since)
    healthy = _by_variable(meant, _days_before(session, reference, since))
    for (variable, here), (_, theirs), days in zip(meant.parts(window), meant.parts(against), healthy, strict=True):
        yield _Beside(variable, here, theirs, rule.dispersion(days) if len(days) >= FEWEST_CALIBRATING else 1.0)


def _shares(of: Counts) -> list[float]:
    shares: list[float] = (of / max(int(of.sum()), 1)).tolist()
    return shares


def _days_before(session: Session, reference: DriftReference, until: datetime) -> list[tuple[Counts, set[str]]]:
    """Give the counts of the days before that were decided about, each with what had drifted then."""
    since = until - CALIBRATING_DAYS * DAY
    by_day = counts.by_day(session, reference, since, until)
    decided = {each.day: set(each.drifted) for each in decisions(session, reference.model, reference.version, since)}
    return [(found, decided[day]) for day, found in by_day.items() if day in decided]


def _by_variable(meant: Layout, days: Sequence[tuple[Counts, set[str]]]) -> Iterator[list[Counts]]:
    """Give for each variable its counts on the days on which it had not drifted."""
    split = [({each.id: part for each, part in meant.parts(found)}, drifted) for found, drifted in days]
    for variable in meant.variables:
        yield [parts[variable.id] for parts, drifted in split if variable.id not in drifted]


# --- Closed days --------------------------------------------------------------------------------------------


def decide(session: Session, model: str, version: int, day: datetime, terms: Terms) -> DriftDecision | None:
    """Decide about a day that is over, once; None where it was decided before or the version was not asked."""
    reference = references.get(session, model, version)
    if session.get(DriftDecision, (model, version, day)) is not None:
        return None
    by_day = counts.by_day(session, reference, day + DAY - MOST_DAYS * DAY, day + DAY)
    if day not in by_day and not refusals.days(session, model, version, day, day + DAY):
        return None
    found = _looked_at(session, reference, by_day, day, terms)
    sources = attribution.sources(session, reference, found.since, found.until, [each.id for each in found.drifted])
    decision = DriftDecision(
        model=model,
        version=version,
        day=day,
        since=found.since,
        rows=found.rows,
        findings=[replace(each, sources=sources.get(each.id, ())).as_dict() for each in found.findings],
        drifted=sorted(each.id for each in found.drifted),
        decided_at=now(),
    )
    session.add(decision)
    return decision


def _looked_at(
    session: Session, reference: DriftReference, by_day: Mapping[datetime, Counts], day: datetime, terms: Terms
) -> Report:
    """Report on a day and as many before it as it needs, with what has drifted only over the week that it ends."""
    meant, until = layout.from_json(reference.layout), day + DAY
    since = _far_enough({each: meant.rows(counted) for each, counted in by_day.items()}, day)
    asked_since = _far_enough(refusal_report.asked(session, reference, until - MOST_DAYS * DAY, until), day)
    found = _report(session, reference, _Time(_sum(by_day, meant, since), since, until, asked_since), terms)
    week = until - WEEK_DAYS * DAY
    if since <= week:
        return found
    over_week = _report(session, reference, _Time(_sum(by_day, meant, week), week, until), terms)
    return replace(found, findings=tuple(_worse(found, over_week)))


def _worse(day: Report, week: Report) -> list[Finding]:
    """Give what was found on a day, or over the week where only that has drifted."""
    over_week = {each.id: each for each in week.drifted}
    return [each if each.drifted else over_week.get(each.id, each) for each in day.findings]


def _far_enough(by_day: Mapping[datetime, int], day: datetime) -> datetime:
    """Give from when on there are enough rows up to the end of a day; one with none is not looked back from."""
    rows, since = 0, day
    for each in sorted(by_day, reverse=True):
        rows, since = rows + by_day[each], each
        if rows >= FEWEST_ROWS:
            break
    return since


def _sum(by_day: Mapping[datetime, Counts], meant: Layout, since: datetime) -> Counts:
    return sum((found for day, found in by_day.items() if day >= since), np.zeros(meant.width, dtype=np.int64))


def of_day(session: Session, model: str, version: int, day: datetime, terms: Terms) -> Report:
    """Give what was decided about a day; before that, what there is of it so far."""
    decision = session.get(DriftDecision, (model, version, day))
    if decision is None:
        return report(session, model, version, day, day + DAY, terms)
    findings = sorted(map(_from_dict, decision.findings), key=_order)
    reference = references.get(session, model, version)
    against = counts.compared_with(session, reference, decision.since)
    reference_rows = layout.from_json(reference.layout).rows(against)
    return Report(model, version, decision.since, day + DAY, decision.rows, reference_rows, tuple(findings))


def _from_dict(document: dict[str, Any]) -> Finding:
    sources = tuple(Source(**each) for each in document["sources"])
    shares = {name: tuple(document[name]) for name in ("missing", "outside")}
    refused = refusal_report.from_dict(document["refused"]) if document.get("refused") else None
    return Finding(**{**document, **shares, "sources": sources, "refused": refused})


def _order(finding: Finding) -> tuple[bool, float, str]:
    return not finding.drifted, -finding.effect, finding.id


def undecided(session: Session, model: str, version: int, until: datetime) -> list[datetime]:
    """Give the days before a moment, of the last month, that nobody has decided about though the version was asked."""
    today = beginning(until, DAY)
    since = today - MOST_DAYS * DAY
    row = DriftDecision
    known = sa.select(row.day).where(row.model == model, row.version == version, row.day >= since)
    asked = counts.days(session, model, version, since, today) | refusals.days(session, model, version, since, today)
    return sorted(asked - set(session.scalars(known)))


def late(session: Session, model: str, version: int) -> list[datetime]:
    """Give the days that should have been decided about by now: nobody does so, or it does not keep up."""
    return undecided(session, model, version, now() - LATE)


def decisions(session: Session, model: str, version: int, since: datetime) -> list[DriftDecision]:
    """Give what was decided about days since a moment, the oldest first."""
    row = DriftDecision
    chosen = sa.select(row).where(row.model == model, row.version == version, row.day >= since)
    return list(session.scalars(chosen.order_by(row.day)))
