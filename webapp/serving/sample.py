"""Rows to ask two versions: the first ones of a reference as JSON would have them, or made-up ones."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from webapp.signature import Feature, Signature, Value
from webapp.signature.example import as_typed, made_up

MOST_ROWS = 1000
MADE_UP_ROWS = 200
Instance = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to ask, and where they come from."""

    instances: Sequence[Instance]
    reference_of: int | None = None
    lacking: tuple[str, ...] = ()


def sample(references: Mapping[int, bytes], signatures: tuple[Signature, Signature]) -> Sample:
    """Take the first reference that has all columns, else the best one."""
    read = [_from_reference(number, content, signatures) for number, content in references.items()]
    complete = [asked for asked in read if not asked.lacking]
    return (complete or read or [Sample(_made_up_rows(*signatures))])[0]


def _from_reference(number: int, content: bytes, signatures: tuple[Signature, Signature]) -> Sample:
    features = _features(*signatures)
    columns = _columns(content, features, MOST_ROWS, text=any(each.container == "text" for each in signatures))
    lacking = tuple(name for name, feature in features.items() if name not in columns and feature.default is None)
    return Sample(_transposed(columns), number, lacking)


def referenced(content: bytes, signature: Signature, most_rows: int) -> list[Instance]:
    """Give the first rows of a reference as JSON would have them."""
    return _transposed(_columns(content, _features(signature), most_rows, text=signature.container == "text"))


def _columns(content: bytes, features: Mapping[str, Feature], most_rows: int, *, text: bool) -> dict[str, list[Value]]:
    wanted = None if text else lambda name: str(name) in features
    # Types are guessed from all the rows that are read, as they were when the signature was learned.
    frame = pd.read_csv(io.BytesIO(content), nrows=most_rows, usecols=wanted, low_memory=False)
    frame = frame.rename(columns=str)
    if text and len(frame.columns) == 1:
        frame = frame.set_axis(list(features)[:1], axis=1)
    present = [feature for name, feature in features.items() if name in frame.columns]
    return {feature.name: [_value(feature, cell) for cell in frame[feature.name].tolist()] for feature in present}


def _features(*signatures: Signature) -> dict[str, Feature]:
    """Give the features of all signatures by name, as the last one describes them."""
    return {feature.name: feature for signature in signatures for feature in signature.features}


def _value(feature: Feature, cell: Any) -> Value:  # noqa: ANN401 - a cell of any type
    if pd.isna(cell):
        return None
    if feature.kind == "string":
        return str(cell)
    if feature.kind == "boolean":
        return bool(cell)
    try:
        return float(cell)
    except ValueError:
        # A text among numbers stays what it is: the signature says what is wrong with it.
        return str(cell)


def _transposed(columns: Mapping[str, Sequence[Value]]) -> list[Instance]:
    return [as_typed(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _made_up_rows(*signatures: Signature) -> list[Instance]:
    # Not to be secret, but the same at each look.
    random = np.random.default_rng(0)
    return _transposed({name: _varied(feature, random) for name, feature in _features(*signatures).items()})


def _varied(feature: Feature, random: np.random.Generator) -> list[Value]:
    """Vary a feature over what is allowed or was seen; a number of which nothing is known from -1 to 1."""
    values = feature.allowed or feature.observed_values or ((False, True) if feature.kind == "boolean" else ())
    if values:
        return [values[at] for at in random.integers(len(values), size=MADE_UP_ROWS).tolist()]
    if feature.kind == "string":
        return [made_up(feature)] * MADE_UP_ROWS
    low, high = _range(feature)
    numbers = random.uniform(low, high, MADE_UP_ROWS).tolist()
    return [float(round(number)) if feature.kind == "integer" else number for number in numbers]


def _range(feature: Feature) -> tuple[float, float]:
    low, high = feature.minimum, feature.maximum
    if feature.observed_minimum is not None and feature.observed_maximum is not None:
        low, high = feature.observed_minimum, feature.observed_maximum
    if low is None and high is None:
        return -1.0, 1.0
    if low is None or high is None:
        end = float(made_up(feature) or 0)
        return end, end
    return low, high
