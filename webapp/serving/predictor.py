"""Turns checked rows into what the estimator was fitted with, asks it once, and gives plain values back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from webapp.errors import Invalid, Problem
from webapp.serving.plans import Plan, Unplanned
from webapp.signature import Feature, Row, Signature, Value

# So many rows that are refused are named; more help nobody.
MOST_REFUSED = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one instance, in plain JSON values; objects by output name where there are several outputs."""

    prediction: Any
    probability: Any = None
    probabilities: Any = None


class Predictor:
    """One estimator with its signature."""

    def __init__(self, estimator: Any, signature: Signature, plan: Plan | None = None) -> None:  # noqa: ANN401 - an estimator of any kind
        """`estimator` is fitted and has the inputs and outputs that `signature` describes; `plan` answers for it."""
        self.plan = plan
        self._estimator = estimator
        self._signature = signature

    def under(self, signature: Signature) -> Predictor:
        """Give the same estimator under another signature, which its plan was not proven for."""
        return Predictor(self._estimator, signature)

    def by(self, plan: Plan | None) -> Predictor:
        """Give the same estimator, answered for by a plan, or with None by itself."""
        return Predictor(self._estimator, self._signature, plan)

    def predict(self, rows: Sequence[Row], pointers: Sequence[str]) -> list[Outcome]:
        """Give one outcome per row, from one call of the estimator for all rows.

        `pointers` has one JSON pointer per row: what the estimator itself refuses is reported by it.
        """
        if not rows:
            return []
        try:
            return self.outcomes(rows)
        except Invalid as invalid:
            code, detail = invalid.code, invalid.detail
        problems = tuple(Problem(pointer, code, detail) for pointer in self._refused(rows, pointers))
        raise Invalid(code, detail, problems=problems)

    def _refused(self, rows: Sequence[Row], pointers: Sequence[str]) -> list[str]:
        """Find the rows that the estimator refuses, by halves: one among thousands costs a few attempts."""
        found: list[str] = []
        waiting = [(0, len(rows))]
        while waiting and len(found) < MOST_REFUSED:
            first, end = waiting.pop()
            try:
                self.outcomes(rows[first:end])
            except Invalid:
                middle = (first + end) // 2
                if end - first == 1:
                    found.append(pointers[first])
                else:
                    waiting += [(middle, end), (first, middle)]
        return found

    def outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        """Give what `predict` does; a refusal names no row."""
        predicted, probabilities = self.arrays(rows)
        if self._signature.multi_output:
            return _many_outputs(self._signature, predicted, probabilities)
        return _one_output(self._signature, predicted.reshape(len(rows)), probabilities)

    def arrays(self, rows: Sequence[Row]) -> tuple[Any, Any]:
        """Give what the estimator's `predict` and `predict_proba` do, the latter where the signature has it."""
        if self.plan is not None:
            with suppress(Unplanned):
                return self.plan.ask(rows)
        return self._estimated(assemble(self._signature, rows))

    def _estimated(self, matrix: Any) -> tuple[Any, Any]:  # noqa: ANN401 - arrays
        try:
            return ask(self._estimator, matrix, probabilities=self._signature.probabilities != "none")
        except MemoryError:
            raise
        except Exception as error:
            # Whatever it is: the input is acceptable by the signature, and the estimator has the last word.
            message = "The model itself cannot take these values together, though each is acceptable."
            raise Invalid("model_refused_input", message) from error


def ask(estimator: Any, matrix: Any, *, probabilities: bool) -> tuple[Any, Any]:  # noqa: ANN401 - of any kind
    """Give what `predict` and `predict_proba` say of a matrix, the latter where it is asked for, else None."""
    # Steps with `copy=False` write over what they are given.
    predicted = np.asarray(estimator.predict(matrix.copy() if probabilities else matrix))
    return predicted, estimator.predict_proba(matrix) if probabilities else None


def assemble(signature: Signature, rows: Sequence[Row]) -> Any:  # noqa: ANN401 - list, array or frame
    """Put rows into the container that the estimator was fitted with: n rows x the signature's features."""
    if signature.container == "text":
        return [row[0] for row in rows]
    columns = {
        feature.name: _column(feature, [row[position] for row in rows])
        for position, feature in enumerate(signature.features)
    }
    if signature.container == "frame":
        return pd.DataFrame(columns)
    # In C order, as people make them: linear algebra rounds differently over another layout.
    return np.array(list(columns.values())).T.copy()


def _column(feature: Feature, values: list[Value]) -> Any:  # noqa: ANN401 - array or series
    missing = None if feature.missing == "none" else math.nan
    if feature.kind in {"number", "integer"}:
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    if feature.kind == "boolean" and None not in values:
        return np.array(values, dtype=bool)
    # A Series keeps the type `object`, from which pandas would otherwise make its own string type.
    return pd.Series([missing if value is None else value for value in values], dtype=object)


def _one_output(signature: Signature, predicted: Any, table: Any) -> list[Outcome]:  # noqa: ANN401 - arrays
    labels = _plain(predicted)
    if table is None:
        return [Outcome(label) for label in labels]
    named = _named_probabilities(signature.outputs[0].classes or (), table)
    return [Outcome(label, each[str(label)], each) for label, each in zip(labels, named, strict=True)]


def _many_outputs(signature: Signature, predicted: Any, tables: Any) -> list[Outcome]:  # noqa: ANN401 - arrays
    names = [output.name for output in signature.outputs]
    by_output = [_plain(predicted[:, position]) for position in range(len(names))]
    labels = [dict(zip(names, row, strict=True)) for row in zip(*by_output, strict=True)]
    if tables is None:
        return [Outcome(label) for label in labels]
    if signature.probabilities == "columns":
        tables = [np.column_stack((1 - column, column)) for column in np.asarray(tables).T]
    named = [
        _named_probabilities(output.classes or (), table)
        for output, table in zip(signature.outputs, tables, strict=True)
    ]
    every = [dict(zip(names, row, strict=True)) for row in zip(*named, strict=True)]
    return [
        Outcome(label, {name: _share(label[name], each[name]) for name in names}, each)
        for label, each in zip(labels, every, strict=True)
    ]


def _share(label: Any, probabilities: dict[str, float]) -> float:  # noqa: ANN401 - a label of any type
    name = str(label)
    # Of several outputs some estimators make one table of floats: the label is 1.0, its class is called 1.
    return probabilities[name] if name in probabilities else probabilities[str(int(label))]


def _named_probabilities(classes: Sequence[Value], table: Any) -> list[dict[str, float]]:  # noqa: ANN401 - array
    names = [str(value) for value in classes]
    return [dict(zip(names, row, strict=True)) for row in _plain(np.asarray(table))]


def _plain(array: Any) -> list[Any]:  # noqa: ANN401 - array
    """Give Python values; refuse numbers that JSON cannot say."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Invalid("prediction_not_finite", "The model gives no finite number for this input.")
    values: list[Any] = array.tolist()
    return values
