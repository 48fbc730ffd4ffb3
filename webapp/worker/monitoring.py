"""Looks at drift, and says in metrics how good active versions turned out to be."""

from __future__ import annotations

import logging
import math

import sqlalchemy.exc

from webapp import metrics, registry
from webapp.errors import Unavailable
from webapp.monitoring import drift_report, drift_watch, quality_report
from webapp.monitoring.references import References
from webapp.web import Parts
from webapp.worker.loop import Periodic

LOG = logging.getLogger(__name__)
DRIFT_SECONDS = 60.0
# How often scores for Prometheus are worked out, and of which time.
SCORE_SECONDS = 600.0
SCORE_WINDOW = "7d"


class DriftWatcher(Periodic):
    """Has versions counted that can be, and decides about each day of theirs when it is over."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop."""
        super().__init__(parts, host, DRIFT_SECONDS)
        self._references = References(parts.database, parts.artifacts, parts.follower)
        self._terms = drift_report.terms(parts.settings)

    def look(self) -> bool:
        """Look at every version."""
        catalog = self._parts.runtime.catalog
        begun = self._references.make(catalog)
        decided = drift_watch.decide_all(self._parts.database, self._terms)
        drift_watch.show(self._parts.database, catalog)
        if begun or decided:
            LOG.info("worker.drift", extra={"begun": begun, "decided": decided})
        return False


class Scorer(Periodic):
    """Scores the active version of each model."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop."""
        super().__init__(parts, host, SCORE_SECONDS)
        # What was said of each model, by metric: where nothing is known any more, that is said.
        self._said: dict[str, set[str]] = {}

    def look(self) -> bool:
        """Score one model after the other."""
        with self._parts.database.reading() as session:
            names = [line.name for line in registry.model_lines(session) if line.active_number is not None]
        for name in names:
            if self._stop.is_set():
                break
            self._score(name)
        return False

    def _score(self, name: str) -> None:
        try:
            self._say(name)
        except (sqlalchemy.exc.SQLAlchemyError, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model's truth does, the others are scored
            LOG.warning("worker.not_scored", extra={"model": name, "reason": type(error).__name__})

    def _say(self, name: str) -> None:
        within = quality_report.window(SCORE_WINDOW, self._parts.settings.retention_days)
        with self._parts.database.reading() as session:
            found = quality_report.active(session, name, within)
        coverage = math.nan if found is None or found.period.coverage is None else found.period.coverage
        metrics.FEEDBACK_COVERAGE.labels(name).set(coverage)
        scores = {} if found is None else quality_report.values(found)
        for metric in self._said.get(name, set()) | set(scores):
            metrics.MODEL_QUALITY.labels(name, metric).set(scores.get(metric, math.nan))
        self._said[name] = set(scores)
