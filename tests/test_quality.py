"""Tests of quality: scores are scikit-learn's, intervals hold what they promise, and nothing is said of too little."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.isotonic import IsotonicRegression

from webapp import quality
from webapp.quality import LEAST_CALIBRATED, LEAST_JUDGED, Row, Score, Scores

TWO, THREE = ("no", "yes"), ("a", "b", "c")
FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)
SEEDS = st.integers(0, 2**32 - 1)


def tabled(
    classes: Sequence[Any], truth: Sequence[Any], table: Any, predicted: Sequence[Any] | None = None
) -> list[Row]:
    """Give rows as the log has them; the label is that of the largest probability where none is given."""
    said = predicted or [classes[code] for code in np.argmax(table, axis=1)]
    named = [{str(label): float(each) for label, each in zip(classes, row, strict=True)} for row in table]
    return [Row(*each) for each in zip(said, truth, named, strict=True)]


def made(classes: Sequence[Any], n: int, seed: int) -> tuple[list[Any], Any]:
    """Give a truth, and probabilities that know something of it; some of them are even."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, len(classes), n)
    # Rounded, so that there are ties.
    table = (random.random((n, len(classes))) + 0.5 * np.eye(len(classes))[codes] + 0.1).round(1)
    return [classes[code] for code in codes], table / table.sum(axis=1, keepdims=True)


def same(found: Score, expected: float) -> None:
    assert found.value is not None
    assert found.value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if found.low is not None and found.high is not None:
        assert found.low <= found.value <= found.high


@given(SEEDS, st.integers(2, 120))
@settings(deadline=None)
def test_the_scores_of_two_classes_are_those_of_scikit_learn(seed: int, n: int) -> None:
    truth, table = made(TWO, n, seed)
    rows = tabled(TWO, truth, table)
    said, found = [row.predicted for row in rows], quality.score(TWO, rows)
    assert (found.n, found.task) == (n, "classification")
    same(found.of("accuracy"), metrics.accuracy_score(truth, said))
    same(found.of("log_loss"), metrics.log_loss(truth, table, labels=TWO))
    same(found.of("brier"), metrics.brier_score_loss(np.array(truth) == "yes", table[:, 1]))
    if "yes" in truth or "yes" in said:
        same(found.of("f1"), metrics.f1_score(truth, said, pos_label="yes", zero_division=0.0))
    if len(set(truth)) == 2:
        same(found.of("balanced_accuracy"), metrics.balanced_accuracy_score(truth, said))
        same(found.of("auc"), metrics.roc_auc_score(truth, table[:, 1]))
    else:
        assert found.of("balanced_accuracy").value is found.of("auc").value is None


@given(SEEDS, st.integers(12, 120))
@settings(deadline=None)
def test_the_scores_of_more_classes_are_the_means_over_them(seed: int, n: int) -> None:
    truth, table = made(THREE, n, seed)
    rows = tabled(THREE, truth, table)
    said, found = [row.predicted for row in rows], quality.score(THREE, rows)
    same(found.of("accuracy"), metrics.accuracy_score(truth, said))
    same(found.of("f1"), metrics.f1_score(truth, said, average="macro", zero_division=0.0))
    same(found.of("log_loss"), metrics.log_loss(truth, table, labels=THREE))
    assert found.of("brier").value is None
    if len(set(truth)) == 3:
        same(found.of("balanced_accuracy"), metrics.balanced_accuracy_score(truth, said))
        same(found.of("auc"), metrics.roc_auc_score(truth, table, multi_class="ovr", average="macro", labels=THREE))


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=120))
@settings(deadline=None)
def test_the_scores_of_numbers_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    truth, said = zip(*pairs, strict=True)
    found = quality.score(None, [Row(each, true) for true, each in pairs])
    assert (found.n, found.task) == (len(pairs), "regression")
    same(found.of("mae"), metrics.mean_absolute_error(truth, said))
    same(found.of("rmse"), metrics.root_mean_squared_error(truth, said))
    same(found.of("bias"), float(np.mean(np.subtract(said, truth))))
    if np.var(truth) > 1e-6:
        same(found.of("r2"), metrics.r2_score(truth, said))


@given(SEEDS, st.integers(1, 120))
@settings(deadline=None)
def test_bins_of_calibration_hold_each_row_once(seed: int, n: int) -> None:
    truth, table = made(TWO, n, seed)
    found = quality.score(TWO, tabled(TWO, truth, table)).calibration
    assert sum(each.n for each in found) == n
    assert sum(each.n * each.said for each in found) == pytest.approx(table[:, 1].sum())
    assert sum(each.n * (each.true.value or 0) for each in found) == pytest.approx(truth.count("yes"))
    assert all(each.low - 1e-9 <= each.said <= each.high + 1e-9 for each in found)


