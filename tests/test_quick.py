"""Tests of the quick check: it says of every instance what the marshmallow schema says, alone and among many."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.errors import Invalid
from webapp.signature import Feature, Output, Row, Signature
from webapp.signature.check import FEWEST_FOR_COLUMNS, Checker
from webapp.signature.quick import Quick

HUGE = 10**400


def signature(*features: Feature) -> Signature:
    return Signature(features, "frame", "classification", (Output("prediction", (0, 1)),))


class Never:
    """Leaves everything to the schema."""

    def row(self, _instance: object) -> None:
        return None

    def rows(self, _instances: Sequence[object]) -> None:
        return None


def by_schema(features: Sequence[Feature]) -> Checker:
    made = Checker(signature(*features))
    made._quick = Never()  # type: ignore[assignment]
    return made


def judged(checker: Checker, instances: Sequence[object]) -> str:
    """Check instances; give the rows so that types and bits can be seen, or everything that was said."""
    pointers = [f"/instances/{position}" for position in range(len(instances))]
    try:
        return repr(checker.rows(instances, pointers))
    except Invalid as invalid:
        return repr((invalid.code, invalid.detail, invalid.problems))
    except TypeError as error:
        # Bounds of strings, which no signature has.
        return repr(error)


def repeated(instances: list[Any]) -> list[Any]:
    """As many as are looked at column by column."""
    return instances * -(-FEWEST_FOR_COLUMNS // len(instances))


# --- Both say the same ------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "f0", "_schema", "", " ", "a.b", "/~", "load", "ü", "\n", "{input}"])
EDGES = [
    *(0, 1, -1, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**308, 10**309, HUGE, -HUGE),
    *(0.0, -0.0, 0.5, 1.0, 2.0, 35.0, 5e-324, 1e308, -1e308, 1.7976931348623157e308, math.inf, -math.inf, math.nan),
    *(True, False, None, "", "1", "a", "b", "a\0b", "é", [], [1], {}, {"a": 1}),
]
VALUES = (
    st.sampled_from(EDGES) | st.integers() | st.floats() | st.text(max_size=2) | st.lists(st.integers(), max_size=1)
)
BOUNDS = st.none() | st.sampled_from([-1.0, 0, 0.0, 1, 2.0, 35, 2.0**53, 1e308, math.inf, -math.inf, math.nan, HUGE])
LISTED = st.none() | st.lists(
    st.sampled_from([0.0, 1.0, 2.0, 2**53, 2.5, True, False, "a", "b", "", None]), max_size=4
).map(tuple)


@st.composite
def any_features(draw: st.DrawFn) -> list[Feature]:
    """Features with rules of every kind, whether they fit together or not."""
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    return [
        Feature(
            name,
            draw(st.sampled_from(["number", "integer", "boolean", "string"])),
            nullable=draw(st.booleans()),
            minimum=draw(BOUNDS),
            maximum=draw(BOUNDS),
            allowed=draw(LISTED),
            default=draw(st.none() | st.sampled_from([0, 1, 7.0, -0.0, 0.5, True, "a", ""])),
        )
        for name in names
    ]


@st.composite
def features_with_instances(draw: st.DrawFn) -> tuple[list[Feature], list[Any]]:
    """Features, and instances that are mostly acceptable."""
    features = draw(any_features())
    fitting = {
        "number": st.sampled_from([0, 1.0, -0.0, 2, 2.5, 35]),
        "integer": st.sampled_from([0, 1.0, -0.0, 2, 35, 2.5]),
        "boolean": st.booleans(),
        "string": st.sampled_from(["a", "b", ""]),
    }

    def instance() -> Any:
        made: dict[str, Any] = {}
        for feature in features:
            fate = draw(st.integers(0, 9))
            if fate > 0:
                made[feature.name] = draw(VALUES if fate == 1 else fitting[feature.kind])
        if draw(st.integers(0, 9)) == 0:
            made[draw(NAMES)] = draw(VALUES)
        return draw(VALUES) if draw(st.integers(0, 19)) == 0 else made

    return features, [instance() for _ in range(draw(st.integers(1, 4)))]


@settings(max_examples=600, deadline=None)
@given(features_with_instances())
def test_alone_and_among_many_instances_are_judged_as_by_the_schema(made: tuple[list[Feature], list[Any]]) -> None:
    features, instances = made
    quick, slow = Checker(signature(*features)), by_schema(features)
    assert judged(quick, instances) == judged(slow, instances)
    many = repeated(instances)
    assert judged(quick, many) == judged(slow, many)


@settings(max_examples=400, deadline=None)
@given(any_features(), st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=3))
def test_whatever_is_sent_is_judged_as_by_the_schema(features: list[Feature], instances: list[Any]) -> None:
    quick, slow = Checker(signature(*features)), by_schema(features)
    for sent in (instances, repeated(instances)):
        assert judged(quick, sent) == judged(slow, sent)


@pytest.mark.parametrize("kind", ["number", "integer", "boolean", "string"])
@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"nullable": True},
        {"minimum": 0.0},
        {"maximum": 2.0**53},
        {"minimum": -1e308, "maximum": 1},
        {"minimum": -math.inf, "maximum": math.inf},
        {"allowed": (0.0, 1.0, "a", True)},
        {"allowed": (0.0, 0.5), "minimum": 0.25},
        {"allowed": ()},
        {"default": 1.0},
        {"default": 1},
        {"default": "a", "allowed": ("b",)},
    ],
)
def test_every_edge_is_judged_as_by_the_schema(kind: Any, rules: dict[str, Any]) -> None:
    features = [Feature("a", kind, **rules), Feature("b", nullable=True)]
    quick, slow = Checker(signature(*features)), by_schema(features)
    for edge in EDGES:
        for instance in ({"a": edge, "b": 1}, {"a": edge, "b": None}, {"b": edge}, {"a": edge}, edge):
            assert judged(quick, [instance]) == judged(slow, [instance])
            for others in ({"a": 0, "b": None}, {"a": True, "b": 1}, {"a": "a", "b": 1.5}):
                many = [others] * FEWEST_FOR_COLUMNS + [instance]
                assert judged(quick, many) == judged(slow, many)


# --- And it is the quick check that says it ---------------------------------------------------------------

USUAL = (
    Feature("age", "integer", minimum=18, maximum=100),
    Feature("income", minimum=0.0),
    Feature("rate", nullable=True),
    Feature("colour", "string", allowed=("red", "green"), nullable=True),
    Feature("grade", "integer", allowed=(1.0, 2.0)),
    Feature("member", "boolean"),
    Feature("note", "string"),
    Feature("weight", default=1.5),
)
INSTANCE = {
    "age": 35, "income": 5e4, "rate": None, "colour": "red", "grade": 2.0, "member": True, "note": "“ü”", "weight": 2,
}  # fmt: skip
ROW: Row = (35.0, 5e4, None, "red", 2.0, True, "“ü”", 2.0)


def test_a_usual_instance_needs_no_schema() -> None:
    quick = Quick(signature(*USUAL))
    assert quick.row(INSTANCE) == ROW
    assert quick.row({**INSTANCE, "age": 35.0, "rate": 1, "colour": None}) == (35.0, 5e4, 1.0, None, *ROW[4:])
    assert quick.row({name: value for name, value in INSTANCE.items() if name != "weight"}) == (*ROW[:7], 1.5)


def test_many_usual_instances_need_no_schema() -> None:
    others = {**INSTANCE, "age": 40.0, "rate": 0.5, "colour": None, "member": False}
    assert Quick(signature(*USUAL)).rows([INSTANCE, others]) == [ROW, (40.0, 5e4, 0.5, None, 2.0, False, *ROW[6:])]


def test_many_instances_of_floats_become_rows_without_a_copy_of_their_values() -> None:
    source = random.Random(3)
    instances = [{f"x{at}": source.gauss(0, 1) for at in range(5)} for _ in range(20)]
    rows = Quick(signature(*(Feature(f"x{at}") for at in range(5)))).rows(instances)
    assert rows is not None
    assert all(row[0] is instance["x0"] for row, instance in zip(rows, instances, strict=True))


@pytest.mark.parametrize("features", [0, 1])
def test_signatures_of_no_and_of_one_feature_are_no_exception(features: int) -> None:
    made = Quick(signature(*USUAL[:features]))
    instance = {"age": 35} if features else {}
    assert made.rows([instance] * 3) == [ROW[:features]] * 3
    assert made.row(instance) == ROW[:features]
    assert made.rows([{"other": 1}] * 3) is None


def test_an_instance_is_not_changed_by_its_check() -> None:
    partial = {name: value for name, value in INSTANCE.items() if name != "weight"}
    before = dict(partial)
    Quick(signature(*USUAL)).row(partial)
    assert partial == before


# --- Warnings ---------------------------------------------------------------------------------------------

RANGED = [Feature(f"x{at}", nullable=True, observed_minimum=-1.0, observed_maximum=float(at)) for at in range(5)]
LISTS = Feature("colour", "string", nullable=True, observed_values=("red",))
SPARSE = [RANGED[0], Feature("free"), *RANGED[1:4], Feature("half", observed_minimum=1.0)]
NUMBERS = st.sampled_from([-1.0, -1.5, 0.0, 0.5, 4.0, -0.0, 1e308]) | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([RANGED, RANGED[:1], SPARSE, [*RANGED, LISTS], [LISTS], []]),
    st.lists(st.lists(NUMBERS, min_size=6, max_size=6), max_size=20),
    st.integers(0, 6),
)
def test_many_rows_are_warned_of_as_each_of_them(
    features: list[Feature], numbers: list[list[float]], nulls: int
) -> None:
    rows: list[Row] = [
        tuple(
            ("red" if value < 0 else "blue") if each is LISTS else value
            for each, value in zip(features, row, strict=False)
        )
        for row in numbers
    ]
    rows[:nulls] = [(None,) * len(features) for _ in rows[:nulls]]
    checker, thorough = Checker(signature(*features)), Checker(signature(*features))
    thorough._is_ordinary = lambda _row: False  # type: ignore[method-assign]
    assert checker.warnings_of(rows) == [checker.warnings(row) for row in rows] == list(map(thorough.warnings, rows))


def test_each_row_among_many_gets_its_own_warnings() -> None:
    rows: list[Row] = [(0.0,) * 5 for _ in range(50)]
    rows[7] = (0.0, 0.0, 9.0, 0.0, -9.0)
    found = Checker(signature(*RANGED)).warnings_of(rows)
    assert [each["feature"] for each in found.pop(7)] == ["x2", "x4"]
    assert found == [()] * 49


def test_an_unseen_value_among_many_rows_is_found() -> None:
    rows: list[Row] = [(0.0, 0.0, 0.0, 0.0, 0.0, "red")] * 20
    rows[9] = (*rows[9][:5], "blue")
    found = Checker(signature(*RANGED, LISTS)).warnings_of(rows)
    assert [each["code"] for each in found[9]] == ["unseen_value"]
