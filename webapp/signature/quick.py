"""Takes what is plainly acceptable without marshmallow: one instance at a time, or many of them column by column."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from operator import is_, itemgetter
from types import NoneType
from typing import Any

from webapp.signature import Feature, Kind, Row, Signature, Value

Take = Callable[[Any], Value]
TYPES: dict[Kind, type] = {"number": float, "integer": float, "boolean": bool, "string": str}
_MOST = sys.float_info.max


class Unsure(Exception):  # noqa: N818 - a fact, not a fault: the schema decides instead
    """A value is not plainly acceptable."""


# What else says so: a name that is not there, an integer that no float holds.
_UNSURE = (Unsure, KeyError, OverflowError)


class Quick:
    """Gives the rows that the schema of the same signature would give, or None where the schema has to decide."""

    def __init__(self, signature: Signature) -> None:
        """Prepare the test of each feature."""
        self._features = signature.features
        self._count = len(self._features)
        self._tests = [(each.name, *_plain(each), _take(each)) for each in self._features]
        # The schema gives defaults as they are; those of another type would be converted here.
        self._defaults: dict[str, Any] = {
            each.name: each.default for each in self._features if type(each.default) is TYPES[each.kind]
        }
        self._pick = _picking([each.name for each in self._features])

    def row(self, instance: Any) -> Row | None:  # noqa: ANN401 - any JSON value
        """Give the row of one instance."""
        if type(instance) is not dict:
            return None
        if len(instance) < self._count:
            instance = self._defaults | instance
        # As many names as features, and below each of these is found: there is no other.
        if len(instance) != self._count:
            return None
        row: list[Any] = []
        add = row.append
        try:
            for name, low, high, fractions, take in self._tests:
                value = instance[name]
                kind = type(value)
                if kind is float and low <= value <= high and (fractions or value.is_integer()):
                    add(value)
                elif kind is int and low <= value <= high:
                    add(float(value))
                else:
                    add(take(value))
        except _UNSURE:
            return None
        return tuple(row)

    def rows(self, instances: Sequence[Any]) -> list[Row] | None:
        """Give the rows of instances that all have every feature."""
        if set(map(type, instances)) != {dict} or set(map(len, instances)) != {self._count}:
            return None
        try:
            rows = list(map(self._pick, instances))
            columns = list(zip(*rows, strict=True))
            taken = [_column(feature, column) for feature, column in zip(self._features, columns, strict=True)]
        except _UNSURE:
            return None
        return rows if all(map(is_, taken, columns)) else list(zip(*taken, strict=True))


def _picking(names: list[str]) -> Callable[[dict[str, Value]], Row]:
    if len(names) > 1:
        return itemgetter(*names)
    # Of one name `itemgetter` gives no tuple.
    return lambda instance: tuple(instance[name] for name in names)


# --- One value --------------------------------------------------------------------------------------------


def _bounds(feature: Feature) -> tuple[float, float]:
    """Give the bounds of a number; every finite one lies between the largest floats, and nothing else."""
    low = -_MOST if feature.minimum is None else max(feature.minimum, -_MOST)
    high = _MOST if feature.maximum is None else min(feature.maximum, _MOST)
    return low, high


def _plain(feature: Feature) -> tuple[float, float, bool]:
    """Give between which numbers nothing but the type is left to test, and whether fractions are acceptable."""
    if TYPES[feature.kind] is not float or feature.allowed is not None:
        # Between these there is nothing.
        return math.inf, -math.inf, False
    return *_bounds(feature), feature.kind == "number"


def _take(feature: Feature) -> Take:
    """Give the test of values that are not plain numbers: it gives what the estimator gets, or raises."""
    allowed = None if feature.allowed is None else frozenset(feature.allowed)
    if TYPES[feature.kind] is float:
        return _take_listed(feature, allowed or frozenset())
    wanted: type = TYPES[feature.kind]
    nullable = feature.nullable
    bounded = feature.minimum is not None or feature.maximum is not None

    def take(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if value is None and nullable:
            return None
        if type(value) is not wanted or bounded or (allowed is not None and value not in allowed):
            raise Unsure
        if isinstance(value, str) and "\0" in value:
            raise Unsure
        return value

    return take


def _take_listed(feature: Feature, allowed: frozenset[Value]) -> Take:
    (low, high), nullable, whole = _bounds(feature), feature.nullable, feature.kind == "integer"

    def take(value: Any) -> Value:  # noqa: ANN401 - any JSON value
        if value is None and nullable:
            return None
        if type(value) is not float and type(value) is not int:
            raise Unsure
        number = float(value)
        if number not in allowed or not low <= number <= high or (whole and not number.is_integer()):
            raise Unsure
        return number

    return take


# --- Many values ------------------------------------------------------------------------------------------


def _column(feature: Feature, values: Sequence[Any]) -> Sequence[Value]:
    """Give what the estimator gets for many values of a feature: the same object where that is what they are."""
    kinds = set(map(type, values))
    present = values
    if NoneType in kinds:
        if not feature.nullable:
            raise Unsure
        kinds.discard(NoneType)
        present = [value for value in values if value is not None]
    taken = _numbers(feature, kinds, present) if TYPES[feature.kind] is float else _others(feature, kinds, present)
    if feature.allowed is not None and not frozenset(feature.allowed).issuperset(taken):
        raise Unsure
    if taken is present:
        return values
    following = iter(taken)
    return [None if value is None else next(following) for value in values]


def _numbers(feature: Feature, kinds: set[type], values: Sequence[Any]) -> Sequence[float]:
    if not kinds <= {float, int}:
        raise Unsure
    numbers = list(map(float, values)) if int in kinds else values
    # One that is not finite makes the sum so.
    if not math.isfinite(sum(numbers)):
        raise Unsure
    if feature.kind == "integer" and float in kinds and not all(map(float.is_integer, numbers)):
        raise Unsure
    low, high = _bounds(feature)
    if feature.minimum is not None and not low <= min(numbers, default=low):
        raise Unsure
    if feature.maximum is not None and not max(numbers, default=high) <= high:
        raise Unsure
    return numbers


def _others(feature: Feature, kinds: set[type], values: Sequence[Any]) -> Sequence[Value]:
    if not kinds <= {TYPES[feature.kind]} or feature.minimum is not None or feature.maximum is not None:
        raise Unsure
    if feature.kind == "string" and "\0" in "".join(values):
        raise Unsure
    return values
