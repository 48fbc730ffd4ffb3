"""Page of drift: whether what a version is asked and answered is still what its reference had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import alerts, keys, registry, web
from webapp.admin import drawing
from webapp.admin.drawing import Point
from webapp.admin.guard import actor, blueprint, needs
from webapp.admin.pages import page
from webapp.admin.predictions import MOST_EXPORTED
from webapp.alerts import Alert
from webapp.db import Session, now
from webapp.drift import layout
from webapp.drift.bins import Counts
from webapp.errors import Invalid
from webapp.monitoring import description, drift_report, new_values, references, refusal_report
from webapp.monitoring.description import Description
from webapp.monitoring.drift_report import DriftDecision, Finding, Report
from webapp.monitoring.new_values import NewValue
from webapp.predictions import counts, traffic
from webapp.predictions.counts import FIRST_ROWS, DriftReference
from webapp.predictions.traffic import DAY, EPOCH, beginning
from webapp.registry import Version

door: Blueprint = blueprint("drift")

SHOWN_DAYS = 14
MAJOR = 0.25


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for: one version that is counted, and a day."""

    model: str
    version: int
    day: datetime
    shown: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A version that is not counted yet; one without a reference is compared with what it predicts first."""

    name: str
    number: int
    has_reference: bool
    made: int

    @property
    def left(self) -> int:
        """How many predictions are missing."""
        return max(FIRST_ROWS - self.made, 0)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a variable: its name, and its shares of the reference and of the time, in percent."""

    name: str
    reference: float
    here: float


@dataclass(frozen=True, slots=True)
class Day:
    """What was decided about a variable on a day."""

    effect: float
    drifted: bool
    detectable: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """A variable over the last days; None where nothing was decided."""

    id: str
    name: str
    days: list[Day | None]

    @property
    def _effects(self) -> list[float | None]:
        return [each.effect if each else None for each in self.days]

    @property
    def points(self) -> str:
        """Draw it small."""
        places = self._places([each or 0.0 for each in self._effects])
        return " ".join(f"{x:.1f},{1 + 0.18 * y:.1f}" for x, y in filter(None, places))

    @property
    def top(self) -> float:
        """Where its drawing ends."""
        known = [each for each in self.days if each]
        return max([MAJOR, *(each.effect for each in known), *(each.detectable or 0 for each in known)])

    @property
    def path(self) -> str:
        """Draw it, with a gap where nothing was decided."""
        return drawing.path(self._places(self._effects))

    @property
    def seen(self) -> str:
        """Draw from where on a shift would have been found."""
        return drawing.path(self._places([each.detectable if each else None for each in self.days]))

    def height(self, value: float) -> float:
        """Say where a value lies, from the top."""
        return round(100 - 100 * value / self.top, 2)

    def _places(self, values: Sequence[float | None]) -> list[Point | None]:
        step = 100 / max(len(values) - 1, 1)
        return [None if value is None else (at * step, self.height(value)) for at, value in enumerate(values)]


@door.get("/drift")
@needs("viewer")
def show() -> Response:
    """Show what was found out about a version and a day, and one of its variables closely."""
    return _shown()


def _shown(errors: Mapping[str, str] | None = None) -> Response:
    today = beginning(now(), DAY)
    days = [today - number * DAY for number in range(SHOWN_DAYS, 0, -1)]
    with web.parts().database.reading() as session:
        active = {(model.name, model.active_number) for model in registry.all_models(session)}
        counted = sorted(counts.counted(session))
        facts = _facts(session, _asked(counted, active), days, today) if counted else {}
        missing = sorted((name, number) for name, number in active if number and (name, number) not in counted)
        waiting = [_waiting(session, name, number) for name, number in missing]
    if not counted:
        return page("drift/none.html", waiting=waiting, models=active, first_rows=FIRST_ROWS)
    status, typed = 422 if errors else 200, request.form
    shown = {"counted": counted, "waiting": waiting, "active": dict(active), "today": today, "days": days}
    return page("drift/show.html", status, errors=errors or {}, typed=typed, first_rows=FIRST_ROWS, **shown, **facts)


def _waiting(session: Session, name: str, number: int) -> Waiting:
    version = _registered(session, name, number)
    made = traffic.by_version(session, name, EPOCH).get(number, 0)
    return Waiting(name, number, version.reference is not None, made)


def _registered(session: Session, name: str, number: int) -> Version:
    return registry.get_version(session, registry.get_model(session, name), number)


def _facts(session: Session, which: tuple[str, int], days: list[datetime], today: datetime) -> dict[str, Any]:
    terms = drift_report.terms(web.parts().settings)
    decided = drift_report.decisions(session, *which, days[0])
    asked = Asked(*which, _day(decided[-1].day if decided else today), request.args.get("shown", ""))
    reference = references.get(session, *which)
    found = drift_report.of_day(session, *which, asked.day, terms)
    finding = next((each for each in found.findings if each.id == asked.shown), found.findings[0])
    lines = _lines(found, decided, days)
    return {
        "asked": asked,
        "terms": terms,
        "reference": reference,
        "found": found,
        "finding": finding,
        "lines": lines,
        "line": next(each for each in lines if each.id == finding.id),
        "cells": [] if finding.refused else _cells(session, reference, found, finding),
        "names": keys.names(session, {each.key_id for one in found.findings for each in one.sources}),
        "said": refusal_report.said,
        "switched": _switched(session, asked.model, days),
        "late": drift_report.late(session, *which),
        "alerts": _alerts(session, which),
        "percentiles": description.PERCENTILES,
        "most_exported": MOST_EXPORTED,
        **_read(session, reference, found, finding),
    }


