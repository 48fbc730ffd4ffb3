"""The rule: a variable has drifted where its change is larger than what is tolerated, and not by chance.

Two counts of the same cells are compared by the two-sample chi-square statistic. Where the change is exactly as large
as is tolerated, that follows a noncentral chi-square distribution, whose threshold grows with the number of rows: what
is trivial stays silent however many rows show it (the idea of the population resemblance statistic). Which of several
variables have drifted is decided by Holm's procedure, at a level that spends a yearly budget of false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats  # type: ignore[import-untyped] # scipy ships no types

from webapp.drift.bins import Counts

# Normal distributions that differ by 0.14 standard deviations differ so much.
TOLERANCE = 0.02
ALARMS_PER_YEAR = 1.0
FEWEST_ROWS = 200
# A cell in which fewer rows are expected than this, and fewer were seen than that, counts with its neighbour. So does a
# part of all rows as small as this where cells have an order: a bit more than the largest is like the largest.
FEWEST_EXPECTED, FEWEST_SEEN, SMALL_PART = 1.0, 5, 0.02
MODERATE, MAJOR = 0.1, 0.25
# With which probability a change that is called detectable is detected.
POWER = 0.8
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two counts of one variable beside each other."""

    rows: int
    reference_rows: int
    # Cells that were compared, less one.
    degrees: int
    statistic: float
    # The population stability index, less what chance alone gives it: 0 is no change.
    effect: float
    # How probable such a statistic is where the change is as large as tolerated; None where there are too few rows.
    p: float | None
    # The smallest effect that would be noticed in four of five times.
    detectable: float | None

    @property
    def severity(self) -> str:
        """A word for how large the change is; it decides nothing."""
        return "minor" if self.effect < MODERATE else "moderate" if self.effect < MAJOR else "major"


def compare(
    reference: Counts,
    window: Counts,
    *,
    ordered: bool,
    tolerance: float = TOLERANCE,
    dispersion: float = 1.0,
    level: float = ALARMS_PER_YEAR / 365,
) -> Comparison:
    """Compare counts of the same cells.

    `dispersion` says how much more windows differ than independent rows would (1: not at all), by which statistic and
    threshold are divided (Rao and Scott, 1981). `level` only serves to say what is detectable.
    """
    rows, reference_rows = int(window.sum()), int(reference.sum())
    r, c = _merged(reference, window, ordered=ordered)
    degrees = len(r) - 1
    if not rows or not reference_rows:
        return Comparison(rows, reference_rows, max(degrees, 0), 0.0, 0.0, None, None)
    statistic = chi_square(r, c)
    effect = max(0.0, _stability(r, c) - degrees * (1 / rows + 1 / reference_rows))
    if degrees < 1:
        return Comparison(rows, reference_rows, 0, 0.0, 0.0, 1.0 if rows >= FEWEST_ROWS else None, None)
    if rows < FEWEST_ROWS:
        return Comparison(rows, reference_rows, degrees, statistic, effect, None, None)
    size = rows * reference_rows / (rows + reference_rows) / dispersion
    p = float(stats.ncx2.sf(statistic / dispersion, degrees, tolerance * size))
    return Comparison(
        rows,
        reference_rows,
        degrees,
        statistic,
        effect,
        p,
        _detectable(degrees, size, tolerance=tolerance, level=level),
    )


def chi_square(reference: Figures, window: Figures) -> float:
    """Give the two-sample chi-square statistic of cells of which none is empty in both."""
    total = reference + window
    n, m = window.sum(), reference.sum()
    expected = total * n / (n + m), total * m / (n + m)
    return float(
        ((window - expected[0]) ** 2 / expected[0]).sum() + ((reference - expected[1]) ** 2 / expected[1]).sum()
    )


def _merged(reference: Counts, window: Counts, *, ordered: bool) -> tuple[Figures, Figures]:
    """Put cells that say nothing by themselves to their neighbours; of categories, to one another."""
    r, c = reference.astype(np.float64), window.astype(np.float64)
    expected = r * (c.sum() / r.sum()) if r.sum() else r
    fewest_seen = max(FEWEST_SEEN, SMALL_PART * c.sum()) if ordered else FEWEST_SEEN
    sparse = (expected < FEWEST_EXPECTED) & (c < fewest_seen)
    # Missing values, which come first, are like no others.
    groups = _neighbours(sparse) if ordered else np.where(sparse, len(r), np.arange(len(r)))
    width = len(r) + 1
    merged = np.array([np.bincount(groups, weights=each, minlength=width) for each in (r, c)])
    r, c = merged[:, merged.sum(axis=0) > 0]
    return r, c


