"""Drift: how values are counted, and when a change is more than chance and more than is tolerated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from webapp.drift import bins, layout, rule
from webapp.drift.bins import Binning
from webapp.drift.layout import Layout, Variable
from webapp.signature import Feature, Output, Signature

NUMBERS = st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=60)
TEXTS = st.lists(st.none() | st.sampled_from(["a", "b", "c", "", "none"]), min_size=1, max_size=60)


# --- Counting ---------------------------------------------------------------------------------------------------


@given(reference=NUMBERS, values=NUMBERS)
def test_each_number_is_counted_once_and_where_it_belongs(reference: list[Any], values: list[Any]) -> None:
    made = bins.of_numbers(reference)
    places = made.places(values).tolist()
    assert made.count(values).sum() == len(values)
    for value, place in zip(values, places, strict=True):
        if value is None:
            assert place == 0
        elif value < made.edges[0]:
            assert made.cells[place] == bins.BELOW
        elif value > made.edges[-1]:
            assert made.cells[place] == bins.ABOVE
        else:
            assert made.edges[place - 2] <= value <= made.edges[place - 1]


@given(reference=NUMBERS)
def test_nothing_of_the_reference_lies_outside_of_it(reference: list[Any]) -> None:
    made = bins.of_numbers(reference)
    counted = dict(zip(made.cells, made.count(reference).tolist(), strict=True))
    assert counted[bins.BELOW] == counted[bins.ABOVE] == 0
    assert counted[bins.MISSING] == reference.count(None)


@given(reference=TEXTS, first=TEXTS, second=TEXTS)
def test_counts_of_parts_add_up(reference: list[Any], first: list[Any], second: list[Any]) -> None:
    for made in (bins.of_categories(reference), bins.of_lengths(reference)):
        both = made.count(first + second)
        assert (both == made.count(first) + made.count(second)).all()
        assert both.sum() == len(first + second)


@given(reference=NUMBERS, values=NUMBERS)
def test_a_stored_binning_counts_the_same(reference: list[Any], values: list[Any]) -> None:
    made = bins.of_numbers(reference)
    meant = Layout((Variable("input", "x", made),))
    read = layout.from_json(meant.as_json())
    records = [{"instance": {"x": value}} for value in values]
    assert (read.count(records) == meant.count(records)).all()
    assert (layout.unpacked(layout.packed(meant.count(records))) == meant.count(records)).all()


def test_cells_of_a_wide_reference_are_about_equally_full() -> None:
    values = np.random.default_rng(1).lognormal(size=5000).tolist()
    counted = bins.of_numbers(values).count(values)[2:-1]
    assert len(counted) == 10
    assert counted.min() > 450
    assert counted.max() < 550


def test_a_few_numbers_are_told_apart() -> None:
    made = bins.of_numbers([0.0] * 90 + [1.0] * 9 + [5.0])
    assert made.count([0.0, 0.0, 1.0, 5.0, 7.0, None]).tolist() == [1, 0, 2, 1, 1, 1]


def test_a_value_that_many_have_keeps_a_cell_to_itself() -> None:
    random = np.random.default_rng(2)
    values = [0.0] * 600 + random.uniform(1, 2, 400).tolist()
    counted = dict(zip(bins.of_numbers(values).cells, bins.of_numbers(values).count(values).tolist(), strict=True))
    assert counted["0 … 0"] == 600


@pytest.mark.parametrize(
    ("value", "cell"),
    [("seen", "seen"), ("rare", "other"), ("unheard of", "new"), (None, "missing"), ("missing", "new"), ("new", "new")],
)
def test_a_category_is_known_rare_or_new(value: str | None, cell: str) -> None:
    frequent = [f"value {number:02}" for number in range(24)] * 3
    made = bins.of_categories([*frequent, *["seen"] * 3, "rare"])
    assert made.cells[made.places([value])[0]] == cell


def test_classes_are_the_same_however_a_database_keeps_them() -> None:
    made = bins.of_categories([0, 1, 1], (0, 1))
    assert made.count([0, 0.0, 1, 1.0, True]).tolist() == [0, 2, 2, 0, 1]


def test_free_text_is_counted_by_its_length() -> None:
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(100)]
    assert bins.of_texts(texts, None).kind == "length"
    assert bins.of_texts(["red", "green"] * 50, None).kind == "category"


def test_what_no_number_is_counts_as_missing() -> None:
    assert bins.of_numbers([1.0, 2.0]).count([1.0, "hashed", 10**400, [], None]).tolist() == [4, 0, 1, 0, 0]


def test_a_layout_counts_inputs_and_outputs() -> None:
    features = (Feature("age"), Feature("region", kind="string", observed_values=("n", "s")))
    signature = Signature(features, "frame", "classification", (Output("prediction", ("no", "yes")),), "table")
    records = [
        {
            "instance": {"age": float(number), "region": "ns"[number % 2]},
            "prediction": "yes" if number > 50 else "no",
            "probability": 0.9,
            "probabilities": {"no": 0.1, "yes": 0.9},
        }
        for number in range(100)
    ]
    made = layout.of(signature, records)
    assert [each.id for each in made.variables] == [
        "input:age",
        "input:region",
        "prediction:prediction",
        "probability:prediction",
    ]
    parts = {each.id: (each.binning, counts) for each, counts in made.parts(made.count(records))}
    assert parts["prediction:prediction"][1].tolist() == [0, 51, 49, 0, 0]
    # Of two classes, the probability of the second.
    binning, counted = parts["probability:prediction"]
    assert counted[binning.cells.index("0.85 … 0.9")] == 100


def test_what_the_log_hides_is_not_counted() -> None:
    features = (Feature("age"), Feature("name", kind="string", log="hash"), Feature("income", log="drop"))
    signature = Signature(features, "frame", "regression", (Output("prediction"),))
    assert [each.id for each in layout.of(signature, []).variables] == ["input:age", "prediction:prediction"]


# --- The rule ---------------------------------------------------------------------------------------------------


def normal(count: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> list[float]:
    drawn: list[float] = (np.random.default_rng(seed).normal(size=count) * scale + shift).tolist()
    return drawn


REFERENCE = normal(10_000, 0)
BINNING = bins.of_numbers(REFERENCE)


def compared(values: list[float], **terms: Any) -> rule.Comparison:
    return rule.compare(BINNING.count(REFERENCE), BINNING.count(values), ordered=True, **terms)


@given(
    st.lists(st.tuples(st.integers(5, 500), st.integers(5, 500)), min_size=2, max_size=20),
)
def test_the_statistic_is_the_one_of_a_contingency_table(cells: list[tuple[int, int]]) -> None:
    table = np.array(cells, dtype=np.float64).T
    expected = scipy.stats.chi2_contingency(table, correction=False).statistic
    assert math.isclose(rule.chi_square(table[0], table[1]), expected, rel_tol=1e-9, abs_tol=1e-9)


def test_what_is_trivial_stays_silent_however_many_rows_show_it() -> None:
    level = rule.ALARMS_PER_YEAR / 365
    for count in (1000, 10_000, 100_000, 300_000):
        values = normal(count, 3, shift=0.03)
        assert (compared(values).p or 0) > level
    # A test of being exactly the same does see it.
    assert scipy.stats.ks_2samp(values, REFERENCE).pvalue < 0.05
    assert (compared(values, tolerance=0.0).p or 0) < 0.05


def test_what_matters_is_noticed() -> None:
    found = compared(normal(1000, 4, shift=0.5))
    assert found.p is not None
    assert found.p < 1e-6
    # Of two normal distributions, the index is about the square of their distance.
    assert 0.15 < found.effect < 0.4


def test_few_rows_say_nothing() -> None:
    assert compared(normal(199, 5, shift=3)).p is None
    assert compared([]).p is None
    assert compared(normal(200, 5, shift=3)).p is not None


def test_two_rows_beyond_the_reference_are_no_drift() -> None:
    assert (compared([*normal(198, 6), 9.0, 9.5]).p or 0) > 0.01
    assert (compared([*normal(180, 6), *[9.0] * 20]).p or 1) < 1e-6


def test_a_new_category_is_noticed_at_one_percent() -> None:
    made = bins.of_categories(["a"] * 6000 + ["b"] * 4000)
    reference = made.count(["a"] * 6000 + ["b"] * 4000)
    window = made.count(["a"] * 594 + ["b"] * 396 + ["c"] * 10)
    found = rule.compare(reference, window, ordered=False)
    assert found.p is not None
    assert found.p < 1e-4


def test_more_missing_values_are_noticed() -> None:
    reference = BINNING.count([*REFERENCE, *[None] * 1000])
    window = BINNING.count([*normal(800, 7), *[None] * 200])
    found = rule.compare(reference, window, ordered=True)
    assert found.p is not None
    assert found.p < 1e-3


def test_the_detectable_change_is_detected_four_of_five_times() -> None:
    detectable = compared(normal(2000, 8)).detectable
    assert detectable is not None
    # The square root of the index is the distance of two normal distributions in standard deviations.
    shift, level = math.sqrt(detectable), rule.ALARMS_PER_YEAR / 365
    noticed = [(compared(normal(2000, 100 + number, shift=shift)).p or 1) < level for number in range(60)]
    print(f"\nshift of {shift:.3f}: noticed {sum(noticed)} of 60")
    assert 35 <= sum(noticed) <= 60


def test_holm_stops_at_the_first_that_is_not_small_enough() -> None:
    found = rule.alarms({"a": 0.001, "b": 0.02, "c": 0.03, "d": None, "e": 0.9}, 0.05)
    assert found == {"a"}
    assert rule.alarms({"a": 0.001, "b": 0.01, "c": 0.02}, 0.05) == {"a", "b", "c"}
    assert rule.alarms({}, 0.05) == set()


def autoregressive(count: int, seed: int, memory: float) -> list[float]:
    random = np.random.default_rng(seed)
    values = np.empty(count)
    values[0] = random.normal()
    for number in range(1, count):
        values[number] = memory * values[number - 1] + random.normal() * math.sqrt(1 - memory**2)
    drawn: list[float] = values.tolist()
    return drawn


def test_bursty_traffic_is_calibrated_by_days_that_were_well() -> None:
    days = [BINNING.count(autoregressive(2000, seed, 0.9)) for seed in range(30)]
    independent = [BINNING.count(normal(2000, seed)) for seed in range(30)]
    dispersion = rule.dispersion(days)
    print(f"\nbursty {dispersion:.1f}, independent {rule.dispersion(independent):.2f}")
    assert dispersion > 3
    assert rule.dispersion(independent) < 1.2
    level = rule.ALARMS_PER_YEAR / 365
    windows = [autoregressive(2000, 1000 + seed, 0.9) for seed in range(60)]
    raw = sum((compared(window).p or 1) < level for window in windows)
    calibrated = sum((compared(window, dispersion=dispersion).p or 1) < level for window in windows)
    shifted = sum(
        (compared([value + 0.5 for value in window], dispersion=dispersion).p or 1) < level for window in windows
    )
    print(f"false alarms of 60: {raw} raw, {calibrated} calibrated; noticed: {shifted}")
    assert calibrated <= 1
    assert shifted >= 50


def test_a_lasting_change_is_no_dispersion() -> None:
    days = [BINNING.count(normal(2000, seed, shift=0.8)) for seed in range(20)]
    assert rule.dispersion(days) < 1.3


def test_one_day_says_nothing_of_dispersion() -> None:
    assert rule.dispersion([]) == rule.dispersion([BINNING.count(REFERENCE)]) == 1.0
    assert rule.dispersion([np.zeros(5, dtype=np.int64)] * 4) == 1.0


def test_an_empty_reference_is_none() -> None:
    made = Binning("number", (0.0, 0.0))
    assert rule.compare(made.count([]), made.count([1.0] * 500), ordered=True).p is None
