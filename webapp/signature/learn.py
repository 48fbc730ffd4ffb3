"""Learns a signature from the fitted estimator, a reference and what the metadata declares.

Names and order come from the estimator, observed ranges and values from the reference, rules from the
metadata. Whether a feature may be null, or may take values the encoder never saw, is not guessed from the
estimator's kind: the estimator is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from webapp.errors import Invalid
from webapp.signature import Container, Feature, Output, Row, Signature, Value, rules
from webapp.signature.example import STRANGE_NUMBER, STRANGE_TEXT, made_up

# More distinct strings than this are free text, not categories worth remembering.
MOST_OBSERVED_VALUES = 50
# Stands for the categories of a column that is read as text.
TEXT = [""]

Refuses = Callable[[Signature, Sequence[Row]], bool]


@dataclass(frozen=True, slots=True)
class Learned:
    """A signature, rows to try it with, and sentences for the person who uploaded."""

    signature: Signature
    rows: list[Row]
    notes: list[str]


# --- Inputs -----------------------------------------------------------------------------------------------


def first_step(estimator: Any) -> Any:  # noqa: ANN401 - any estimator
    """Give the part that sees the input first."""
    while isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
        estimator = steps[0]
    return estimator


def _takes_text(step: object) -> bool:
    if isinstance(step, FeatureUnion):
        return any(_takes_text(part) for _, part in step.transformer_list)
    return hasattr(step, "build_analyzer")


def _some(names: Sequence[str]) -> str:
    """List names as far as they fit a sentence."""
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")  # noqa: PLR2004 - what fits a sentence


def _names(estimator: Any, declared: Sequence[str], reference: pd.DataFrame | None) -> tuple[list[str], Container]:  # noqa: ANN401
    step = first_step(estimator)
    if _takes_text(step):
        header = [] if reference is None or len(reference.columns) != 1 else [str(reference.columns[0])]
        return list(declared[:1]) or header or ["text"], "text"
    for part in (estimator, step):
        if (fitted := getattr(part, "feature_names_in_", None)) is not None:
            return [str(name) for name in fitted], "frame"
    width = getattr(estimator, "n_features_in_", getattr(step, "n_features_in_", None))
    given = list(declared) or ([] if reference is None else [str(name) for name in reference.columns])
    if width is None and not given:
        raise Invalid(
            "model_features_unknown",
            "The estimator does not say how many features it takes; name them in the metadata or give a reference.",
        )
    if width is not None and len(given) != width:
        if declared:
            detail = f"The metadata names {len(declared)} features, the estimator was fitted with {width}."
            raise Invalid("metadata_features_differ", detail)
        if given:
            detail = (
                f"The estimator takes {width} features and does not name them; the reference has {len(given)} columns:"
                f" {_some(given)}. Name the target column, or the features in the metadata."
            )
            raise Invalid("reference_columns_differ", detail)
        given = [f"x{position}" for position in range(width)]
    return given, "array"


def categories(estimator: Any, columns: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:  # noqa: ANN401
    """Give, for each column that an encoder reads directly, the categories it learned."""
    if isinstance(estimator, Pipeline):
        yield from _pipeline_categories(estimator, columns)
    elif isinstance(estimator, ColumnTransformer):
        for _, transformer, chosen in estimator.transformers_:
            yield from categories(transformer, _chosen(chosen, columns))
    elif _takes_text(estimator) and len(columns) == 1:
        yield columns[0], TEXT
    elif isinstance(learned := getattr(estimator, "categories_", None), list):
        yield from ((name, list(values)) for name, values in zip(columns, learned, strict=False))
    elif getattr(estimator, "_preprocessor", None) is not None:
        # Histogram boosting keeps its own ordinal encoder.
        yield from categories(estimator._preprocessor, columns)  # noqa: SLF001 - there is no public way


def _pipeline_categories(pipeline: Pipeline, columns: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    for _, step in pipeline.steps:
        yield from categories(step, columns)
        if not _keeps_columns(step):
            return


def _keeps_columns(step: object) -> bool:
    return step is None or isinstance(step, str) or hasattr(step, "statistics_")


def _chosen(chosen: Any, columns: Sequence[str]) -> list[str]:  # noqa: ANN401
    if isinstance(chosen, str):
        return [chosen]
    if callable(chosen):
        return []
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            chosen = pd.Index(columns).slice_indexer(chosen.start, chosen.stop, chosen.step)
        return [columns[position] for position in range(*chosen.indices(len(columns)))]
    chosen = np.atleast_1d(chosen)
    if chosen.dtype == bool:
        return [columns[position] for position in np.flatnonzero(chosen).tolist()]
    return [str(each) if isinstance(each, str) else columns[int(each)] for each in chosen.tolist()]


# --- Features ---------------------------------------------------------------------------------------------


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float | np.floating) and math.isnan(value))


def _plain(value: Any) -> Value:  # noqa: ANN401 - numpy scalars and plain values
    plain: Value = value.item() if isinstance(value, np.generic) else value
    return float(plain) if type(plain) is int else plain


def _from_categories(feature: Feature, values: list[Any]) -> Feature:
    missing = [value for value in values if _is_missing(value)]
    known = tuple(_plain(value) for value in values if not _is_missing(value))
    kinds = {type(value) for value in known}
    kind = feature.kind
    if str in kinds:
        kind = "string"
    elif kinds == {bool}:
        kind = "boolean"
    return replace(
        feature,
        kind=kind,
        missing="none" if any(value is None for value in missing) else "nan",
        observed_values=known,
    )


def _from_reference(feature: Feature, column: pd.Series[Any]) -> Feature:
    present = column.dropna()
    if pd.api.types.is_bool_dtype(column.dtype):
        return replace(feature, kind="boolean")
    if pd.api.types.is_numeric_dtype(column.dtype):
        if feature.kind == "string" or present.empty or feature.observed_values is not None:
            return feature
        return replace(feature, observed_minimum=float(present.min()), observed_maximum=float(present.max()))
    if set(map(type, present)) == {bool}:
        return replace(feature, kind="boolean")
    values = tuple(sorted({str(value) for value in present}))
    few = len(values) <= MOST_OBSERVED_VALUES and len(values) < max(2, len(present) // 2)
    if feature.observed_values is None and few:
        feature = replace(feature, observed_values=values)
    return replace(feature, kind="string")


# --- Outputs ----------------------------------------------------------------------------------------------


def _task(estimator: Any) -> str:  # noqa: ANN401 - any estimator
    asked = {
        "classification": is_classifier,
        "regression": is_regressor,
        "clustering": is_clusterer,
        "outlier detection": is_outlier_detector,
    }
    return next((task for task, holds in asked.items() if holds(estimator)), "prediction")


def _classes(estimator: Any, width: int) -> list[tuple[Value, ...] | None]:  # noqa: ANN401 - any estimator
    learned = getattr(estimator, "classes_", None)
    if learned is None or not is_classifier(estimator):
        return [None] * width
    if isinstance(learned, list):
        return [tuple(np.asarray(values).tolist()) for values in learned]
    if width > 1:
        # Multi-label: one column of 0 and 1 per label.
        return [(0, 1)] * width
    return [tuple(np.asarray(learned).tolist())]


def outputs(estimator: Any, matrix: Any) -> dict[str, Any]:  # noqa: ANN401 - any estimator and input
    """Ask the estimator once what it gives: the output fields of a `Signature`."""
    predicted = np.asarray(estimator.predict(matrix))
    width = predicted.shape[1] if predicted.ndim > 1 else 1
    names = ["prediction"] if width == 1 else [f"y{position}" for position in range(width)]
    classes = _classes(estimator, width)
    form = "none"
    if classes[0] is not None and hasattr(estimator, "predict_proba"):
        tables = estimator.predict_proba(matrix)
        form = "tables" if isinstance(tables, list) else "table" if width == 1 else "columns"
        if form == "tables" and width == 1:
            form = "none"
    return {
        "task": _task(estimator),
        "outputs": tuple(Output(name, each) for name, each in zip(names, classes, strict=True)),
        "probabilities": form,
        "multi_output": width > 1,
    }


# --- All together -----------------------------------------------------------------------------------------


def learn(
    estimator: Any,  # noqa: ANN401 - any estimator
    assemble: Callable[[Signature, Sequence[Row]], Any],
    *,
    reference: pd.DataFrame | None,
    declared: Sequence[Mapping[str, Any]],
    representative: bool = True,
) -> Learned:
    """Learn what `estimator` takes and gives.

    `assemble` turns rows into the estimator's input. `declared` has one mapping per feature that the metadata
    names, `{"name": ...}` at least. A reference that is not `representative` shows what rows look like, but not
    what is usual. Raises `Invalid` when the parts contradict one another.
    """
    names, container = _names(estimator, [str(item["name"]) for item in declared], reference)
    columns = _reference_columns(reference, names, container)
    stated = {str(item["name"]): item for item in declared}
    if strangers := sorted(set(stated) - set(names)):
        detail = f"The metadata names features that the estimator was not fitted with: {', '.join(strangers[:10])}."
        raise Invalid("metadata_features_differ", detail)
    known = dict(categories(estimator, names))
    if container == "text":
        known[names[0]] = TEXT
    features = tuple(
        rules.declare(
            _learned(name, known.get(name), None if columns is None else columns[name], representative=representative),
            stated.get(name, {}),
        )
        for name in names
    )
    draft = Signature(features, container, "", (), "none")
    rows = _rows(draft, columns)
    try:
        given = outputs(estimator, assemble(draft, rows[:2]))
    except Exception as error:
        raise Invalid("model_trial_failed", f"The estimator cannot predict its own kind of input: {error}") from error
    draft = Signature(features, container, **given)

    def refuses(tried: Signature, asked: Sequence[Row]) -> bool:
        try:
            predicted = np.asarray(estimator.predict(assemble(tried, asked)))
        except Exception:  # noqa: BLE001 - any way of refusing counts
            return True
        return predicted.dtype.kind == "f" and not bool(np.isfinite(predicted).all())

    nullable = _nullable(draft, rows[0], refuses, one_matrix=not known and not _splits_columns(estimator))
    settled = {name for name, item in stated.items() if "nullable" in item}
    signature = _probed(draft, rows[0], refuses, nullable, settled)
    notes = [] if columns is not None and representative else ["no_reference"]
    return Learned(signature, rows, notes)


def _learned(name: str, known: list[Any] | None, column: pd.Series[Any] | None, *, representative: bool) -> Feature:
    if known == TEXT:
        # Nothing of it is remembered: that a sentence was never seen before says nothing.
        return Feature(name, kind="string")
    feature = Feature(name) if known is None else _from_categories(Feature(name), known)
    if column is None:
        return feature
    seen = _from_reference(feature, column)
    return seen if representative else replace(feature, kind=seen.kind)


def _reference_columns(
    reference: pd.DataFrame | None, names: Sequence[str], container: Container
) -> pd.DataFrame | None:
    if reference is None:
        return None
    reference = reference.rename(columns=str)
    if container == "text" and len(reference.columns) == 1:
        return reference.set_axis(list(names), axis=1)
    if missing := [name for name in names if name not in reference.columns]:
        detail = f"The reference has no column for: {_some(missing)}; it has: {_some(list(reference.columns))}."
        raise Invalid("reference_columns_missing", detail)
    if reference.empty:
        raise Invalid("reference_empty", "The reference has no rows.")
    return reference[list(names)]


def _rows(signature: Signature, columns: pd.DataFrame | None) -> list[Row]:
    """Give rows to try: the reference's, complete ones first, else one that is made up."""
    if columns is None:
        made = tuple(made_up(feature) for feature in signature.features)
        return [made, made]
    sample = columns.head(1000)
    complete_first = pd.concat([sample.dropna(), sample[sample.isna().any(axis=1)]])
    try:
        return [
            tuple(_as_value(feature, value) for feature, value in zip(signature.features, row, strict=True))
            for row in complete_first.itertuples(index=False, name=None)
        ]
    except ValueError:
        detail = "The reference has text in a column that the metadata declares as numbers."
        raise Invalid("metadata_features_differ", detail) from None


