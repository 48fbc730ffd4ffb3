"""Counts predictions that are in the log already: for a version that is not counted yet, or anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp import db
from webapp.drift import layout
from webapp.drift.bins import Counts
from webapp.predictions import log, traffic
from webapp.predictions.counts import DriftReference, HourlyCounts
from webapp.predictions.traffic import HOUR

PIECE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Hour:
    """What the log held of an hour."""

    rows: int
    counts: Counts
    # How many predictions of this hour had been logged by then; some of them may have been removed since.
    logged: int


def tally(session: Session, reference: DriftReference, hour: datetime, logged: int) -> Hour:
    """Count what the log holds of an hour, in which so many predictions were `logged`."""
    meant = layout.from_json(reference.layout)
    counts, rows = np.zeros(meant.width, dtype=np.int64), 0
    found = log.records(session, reference.model, reference.version, hour, hour + HOUR)
    while piece := list(islice(found, PIECE_ROWS)):
        counts += meant.count(piece)
        rows += len(piece)
    return Hour(rows, counts, logged)


def begin(session: Session, reference: DriftReference, tallied: Mapping[datetime, Hour]) -> int:
    """Count a version in this layout from now on; what was logged before, as it was `tallied`. Give how many hours.

    An hour to which something has come since is counted here, where nobody logs meanwhile. An hour of which the log has
    lost predictions keeps the counts that it has, where they mean the same.
    """
    db.one_at_a_time(session, DriftReference)
    kept = _kept(session, reference)
    model, version = reference.model, reference.version
    session.execute(sa.delete(HourlyCounts).where(HourlyCounts.model == model, HourlyCounts.version == version))
    session.merge(reference)
    logged_by_hour = traffic.hours(session, model, version)
    for hour, logged in logged_by_hour.items():
        found = tallied.get(hour)
        if found is None or found.logged != logged:
            found = tally(session, reference, hour, logged)
        if found.rows < logged:
            found = kept.get(hour, found)
        stored = layout.packed(found.counts)
        session.add(HourlyCounts(model=model, version=version, hour=hour, rows=found.rows, counts=stored))
    return len(logged_by_hour)


def _kept(session: Session, reference: DriftReference) -> dict[datetime, Hour]:
    """Give the counts that there are, unless they are of another layout."""
    row = HourlyCounts
    model, version = reference.model, reference.version
    known = session.get(DriftReference, (model, version))
    if known is None or known.layout != reference.layout:
        return {}
    found = session.execute(sa.select(row.hour, row.rows, row.counts).where(row.model == model, row.version == version))
    return {hour: Hour(rows, layout.unpacked(counts), rows) for hour, rows, counts in found}
