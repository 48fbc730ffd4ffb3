"""Tries an edited signature on the estimator, before people rely on rules that it cannot keep."""

from __future__ import annotations

from collections.abc import Iterator

from webapp.errors import Invalid
from webapp.serving.loaded import LoadedVersion
from webapp.signature import Feature, Signature, Value
from webapp.signature.example import STRANGE_TEXT, made_up

MOST_VALUES = 50


def refused(loaded: LoadedVersion, edited: Signature) -> dict[str, str]:
    """Give, for each feature whose rules allow what the estimator cannot take, a sentence that says what."""
    predictor = loaded.predictor.under(edited)
    row = tuple(made_up(feature) for feature in edited.features)
    found: dict[str, str] = {}
    for position, feature in enumerate(edited.features):
        for value, sentence in _edges(feature):
            tried = (*row[:position], value, *row[position + 1 :])
            try:
                predictor.predict([tried], [""])
            except Invalid:
                found.setdefault(feature.name, sentence)
    return found


def _edges(feature: Feature) -> Iterator[tuple[Value, str]]:
    """Give what the rules allow and a fitted estimator may not take."""
    if feature.nullable:
        yield None, "The estimator takes no missing values here; leave “may be missing” off."
    for value in (feature.allowed or ())[:MOST_VALUES]:
        yield value, f"The estimator does not take “{value}”; it takes the values it was trained with."
    if feature.kind == "string" and feature.allowed is None and feature.observed_values is not None:
        yield STRANGE_TEXT, "The estimator takes only the values it was trained with; list them as allowed."
