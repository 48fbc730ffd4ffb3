"""Page of drift: whether what a version is asked and answers is still what its reference had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import keys, registry, web
from webapp.admin.guard import actor, blueprint, needs
from webapp.admin.pages import page
from webapp.db import Session, now
from webapp.drift import layout
from webapp.drift.bins import Counts
from webapp.errors import Invalid
from webapp.monitoring import description, drift_report, references
from webapp.monitoring.description import Description
from webapp.monitoring.drift_report import DriftDecision, Finding, Report
from webapp.predictions import counts
from webapp.predictions.counts import DriftReference
from webapp.predictions.traffic import DAY, beginning

door: Blueprint = blueprint("drift")

SHOWN_DAYS = 14
MOST_LABELS = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for: one version that is counted, and a day."""

    model: str
    version: int
    day: datetime
    shown: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a variable: its name, and its shares of the reference and of the time, in percent."""

    name: str
    reference: float
    here: float


@dataclass(frozen=True, slots=True)
class Line:
    """A variable over the last days: its effect on each, and whether it had drifted; None where nothing was decided."""

    id: str
    name: str
    days: list[tuple[float, bool] | None]

    @property
    def points(self) -> str:
        """Draw it."""
        effects = [each[0] if each else 0.0 for each in self.days]
        step, top = 100 / max(len(effects) - 1, 1), max(*effects, 0.25)
        return " ".join(f"{number * step:.1f},{19 - 18 * each / top:.1f}" for number, each in enumerate(effects))


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
    waiting = sorted((name, number) for name, number in active if number and (name, number) not in counted)
    if not counted:
        return page("drift/none.html", waiting=waiting, models=active)
    status, typed = 422 if errors else 200, request.form
    return page(
        "drift/show.html",
        status,
        errors=errors or {},
        typed=typed,
        counted=counted,
        waiting=waiting,
        today=today,
        days=days,
        **facts,
    )


def _facts(session: Session, which: tuple[str, int], days: list[datetime], today: datetime) -> dict[str, Any]:
    terms = drift_report.terms(web.parts().settings)
    decided = drift_report.decisions(session, *which, days[0])
    asked = Asked(*which, _day(decided[-1].day if decided else today), request.args.get("shown", ""))
    reference = references.get(session, *which)
    found = drift_report.of_day(session, *which, asked.day, terms)
    finding = next((each for each in found.findings if each.id == asked.shown), found.findings[0])
    return {
        "asked": asked,
        "terms": terms,
        "reference": reference,
        "found": found,
        "finding": finding,
        "lines": _lines(found, decided, days),
        "cells": _cells(session, reference, found, finding),
        "described": _described(session, asked, found, finding),
        "names": keys.names(session, {each.key_id for one in found.findings for each in one.sources}),
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
    by_day = {each.day: ({one["id"]: one["effect"] for one in each.findings}, set(each.drifted)) for each in decided}

    def of(finding: Finding, day: datetime) -> tuple[float, bool] | None:
        effects, drifted = by_day.get(day, ({}, set()))
        return (effects[finding.id], finding.id in drifted) if finding.id in effects else None

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


def _described(session: Session, asked: Asked, found: Report, finding: Finding) -> Description | None:
    version = registry.get_version(session, registry.get_model(session, asked.model), asked.version)
    if finding.role != "input" or finding.name not in description.numbers_of(version):
        return None
    store = web.parts().artifacts
    return next(iter(description.describe(session, store, version, [finding.name], found.since, found.until)), None)


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