def _as_value(feature: Feature, value: Any) -> Value:  # noqa: ANN401 - a cell
    if _is_missing(value):
        return None
    if feature.kind == "string":
        return str(value)
    return bool(value) if feature.kind == "boolean" else float(value)


def _with(row: Row, position: int, value: Value) -> Row:
    return (*row[:position], value, *row[position + 1 :])


def _splits_columns(estimator: object) -> bool:
    return isinstance(first_step(estimator), ColumnTransformer | FeatureUnion)


def _probed(signature: Signature, row: Row, refuses: Refuses, nullable: set[int], settled: set[str]) -> Signature:
    """Note which features may be null, and ask the estimator for values that no encoder has seen."""
    features = list(signature.features)
    for position, feature in enumerate(features):
        if feature.name not in settled:
            features[position] = replace(feature, nullable=position in nullable)
        encoded = feature.observed_values is not None and feature.allowed is None
        strange = STRANGE_TEXT if feature.kind == "string" else STRANGE_NUMBER
        if encoded and feature.kind != "boolean" and refuses(signature, [_with(row, position, strange)]):
            # The estimator cannot take any other value: here the rule is its own.
            features[position] = replace(features[position], allowed=feature.observed_values)
    return replace(signature, features=tuple(features))


def _nullable(signature: Signature, row: Row, refuses: Refuses, *, one_matrix: bool) -> set[int]:
    """Give the positions that may be null. Halving: most estimators take it everywhere or nowhere."""
    taken: set[int] = set()
    groups = [list(range(len(row)))]
    while groups:
        group = groups.pop()
        asked = tuple(None if position in group else value for position, value in enumerate(row))
        if not refuses(signature, [asked]):
            taken.update(group)
        elif len(group) > 1:
            groups += [group[: len(group) // 2], group[len(group) // 2 :]]
        elif one_matrix and not taken and group[0] == len(row) - 1:
            # All columns go one way: what refuses null in the last one refuses it in every one.
            return set()
    return taken