def _neighbours(sparse: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Name for each cell the one it counts with: the next one towards the middle that stands by itself."""
    groups = np.arange(len(sparse))
    standing = np.flatnonzero(~sparse[1:]) + 1
    for cell in np.flatnonzero(sparse[1:]) + 1 if len(standing) else ():
        above = standing[standing > cell]
        groups[cell] = above[0] if len(above) else standing[-1]
    return groups


def _stability(reference: Figures, window: Figures) -> float:
    """Give the population stability index; half a row more in each cell keeps it finite."""
    r = (reference + 0.5) / (reference + 0.5).sum()
    c = (window + 0.5) / (window + 0.5).sum()
    return float(((c - r) * np.log(c / r)).sum())


def _detectable(degrees: int, size: float, *, tolerance: float, level: float) -> float:
    threshold = stats.ncx2.isf(level, degrees, tolerance * size)

    def surplus(effect: float) -> float:
        return float(stats.ncx2.sf(threshold, degrees, effect * size) - POWER)

    high = tolerance + 1.0
    while surplus(high) < 0:
        high *= 2
    return float(optimize.brentq(surplus, tolerance, high, xtol=1e-4))


@dataclass(frozen=True, slots=True)
class Share:
    """A part of some rows."""

    part: int
    rows: int

    @property
    def value(self) -> float:
        """How much of all it is, from 0 to 1."""
        return self.part / self.rows if self.rows else 0.0

    @property
    def angle(self) -> float:
        """Its place on a scale on which chance is the same everywhere: one over the root of the number of rows."""
        return float(2 * np.arcsin(np.sqrt(self.value)))


def grown(
    before: Share,
    here: Share,
    *,
    tolerance: float = TOLERANCE,
    dispersion: float = 1.0,
    level: float = ALARMS_PER_YEAR / 365,
) -> Comparison:
    """Compare a share with what it was: whether it grew by more than is tolerated. That it shrank is no drift.

    The square of a difference of angles is to a share what the effect is to counts, so the tolerance is the same one:
    from 0 to 0.5 % is tolerated, from 1 to 2.9 %, from 20 to 26 %.
    """
    if not here.rows or not before.rows:
        return Comparison(here.rows, before.rows, 1, 0.0, 0.0, None, None)
    chance = 1 / here.rows + 1 / before.rows
    difference = here.angle - before.angle
    effect = max(0.0, difference**2 - chance) if difference > 0 else 0.0
    spread = float(np.sqrt(chance * dispersion))
    statistic = (difference - float(np.sqrt(tolerance))) / spread
    if min(here.rows, before.rows) < FEWEST_ROWS:
        return Comparison(here.rows, before.rows, 1, statistic, effect, None, None)
    seen = float(np.sqrt(tolerance)) + spread * float(stats.norm.isf(level) + stats.norm.ppf(POWER))
    return Comparison(here.rows, before.rows, 1, statistic, effect, float(stats.norm.sf(statistic)), seen**2)


def alarms(p_by_name: Mapping[str, float | None], level: float) -> set[str]:
    """Give those that have drifted, by Holm's procedure: no more than one false alarm in 1/`level` looks at all."""
    tested = sorted((p, name) for name, p in p_by_name.items() if p is not None)
    found: set[str] = set()
    for number, (p, name) in enumerate(tested):
        if p > level / (len(tested) - number):
            break
        found.add(name)
    return found


def dispersion(windows: Sequence[Counts]) -> float:
    """Give how much more healthy windows differ from one another than independent rows would; 1 where they do not.

    They are compared with what they have in common, not with a reference: a change that lasts is none of it.
    """
    table = np.array([window for window in windows if window.sum() > 0], dtype=np.float64)
    if len(table) <= 1:
        return 1.0
    table = table[:, table.sum(axis=0) >= FEWEST_SEEN * len(table)]
    degrees: int = (table.shape[1] - 1) * (len(table) - 1)
    if degrees < 1:
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return max(1.0, float(((table - expected) ** 2 / expected).sum()) / degrees)
