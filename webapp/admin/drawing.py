"""Drawings of what happened over time, as pages show them without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

LABELS = 5
HEIGHT = 100.0
# So many are written as times of the day, not as days.
HOURS_OF_A_DAY = 50


@dataclass(frozen=True, slots=True)
class Columns:
    """Counts over time."""

    bars: list[int]
    labels: list[str]
    top: int
    unit: str
    rows: list[tuple[datetime, int]]


@dataclass(frozen=True, slots=True)
class Lines:
    """Values over time: by name the path of each, drawn up to `top`."""

    paths: dict[str, str]
    labels: list[str]
    top: float
    width: int


def columns(start: datetime, step: timedelta, bars: list[int]) -> Columns:
    """Draw counts, one for each `step` from `start` on."""
    moments = [start + step * position for position in range(len(bars))]
    top = max(bars, default=0)
    unit = "hour" if step < timedelta(days=1) else "day"
    return Columns(bars, _labels(moments, step), top + top % 2, unit, list(zip(moments, bars, strict=True)))


def lines(start: datetime, step: timedelta, series: dict[str, list[float | None]]) -> Lines:
    """Draw values, one of each series for each `step` from `start` on."""
    count = max(map(len, series.values()))
    top = max((value for values in series.values() for value in values if value is not None), default=0.0)
    labels = _labels([start + step * position for position in range(count)], step)
    return Lines({name: _path(values, top) for name, values in series.items()}, labels, top, 10 * count)


def _labels(moments: Sequence[datetime], step: timedelta) -> list[str]:
    """Name some moments evenly from the first to the last, as they are laid out."""
    is_day = step < timedelta(days=1) and len(moments) < HOURS_OF_A_DAY
    shown = [moments[round(part * (len(moments) - 1) / (LABELS - 1))] for part in range(LABELS)] if moments else []
    return [f"{moment:%H:%M}" if is_day else f"{moment.day} {moment:%b}" for moment in shown]


def _path(values: Sequence[float | None], top: float) -> str:
    """Draw a stretch for each that is known; where nothing is there is a gap."""
    drawn: list[str] = []
    for at, value in enumerate(values):
        if value is not None:
            follows = at > 0 and values[at - 1] is not None
            height = HEIGHT * (1 - value / top)
            # A point alone is as wide as its place.
            drawn.append(f"L{10 * at + 5} {height:.1f}" if follows else f"M{10 * at + 4} {height:.1f}h2")
    return "".join(drawn)
