"""Whose traffic a change comes from, and since when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from webapp.drift import layout
from webapp.drift.bins import Counts
from webapp.drift.layout import Record, Variable
from webapp.predictions import counts, log
from webapp.predictions.counts import DriftReference

# The newest of a time are looked at: more cost more and say the same.
MOST_ROWS = 20_000
# Keys that a smaller part comes from are not named.
SMALLEST_PART = 0.1


@dataclass(frozen=True, slots=True)
class Source:
    """A key, the part of a change that comes from its traffic (1 is all), and its part of the traffic."""

    key_id: str
    part: float
    of_traffic: float
    # When the values of this key's predictions changed, where they did within the time.
    since: str | None


def sources(
    session: Session, reference: DriftReference, since: datetime, until: datetime, wanted: Collection[str]
) -> dict[str, tuple[Source, ...]]:
    """Give whose traffic the change of each `wanted` variable comes from, the largest part first."""
    if not wanted:
        return {}
    records = list(log.records(session, reference.model, reference.version, since, until, MOST_ROWS))
    records.reverse()
    meant = layout.from_json(reference.layout)
    against = meant.parts(counts.compared_with(session, reference, since))
    return {
        variable.id: _sources(variable, theirs, records)
        for variable, theirs in against
        if variable.id in wanted and records
    }


def _sources(variable: Variable, theirs: Counts, records: Sequence[Record]) -> tuple[Source, ...]:
    """Split a change into what each key adds to it.

    Each key's traffic is weighed by how far its own shares lie from the reference's, along the change of all, where
    large changes count most: so the parts of all keys add up to one, and chance adds little.
    """
    cells = variable.binning.places(variable.values(records))
    usual = theirs / max(int(theirs.sum()), 1)
    mine = np.bincount(cells, minlength=len(usual)) / len(cells)
    change = mine - usual
    whole = float(change @ change)
    if whole == 0:
        return ()
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        by_key[record["key_id"]].append(number)
    found = []
    for key_id, numbers in by_key.items():
        own = cells[numbers]
        of_traffic = len(own) / len(cells)
        shares = np.bincount(own, minlength=len(usual)) / len(own)
        part = of_traffic * float((shares - usual) @ change) / whole
        if part >= SMALLEST_PART:
            began = _onset(change[own])
            since = None if began is None else records[numbers[began]]["at"].isoformat()
            found.append(Source(key_id, round(part, 3), round(of_traffic, 3), since))
    return tuple(sorted(found, key=lambda each: (-each.part, each.key_id)))


def _onset(series: npt.NDArray[np.float64]) -> int | None:
    """Give where a series rises to a higher mean, by the largest deviation of its cumulative sum; None where it stays.

    The deviation of a series without a change is, divided by the square root of its length, seldom above 1.63 standard
    deviations (Kolmogorov's distribution, 1 %).
    """
    spread = float(series.std())
    if len(series) < 50 or spread == 0:  # noqa: PLR2004 - of fewer nothing can be said
        return None
    path = np.cumsum(series - series.mean())
    lowest = int(path.argmin())
    return lowest + 1 if -path[lowest] > 1.63 * spread * np.sqrt(len(series)) and lowest + 1 < len(series) else None
