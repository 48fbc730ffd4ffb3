"""The trial of an upload, inside the locked child: normalise, learn the signature, predict."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from webapp.errors import Invalid
from webapp.serving.predictor import Predictor, assemble
from webapp.signature import Feature, Row
from webapp.signature.learn import Learned, learn

# What only concerns fitting or speed: served models run on one thread, say nothing and keep no cache.
NORMALISED = {"n_jobs": None, "verbose": 0, "memory": None}
TRIAL_ROWS = 200


def read_reference(file: IO[bytes], target: str | None) -> pd.DataFrame:
    """Read the reference CSV, without its target column where one is named."""
    try:
        frame = pd.read_csv(file)
    except (ValueError, pd.errors.ParserError) as error:
        raise Invalid("reference_unreadable", f"The reference is no CSV with a header: {error}") from None
    if target is None:
        return frame
    if target not in frame.columns:
        listed = ", ".join(map(str, frame.columns[:20]))
        raise Invalid("reference_columns_missing", f"The reference has no column “{target}”; it has: {listed}.")
    return frame.drop(columns=target)


def estimators(root: object) -> Iterator[BaseEstimator]:
    """Walk every estimator inside a fitted one, the fitted parts and the templates they were made from."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, BaseEstimator):
            yield found
            waiting.extend(vars(found).values())
        elif isinstance(found, dict):
            waiting.extend(found.values())
        elif isinstance(found, list | tuple) or (isinstance(found, np.ndarray) and found.dtype.hasobject):
            waiting.extend(np.ravel(np.asarray(found, dtype=object)) if isinstance(found, np.ndarray) else found)


def normalise(estimator: object) -> list[str]:
    """Set what only concerns fitting or speed; name what was changed."""
    changed = set()
    for part in estimators(estimator):
        for name, value in NORMALISED.items():
            if vars(part).get(name, value) not in {value, False}:
                setattr(part, name, value)
                changed.add(f"{type(part).__name__}.{name}")
    return sorted(changed)


def outline(estimator: Any) -> str:  # noqa: ANN401 - any estimator
    """Give the kinds of an estimator's steps, in their order."""
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if isinstance(step, BaseEstimator)]
        return " → ".join(outline(step) for step in steps)
    if isinstance(estimator, ColumnTransformer):
        parts = [part for _, part, _ in estimator.transformers_ if isinstance(part, BaseEstimator)]
        return f"ColumnTransformer ({', '.join(outline(part) for part in parts)})"
    return type(estimator).__name__


def run(estimator: Any, reference: pd.DataFrame | None, declared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: ANN401
    """Learn the signature and predict twice, alone and in bulk. Gives the findings as JSON."""
    _check_can_predict(estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learned = learn(estimator, assemble, reference=reference, declared=declared)
        return {
            "signature": learned.signature.as_dict(),
            "notes": learned.notes,
            "trial": _predicted_twice(Predictor(estimator, learned.signature), learned),
        }


def _predicted_twice(predictor: Predictor, learned: Learned) -> dict[str, Any]:
    features = learned.signature.features
    rows = [row for row in learned.rows[:TRIAL_ROWS] if _fits(features, row)] or learned.rows[:1]
    pointers = [f"/rows/{position}" for position in range(len(rows))]
    started = time.perf_counter()
    first = predictor.predict(rows, pointers)
    bulk_seconds = time.perf_counter() - started
    again = predictor.predict(rows, pointers)
    started = time.perf_counter()
    predictor.predict(rows[:1], pointers[:1])
    return {
        "rows": len(rows),
        "deterministic": first == again,
        "bulk_seconds": round(bulk_seconds, 6),
        "single_seconds": round(time.perf_counter() - started, 6),
    }


def _fits(features: Sequence[Feature], row: Row) -> bool:
    return all(feature.nullable or value is not None for feature, value in zip(features, row, strict=True))


def _check_can_predict(estimator: object) -> None:
    if isinstance(estimator, dict):
        detail = "The file holds a dict; save the estimator alone, and a scaler before it in its own file."
        raise Invalid("model_no_predict", detail)
    if not isinstance(estimator, BaseEstimator):
        kind = type(estimator).__name__
        raise Invalid("model_no_predict", f"The file holds a {kind}, not a fitted scikit-learn estimator.")
    if not hasattr(estimator, "predict"):
        kind = type(estimator).__name__
        raise Invalid(
            "model_no_predict", f"{kind} has no predict; upload the estimator, or a Pipeline that ends with one."
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise Invalid(
            "model_not_fitted", "The estimator was saved before it was fitted; call fit, then save."
        ) from None
