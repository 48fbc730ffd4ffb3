"""Looks at every version that is counted: decides about days that are over, and shows what was decided."""

from __future__ import annotations

import time
from datetime import timedelta

from webapp import metrics
from webapp.catalog import Catalog
from webapp.db import Database, now
from webapp.monitoring import drift_report
from webapp.monitoring.drift_report import MOST_DAYS, Terms
from webapp.predictions import counts
from webapp.predictions.traffic import DAY

# A day is decided about so long after its end: what was answered in it is in the log by then.
SETTLED = timedelta(minutes=15)


def decide_all(database: Database, terms: Terms) -> int:
    """Decide about every day that is over, the oldest first; tell about how many."""
    until = now() - SETTLED
    with database.reading() as session:
        open_days = [
            (day, model, version)
            for model, version in counts.counted(session)
            for day in drift_report.undecided(session, model, version, until)
        ]
    decided = 0
    for day, model, version in sorted(open_days):
        with database.transaction() as session:
            decided += drift_report.decide(session, model, version, day, terms) is not None
    return decided


def show(database: Database, catalog: Catalog) -> None:
    """Set the gauges of active versions that are counted."""
    with database.reading() as session:
        for version in catalog.active_versions():
            if counts.reference(session, version.model, version.number) is None:
                continue
            found = drift_report.decisions(session, version.model, version.number, now() - MOST_DAYS * DAY)
            metrics.DRIFTED.labels(version.model).set(len(found[-1].drifted) if found else 0)
            metrics.DRIFT_DECIDED.labels(version.model).set(time.time())
