"""Comparing signatures: what is called safe refuses nothing that worked, and every difference is said once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.test_rules import VALUES, features, keeps
from webapp.errors import Invalid
from webapp.signature import Feature, Output, Signature, example
from webapp.signature.check import Checker
from webapp.signature.compare import Difference, differences

AGE = Feature("age", "integer", minimum=18.0, maximum=120.0)
PLAN = Feature("plan", "string", allowed=("free", "pro"))


def signature(*given: Feature) -> Signature:
    return Signature(given, "frame", "classification", (Output("churn", (0, 1)),))


def found(old: Feature, new: Feature) -> list[tuple[str, bool]]:
    return [(each.word, each.breaking) for each in differences(signature(old), signature(new))]


def works(under: Signature, instance: dict[str, Any]) -> bool:
    try:
        Checker(under).rows([instance], [""])
    except Invalid:
        return False
    return True


# --- What the activation page promises ----------------------------------------------------------------------


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    return signature(*(draw(features(name)) for name in names))


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Feature, Feature]:
    """Draw a feature and one that differs from it a little: one that differs in everything breaks everything."""
    old, other = draw(features()), draw(features())
    parts = draw(st.lists(st.sampled_from(["nullable", "minimum", "maximum", "allowed", "default"]), max_size=2))
    if other.kind == old.kind:
        new = replace(old, **{part: getattr(other, part) for part in parts})
    else:
        new = replace(old, kind="number" if old.kind == "integer" else old.kind, nullable=other.nullable)
    return old, new if new.default is None or keeps(new, new.default) else replace(new, default=None)


@given(neighbours(), st.data())
def test_what_is_not_breaking_refuses_nothing_that_worked(two: tuple[Feature, Feature], data: st.DataObject) -> None:
    old, new = two
    assume(not any(breaking for _, breaking in found(old, new)))
    usable = [each for each in (*(old.allowed or ()), old.minimum, old.maximum, old.default) if keeps(old, each)]
    value = data.draw(st.one_of(st.sampled_from(usable or [None]), VALUES[old.kind]))
    instance = data.draw(st.sampled_from([{"x": value}, {"x": None}, {}]))
    if works(signature(old), instance):
        assert works(signature(new), instance)


@given(signatures())
def test_a_signature_does_not_differ_from_itself(one: Signature) -> None:
    assert differences(one, one) == []


@given(signatures(), signatures())
def test_differences_are_of_features_that_one_of_both_has(old: Signature, new: Signature) -> None:
    listed = differences(old, new)
    assert {each.feature for each in listed} <= {each.name for each in (*old.features, *new.features)}
    assert len({(each.feature, each.word) for each in listed}) == len(listed)


# --- Each kind of difference --------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Feature, Feature, list[tuple[str, bool]]]] = {
    "a wider type": (Feature("x", "integer"), Feature("x", "number"), [("Type", False)]),
    "a narrower type": (Feature("x", "number"), Feature("x", "integer"), [("Type", True)]),
    "another type": (Feature("x", "string"), Feature("x", "boolean"), [("Type", True)]),
    "may be missing": (AGE, replace(AGE, nullable=True), [("Missing", False)]),
    "may no longer be missing": (replace(AGE, nullable=True), AGE, [("Missing", True)]),
    "a higher minimum": (AGE, replace(AGE, minimum=21.0), [("Bounds", True)]),
    "a lower minimum": (AGE, replace(AGE, minimum=16.0), [("Bounds", False)]),
    "a lower maximum": (AGE, replace(AGE, maximum=99.0), [("Bounds", True)]),
    "a higher maximum": (AGE, replace(AGE, maximum=150.0), [("Bounds", False)]),
    "a maximum of nought that rises": (replace(AGE, maximum=0.0), replace(AGE, maximum=1.0), [("Bounds", False)]),
    "lower and higher": (AGE, replace(AGE, minimum=16.0, maximum=99.0), [("Bounds", True)]),
    "no bounds any more": (AGE, Feature("age", "integer"), [("Bounds", False)]),
    "bounds where there were none": (Feature("age", "integer"), AGE, [("Bounds", True)]),
    "one value more": (PLAN, replace(PLAN, allowed=("free", "pro", "team")), [("Values", False)]),
    "one value less": (PLAN, replace(PLAN, allowed=("free",)), [("Values", True)]),
    "other values": (PLAN, replace(PLAN, allowed=("free", "team")), [("Values", True)]),
    "the same values in another order": (PLAN, replace(PLAN, allowed=("pro", "free", "pro")), []),
    "every value": (PLAN, replace(PLAN, allowed=None), [("Values", False)]),
    "some values where there were all": (replace(PLAN, allowed=None), PLAN, [("Values", True)]),
    "a default": (AGE, replace(AGE, default=40.0), []),
    "no default any more": (replace(AGE, default=40.0), AGE, [("Default", True)]),
    "another default": (replace(AGE, default=40.0), replace(AGE, default=41.0), []),
    "a default of false is one": (Feature("x", "boolean", default=False), Feature("x", "boolean"), [("Default", True)]),
    "texts": (AGE, replace(AGE, description="in years", message="Adults only."), []),
    "what was seen": (AGE, replace(AGE, observed_minimum=20.0), []),
    "two at once": (AGE, replace(AGE, minimum=21.0, nullable=True), [("Missing", False), ("Bounds", True)]),
}


@pytest.mark.parametrize(("old", "new", "expected"), CHANGES.values(), ids=CHANGES)
def test_each_difference_is_named(old: Feature, new: Feature, expected: list[tuple[str, bool]]) -> None:
    assert found(old, new) == expected


def test_features_that_come_and_go_are_listed_in_order() -> None:
    old, new = signature(PLAN, AGE), signature(Feature("region"), AGE, Feature("segment", default=1.0))
    assert [(each.feature, each.word, each.breaking) for each in differences(old, new)] == [
        ("region", "New", True),
        ("segment", "New", False),
        ("plan", "Gone", True),
    ]
    assert works(old, example.instance(old))
    assert not works(new, example.instance(old))


def test_another_order_of_features_is_no_difference() -> None:
    assert differences(signature(AGE, PLAN), signature(PLAN, AGE)) == []


def test_a_difference_is_a_sentence_of_its_own() -> None:
    [one] = differences(signature(Feature("x", "number")), signature(Feature("x", "integer")))
    assert one == Difference("x", "Type", "number before, integer now", breaking=True)