# --- How sure ---------------------------------------------------------------------------------------------


def numbers(n: int, seed: int) -> list[Row]:
    random = np.random.default_rng(seed)
    truth = random.normal(50, 10, n)
    return [Row(float(said), float(true)) for said, true in zip(truth + random.normal(1, 4, n), truth, strict=True)]


def of_classes(classes: Sequence[Any]) -> Callable[[int, int], list[Row]]:
    return lambda n, seed: tabled(classes, *made(classes, n, seed))


@pytest.mark.parametrize(
    ("classes", "rows"),
    [(TWO, of_classes(TWO)), (THREE, of_classes(THREE)), (None, numbers)],
    ids=["two classes", "three classes", "numbers"],
)
def test_an_interval_holds_the_truth_about_nineteen_times_of_twenty(
    classes: tuple[str, ...] | None, rows: Callable[[int, int], list[Row]]
) -> None:
    everything = quality.score(classes, rows(200_000, 1))
    samples = [quality.score(classes, rows(300, seed)) for seed in range(2, 402)]
    for true in everything.scores:
        found = [each.of(true.name) for each in samples]
        assert all(each.low is not None and each.high is not None for each in found)
        held = np.mean([each.low <= true.value <= each.high for each in found])  # type: ignore[operator] # they are there
        assert 0.91 <= held <= 0.985, true.name


def test_the_same_rows_have_the_same_scores_whatever_their_order() -> None:
    rows = of_classes(TWO)(200, 5)
    again, turned = quality.score(TWO, rows), quality.score(TWO, rows[::-1])
    assert quality.score(TWO, rows) == again
    for each in again.scores:
        assert turned.of(each.name).low == pytest.approx(each.low)


# --- Of too little nothing is said ------------------------------------------------------------------------


def test_of_nothing_there_are_no_scores() -> None:
    assert quality.score(TWO, []) == Scores(0, "classification")
    assert quality.score(None, []) == Scores(0, "regression")


@given(
    st.sampled_from([TWO, THREE, (0, 1), (False, True), (1.0, 2.0, 3.0), ("only",)]).flatmap(
        lambda classes: st.tuples(
            st.just(classes),
            st.lists(
                st.tuples(
                    st.sampled_from([*classes, "a stranger", None]),
                    st.sampled_from([*classes, "a stranger"]),
                    st.none() | st.lists(st.floats(0, 1), min_size=len(classes), max_size=len(classes)),
                ),
                max_size=8,
            ),
        )
    )
)
@settings(deadline=None)
def test_whatever_comes_no_score_of_classes_is_no_number(drawn: tuple[tuple[Any, ...], list[Any]]) -> None:
    classes, given_rows = drawn
    rows = [
        Row(said, true, None if table is None else dict(zip(map(str, classes), table, strict=True)))
        for said, true, table in given_rows
    ]
    check_numbers(quality.score(classes, rows))


@given(st.lists(st.tuples(st.floats() | st.none() | st.just("x"), st.floats()), max_size=40))
@settings(deadline=None)
def test_whatever_comes_no_score_of_numbers_is_no_number(pairs: list[tuple[Any, float]]) -> None:
    check_numbers(quality.score(None, [Row(*pair) for pair in pairs]))


def check_numbers(found: Scores) -> None:
    for each in (*found.scores, *(one.true for one in found.calibration)):
        values = [each.value, each.low, each.high]
        assert all(value is None or math.isfinite(value) for value in values), each


def test_one_class_alone_has_an_accuracy_and_no_auc() -> None:
    found = quality.score(TWO, [Row("no", "no", {"no": 0.9, "yes": 0.1})] * 50)
    assert found.of("accuracy").value == 1
    assert found.of("accuracy").low == pytest.approx(0.9287, abs=1e-4)
    assert [found.of(name).value for name in ("auc", "balanced_accuracy", "f1")] == [None, None, None]
    # Rows that are all the same say nothing of others.
    assert found.of("brier") == Score("brier", pytest.approx(0.01))


def test_without_probabilities_there_is_what_labels_say() -> None:
    found = quality.score(TWO, [Row("no", "no"), Row("yes", "no"), Row("yes", "yes")])
    assert [each.name for each in found.scores] == ["accuracy", "balanced_accuracy", "f1"]
    assert found.calibration == ()


# --- Without truth ----------------------------------------------------------------------------------------


