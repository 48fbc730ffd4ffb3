"""Tests of golden rows: which are chosen, that they survive storing, and what counts as the same output."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from webapp.errors import Unavailable
from webapp.serving import golden
from webapp.serving.golden import MOST_ROWS, Golden
from webapp.serving.predictor import Predictor, assemble
from webapp.signature.learn import Learned, learn


def learned(estimator: object, frame: pd.DataFrame) -> tuple[Predictor, Learned]:
    found = learn(estimator, assemble, reference=frame, declared=[])
    return Predictor(estimator, found.signature), found


def recorded(estimator: object, frame: pd.DataFrame) -> tuple[Predictor, Golden]:
    predictor, found = learned(estimator, frame)
    return predictor, golden.record(predictor, found.signature, found.rows)


def iris() -> tuple[pd.DataFrame, pd.Series[int]]:
    return load_iris(return_X_y=True, as_frame=True)  # type: ignore[no-any-return]


def test_golden_rows_are_spread_and_reach_the_edges() -> None:
    frame, target = iris()
    _, kept = recorded(LogisticRegression(max_iter=500).fit(frame, target), frame)
    values = np.array(kept.rows, dtype=float)
    assert 12 < len(kept.rows) <= MOST_ROWS
    assert len(set(kept.rows)) == len(kept.rows)
    assert values.min(axis=0).tolist() == frame.min().tolist()
    assert values.max(axis=0).tolist() == frame.max().tolist()
    assert {outcome.prediction for outcome in kept.outcomes} == {0, 1, 2}


def test_a_row_that_the_estimator_refuses_is_not_golden() -> None:
    frame, target = iris()
    gaps = frame.mask(frame < 1)
    predictor, found = learned(HistGradientBoostingClassifier(max_iter=3).fit(gaps, target), gaps)
    kept = golden.record(predictor, found.signature, found.rows)
    assert any(None in row for row in kept.rows)
    strict = LogisticRegression(max_iter=500).fit(frame, target)
    allowed = replace(
        found.signature, features=tuple(replace(each, nullable=True) for each in found.signature.features)
    )
    kept = golden.record(Predictor(strict, allowed), allowed, found.rows)
    assert kept.rows
    assert not any(None in row for row in kept.rows)


def test_golden_rows_come_back_from_storing_bit_by_bit() -> None:
    frame, target = load_diabetes(return_X_y=True, as_frame=True)
    _, kept = recorded(Ridge().fit(frame, target), frame)
    assert Golden.from_json(json.dumps(kept.as_dict()).encode()) == kept


def test_a_version_that_answers_as_it_did_passes() -> None:
    frame, target = iris()
    predictor, kept = recorded(LogisticRegression(max_iter=500).fit(frame, target), frame)
    golden.check(predictor, kept)
    golden.check(predictor, Golden((), ()))


@pytest.mark.parametrize("change", [1e-6, -1.0])
def test_a_version_that_answers_otherwise_does_not(change: float) -> None:
    frame, target = load_diabetes(return_X_y=True, as_frame=True)
    estimator = Ridge().fit(frame, target)
    predictor, kept = recorded(estimator, frame)
    estimator.coef_ = estimator.coef_ * (1 + change)
    with pytest.raises(Unavailable, match="golden rows otherwise") as caught:
        golden.check(predictor, kept)
    assert caught.value.code == "golden_rows_differ"


def test_a_version_that_no_longer_takes_its_golden_rows_does_not_pass() -> None:
    frame, target = iris()
    estimator = LogisticRegression(max_iter=500).fit(frame, target)
    predictor, kept = recorded(estimator, frame)
    estimator.n_features_in_ = 3
    with pytest.raises(Unavailable, match="no longer takes"):
        golden.check(predictor, kept)


@given(st.floats(-1e300, 1e300))
def test_the_last_bits_of_a_number_may_differ_and_no_others(number: float) -> None:
    assert golden.same(number, number * (1 + 1e-15))
    assert golden.same({"a": [number]}, {"a": [number]})
    assert not golden.same(number, number * (1 + 1e-6) + 1e-6 * np.sign(number) + (number == 0))


@pytest.mark.parametrize(
    ("one", "other"), [(1, 2), ("yes", "no"), (True, 1), (1, True), ({"a": 1}, {"b": 1}), (None, 0.0), (1, "1")]
)
def test_labels_are_the_same_or_they_are_not(one: object, other: object) -> None:
    assert golden.same(one, one)
    assert not golden.same(one, other)
