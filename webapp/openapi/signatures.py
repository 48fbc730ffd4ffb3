"""JSON Schemas of what one version takes and gives, made from its signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from webapp.openapi import forms
from webapp.openapi.forms import Schema
from webapp.signature import Feature, Output, Signature, Value, example

# What `signature.check` takes for text: NUL is in none.
NO_NUL = "^[^\\u0000]*$"
NUMERIC = frozenset({"number", "integer"})


def instance(signature: Signature) -> Schema:
    """Give the schema of one instance: what is enforced, and nothing that was merely seen in the reference."""
    features = signature.features
    return {
        "type": "object",
        "properties": {each.name: feature(each) for each in features},
        "required": [each.name for each in features if each.default is None],
        "additionalProperties": False,
        "examples": [sample(signature)],
    }


def sample(signature: Signature) -> dict[str, Value]:
    """Give an instance to show: of features that say whom it is about, no value that was seen is told."""
    told = tuple(replace(each, observed_values=None) if _is_private(each) else each for each in signature.features)
    return example.instance(replace(signature, features=told))


def _is_private(feature: Feature) -> bool:
    return feature.subject or feature.log in {"hash", "drop"}


def feature(feature: Feature) -> Schema:
    """Give the schema of one feature."""
    form: Schema = {"type": [feature.kind, "null"] if feature.nullable else feature.kind}
    if feature.kind == "string":
        form["pattern"] = NO_NUL
    if feature.kind in NUMERIC:
        form |= _bounds(feature)
    if feature.allowed is not None:
        form["enum"] = [*_plain(feature.allowed), *([None] if feature.nullable else [])]
    if feature.default is not None:
        form["default"] = _plain((feature.default,))[0]
    if about := _about(feature):
        form["description"] = about
    return form


def _bounds(feature: Feature) -> Schema:
    bounds = {"minimum": feature.minimum, "maximum": feature.maximum}
    return {name: _plain((value,))[0] for name, value in bounds.items() if value is not None}


def _plain(values: tuple[Value, ...]) -> list[Value]:
    """Give values as people write them: whole numbers without a fraction."""
    return [int(each) if isinstance(each, float) and each.is_integer() else each for each in values]


def _about(feature: Feature) -> str:
    """Say what the feature is, and what is answered where its rule is violated."""
    refusal = f"Refused otherwise: “{feature.message}”" if feature.message else ""
    return " ".join(filter(None, [feature.description, refusal]))


def predicted(signature: Signature, model: str, shown: str) -> Schema:
    """Give the schema of the answer to one instance."""
    own, sometimes = _answer(signature)
    common = {"model": {"const": model}, "model_version": {"const": shown}}
    return forms.record({**own, **common, "prediction_id": forms.TEXT}, **sometimes)


def predicted_many(signature: Signature, model: str, shown: str) -> Schema:
    """Give the schema of the answer to many."""
    own, sometimes = _answer(signature)
    row = forms.record({**own, "prediction_id": forms.TEXT}, id=forms.TEXT, **sometimes)
    common: dict[str, Schema] = {"model": {"const": model}, "model_version": {"const": shown}}
    return forms.record({**common, "predictions": forms.many(row)})


def _answer(signature: Signature) -> tuple[dict[str, Schema], dict[str, Schema]]:
    own = {"prediction": _by_output(signature, _label)}
    if signature.probabilities != "none":
        own |= {
            "probability": _by_output(signature, lambda _output: forms.NUMBER),
            "probabilities": _by_output(signature, _probabilities),
        }
    return own, {"warnings": forms.WARNINGS}


def _by_output(signature: Signature, form: Callable[[Output], Schema]) -> Schema:
    if not signature.multi_output:
        return form(signature.outputs[0])
    return forms.record({each.name: form(each) for each in signature.outputs})


def _label(output: Output) -> Schema:
    return forms.NUMBER if output.classes is None else {"enum": _plain(output.classes)}


def _probabilities(output: Output) -> Schema:
    return forms.record({str(each): forms.NUMBER for each in output.classes or ()})
