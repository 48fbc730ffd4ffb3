"""The rules that people state of a feature: what agrees with its type and with one another is kept and enforced."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from webapp.errors import Invalid
from webapp.signature import Feature, Signature, Value
from webapp.signature.check import Checker
from webapp.signature.rules import declare

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53).map(float), st.just(-0.0)
)
WHOLE = st.integers(-(2**60), 2**60).map(float)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "number": NUMBERS,
    "integer": WHOLE,
    "boolean": st.booleans(),
    "string": TEXTS,
}


@st.composite
def features(draw: st.DrawFn, name: str = "x", texts: st.SearchStrategy[str] = TEXTS) -> Feature:
    """Draw a feature with rules that agree with one another; its allowed values and texts are from `texts`."""
    kind = draw(st.sampled_from(["number", "integer", "boolean", "string"]))
    values = texts if kind == "string" else VALUES[kind]
    bounds: list[Any] = [None, None]
    if kind in {"number", "integer"}:
        ends = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
        bounds = [end if draw(st.booleans()) else None for end in ends]
        whole = kind == "integer"
        values = values.filter(lambda value: _within(value, *bounds)) if not whole else values.map(float)
    allowed = draw(st.none() | st.lists(values, min_size=1, max_size=4).map(tuple))
    feature = Feature(
        name,
        kind=kind,
        nullable=draw(st.booleans()),
        missing=draw(st.sampled_from(["nan", "none"])),
        minimum=bounds[0],
        maximum=bounds[1],
        allowed=allowed,
        description=draw(texts),
        message=draw(texts),
        observed_minimum=draw(st.none() | st.just(0.5)) if kind in {"number", "integer"} else None,
        observed_values=draw(st.none() | st.just(("a", "b"))) if kind == "string" else None,
    )
    usable = [value for value in allowed or [draw(values)] if keeps(feature, value)]
    if usable and draw(st.booleans()):
        return Feature(**{**_facts(feature), "default": usable[0]})
    return feature


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _facts(feature: Feature) -> dict[str, Any]:
    return {name: getattr(feature, name) for name in Feature.__slots__}


def keeps(feature: Feature, value: Any) -> bool:
    """Whether a value keeps a feature's rules, as a person reads them."""
    if value is None:
        return feature.nullable
    of_its_kind = {
        "number": type(value) in {int, float},
        "integer": type(value) in {int, float} and float(value).is_integer(),
        "boolean": type(value) is bool,
        "string": type(value) is str,
    }[feature.kind]
    if not of_its_kind or (feature.allowed is not None and value not in feature.allowed):
        return False
    return feature.kind in {"boolean", "string"} or _within(value, feature.minimum, feature.maximum)


def takes(feature: Feature, value: object) -> bool:
    """Whether a value is acceptable to the checker."""
    try:
        Checker(Signature((feature,), "frame", "", ())).rows([{feature.name: value}], [""])
    except Invalid:
        return False
    return True


def stated(feature: Feature) -> dict[str, Any]:
    """Give the rules of a feature as metadata states them."""
    names = ("minimum", "maximum", "nullable", "default", "description", "message")
    allowed = None if feature.allowed is None else list(feature.allowed)
    return {"name": feature.name, "type": feature.kind, "allowed": allowed} | {n: getattr(feature, n) for n in names}


def bare(feature: Feature) -> Feature:
    """Give a feature as it was learned, before anybody states rules of it."""
    rules = {"kind": "number", "nullable": False, "minimum": None, "maximum": None, "allowed": None}
    return Feature(**{**_facts(feature), **rules, "default": None, "description": "", "message": ""})


def refusal(rules: dict[str, Any], feature: Feature | None = None) -> str:
    with pytest.raises(Invalid) as caught:
        declare(feature or Feature("age"), rules)
    assert caught.value.code == "metadata_unreadable"
    assert caught.value.detail.startswith("Feature “age”: ")
    return caught.value.detail


# --- What is kept -------------------------------------------------------------------------------------------


@given(features())
def test_what_is_stated_is_what_is_kept(feature: Feature) -> None:
    learned = Feature(**{**_facts(bare(feature)), "kind": feature.kind})
    assert declare(learned, stated(feature)) == feature