def _asked(counted: list[tuple[str, int]], active: set[tuple[str, int | None]]) -> tuple[str, int]:
    """Read which version the address means; where it does not say, an active one."""
    wanted = _version()
    if wanted in counted:
        return wanted
    named = request.args.get("model") or wanted[0]
    likely = [each for each in counted if each[0] == named] or counted
    return next((each for each in likely if each in active), likely[-1])


def _day(usual: datetime) -> datetime:
    """Read which day the address means; where it does not say, the usual one."""
    try:
        return drift_report.read_day(request.args.get("day", ""))
    except ValueError:
        return usual


def _lines(found: Report, decided: list[DriftDecision], days: list[datetime]) -> list[Line]:
    by_day = {each.day: ({one["id"]: one for one in each.findings}, set(each.drifted)) for each in decided}

    def of(finding: Finding, day: datetime) -> Day | None:
        known, drifted = by_day.get(day, ({}, set()))
        if finding.id not in known:
            return None
        return Day(known[finding.id]["effect"], finding.id in drifted, known[finding.id]["detectable"])

    return [Line(each.id, each.name, [of(each, day) for day in days]) for each in found.findings]


def _cells(session: Session, reference: DriftReference, found: Report, finding: Finding) -> list[Cell]:
    """Give what the drawing of a variable shows; cells that nothing is in are left out where they are no interval."""
    meant = layout.from_json(reference.layout)
    here = meant.parts(counts.between(session, reference, found.since, found.until))
    theirs = meant.parts(counts.compared_with(session, reference, found.since))
    variable, mine, usual = next(
        (each, mine, usual) for (each, mine), (_, usual) in zip(here, theirs, strict=True) if each.id == finding.id
    )
    shares = zip(variable.binning.cells, _percent(usual), _percent(mine), strict=True)
    cells = [Cell(name, usual_share, share) for name, usual_share, share in shares]
    return [each for each in cells if "…" in each.name or each.reference or each.here]


def _percent(of: Counts) -> list[float]:
    shares: list[float] = (100 * of / max(int(of.sum()), 1)).tolist()
    return shares


def _switched(session: Session, name: str, days: list[datetime]) -> dict[datetime, int]:
    """Give the days on which another version of a model became active, and the last one that did."""
    history = registry.history(session, registry.get_model(session, name))
    return {beginning(each.at, DAY): each.to_number for each in history if days[0] <= each.at < days[-1] + DAY}


def _alerts(session: Session, which: tuple[str, int]) -> dict[str, Alert]:
    """Give the alerts of a version that are so now, by what has drifted."""
    model, number = which
    beginning_of = f"v{number} "
    found = alerts.standing(session, "drift", model)
    return {each.subject.removeprefix(beginning_of): each for each in found if each.subject.startswith(beginning_of)}


def _read(session: Session, reference: DriftReference, found: Report, finding: Finding) -> dict[str, Any]:
    """Read from the log what counts do not know: a number's percentiles, and new values by their names."""
    version = _registered(session, found.model, found.version)
    is_number = finding.role == "input" and finding.name in description.numbers_of(version)
    new = {each.id for each in found.findings if each.new}
    described: list[Description] = []
    named: dict[str, tuple[NewValue, ...]] = {}
    if is_number or new:
        newest = description.newest(session, found.model, found.version, found.since, found.until)
        wanted = [finding.name] if is_number else []
        described = description.describe(web.parts().artifacts, version, wanted, newest)
        named = new_values.named(reference, newest, new)
    return {"described": next(iter(described), None), "new_values": named, "most_read": description.MOST_ROWS}


@door.post("/drift/compare-with")
@needs("operator")
def compare_with() -> AnyResponse:
    """Compare a version with a time of its own predictions."""
    model, number = _version()
    try:
        with web.parts().database.transaction() as session:
            since, until = (_date(name) for name in ("since", "until"))
            references.choose(session, actor(), model, number, since, until + DAY)
    except Invalid as invalid:
        return _shown({str(invalid.more.get("field", "since")): invalid.detail})
    return _chosen(model, number)


@door.post("/drift/compare-with-reference")
@needs("operator")
def compare_with_reference() -> AnyResponse:
    """Compare a version with its own reference again."""
    model, number = _version()
    with web.parts().database.transaction() as session:
        references.choose_packed(session, actor(), model, number)
    return _chosen(model, number)


def _version() -> tuple[str, int]:
    """Read which version is meant; one that is none is found by nobody."""
    model, _, version = request.values.get("version", "").partition(" v")
    return model, int(version) if version.isdecimal() and len(version) < registry.MOST_NUMBER_DIGITS else 0


def _chosen(model: str, number: int) -> AnyResponse:
    flash("Days that are decided from now on are compared so; what was decided before stays.", "ok")
    return redirect(url_for("admin_drift.show", version=f"{model} v{number}"), code=303)


def _date(name: str) -> datetime:
    try:
        return drift_report.read_day(request.form.get(name, ""))
    except ValueError:
        raise Invalid("date_unreadable", "Write the day as a date, such as 2026-11-01.", more={"field": name}) from None
