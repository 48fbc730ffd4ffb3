"""Page of latency and traffic: how much is predicted and how fast, over time, by version, and the slowest ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request

from webapp import registry, web
from webapp.admin import drawing
from webapp.admin.guard import blueprint, needs, small_number
from webapp.admin.pages import number, page, seconds
from webapp.db import Session, now
from webapp.errors import NotFound
from webapp.predictions import failures, search, timings, traffic
from webapp.predictions.failures import Failed
from webapp.predictions.log import Prediction
from webapp.predictions.search import Wanted
from webapp.predictions.traffic import BOUNDS, Chosen, Figures, Timeline, Total

door: Blueprint = blueprint("latency")

SPANS = {
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "30d": ("Last 30 days", timedelta(days=30)),
    "90d": ("Last 90 days", timedelta(days=90)),
}
MOST_SLOWEST = 10
MOST_MARKS = 20
MOST_VERSIONS = 50
# Figures are right up to a factor of two: what differs by less may be the same.
DIFFERS = 2.0
PERCENTILES = ("p50", "p95", "p99")
ACTS = {"activate": "activated", "rollback": "active again"}
# Bars of the histogram are a multiple of so many, so that its labels stand at the ends of bars.
EVENLY = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for."""

    model: str | None
    version: int | None
    span: str

    @property
    def chosen(self) -> Chosen:
        """Whose predictions are counted."""
        return Chosen(self.model, self.version)


@dataclass(frozen=True, slots=True)
class Part:
    """An hour or a day: what was done in it."""

    at: datetime
    total: Total


@dataclass(frozen=True, slots=True)
class Mark:
    """What happened to a model meanwhile."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A step of latency: from its lower end to its upper one (None where it has none), and how many lie in it."""

    low: float
    high: float | None
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How things are, in one sentence."""

    tone: str
    sentence: str


@door.get("/latency")
@needs("viewer")
def show() -> Response:
    """Show how much was predicted in a time and how fast."""
    span = request.args.get("span", "")
    span = span if span in SPANS else "24h"
    with web.parts().database.reading() as session:
        models = [line.name for line in registry.model_lines(session)]
        model = _model(session)
        asked = Asked(model.name if model else None, _version(session, model), span)
        facts = _facts(session, asked)
        versions = [line.number for line in registry.version_lines(session, model, most=MOST_VERSIONS)] if model else []
    if asked.version and asked.version not in versions:
        versions.append(asked.version)
    return page(
        "latency/show.html",
        asked=asked,
        models=[("", "All models"), *((name, name) for name in models)],
        versions=[("", "All versions"), *((each, f"v{each}") for each in versions)],
        spans=[(value, text) for value, (text, _) in SPANS.items()],
        predicting=_predicting,
        during=SPANS[span][0].lower(),
        kept_days=web.parts().settings.retention_days,
        **facts,
    )


def _model(session: Session) -> registry.Model | None:
    name = request.args.get("model", "")
    return registry.get_model(session, name) if name else None


def _version(session: Session, model: registry.Model | None) -> int | None:
    """Read which version is meant; one that the model has not, as after another model was chosen, is none."""
    wanted = small_number("version")
    if model is None or wanted is None:
        return None
    try:
        return registry.get_version(session, model, wanted).number
    except NotFound:
        return None


def _facts(session: Session, asked: Asked) -> dict[str, Any]:
    length = SPANS[asked.span][1]
    until = now()
    timeline = traffic.timeline(session, until - length, until, asked.chosen)
    found = traffic.figures(session, timeline.start, until, asked.chosen)
    before = traffic.figures(session, timeline.start - length, timeline.start, asked.chosen).total
    wanted = Wanted(model=asked.model, version=asked.version, since=timeline.start)
    return {
        "total": found.total,
        "versions_done": found.versions,
        "verdict": _verdict(found.total, before, SPANS[asked.span][0].lower()),
        "failed": [each for each in failures.of_hours(session, timeline.start) if _is_meant(each, asked)],
        "marks": _marks(session, asked, timeline.start, until),
        "slowest": search.slowest(session, wanted, MOST_SLOWEST) if found.total.p50 else None,
        **_drawings(timeline, found),
    }


def _is_meant(failed: Failed, asked: Asked) -> bool:
    return asked.model in {None, failed.model} and asked.version in {None, failed.version}


def _marks(session: Session, asked: Asked, since: datetime, until: datetime) -> list[Mark]:
    found = registry.activations_between(session, since, until, asked.model, MOST_MARKS)
    return [Mark(each.at, f"{name} v{each.to_number} {ACTS[each.act]}") for name, each in found]


def _drawings(timeline: Timeline, found: Figures) -> dict[str, Any]:
    start, step, totals = timeline.start, timeline.step, timeline.totals
    bars = _bars(found.by_step)
    return {
        "parts": [Part(start + at * step, each) for at, each in enumerate(totals)],
        "counts": drawing.columns(start, step, [each.predictions for each in totals]),
        "lines": drawing.lines(start, step, {name: [getattr(each, name) for each in totals] for name in PERCENTILES}),
        "bars": bars,
        "ends": _ends(bars),
    }


def _predicting(row: Prediction) -> float | None:
    """Give the seconds that predicting took, where they were measured."""
    spent = timings.seconds(row.timings)
    return spent["predicting"] if spent else None


# --- The sentence -------------------------------------------------------------------------------------------


def _verdict(total: Total, before: Total, during: str) -> Verdict:
    if not total.predictions:
        return Verdict("", f"No predictions in the {during}. Tests and tries are not counted.")
    counted = "1 prediction" if total.predictions == 1 else f"{number(total.predictions)} predictions"
    if total.p95 is None:
        return Verdict("ok", f"{counted} in the {during}, all of them in batches: nobody waited for them.")
    tone, than = _compared(total.p95, before.p95)
    sentence = f"{counted} in the {during}; of 100, 95 were answered within about {seconds(total.p95)}, {than}."
    return Verdict(tone, sentence)


def _compared(p95: float, before: float | None) -> tuple[str, str]:
    if before is None:
        return "info", "and there is nothing before that to compare with"
    if p95 > DIFFERS * before:
        return "warn", f"slower than in the time before (about {seconds(before)})"
    if p95 < before / DIFFERS:
        return "ok", f"faster than in the time before (about {seconds(before)})"
    return "ok", "as in the time before"


# --- Drawings -----------------------------------------------------------------------------------------------


def _bars(by_step: Mapping[int, int]) -> list[Bar]:
    """Give the steps between the fastest and the slowest, and so many behind them that labels stand evenly."""
    used = [step for step, count in by_step.items() if step > 0 and count]
    if not used:
        return []
    first, last = min(used), max(used)
    last += -(last - first + 1) % EVENLY
    timed = sum(by_step[step] for step in used)
    return [
        Bar(_end(step - 1) or 0.0, _end(step), by_step.get(step, 0), by_step.get(step, 0) / timed)
        for step in range(first, last + 1)
    ]


def _ends(bars: Sequence[Bar]) -> list[str]:
    """Name some ends of bars, evenly from the first to the last."""
    if not bars:
        return []
    every = [seconds(each.low) for each in bars] + [seconds(bars[-1].high) if bars[-1].high else "more"]
    return every[:: len(bars) // EVENLY]


def _end(step: int) -> float | None:
    """Give the longest latency that a step counts; None of the last one."""
    if not step:
        return 0.0
    return BOUNDS[step - 1] if step <= len(BOUNDS) else None
