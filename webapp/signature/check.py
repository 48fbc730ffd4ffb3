"""Checks instances against a signature: every problem of every instance at once, then rows for the estimator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Self

import marshmallow
import numpy as np
from marshmallow import fields, validate

from webapp.errors import Invalid, Problem, member
from webapp.signature import Feature, Row, Signature, Value
from webapp.signature.quick import Quick


class Message(str):
    """A sentence that carries the stable code of its rule through marshmallow."""

    __slots__ = ("code",)
    code: str

    def __new__(cls, code: str, text: str) -> Self:
        """Make the sentence `text` of the rule `code`."""
        message = super().__new__(cls, text)
        message.code = code
        return message

    def format(self, *_args: object, **_values: object) -> Message:
        """Stay what it is: marshmallow fills in its own messages, ours are complete."""
        return self


MESSAGES = {
    "required": Message("required", "This feature is missing."),
    "null": Message("null_not_allowed", "null is not allowed here."),
    "unknown": Message("unknown_field", "The model has no feature of this name."),
    "type": Message("not_an_object", "An instance is an object with one entry per feature."),
    "number": Message("not_a_number", "Must be a number, as JSON writes numbers."),
    "infinite": Message("number_out_of_range", "Must be a finite number; a missing value is null."),
    "integer": Message("not_an_integer", "Must be a whole number."),
    "boolean": Message("not_a_boolean", "Must be true or false."),
    "string": Message("not_a_string", "Must be a string."),
    "nul": Message("character_not_allowed", "Must not contain the character NUL."),
}


class Number(fields.Field[float]):
    """A finite JSON number; `true` and `"1"` are none."""

    default_error_messages = MESSAGES  # type: ignore[assignment] # messages are str

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: Any) -> float:  # noqa: ANN401, ARG002 - marshmallow's interface
        if type(value) is not float and type(value) is not int:
            raise self.make_error("number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.make_error("infinite")
        return number


class Integer(Number):
    """A whole number, however it is written: `35.0` is one."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: Any) -> float:  # noqa: ANN401 - marshmallow's interface
        number = super()._deserialize(value, attr, data, **kwargs)
        if not number.is_integer():
            raise self.make_error("integer")
        return number


class Boolean(fields.Field[bool]):
    """`true` or `false`, nothing that could mean them."""

    default_error_messages = MESSAGES  # type: ignore[assignment] # messages are str

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: Any) -> bool:  # noqa: ANN401, ARG002 - marshmallow's interface
        if type(value) is not bool:
            raise self.make_error("boolean")
        return value


class String(fields.Field[str]):
    """A JSON string."""

    default_error_messages = MESSAGES  # type: ignore[assignment] # messages are str

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: Any) -> str:  # noqa: ANN401, ARG002 - marshmallow's interface
        if type(value) is not str:
            raise self.make_error("string")
        if "\0" in value:
            raise self.make_error("nul")
        return value


# An instance with so many unknown fields is not looked at further.
MOST_STRANGERS = 20
# From so many instances on they are looked at column by column.
FEWEST_FOR_COLUMNS = 8
FEWEST_RANGES = 4

FIELDS: dict[str, type[fields.Field[Any]]] = {
    "number": Number,
    "integer": Integer,
    "boolean": Boolean,
    "string": String,
}


