"""The rules that a person states of a feature: in a model's metadata, or in the admin UI before a version goes live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import marshmallow
from marshmallow import validate

from webapp.errors import Invalid
from webapp.signature import Feature, Signature
from webapp.signature.check import FIELDS, Boolean, Checker, Number, String

# What the metadata says of a feature beside its rules: see `signature.keeping`.
ELSEWHERE = frozenset({"name", "log", "subject"})


def declare(feature: Feature, rules: Mapping[str, Any]) -> Feature:
    """Give the feature with the rules; raise `Invalid` when they contradict its type or one another."""
    given = {name: value for name, value in rules.items() if name not in ELSEWHERE and value is not None}
    kind = given.pop("type", feature.kind)
    if kind not in list(FIELDS):
        raise _unusable(feature, f"the type is one of {', '.join(FIELDS)}")
    try:
        chosen = _rules_schema(kind).load(given)
    except marshmallow.ValidationError as error:
        listed = ", ".join(sorted(error.messages))
        raise _unusable(feature, f"of a {kind} this cannot be said: {listed}") from None
    if "allowed" in chosen:
        chosen["allowed"] = tuple(chosen["allowed"])
    if {kind, feature.kind} not in ({kind}, {"number", "integer"}):
        # Seen as values of another type.
        feature = replace(feature, observed_minimum=None, observed_maximum=None, observed_values=None)
    feature = replace(feature, kind=kind, **chosen)
    _check_rules(feature)
    return feature


def inherit(old: Signature, new: Signature) -> tuple[Signature, list[str]]:
    """Give the new signature with the rules that people stated of the old one, and the features that got some.

    By name, where the type is the same; what the new one says itself stays.
    """
    before = {feature.name: feature for feature in old.features}
    features = tuple(_inheriting(before.get(feature.name), feature) for feature in new.features)
    changed = [feature.name for feature, was in zip(features, new.features, strict=True) if feature != was]
    return replace(new, features=features), changed


def _inheriting(old: Feature | None, new: Feature) -> Feature:
    if old is None or old.kind != new.kind:
        return new
    stated: dict[str, Any] = {
        name: getattr(old, name)
        for name in ("minimum", "maximum", "default", "description", "message")
        if not _says(getattr(new, name)) and _says(getattr(old, name))
    }
    # Values that the estimator itself insists on are its own; the others a person listed.
    if new.allowed is None and old.allowed is not None and old.allowed != old.observed_values:
        stated["allowed"] = old.allowed
    merged = replace(new, **stated)
    try:
        _check_rules(merged)
    except Invalid:
        return new
    return merged


def _says(value: object) -> bool:
    return value is not None and value != ""


def _rules_schema(kind: str) -> marshmallow.Schema:
    """Give the schema of what can be declared of a feature."""
    value = FIELDS[kind]
    rules: dict[str, marshmallow.fields.Field[Any]] = {
        "nullable": Boolean(),
        "allowed": marshmallow.fields.List(value(), validate=validate.Length(min=1)),
        "default": value(),
        "description": String(),
        "message": String(),
    }
    if issubclass(value, Number):
        rules |= {"minimum": Number(), "maximum": Number()}
    return marshmallow.Schema.from_dict(rules)()


def _check_rules(feature: Feature) -> None:
    if feature.minimum is not None and feature.maximum is not None and feature.minimum > feature.maximum:
        raise _unusable(feature, "the minimum is above the maximum")
    if feature.default is not None:
        try:
            Checker(Signature((feature,), "frame", "", ())).rows([{feature.name: feature.default}], [""])
        except Invalid:
            raise _unusable(feature, "the default is not acceptable itself") from None


def _unusable(feature: Feature, why: str) -> Invalid:
    return Invalid("metadata_unreadable", f"Feature “{feature.name}”: {why}.")
