"""The page of quality: whether a model's predictions turned out to be right, by version and over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request

from webapp import quality, registry, web
from webapp.admin import calls
from webapp.admin.guard import blueprint, needs, small_number
from webapp.admin.pages import page
from webapp.db import Session
from webapp.monitoring import quality_report
from webapp.monitoring.quality_report import Figures, VersionReport
from webapp.quality import Bin, Score, State
from webapp.registry import ModelLine

door: Blueprint = blueprint("quality")

SPANS = {"7d": "Last 7 days", "30d": "Last 30 days", "90d": "Last 90 days"}
TONES: dict[State, str] = {"worse": "bad", "fine": "ok", "unjudged": "info", "collecting": "info", "none": ""}
WORDS: dict[State, str] = {
    "worse": "Worse",
    "fine": "As expected",
    "unjudged": "Nothing to compare",
    "collecting": "Collecting",
    "none": "No ground truth",
}
LABELS = 5
# Scores that lie between 0 and 1.
SHARES = frozenset({"accuracy", "balanced_accuracy", "f1", "auc", "brier"})


@dataclass(frozen=True, slots=True)
class Mark:
    """A value of a drawing with its interval: from the top, in percent of the height."""

    x: float
    width: float
    y: float
    top: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Values side by side, a line to compare them with, and what is written beside them."""

    width: float
    marks: tuple[Mark, ...]
    # An SVG path.
    line: str
    scale: tuple[str, str, str]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One output of the chosen version as the page shows it."""

    name: str
    main: str
    over_time: Plot | None
    calibration: Plot | None
    scores: tuple[Score, ...]
    bins: tuple[Bin, ...]


@door.get("/quality")
@needs("viewer")
def show() -> Response:
    """Show how good a model's predictions turned out to be, by version and over time."""
    span = request.args.get("window", "")
    span = span if span in SPANS else "30d"
    kept_days = web.parts().settings.retention_days
    with web.parts().database.reading() as session:
        lines = registry.model_lines(session)
        name = request.args.get("model") or _first(lines)
        facts = _facts(session, name, span, kept_days) if name else {}
    models = [(line.name, line.name) for line in lines]
    # What can be chosen is there, whatever the address says.
    shown = {"name": name, "models": models, "span": span, "spans": list(SPANS.items()), "tones": TONES}
    return page("quality/show.html", **shown, words=WORDS, titles=quality.TITLES, kept_days=kept_days, **facts)


def _first(lines: Sequence[ModelLine]) -> str | None:
    """Give the model to begin with: the first that answers."""
    return next((line.name for line in lines if line.active_number), lines[0].name if lines else None)


def _facts(session: Session, name: str, span: str, kept_days: int) -> dict[str, Any]:
    within = quality_report.window(span, kept_days)
    report = quality_report.report(session, name, within)
    chosen = report.of(small_number("version")) or report.of(None)
    telling = calls.telling(session, name, chosen.number) if chosen else None
    return {
        "report": report,
        "chosen": chosen,
        "parts": [_part(chosen, output) for output in chosen.period.outputs] if chosen else [],
        "telling": telling,
        "most_scored": quality_report.MOST_SCORED,
        "least": quality.LEAST_JUDGED,
    }


def _part(chosen: VersionReport, output: str) -> Part:
    scores = chosen.period.outputs[output]
    main = quality.main_metric(scores, chosen.card)
    return Part(
        output,
        main,
        _over_time(chosen.parts, output, main, chosen.card.get(main)),
        _calibration(scores.calibration) if scores.calibration else None,
        scores.scores,
        scores.calibration,
    )


# --- Drawings ---------------------------------------------------------------------------------------------


def _over_time(parts: Sequence[Figures], output: str, main: str, stated: float | None) -> Plot | None:
    """Draw a score of each part with its interval, and the card's as a line."""
    found = [each.outputs[output].of(main) for each in parts]
    values = [value for each in found for value in (each.value, each.low, each.high) if value is not None]
    if not values:
        return None
    bottom, top = _ends([*values, *([] if stated is None else [stated])], main)
    width = 10 * len(found)
    marks = tuple(_mark(10 * at + 1.5, 7, each, bottom, top) for at, each in enumerate(found) if each.value is not None)
    line = "" if stated is None else f"M0 {_height(stated, bottom, top)}H{width}"
    # Evenly from the first to the last, as they are laid out.
    days = [parts[round(place * (len(parts) - 1) / (LABELS - 1))].since for place in range(LABELS)]
    labels = tuple(dict.fromkeys(f"{day.day} {day:%b}" for day in days))
    scale = tuple(quality.shown(main, each) for each in (top, (top + bottom) / 2, bottom))
    return Plot(width, marks, line, (scale[0], scale[1], scale[2]), labels)


def _ends(values: Sequence[float], main: str) -> tuple[float, float]:
    """Give where a scale ends: a little beyond the values, and not beyond what can be."""
    low, high = min(values), max(values)
    room = (high - low) * 0.1 or abs(high) * 0.1 or 0.1
    if main in SHARES:
        return max(0.0, low - room), min(1.0, high + room)
    return (low - room if main in {"r2", "bias"} else max(0.0, low - room)), high + room


def _mark(x: float, width: float, found: Score, bottom: float, top: float) -> Mark:
    value = found.value or 0.0
    ends = (found.high if found.high is not None else value, found.low if found.low is not None else value)
    heights = (_height(each, bottom, top) for each in (value, *ends))
    return Mark(x, width, *heights)


def _height(value: float, bottom: float, top: float) -> float:
    return round(100 * (1 - (value - bottom) / (top - bottom)), 2) if not math.isclose(top, bottom) else 50.0


def _calibration(bins: Sequence[Bin]) -> Plot:
    """Draw how often things were so against how often they were said to be; right is what lies on the line."""
    marks = tuple(_mark(100 * each.low + 1, 100 * (each.high - each.low) - 2, each.true, 0, 1) for each in bins)
    return Plot(100, marks, "M0 100L100 0", ("100 %", "50 %", "0 %"), ("0 %", "50 %", "100 %"))
