"""One version in memory, with everything that a request needs of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from webapp.catalog import ServedVersion
from webapp.serving.batching import Shared
from webapp.serving.cache import Caching, VersionCache
from webapp.serving.predictor import Outcome, Predictor
from webapp.serving.proof import Proof
from webapp.signature import Row, Signature
from webapp.signature.check import Checker
from webapp.signature.keeping import Keeping

# What came out for each row, and whether it was there already.
Outcomes = tuple[list[Outcome], Sequence[bool]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one instance became: the row the estimator saw, and the public form of what it said."""

    row: Row
    document: dict[str, Any]
    # Whether it was there already: computed for another request.
    cached: bool = False


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """Everything one request needs, taken once at its start, so that no answer mixes versions."""

    version: ServedVersion
    signature: Signature
    checker: Checker
    predictor: Predictor
    load_seconds: float
    # By how much the process grew while it was loaded, and never less than its artifact: what was freed before may
    # have made room for it, and the first version of a kind brings the code that it needs.
    memory_bytes: int = 0
    # Rows that people may well ask, to try it with; none where its answers may vary.
    usual: Sequence[Row] = ()
    # How its plan was compared with the estimator; None where there is no plan for its kind, or none may be used.
    proof: Proof | None = None
    # How callers share its calls and its answers, where a process has many callers.
    shared: Shared | None = None
    cache: VersionCache | None = None
    caching: Caching = field(default_factory=Caching)
    # What the log keeps of its instances; None where that is all, as they are.
    keeping: Keeping | None = None

    def describe(self) -> dict[str, Any]:
        """Say what it costs to hold, and how it is computed."""
        return {
            "model": self.version.model,
            "version": self.version.number,
            "load_seconds": self.load_seconds,
            "memory_bytes": self.memory_bytes,
            "plan": self.predictor.plan.name if self.predictor.plan else None,
            "proof": _described(self.proof) if self.proof else None,
            "cache": _described(self.caching),
        }

    def predict(self, instances: Sequence[object], pointers: Sequence[str], ids: Sequence[str]) -> list[Answer]:
        """Check instances, predict them in one call, and give one answer for each.

        `pointers` are their places in the request's body, `ids` the ids of the predictions.
        Raises `Invalid` with every problem of every instance.
        """
        rows = self.checker.rows(instances, pointers)
        return self.answers(rows, self.outcomes(rows, pointers), ids)

    def outcomes(self, rows: Sequence[Row], pointers: Sequence[str]) -> Outcomes:
        """Ask what is nearest: kept answers, a call that is shared, or the predictor."""
        if self.cache is not None:
            return self.cache.predict(rows, pointers)
        asked = self.shared or self.predictor
        return asked.predict(rows, pointers), [False] * len(rows)

    def answers(self, rows: Sequence[Row], found: Outcomes, ids: Sequence[str]) -> list[Answer]:
        """Give the answer to each row."""
        warnings = self.checker.warnings_of(rows)
        return [
            Answer(row, self._document(prediction_id, outcome, warned), is_cached)
            for prediction_id, row, outcome, warned, is_cached in zip(
                ids, rows, found[0], warnings, found[1], strict=True
            )
        ]

    def _document(self, prediction_id: str, outcome: Outcome, warnings: Sequence[dict[str, str]]) -> dict[str, Any]:
        document: dict[str, Any] = {"prediction": outcome.prediction}
        if outcome.probabilities is not None:
            document |= {"probability": outcome.probability, "probabilities": outcome.probabilities}
        document |= {
            "model": self.version.model,
            "model_version": self.version.shown,
            "prediction_id": prediction_id,
        }
        if warnings:
            document["warnings"] = warnings
        return document


def _described(facts: Proof | Caching) -> dict[str, Any]:
    """Give facts as JSON; what was not measured or has no bound is nothing there."""
    pairs = asdict(facts).items()
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in pairs}
