"""Recomputes a sample of what plans have answered by scikit-learn itself; a plan that differs once is switched off."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from webapp import metrics, registry
from webapp.audit import Actor
from webapp.catalog import ServedVersion
from webapp.db import Database, now
from webapp.errors import Invalid
from webapp.predictions import log
from webapp.predictions.log import Prediction
from webapp.serving.golden import agree
from webapp.serving.loaded import LoadedVersion
from webapp.serving.predictor import Outcome, Predictor
from webapp.serving.runtime import Runtime
from webapp.signature import Feature, Row

LOG = logging.getLogger(__name__)
ACTOR = Actor("modelport")
# So many of a version's newest predictions are taken at each look.
MOST_ROWS = 50
# Longer than this a look takes no further version: its turn comes at the next one.
LOOK_SECONDS = 0.5
# So long after its answer a prediction is in the log. What came later may be passed over: it is a sample anyway.
LOGGED_WITHIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Difference:
    """A prediction that scikit-learn answers otherwise, or with None does not answer."""

    prediction: Prediction
    outcome: Outcome | None


class Recomputation:
    """The looks of one process at the versions that it has loaded."""

    def __init__(self, database: Database, runtime: Runtime) -> None:
        """`runtime` is kept at the committed state by a follower."""
        self._database = database
        self._runtime = runtime
        # Up to which prediction each version was looked at, the longest unseen first. What was there before a version's
        # first look is left: a plan that is allowed again is not judged by what it did before.
        self._seen: dict[ServedVersion, datetime] = {}

    def look(self) -> int:
        """Check what versions with a plan have answered; give how many predictions were computed again."""
        planned = {loaded.version: loaded for _, loaded in self._runtime.loaded() if _may_be_planned(loaded)}
        seen = {version: moment for version, moment in self._seen.items() if version in planned}
        self._seen = seen | {version: now() for version in planned if version not in seen}
        until, checked = time.monotonic() + LOOK_SECONDS, 0
        for version in list(self._seen):
            if time.monotonic() < until:
                checked += self._look_at(planned[version])
        return checked

    def _look_at(self, loaded: LoadedVersion) -> int:
        version = loaded.version
        # Taken out and put in again, it stands behind the others.
        self._seen[version] = since = self._seen.pop(version)
        began = now()
        with self._database.reading() as session:
            made = log.newest_of(session, version.model, version.number, since, MOST_ROWS)
        if not made:
            # Else each look would search all that other versions of the model have answered since the first one.
            self._seen[version] = max(since, began - LOGGED_WITHIN)
            return 0
        self._seen[version] = made[0].at
        found = list(differences(loaded, made))
        metrics.PLAN_CHECKS.labels(version.model, version.shown).inc(len(made))
        if found:
            self._switch_off(version, found, len(made))
        return len(made)

    def _switch_off(self, version: ServedVersion, found: Sequence[Difference], checked: int) -> None:
        metrics.PLAN_DISAGREEMENTS.labels(version.model, version.shown).inc(len(found))
        reason = in_words(found, checked)
        with self._database.transaction() as session:
            is_news = registry.switch_plan_off(session, ACTOR, version.model, version.number, reason)
        if is_news:
            LOG.error("plan.switched_off", extra={"model": version.model, "version": version.number, "reason": reason})


def _may_be_planned(loaded: LoadedVersion) -> bool:
    if loaded.keeping is not None and loaded.keeping.hides:
        # The log has not what was asked.
        return False
    # Another process may have found the plan worth it where this one did not.
    return loaded.version.may_plan and (loaded.predictor.plan is not None or loaded.proof is not None)


def differences(loaded: LoadedVersion, made: Sequence[Prediction]) -> Iterator[Difference]:
    """Give the predictions that scikit-learn itself does not answer as they were answered."""
    itself = loaded.predictor.by(None)
    rows = [_row(loaded.signature.features, prediction) for prediction in made]
    outcomes = _answered(itself, [*rows, *loaded.usual])
    scale = _scale(outcomes)
    for prediction, row, outcome in zip(made, rows, outcomes[: len(rows)], strict=True):
        if not _agrees(prediction, outcome, scale):
            # Many rows in one call may be added up in another order than one alone.
            alone = _answered(itself, [row])[0]
            if not _agrees(prediction, alone, scale):
                yield Difference(prediction, alone)


def _scale(outcomes: Sequence[Outcome | None]) -> float:
    """Give how large outputs are: what is next to nothing was rounded as the parts were that it is the sum of."""
    outputs = [outcome.prediction for outcome in outcomes if outcome]
    numbers = [value for output in outputs for value in (output.values() if isinstance(output, dict) else [output])]
    return max((abs(value) for value in numbers if isinstance(value, int | float)), default=0.0)


def _row(features: Sequence[Feature], prediction: Prediction) -> Row:
    return tuple(prediction.instance[feature.name] for feature in features)


def _answered(itself: Predictor, rows: Sequence[Row]) -> list[Outcome | None]:
    try:
        return [*itself.predict(rows, [""] * len(rows))]
    except Invalid:
        # One that it refuses says nothing of the others.
        return [None] if len(rows) == 1 else [_answered(itself, [row])[0] for row in rows]


def _agrees(prediction: Prediction, outcome: Outcome | None, scale: float) -> bool:
    if outcome is None:
        return False
    return agree(Outcome(prediction.prediction, prediction.probability, prediction.probabilities), outcome, scale)


def in_words(found: Sequence[Difference], checked: int) -> str:
    """Say what was found."""
    first = found[0]
    said = "refuses it" if first.outcome is None else f"says {first.outcome.prediction!r}"
    answered = "was" if len(found) == 1 else "were"
    return (
        f"{len(found)} of {checked} predictions that were computed again {answered} answered otherwise than by"
        f" scikit-learn. The newest of them is {first.prediction.id}: the answer was {first.prediction.prediction!r},"
        f" scikit-learn {said}{_probabilities(first)}."
    )


def _probabilities(difference: Difference) -> str:
    answered = difference.prediction.probability
    if difference.outcome is None or not isinstance(answered, float):
        return ""
    return f" (probability {answered!r}, and {difference.outcome.probability!r})"
