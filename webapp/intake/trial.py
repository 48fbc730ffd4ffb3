"""The trial of an upload, inside the locked child: load, check, normalise, learn the signature, predict."""

from __future__ import annotations

import io
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from webapp.errors import Invalid
from webapp.intake import expect, outline, structure
from webapp.intake.expect import Expected
from webapp.serving import golden
from webapp.serving.golden import Golden
from webapp.serving.predictor import Predictor, assemble
from webapp.signature import Feature, Row
from webapp.signature.learn import Learned, learn

# What only concerns fitting or speed: served models run on one thread, say nothing and keep no cache.
NORMALISED = {"n_jobs": None, "verbose": 0, "memory": None}
TRIAL_ROWS = 200
SINGLE_TRIES = 15
# A slow estimator is not asked more often than this allows.
MOST_TRYING_SECONDS = 2.0
KIB = 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """An estimator that was opened, checked and normalised, and what is to be said of that."""

    estimator: Any
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Material:
    """What an estimator is tried with."""

    reference: pd.DataFrame | None
    # Whether the reference shows what is usual, and not only what a row looks like.
    representative: bool
    declared: Sequence[Mapping[str, Any]]
    expected: Expected | None


@dataclass(frozen=True, slots=True)
class Proven:
    """What a trial found: facts for the report, and what goes on with the version."""

    report: dict[str, Any]
    proof: dict[str, Any]


def load(content: bytes, opened: Callable[[bytes], Any]) -> Loaded:
    """Open an estimator, and look at everything in it that compiled code will trust."""
    before, started = _peak_bytes(), time.perf_counter()
    estimator = opened(content)
    seconds = time.perf_counter() - started
    _check_can_predict(estimator)
    checked = structure.check(estimator)
    report = {
        "load_seconds": round(seconds, 6),
        "memory_bytes": max(0, _peak_bytes() - before),
        "structures": checked,
        "normalised": normalise(estimator),
        "estimator": outline.line(estimator),
        "tree": outline.tree(estimator),
    }
    return Loaded(estimator, report)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def material(reference: bytes | None, expected: bytes | None, job: Mapping[str, Any]) -> Material:
    """Read what came along with the model."""
    wanted = expect.read(io.BytesIO(expected)) if expected else None
    frame, representative = None, True
    if reference:
        frame, representative = read_reference(reference, job["target"]), not job["example"]
    elif expected and wanted:
        # The rows show what the estimator takes; whether they show what is usual, nobody said.
        frame, representative = read_reference(expected, None)[list(wanted.rows.columns)], False
    return Material(frame, representative, job["declared"], wanted)


def read_reference(content: bytes, target: str | None) -> pd.DataFrame:
    """Read the reference CSV, without its target column where one is named."""
    try:
        frame = pd.read_csv(io.BytesIO(content))
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


def run(estimator: Any, material: Material) -> Proven:  # noqa: ANN401 - any estimator
    """Learn the signature, predict twice, alone and in bulk, keep golden rows, compare with what was expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learned = learn(
            estimator,
            assemble,
            reference=material.reference,
            declared=material.declared,
            representative=material.representative,
        )
        predictor = Predictor(estimator, learned.signature)
        rows = _taken(learned)
        measured = _measured(predictor, rows)
        # What draws lots at every call has no outputs that could be checked.
        kept = golden.record(predictor, learned.signature, rows) if measured["deterministic"] else Golden((), ())
        compared = _compared(predictor, learned, material.expected)
    report = {
        "notes": learned.notes,
        "reference_rows": len(material.reference)
        if material.reference is not None and material.representative
        else None,
        "trial": measured,
        "golden_rows": len(kept.rows),
        "expected_rows": compared,
    }
    return Proven(report, {"signature": learned.signature.as_dict(), "golden": kept.as_dict() if kept.rows else None})


def _taken(learned: Learned) -> list[Row]:
    """Give the rows that the signature allows; there is at least one."""
    features = learned.signature.features
    return [row for row in learned.rows if _fits(features, row)] or learned.rows[:1]


def _fits(features: Sequence[Feature], row: Row) -> bool:
    return all(feature.nullable or value is not None for feature, value in zip(features, row, strict=True))


def _measured(predictor: Predictor, rows: Sequence[Row]) -> dict[str, Any]:
    tried = list(rows[:TRIAL_ROWS])
    pointers = [f"/rows/{position}" for position in range(len(tried))]
    first = predictor.predict(tried, pointers)
    started = time.perf_counter()
    again = predictor.predict(tried, pointers)
    bulk_seconds = time.perf_counter() - started
    alone = []
    for _ in range(SINGLE_TRIES):
        begun = time.perf_counter()
        predictor.predict(tried[:1], pointers[:1])
        alone.append(time.perf_counter() - begun)
        if sum(alone) > MOST_TRYING_SECONDS:
            break
    return {
        "rows": len(tried),
        "deterministic": first == again,
        "bulk_seconds": round(bulk_seconds, 6),
        "single_seconds": round(statistics.median(alone), 6),
    }


def _compared(predictor: Predictor, learned: Learned, expected: Expected | None) -> int | None:
    """Compare with the outputs that the training side expects; give how many rows agree, which is all or a refusal."""
    if expected is None:
        return None
    rows = expected.rows_for(learned.signature)
    outcomes = predictor.predict(rows, [f"line {line} of the expected outputs" for line in expected.lines])
    if found := expect.differences(expected, outcomes):
        detail = f"It does not give what was expected of it, first in {found[0]}."
        findings = [{"name": f"line {each.line}, {each.column}", "meaning": str(each)} for each in found]
        raise Invalid("model_trial_failed", detail, more={"findings": findings})
    return len(rows)


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