@given(features())
def test_what_is_stated_can_come_from_json(feature: Feature) -> None:
    learned = Feature(**{**_facts(bare(feature)), "kind": feature.kind})
    assert declare(learned, json.loads(json.dumps(stated(feature)))) == feature


@given(features())
def test_stating_nothing_changes_nothing(feature: Feature) -> None:
    assert declare(feature, {}) == declare(feature, {"name": feature.name, "minimum": None}) == feature


@given(features(), st.one_of(*VALUES.values(), st.none()))
@example(Feature("x", "integer", minimum=18.0), 18.5)
@example(Feature("x", "boolean"), 1)
def test_what_is_stated_is_enforced(feature: Feature, value: Value) -> None:
    assert takes(feature, value) is keeps(feature, value)


def test_a_default_stands_in_for_what_is_left_out() -> None:
    made = declare(Feature("age"), {"type": "integer", "default": 40})
    assert Checker(Signature((made,), "frame", "", ())).rows([{}], [""]) == [(40.0,)]


def test_a_message_is_said_instead_of_the_standard_sentence() -> None:
    made = declare(Feature("age"), {"minimum": 18, "message": "Adults only."})
    with pytest.raises(Invalid) as caught:
        Checker(Signature((made,), "frame", "", ())).rows([{"age": 17}], [""])
    assert [problem.message for problem in caught.value.problems] == ["Adults only."]


SEEN = Feature("age", "integer", observed_minimum=18.0, observed_maximum=70.0, observed_values=(18.0, 70.0))


@pytest.mark.parametrize(
    ("kind", "stays"), [("integer", True), ("number", True), ("string", False), ("boolean", False)]
)
def test_what_was_seen_stays_as_long_as_it_is_of_the_type(kind: str, *, stays: bool) -> None:
    made = declare(SEEN, {"type": kind})
    seen = (made.observed_minimum, made.observed_maximum, made.observed_values)
    assert seen == ((18.0, 70.0, (18.0, 70.0)) if stays else (None, None, None))


# --- What is refused ----------------------------------------------------------------------------------------

CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown type": ({"type": "date"}, "number, integer, boolean, string"),
    "a type that is a list": ({"type": ["number"]}, "number, integer, boolean, string"),
    "an unknown rule": ({"minimun": 3}, "minimun"),
    "a bound of text": ({"type": "string", "minimum": 3}, "minimum"),
    "a bound of true and false": ({"type": "boolean", "maximum": 1}, "maximum"),
    "a bound that is text": ({"minimum": "18"}, "minimum"),
    "a bound that is true": ({"minimum": True}, "minimum"),
    "a bound without end": ({"maximum": float("inf")}, "maximum"),
    "a bound that is no number": ({"minimum": float("nan")}, "minimum"),
    "a bound beyond floats": ({"maximum": 10**400}, "maximum"),
    "bounds that cross": ({"minimum": 3, "maximum": 2}, "above the maximum"),
    "no allowed value": ({"allowed": []}, "allowed"),
    "allowed values that are none": ({"allowed": "ab"}, "allowed"),
    "allowed values of another type": ({"type": "integer", "allowed": [1, 2.5]}, "allowed"),
    "allowed texts among numbers": ({"allowed": [1, "2"]}, "allowed"),
    "an allowed null": ({"type": "string", "allowed": ["a", None]}, "allowed"),
    "an allowed NUL": ({"type": "string", "allowed": ["a\0"]}, "allowed"),
    "a default of another type": ({"type": "integer", "default": 0.5}, "default"),
    "a default out of bounds": ({"minimum": 18, "default": 17}, "the default is not acceptable"),
    "a default that is not allowed": ({"allowed": [1, 2], "default": 3}, "the default is not acceptable"),
    "nullable as text": ({"nullable": "yes"}, "nullable"),
    "nullable as a number": ({"nullable": 1}, "nullable"),
    "a description that is none": ({"description": {"en": "x"}}, "description"),
    "a message that is none": ({"message": 7}, "message"),
    "several at once": ({"minimum": "a", "nullable": 1}, "minimum, nullable"),
}


@pytest.mark.parametrize(("rules", "says"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_cannot_be_said_is_refused_and_named(rules: dict[str, Any], says: str) -> None:
    assert says in refusal(rules)
