"""An instance that a version takes, made up from its signature: to try the estimator, and to show a first call."""

from __future__ import annotations

import math
from collections.abc import Mapping

from webapp.signature import Feature, Signature, Value

# What no encoder has learned.
STRANGE_TEXT = "modelport: a value that was never seen"
STRANGE_NUMBER = -987_654_321.25


def made_up(feature: Feature) -> Value:
    """Give a value of one feature: of the allowed or seen ones the first, else the middle of its range."""
    value = _typical(feature)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    # A person may have ruled out what was seen.
    low, high = feature.minimum, feature.maximum
    if feature.kind == "integer":
        low, high = low if low is None else math.ceil(low), high if high is None else math.floor(high)
    least = value if low is None else max(value, float(low))
    return least if high is None else min(least, float(high))


def _typical(feature: Feature) -> Value:
    for values in (feature.allowed, feature.observed_values):
        if values:
            return values[0]
    if feature.kind == "string":
        return "a"
    if feature.kind == "boolean":
        return False
    low, high = feature.minimum, feature.maximum
    if feature.observed_minimum is not None and feature.observed_maximum is not None:
        low, high = feature.observed_minimum, feature.observed_maximum
    if low is not None and high is not None:
        return float(round((low + high) / 2)) if feature.kind == "integer" or high - low > 2 else (low + high) / 2  # noqa: PLR2004 - wide enough to round
    return low if low is not None else high if high is not None else 0.0


def instance(signature: Signature) -> dict[str, Value]:
    """Give one instance."""
    return as_typed({feature.name: made_up(feature) for feature in signature.features})


def as_typed(values: Mapping[str, Value]) -> dict[str, Value]:
    """Give an instance as a person would type it: whole numbers without a fraction."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in values.items()
    }
