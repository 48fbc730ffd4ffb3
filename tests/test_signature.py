"""Tests of signatures: which instances are acceptable, how everything that is wrong is said, and the stored form."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import marshmallow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.errors import Invalid, Problem
from webapp.signature import Feature, Kind, Output, Row, Signature, Value, from_dict
from webapp.signature.check import Checker, schema

HUGE = 10**400


def signature(*features: Feature) -> Signature:
    return Signature(features, "frame", "classification", (Output("prediction", (0, 1)),))


def rows(instances: Sequence[object], *features: Feature) -> list[Row]:
    pointers = [f"/instances/{position}" for position in range(len(instances))]
    return Checker(signature(*features)).rows(instances, pointers)


def value(given_value: object, feature: Feature) -> Value:
    """Check one value of one feature; give what the estimator gets."""
    [row] = Checker(signature(feature)).rows([{feature.name: given_value}], [""])
    return row[0]


def problems(instance: object, *features: Feature, prefix: str = "") -> list[Problem]:
    with pytest.raises(Invalid) as caught:
        Checker(signature(*features)).rows([instance], [prefix])
    assert caught.value.code == "invalid_instances"
    return list(caught.value.problems)


def codes(instance: object, *features: Feature) -> set[tuple[str, str]]:
    return {(problem.pointer, problem.code) for problem in problems(instance, *features)}


# --- Kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sent", "got"),
    [
        ("number", 1, 1.0),
        ("number", -0.5, -0.5),
        ("number", 1e308, 1e308),
        ("number", 5e-324, 5e-324),
        ("number", 2**53 + 1, float(2**53)),
        ("number", sys.maxsize**10, float(sys.maxsize**10)),
        ("integer", 35, 35.0),
        ("integer", 35.0, 35.0),
        ("integer", -0.0, 0.0),
        ("integer", 1e300, 1e300),
        ("boolean", True, True),
        ("boolean", False, False),
        ("string", "", ""),
        ("string", "35", "35"),
        ("string", "two\nlines “and” 🙂", "two\nlines “and” 🙂"),
    ],
)
def test_a_value_of_the_features_kind_is_taken_as_it_is(kind: Kind, sent: object, got: Value) -> None:
    taken = value(sent, Feature("a", kind))
    assert taken == got
    assert type(taken) is type(got)


@pytest.mark.parametrize(
    ("kind", "sent", "code"),
    [
        ("number", True, "not_a_number"),
        ("number", "35", "not_a_number"),
        ("number", [35], "not_a_number"),
        ("number", {}, "not_a_number"),
        ("number", HUGE, "number_out_of_range"),
        ("number", -HUGE, "number_out_of_range"),
        ("number", math.inf, "number_out_of_range"),
        ("number", -math.inf, "number_out_of_range"),
        ("number", math.nan, "number_out_of_range"),
        ("integer", False, "not_a_number"),
        ("integer", "35", "not_a_number"),
        ("integer", 35.5, "not_an_integer"),
        ("integer", HUGE, "number_out_of_range"),
        ("integer", math.inf, "number_out_of_range"),
        ("boolean", 1, "not_a_boolean"),
        ("boolean", 0.0, "not_a_boolean"),
        ("boolean", "true", "not_a_boolean"),
        ("boolean", [], "not_a_boolean"),
        ("string", 35, "not_a_string"),
        ("string", True, "not_a_string"),
        ("string", ["a"], "not_a_string"),
        ("string", "a\0b", "character_not_allowed"),
    ],
)
def test_a_value_of_another_kind_is_refused(kind: Kind, sent: object, code: str) -> None:
    assert codes({"a": sent}, Feature("a", kind)) == {("/a", code)}


@pytest.mark.parametrize("kind", ["number", "integer", "boolean", "string"])
def test_null_is_taken_only_where_the_feature_may_be_null(kind: Kind) -> None:
    assert codes({"a": None}, Feature("a", kind)) == {("/a", "null_not_allowed")}
    assert value(None, Feature("a", kind, nullable=True)) is None


def test_rows_are_in_the_signatures_order_whatever_the_order_of_the_instance() -> None:
    features = Feature("b"), Feature("a", "string"), Feature("c", "boolean")
    assert rows([{"a": "x", "b": 1, "c": True}, {"c": False, "b": 2, "a": "y"}], *features) == [
        (1.0, "x", True),
        (2.0, "y", False),
    ]


def test_no_instances_are_no_rows() -> None:
    assert rows([], Feature("a")) == []


# --- Rules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [18, 18.0, 100, 99.999])
def test_bounds_are_themselves_acceptable(sent: float) -> None:
    assert value(sent, Feature("age", minimum=18, maximum=100)) == sent


@pytest.mark.parametrize(
    ("feature", "sent", "message"),
    [
        (Feature("age", minimum=18, maximum=100), 17, "Must be from 18 to 100."),
        (Feature("age", minimum=18.0, maximum=100.5), 101, "Must be from 18 to 100.5."),
        (Feature("age", minimum=18), 17.9, "Must be at least 18."),
        (Feature("age", maximum=100), 1000, "Must be at most 100."),
        (Feature("age", "integer", minimum=0, maximum=0), 1, "Must be from 0 to 0."),
    ],
)
def test_a_number_beyond_its_bounds_is_told_them(feature: Feature, sent: float, message: str) -> None:
    assert problems({"age": sent}, feature) == [Problem("/age", "out_of_bounds", message)]


def test_only_allowed_values_are_taken() -> None:
    colour = Feature("colour", "string", allowed=("red", "green"))
    assert value("green", colour) == "green"
    assert problems({"colour": "blue"}, colour) == [
        Problem("/colour", "not_allowed", "Must be one of: red, green."),
    ]


def test_allowed_numbers_are_taken_however_they_are_written() -> None:
    grade = Feature("grade", "integer", allowed=(1.0, 2.0))
    assert value(2, grade) == value(2.0, grade) == 2.0
    assert problems({"grade": 3}, grade) == [Problem("/grade", "not_allowed", "Must be one of: 1, 2.")]


def test_a_long_list_of_allowed_values_is_cut_in_the_message() -> None:
    many = Feature("code", "string", allowed=tuple(f"c{number}" for number in range(30)))
    [problem] = problems({"code": "x"}, many)
    assert problem.message.endswith("c18, c19, ….")
    assert value("c29", many) == "c29"


def test_null_passes_by_the_rules_of_values() -> None:
    assert value(None, Feature("a", nullable=True, minimum=1, allowed=(2.0,))) is None


def test_a_feature_can_bring_its_own_message() -> None:
    message = "Customers are {input} at least 18."
    age = Feature("age", minimum=18, message=message)
    assert problems({"age": 3}, age) == [Problem("/age", "out_of_bounds", message)]
    allowed = Feature("age", allowed=(18.0,), message=message)
    assert problems({"age": 3}, allowed) == [Problem("/age", "not_allowed", message)]


def test_its_own_message_is_not_shown_for_what_is_no_value_at_all() -> None:
    age = Feature("age", minimum=18, message="Customers are adults.")
    assert problems({"age": "old"}, age)[0].message == "Must be a number, as JSON writes numbers."


def test_both_violated_rules_of_a_value_are_reported() -> None:
    assert codes({"a": 9}, Feature("a", maximum=5, allowed=(1.0, 2.0))) == {
        ("/a", "out_of_bounds"),
        ("/a", "not_allowed"),
    }


def test_a_missing_feature_gets_its_default() -> None:
    features = Feature("a", default=7.0), Feature("b", "boolean", default=False), Feature("c", "string", default="x")
    assert rows([{}, {"a": 1, "b": True, "c": "y"}], *features) == [(7.0, False, "x"), (1.0, True, "y")]


def test_null_is_not_the_default() -> None:
    assert codes({"a": None}, Feature("a", default=7.0)) == {("/a", "null_not_allowed")}
    assert value(None, Feature("a", default=7.0, nullable=True)) is None


def test_a_nullable_feature_must_still_be_there() -> None:
    assert codes({}, Feature("a", nullable=True)) == {("/a", "required")}


# --- Problems ---------------------------------------------------------------------------------------------


def test_all_problems_of_all_instances_are_reported_at_once() -> None:
    features = Feature("age", "integer", minimum=18), Feature("name", "string"), Feature("member", "boolean")
    instances = [
        {"age": 17, "name": "Ann", "member": True},
        {"age": 20, "name": "Bob", "member": False},
        {"age": "old", "member": 1, "colour": "red"},
        "not an object",
    ]
    with pytest.raises(Invalid) as caught:
        rows(instances, *features)
    assert {(problem.pointer, problem.code) for problem in caught.value.problems} == {
        ("/instances/0/age", "out_of_bounds"),
        ("/instances/2/age", "not_a_number"),
        ("/instances/2/name", "required"),
        ("/instances/2/member", "not_a_boolean"),
        ("/instances/2/colour", "unknown_field"),
        ("/instances/3", "not_an_object"),
    }
    assert caught.value.detail == "6 values are not acceptable."


@pytest.mark.parametrize("sent", [None, True, 1, 1.5, "text", [], [1], [{"a": 1}]])
def test_what_is_not_an_object_is_no_instance(sent: object) -> None:
    assert codes(sent, Feature("a")) == {("", "not_an_object")}


def test_one_problem_is_one_value() -> None:
    with pytest.raises(Invalid, match="One value is not acceptable"):
        rows([{}], Feature("a"))


def test_pointers_escape_what_json_pointer_wants_escaped() -> None:
    features = Feature("a/b"), Feature("m~n"), Feature("~1"), Feature("")
    assert codes({"c/~d": 1}, *features) == {
        ("/a~1b", "required"),
        ("/m~0n", "required"),
        ("/~01", "required"),
        ("/", "required"),
        ("/c~1~0d", "unknown_field"),
    }


AWKWARD = [
    "load", "dump", "fields", "Meta", "a.b", "context", "_schema", "opts", "declared_fields", "error_messages",
    "f0", "f1", "__class__", "validate", "handle_error", "unknown", "self", "data_key", "{input}", "", " ", "é", "\n",
]  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_a_feature_may_be_called_like_anything_in_marshmallow(name: str) -> None:
    feature = Feature(name, "integer", minimum=1, observed_minimum=1, observed_maximum=5)
    assert value(3, feature) == 3.0
    place = f"/instances/0/{name}"
    for sent, code in ((0, "out_of_bounds"), (None, "null_not_allowed"), ("x", "not_a_number")):
        [problem] = problems({name: sent}, feature, prefix="/instances/0")
        assert (problem.pointer, problem.code) == (place, code)
    assert Checker(signature(feature)).warnings((9.0,))[0]["feature"] == name


@pytest.mark.parametrize("name", AWKWARD)
def test_an_unknown_field_may_be_called_like_anything_in_marshmallow(name: str) -> None:
    assert codes({"real": 1, name: 1}, Feature("real")) == {(f"/{name}", "unknown_field")}


def test_all_awkward_names_can_stand_in_one_signature() -> None:
    features = [Feature(name) for name in AWKWARD]
    instance = {name: position for position, name in enumerate(AWKWARD)}
    assert rows([instance], *features) == [tuple(float(position) for position in range(len(AWKWARD)))]


# --- Warnings ---------------------------------------------------------------------------------------------


def warned(row: Row, *features: Feature) -> list[tuple[str, str]]:
    found = Checker(signature(*features)).warnings(row)
    assert all(each["message"] for each in found)
    return [(each["feature"], each["code"]) for each in found]


SEEN = (
    Feature("age", observed_minimum=18, observed_maximum=75, nullable=True),
    Feature("colour", "string", observed_values=("red", "green"), nullable=True),
    Feature("member", "boolean", observed_values=(True,)),
    Feature("free", "string"),
)


def test_what_the_reference_had_leads_to_no_warning() -> None:
    assert warned((18.0, "red", True, "anything"), *SEEN) == []
    assert warned((75.0, "green", True, ""), *SEEN) == []


def test_what_the_reference_had_not_is_warned_of_and_not_refused() -> None:
    instance = {"age": 80, "colour": "blue", "member": False, "free": "x"}
    [row] = rows([instance], *SEEN)
    assert warned(row, *SEEN) == [
        ("age", "outside_observed_range"),
        ("colour", "unseen_value"),
        ("member", "unseen_value"),
    ]


def test_null_is_not_warned_of() -> None:
    assert warned((None, None, True, "x"), *SEEN) == []


def test_a_warning_tells_the_range_as_people_write_it() -> None:
    [warning] = Checker(signature(Feature("a", observed_minimum=-1.0, observed_maximum=2.5))).warnings((3.0,))
    assert warning["message"] == "The reference goes from -1 to 2.5."


# --- The stored form --------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
BOUNDS = st.none() | NUMBERS


def features_of(names: st.SearchStrategy[str]) -> st.SearchStrategy[Feature]:
    values = st.none() | NUMBERS | st.booleans() | TEXT
    tuples = st.none() | st.lists(values, max_size=4).map(tuple)
    return st.builds(
        Feature,
        name=names,
        kind=st.sampled_from(["number", "integer", "boolean", "string"]),
        nullable=st.booleans(),
        missing=st.sampled_from(["nan", "none"]),
        minimum=BOUNDS,
        maximum=BOUNDS,
        allowed=tuples,
        default=values,
        description=TEXT,
        message=TEXT,
        observed_minimum=BOUNDS,
        observed_maximum=BOUNDS,
        observed_values=tuples,
    )


OUTPUTS = st.builds(
    Output, name=TEXT, classes=st.none() | st.lists(st.integers() | TEXT | st.booleans(), max_size=4).map(tuple)
)
SIGNATURES = st.builds(
    Signature,
    features=st.lists(features_of(TEXT), max_size=4).map(tuple),
    container=st.sampled_from(["frame", "array", "text"]),
    task=TEXT,
    outputs=st.lists(OUTPUTS, max_size=3).map(tuple),
    probabilities=st.sampled_from(["none", "table", "tables", "columns"]),
    multi_output=st.booleans(),
)


@settings(deadline=None)
@given(SIGNATURES)
def test_a_signature_comes_back_from_its_json_form_as_it_was(made: Signature) -> None:
    assert from_dict(json.loads(json.dumps(made.as_dict(), allow_nan=False))) == made
    assert from_dict(made.as_dict()) == made


def test_a_signature_keeps_its_values_types() -> None:
    made = signature(Feature("a", "boolean", allowed=(True, False), observed_values=(1.0, "1", None)))
    [back] = from_dict(json.loads(json.dumps(made.as_dict()))).features
    assert [type(each) for each in (*(back.allowed or ()), *(back.observed_values or ()))] == [
        bool,
        bool,
        float,
        str,
        type(None),
    ]


# --- Two implementations agree ----------------------------------------------------------------------------


@st.composite
def acceptable_features(draw: st.DrawFn, name: str) -> Feature:
    """A feature with rules that fit its kind, as `learn` makes them."""
    kind: Kind = draw(st.sampled_from(["number", "integer", "boolean", "string"]))
    feature = Feature(name, kind, nullable=draw(st.booleans()))
    if kind == "boolean":
        return replace(feature, default=draw(st.none() | st.booleans()))
    if kind == "string":
        return replace(
            feature, allowed=draw(st.none() | st.just(("a", "b"))), default=draw(st.sampled_from([None, "a"]))
        )
    low = draw(st.none() | st.integers(-3, 3).map(float))
    high = draw(st.none() | st.integers(0, 3).map(lambda more: (low or 0.0) + more))
    allowed = draw(st.none() | st.just((0.0, 1.0, 2.0)))
    return replace(feature, minimum=low, maximum=high, allowed=allowed, default=draw(st.sampled_from([None, 1.0])))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(HUGE) | st.sampled_from(["a", "b", "\0", "1"]),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.sampled_from("abc"), children, max_size=2),
    max_leaves=4,
)
NEAR = st.sampled_from([0, 1, 1.0, 2, 2.5, -3, 4, True, False, "a", "b", "c", None])
INSTANCES = st.dictionaries(st.sampled_from(["a", "b", "_schema", "z"]), NEAR | JSON, max_size=4) | JSON
CHECKED = st.tuples(*[acceptable_features(name) for name in ("a", "b", "_schema")])


def takes(feature: Feature, sent: object) -> bool:
    """The rules once more, in the plainest words."""
    if sent is None:
        return feature.nullable
    if feature.kind == "boolean":
        return isinstance(sent, bool)
    if feature.kind == "string":
        return isinstance(sent, str) and "\0" not in sent and (feature.allowed is None or sent in feature.allowed)
    if isinstance(sent, bool) or not isinstance(sent, int | float) or abs(sent) >= HUGE or not math.isfinite(sent):
        return False
    return (
        (feature.kind == "number" or float(sent).is_integer())
        and (feature.minimum is None or sent >= feature.minimum)
        and (feature.maximum is None or sent <= feature.maximum)
        and (feature.allowed is None or sent in feature.allowed)
    )


def wrong_places(instance: object, features: Sequence[Feature]) -> set[str]:
    if not isinstance(instance, dict):
        return {""}
    wrong = {f"/{name}" for name in set(instance) - {feature.name for feature in features}}
    for feature in features:
        present = feature.name in instance
        if not (takes(feature, instance[feature.name]) if present else feature.default is not None):
            wrong.add(f"/{feature.name}")
    return wrong


def judged(features: Sequence[Feature], instances: Sequence[Any]) -> tuple[list[Row], set[str]]:
    """Check instances; give their rows, or the places of everything that is wrong."""
    pointers = [f"/{position}" for position in range(len(instances))]
    try:
        return Checker(signature(*features)).rows(instances, pointers), set()
    except Invalid as invalid:
        return [], {problem.pointer for problem in invalid.problems}


@settings(max_examples=300, deadline=None)
@given(CHECKED, INSTANCES)
def test_exactly_what_the_rules_allow_is_acceptable(features: tuple[Feature, ...], instance: Any) -> None:
    found, wrong = judged(features, [instance])
    assert wrong == {f"/0{place}" for place in wrong_places(instance, features)}
    if not wrong:
        expected = [instance.get(feature.name, feature.default) for feature in features]
        assert found == [tuple(float(each) if type(each) is int else each for each in expected)]


@settings(max_examples=200, deadline=None)
@given(CHECKED, st.lists(INSTANCES, max_size=4))
def test_the_checker_agrees_with_its_marshmallow_schema(features: tuple[Feature, ...], instances: list[Any]) -> None:
    made = schema(signature(*features))
    loaded, refused = [], set()
    for position, instance in enumerate(instances):
        try:
            document = made.load(instance)
        except marshmallow.ValidationError:
            refused.add(str(position))
        else:
            loaded.append(tuple(document[attribute] for attribute in made.fields))
    found, wrong = judged(features, instances)
    assert {place.split("/")[1] for place in wrong} == refused
    assert found == ([] if refused else loaded)
