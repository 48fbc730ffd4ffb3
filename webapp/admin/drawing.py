"""Drawings of what happened over time, as pages show them without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

LABELS = 5
HEIGHT = 100.0
# So many are written as times of the day, not as days.
HOURS_OF_A_DAY = 50

# From the left, and from the top.
Point = tuple[float, float]


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
    return Lines({name: path(_places(values, top)) for name, values in series.items()}, labels, top, 10 * count)


def _labels(moments: Sequence[datetime], step: timedelta) -> list[str]:
    """Name some moments evenly from the first to the last, as they are laid out."""
    is_day = step < timedelta(days=1) and len(moments) < HOURS_OF_A_DAY
    shown = [moments[round(part * (len(moments) - 1) / (LABELS - 1))] for part in range(LABELS)] if moments else []
    return [f"{moment:%H:%M}" if is_day else f"{moment.day} {moment:%b}" for moment in shown]


def _places(values: Sequence[float | None], top: float) -> list[Point | None]:
    return [None if value is None else (10 * at + 5, HEIGHT * (1 - value / top)) for at, value in enumerate(values)]


def path(points: Sequence[Point | None]) -> str:
    """Draw a line through the points, with a gap where one is not known."""
    drawn: list[str] = []
    for before, point, after in zip([None, *points], points, [*points[1:], None], strict=False):
        if point is not None:
            x, y = point
            # One alone is a short stroke.
            start = f"M{x:.1f} {y:.1f}" if after else f"M{x - 1:.1f} {y:.1f}h2"
            drawn.append(f"L{x:.1f} {y:.1f}" if before else start)
    return "".join(drawn)
