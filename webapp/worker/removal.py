"""Removes what is older than it has to be kept."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta

from webapp import alerts, jobs, metrics
from webapp.db import now
from webapp.predictions import log, subjects
from webapp.web import Parts
from webapp.webhooks import deliveries
from webapp.worker.loop import Periodic

LOG = logging.getLogger(__name__)
# How often it is looked whether anything has become too old; of that, so much is removed in one transaction.
REMOVE_SECONDS = 600.0
MOST_PREDICTIONS, MOST_JOBS, MOST_DELIVERIES = 1000, 10, 1000
REMOVED_WITHIN = timedelta(hours=1)


class Remover(Periodic):
    """Removes a few of the oldest at a time; between two steps others get the database."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop."""
        super().__init__(parts, host, REMOVE_SECONDS)
        self._removed: Counter[str] = Counter()

    def look(self) -> bool:
        """Remove a few of the oldest; tells whether there were any."""
        days = self._parts.settings.retention_days
        if days == 0:
            return False
        before = now() - timedelta(days=days)
        with self._parts.database.transaction() as session:
            step = Counter(
                predictions=log.remove(session, before, MOST_PREDICTIONS),
                batches=jobs.remove(session, before, MOST_JOBS),
                deliveries=deliveries.remove(session, before, MOST_DELIVERIES),
                alerts=alerts.remove(session, before, MOST_DELIVERIES),
            )
            # What comes late from a spool and is older than this goes here, at the latest an hour after it came.
            subjects.forget(session, before - REMOVED_WITHIN)
        for kind, count in step.items():
            metrics.EXPIRED.labels(kind).inc(count)
        self._removed += step
        if not step.total() and self._removed:
            LOG.info("worker.expired", extra=dict(self._removed))
            self._removed.clear()
        return step.total() > 0