def test_an_estimate_takes_probabilities_at_their_word_until_enough_truth_is_known() -> None:
    known = [(0.9, at % 2 == 0) for at in range(LEAST_CALIBRATED)]
    assert quality.estimate([], known) is None
    assert quality.estimate([0.8, 0.9], known[1:]) == quality.Estimate(pytest.approx(0.85), 2, 0)
    # Of those who said 0.9, half were right.
    assert quality.estimate([0.8, 0.9], known) == quality.Estimate(pytest.approx(0.5), 2, LEAST_CALIBRATED)


@given(SEEDS)
@settings(deadline=None, max_examples=25)
def test_an_estimate_is_calibrated_as_scikit_learn_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    said = random.random(400).round(2)
    right = random.random(400) < said**2
    asked = random.random(50)
    found = quality.estimate(list(asked), list(zip(said.tolist(), right.tolist(), strict=True)))
    assert found is not None
    expected = IsotonicRegression(out_of_bounds="clip").fit(said, right).predict(asked).mean()
    assert found.accuracy == pytest.approx(expected, abs=1e-9)


def test_an_estimate_follows_inputs_that_change_without_any_truth_of_them() -> None:
    random = np.random.default_rng(3)
    said = 0.5 + 0.5 * random.random(10_000)
    # A model that is too sure of itself.
    known = [(each, random.random() < 0.5 + (each - 0.5) * 0.6) for each in said]
    harder = 0.6 + 0.2 * random.random(2000)
    found = quality.estimate(list(harder), known)
    assert found is not None
    assert found.accuracy == pytest.approx(0.5 + 0.2 * 0.6, abs=0.02)


# --- What it comes to -------------------------------------------------------------------------------------


def told(right: int, of: int) -> Scores:
    return quality.score(TWO, [Row("yes", "yes" if at < right else "no") for at in range(of)])


def test_a_verdict_names_score_interval_coverage_and_card() -> None:
    found = quality.judge(told(1681, 1843), {"accuracy": 0.918}, 2410)
    assert found.state == "fine"
    assert found.sentence == (
        "accuracy 0.912 (0.898–0.924) over 1,843 of 2,410 predictions; the card says 0.918: as expected"  # noqa: RUF001 - a span
    )


@pytest.mark.parametrize(
    ("right", "of", "card", "state"),
    [
        (0, 0, {"accuracy": 0.9}, "none"),
        (0, LEAST_JUDGED - 1, {"accuracy": 0.9}, "collecting"),
        (50, LEAST_JUDGED, {"accuracy": 0.9}, "worse"),
        # Worse, but it may be by chance; and surely worse, but not by enough to matter.
        (85, LEAST_JUDGED, {"accuracy": 0.9}, "fine"),
        (88_800, 100_000, {"accuracy": 0.9}, "fine"),
        (87_000, 100_000, {"accuracy": 0.9}, "worse"),
        (99, LEAST_JUDGED, {"accuracy": 0.5}, "fine"),
        (50, LEAST_JUDGED, {}, "unjudged"),
        (50, LEAST_JUDGED, {"f1": 0.9}, "unjudged"),
    ],
)
def test_a_model_is_worse_only_where_the_better_end_is_worse_by_more_than_the_tolerance(
    right: int, of: int, card: dict[str, float], state: str
) -> None:
    assert quality.judge(told(right, of), card, of).state == state


@pytest.mark.parametrize(("stated", "state"), [(4.0, "fine"), (3.5, "worse"), (9.0, "fine")])
def test_an_error_is_worse_by_a_part_of_what_the_card_says(stated: float, state: str) -> None:
    found = quality.judge(quality.score(None, numbers(5000, 7)), {"rmse": stated}, 5000)
    assert (found.state, found.metric) == (state, "rmse")
    assert ("worse by more than 10 %" in found.sentence) == (state == "worse")


def test_a_card_may_state_scores_at_its_top_or_under_metrics_and_by_the_names_of_scikit_learn() -> None:
    card = {"accuracy": 0.9, "metrics": {"roc_auc": 0.8, "accuracy": 0.1, "mae": "small"}, "r2_score": True}
    assert quality.stated(card) == {"accuracy": 0.9, "auc": 0.8}
    assert quality.stated({"metrics": [1]}) == {}


def test_the_score_that_is_judged_is_one_that_the_card_states_too() -> None:
    rows = of_classes(TWO)(200, 1)
    found = quality.score(TWO, rows)
    assert quality.main_metric(found, {}) == "accuracy"
    assert quality.main_metric(found, {"brier": 0.2, "auc": 0.9}) == "auc"
    assert quality.judge(found, {"auc": 0.99}, 200).metric == "auc"
