"""Tests of what is said of an estimator: its steps on one line, and the tree of its parameters."""

from __future__ import annotations

import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from webapp.intake import outline

PARTS = [("one", LogisticRegression(C=2.0)), ("two", RandomForestClassifier(n_estimators=7))]


def test_what_was_chosen_is_told_from_what_is_so_by_default() -> None:
    tree = outline.tree(RandomForestClassifier(n_estimators=7, random_state=0))
    assert (tree["kind"], tree["changed"]) == ("RandomForestClassifier", ["n_estimators", "random_state"])
    assert (tree["parameters"]["n_estimators"], tree["parameters"]["criterion"]) == ("7", "'gini'")
    assert outline.tree(make_pipeline(StandardScaler()))["changed"] == []


@pytest.mark.parametrize(
    ("estimator", "parts"),
    [
        (
            Pipeline([("scale", StandardScaler()), ("none", "passthrough"), ("model", LogisticRegression())]),
            ["scale", "model"],
        ),
        (VotingClassifier(PARTS), ["one", "two"]),
        (FeatureUnion([("a", StandardScaler()), ("b", MinMaxScaler())]), ["a", "b"]),
        (RandomForestClassifier(), []),
    ],
)
def test_an_estimator_is_shown_with_those_it_is_made_of(estimator: object, parts: list[str]) -> None:
    tree = outline.tree(estimator)  # type: ignore[arg-type] # scikit-learn has no types
    assert [part["name"] for part in tree["parts"]] == parts


def test_the_parts_of_a_column_transformer_are_those_that_were_fitted() -> None:
    columns = ColumnTransformer([("scale", StandardScaler(), [0]), ("drop", "drop", [1])], remainder=MinMaxScaler())
    columns.fit([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    model = make_pipeline(columns, LogisticRegression())
    assert outline.line(model) == "ColumnTransformer (StandardScaler, MinMaxScaler) → LogisticRegression"
    (first, _) = outline.tree(model)["parts"]
    assert [(part["name"], part["kind"]) for part in first["parts"]] == [
        ("scale", "StandardScaler"),
        ("remainder", "MinMaxScaler"),
    ]


def test_a_parameter_that_another_version_did_not_have_is_left_out() -> None:
    estimator = LogisticRegression()
    del estimator.C
    assert "C" not in outline.tree(estimator)["parameters"]
    long = LogisticRegression(class_weight=dict.fromkeys(range(1000), 1.0))
    assert len(outline.tree(long)["parameters"]["class_weight"]) <= outline.MOST_CHARACTERS + 1