def show(value: Value) -> str:
    """Write a value the way people write it: whole numbers without `.0`."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _bounds(feature: Feature) -> str:
    if feature.minimum is None:
        return f"Must be at most {show(feature.maximum)}."
    if feature.maximum is None:
        return f"Must be at least {show(feature.minimum)}."
    return f"Must be from {show(feature.minimum)} to {show(feature.maximum)}."


def _rules(feature: Feature) -> list[validate.Validator]:
    rules: list[validate.Validator] = []
    if feature.minimum is not None or feature.maximum is not None:
        message = Message("out_of_bounds", feature.message or _bounds(feature))
        rules.append(validate.Range(min=feature.minimum, max=feature.maximum, error=message))
    if feature.allowed is not None:
        listed = ", ".join(show(value) for value in feature.allowed[:20])
        rest = ", …" if len(feature.allowed) > 20 else ""  # noqa: PLR2004 - what fits a sentence
        message = Message("not_allowed", feature.message or f"Must be one of: {listed}{rest}.")
        rules.append(validate.OneOf(frozenset(feature.allowed), error=message))
    return rules


def _field(feature: Feature) -> fields.Field[Any]:
    presence: dict[str, Any] = {"required": True}
    if feature.default is not None:
        presence = {"load_default": feature.default}
    return FIELDS[feature.kind](
        data_key=feature.name, allow_none=feature.nullable, validate=_rules(feature), **presence
    )


class _InstanceSchema(marshmallow.Schema):
    class Meta:
        unknown = marshmallow.RAISE

    error_messages = {"unknown": MESSAGES["unknown"], "type": MESSAGES["type"]}  # noqa: RUF012 - marshmallow's interface


def schema(signature: Signature) -> marshmallow.Schema:
    """Give the marshmallow schema of one instance. Attributes are numbered: a feature may be called anything."""
    made = {f"f{position}": _field(feature) for position, feature in enumerate(signature.features)}
    return _InstanceSchema.from_dict(made)()


def _problems(prefix: str, messages: dict[str, list[Message]]) -> Iterator[Problem]:
    for name, found in messages.items():
        for message in found:
            # Told by the rule: the name under which marshmallow files it may be a feature's name, too.
            whole = message is MESSAGES["type"]
            yield Problem(prefix if whole else member(prefix, name), message.code, str(message))


class Checker:
    """Checks instances of one signature. Made once per version, used by all threads."""

    def __init__(self, signature: Signature) -> None:
        """Build the schema and the list of features that have something observed to compare with."""
        self._schema = schema(signature)
        self._quick = Quick(signature)
        self.names = [feature.name for feature in signature.features]
        self._known = frozenset(self.names)
        self._attributes = [f"f{position}" for position in range(len(signature.features))]
        self._observed = [
            (position, feature, frozenset(feature.observed_values or ()))
            for position, feature in enumerate(signature.features)
            if feature.observed_minimum is not None or feature.observed_values is not None
        ]
        self._ranges = [
            (position, feature.observed_minimum, feature.observed_maximum)
            for position, feature, _ in self._observed
            if feature.observed_minimum is not None and feature.observed_maximum is not None
        ]
        self._seen = [
            (position, seen) for position, feature, seen in self._observed if feature.observed_values is not None
        ]

    def rows(self, instances: Sequence[object], prefixes: Sequence[str]) -> list[Row]:
        """Turn instances into rows in the signature's order.

        `prefixes` has one JSON pointer per instance. Raises `Invalid` with every problem of every instance.
        """
        quick = self._quick.rows(instances) if len(instances) >= FEWEST_FOR_COLUMNS else None
        return self._each(instances, prefixes) if quick is None else quick

    def _each(self, instances: Sequence[object], prefixes: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        problems: list[Problem] = []
        for instance, prefix in zip(instances, prefixes, strict=True):
            row = self._quick.row(instance)
            if row is not None:
                rows.append(row)
                continue
            if isinstance(instance, dict) and len(instance) > len(self.names) + MOST_STRANGERS:
                problems += self._strangers(instance, prefix)
                continue
            try:
                loaded = self._schema.load(instance)  # type: ignore[arg-type] # anything may come
            except marshmallow.ValidationError as error:
                problems += _problems(prefix, error.messages)  # type: ignore[arg-type] # ours are Messages
            else:
                rows.append(tuple(loaded[attribute] for attribute in self._attributes))
        if problems:
            raise Invalid("invalid_instances", _summary(len(problems)), problems=tuple(problems))
        return rows

    def _strangers(self, instance: dict[str, object], prefix: str) -> Iterator[Problem]:
        """Name some of very many unknown fields: a body full of them is not worth reporting field by field."""
        unknown = (name for name in instance if name not in self._known)
        for name in islice(unknown, MOST_STRANGERS):
            yield Problem(member(prefix, name), "unknown_field", MESSAGES["unknown"])

    def warnings(self, row: Row) -> tuple[dict[str, str], ...]:
        """Name what a row has that the reference had not. Nothing here is refused."""
        if self._is_ordinary(row):
            return ()
        return tuple(
            {"feature": feature.name, "code": code, "message": message}
            for position, feature, seen in self._observed
            for code, message in _unseen(feature, seen, row[position])
        )

    def warnings_of(self, rows: Sequence[Row]) -> list[tuple[dict[str, str], ...]]:
        """Give the warnings of each row."""
        found: list[tuple[dict[str, str], ...]] = [()] * len(rows)
        for position in self._suspects(rows):
            found[position] = self.warnings(rows[position])
        return found

    def _is_ordinary(self, row: Row) -> bool:
        for position, low, high in self._ranges:
            value = row[position]
            if value is not None and not low <= value <= high:  # type: ignore[operator] # numbers have ranges
                return False
        return not self._seen or all(row[position] in seen or row[position] is None for position, seen in self._seen)

    def _suspects(self, rows: Sequence[Row]) -> Iterable[int]:
        """Give the places of rows that have to be looked at one by one."""
        every = range(len(rows))
        if len(rows) < FEWEST_FOR_COLUMNS or len(self._ranges) < FEWEST_RANGES or self._seen:
            return every
        positions, low, high = zip(*self._ranges, strict=True)
        ranged = rows if len(positions) == len(rows[0]) else map(itemgetter(*positions), rows)
        try:
            numbers = np.fromiter(chain.from_iterable(ranged), float, len(rows) * len(positions))
        except TypeError:
            # Some are null.
            return every
        numbers = numbers.reshape(len(rows), -1)
        return np.flatnonzero(((numbers < low) | (numbers > high)).any(axis=1)).tolist()


def _summary(count: int) -> str:
    return "One value is not acceptable." if count == 1 else f"{count} values are not acceptable."


def _unseen(feature: Feature, seen: frozenset[Value], value: Value) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if feature.observed_values is not None and value not in seen:
        yield "unseen_value", "The reference has no such value."
    low, high = feature.observed_minimum, feature.observed_maximum
    if low is not None and high is not None and not low <= value <= high:  # type: ignore[operator] # numbers have ranges
        yield "outside_observed_range", f"The reference goes from {show(low)} to {show(high)}."
