"""The form of a signature's rules: texts that a person typed, which become rules or come back with what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from webapp.errors import Invalid
from webapp.signature import Feature, Signature, Value, rules
from webapp.signature.check import show

MOST_SENTENCE_CHARACTERS = 500
KINDS = ("number", "integer", "boolean", "string")
WORDS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Row:
    """One feature as it stands in the form; every rule is text."""

    feature: Feature
    position: int
    type: str
    minimum: str
    maximum: str
    allowed: str
    nullable: bool
    default: str
    description: str
    message: str

    def id(self, part: str) -> str:
        """Give the name of a field of this row."""
        return f"f{self.position}-{part}"


def _text(value: Value) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else show(value)


def _row_of(position: int, feature: Feature) -> Row:
    return Row(
        feature,
        position,
        feature.kind,
        _text(feature.minimum),
        _text(feature.maximum),
        "\n".join(_text(value) for value in feature.allowed or ()),
        feature.nullable,
        _text(feature.default),
        feature.description,
        feature.message,
    )


def _row_read(position: int, feature: Feature, form: Mapping[str, str]) -> Row:
    def given(part: str) -> str:
        return form.get(f"f{position}-{part}", "").strip()

    return Row(
        feature,
        position,
        given("type") or feature.kind,
        given("minimum"),
        given("maximum"),
        given("allowed").replace("\r\n", "\n"),
        bool(given("nullable")),
        given("default"),
        given("description"),
        given("message"),
    )


@dataclass(slots=True)
class Draft:
    """A signature that is being edited, with what is wrong with it by field."""

    base: Signature
    rows: list[Row]
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, signature: Signature) -> Self:
        """Give the form of a signature as it is."""
        return cls(signature, [_row_of(position, each) for position, each in enumerate(signature.features)])

    @classmethod
    def read(cls, signature: Signature, form: Mapping[str, str]) -> Self:
        """Give the form as it was sent."""
        return cls(signature, [_row_read(position, each, form) for position, each in enumerate(signature.features)])

    def signature(self) -> Signature | None:
        """Give the edited signature, or None when `errors` say what is wrong."""
        features = tuple(self._feature(row) for row in self.rows)
        return None if self.errors else replace(self.base, features=features)

    def note_refused(self, refused: Mapping[str, str]) -> None:
        """Take up what the estimator cannot keep."""
        for row in self.rows:
            if row.feature.name in refused:
                self.errors[row.id("type")] = refused[row.feature.name]

    def _feature(self, row: Row) -> Feature:
        # What was not touched stays exactly as it is: not every value can be written in a line of text.
        shown = _row_of(row.position, row.feature)
        allowed: Any = row.feature.allowed and list(row.feature.allowed)
        if row.allowed != shown.allowed.strip() or row.type != shown.type:
            allowed = [self._value(row, "allowed", line) for line in row.allowed.split("\n") if line] or None
        default = row.feature.default
        if row.default != shown.default.strip() or row.type != shown.type:
            default = self._value(row, "default", row.default) if row.default else None
        stated: dict[str, Any] = {
            "type": row.type,
            "minimum": self._number(row, "minimum"),
            "maximum": self._number(row, "maximum"),
            "allowed": allowed,
            "nullable": row.nullable,
            "default": default,
            "description": self._sentence(row, "description"),
            "message": self._sentence(row, "message"),
        }
        bare = Feature(row.feature.name, kind=row.feature.kind, missing=row.feature.missing)
        seen = replace(
            bare,
            observed_minimum=row.feature.observed_minimum,
            observed_maximum=row.feature.observed_maximum,
            observed_values=row.feature.observed_values,
        )
        try:
            return rules.declare(seen, stated) if not self._wrong(row) else row.feature
        except Invalid as refusal:
            self.errors[row.id("type")] = refusal.detail
            return row.feature

    def _wrong(self, row: Row) -> bool:
        return any(each.startswith(row.id("")) for each in self.errors)

    def _number(self, row: Row, part: str) -> float | None:
        text = getattr(row, part)
        if not text:
            return None
        value = _number(text)
        if value is None:
            self.errors[row.id(part)] = f"“{text}” is no number; write it like 18 or 0.5."
        return value

    def _sentence(self, row: Row, part: str) -> str | None:
        text: str = getattr(row, part)
        if len(text) > MOST_SENTENCE_CHARACTERS:
            self.errors[row.id(part)] = f"{len(text)} characters; at most {MOST_SENTENCE_CHARACTERS} are kept."
        return text or None

    def _value(self, row: Row, part: str, text: str) -> Value:
        if row.type == "string":
            return text
        value = WORDS.get(text.lower()) if row.type == "boolean" else _number(text)
        if value is None:
            wanted = "true or false" if row.type == "boolean" else "a number"
            self.errors[row.id(part)] = f"“{text}” is not {wanted}."
        return value


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
