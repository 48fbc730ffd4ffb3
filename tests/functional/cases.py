"""Fitted estimators on scikit-learn's bundled data, each with rows it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

SEED = 7


@dataclass(frozen=True)
class Case:
    """A fitted estimator; the half it learned from is the reference, the other half is asked."""

    estimator: Any
    learned: Any
    asked: Any

    def reference(self) -> pd.DataFrame:
        """The learned half as the CSV's columns."""
        if isinstance(self.learned, pd.DataFrame):
            return self.learned
        if isinstance(self.learned, list):
            return pd.DataFrame({"text": self.learned})
        return pd.DataFrame(self.learned, columns=[f"x{each}" for each in range(self.learned.shape[1])])

    def instances(self) -> list[dict[str, Any]]:
        """The asked half as JSON objects."""
        if isinstance(self.asked, list):
            return [{"text": text} for text in self.asked]
        frame = self.asked if isinstance(self.asked, pd.DataFrame) else pd.DataFrame(self.asked).add_prefix("x")
        return [
            {name: None if _missing(value) else value for name, value in row.items()}
            for row in frame.astype(object).to_dict("records")
        ]

    def rows(self, *positions: int) -> Any:
        """Some of the asked rows, in the estimator's own container.

        A frame is made anew, as from JSON or CSV: one cut out of another by `iloc` lies the other way round in
        memory, and linear algebra over it rounds the last bit differently, in scikit-learn as here.
        """
        chosen = list(positions)
        if isinstance(self.asked, list):
            return [self.asked[each] for each in chosen]
        if isinstance(self.asked, pd.DataFrame):
            frame = pd.DataFrame(self.asked.iloc[chosen].to_dict("records"))
            # Of one row with a missing word pandas would make a column of numbers.
            words = self.asked.columns[self.asked.dtypes == "str"]
            return frame.astype(dict.fromkeys(words, "str")) if len(words) else frame
        return self.asked[chosen]


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _halves(inputs: Any, targets: Any, estimator: Any) -> Case:
    order = np.random.default_rng(SEED).permutation(len(targets))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]

    def pick(values: Any, positions: Any) -> Any:
        if isinstance(values, list):
            return [values[each] for each in positions]
        return values.iloc[positions] if hasattr(values, "iloc") else values[positions]

    return Case(estimator.fit(pick(inputs, first), pick(targets, first)), pick(inputs, first), pick(inputs, second))


def breast_cancer() -> Case:
    """Thirty named columns, a linear classifier behind a scaler."""
    inputs, targets = datasets.load_breast_cancer(return_X_y=True, as_frame=True)
    return _halves(inputs, targets, make_pipeline(StandardScaler(), LogisticRegression()))


def breast_cancer_with_gaps() -> Case:
    """The same columns with missing values, and a classifier that takes them; labels are words."""
    inputs, targets = datasets.load_breast_cancer(return_X_y=True, as_frame=True)
    gaps = np.random.default_rng(SEED).random(inputs.shape) < 0.1
    words = targets.map({0: "malignant", 1: "benign"})
    return _halves(inputs.mask(gaps), words, HistGradientBoostingClassifier(max_iter=30, random_state=SEED))


def wine() -> Case:
    """Three classes, a forest."""
    inputs, targets = datasets.load_wine(return_X_y=True, as_frame=True)
    return _halves(inputs, targets, RandomForestClassifier(n_estimators=50, random_state=SEED, n_jobs=2))


def diabetes() -> Case:
    """A regression by boosting."""
    inputs, targets = datasets.load_diabetes(return_X_y=True, as_frame=True)
    return _halves(inputs, targets, GradientBoostingRegressor(random_state=SEED))


def diabetes_linear() -> Case:
    """A regression by a linear model, on an array without names."""
    inputs, targets = datasets.load_diabetes(return_X_y=True)
    return _halves(inputs, targets, Ridge())


def digits() -> Case:
    """Sixty-four unnamed pixels, a support vector classifier."""
    inputs, targets = datasets.load_digits(return_X_y=True)
    return _halves(inputs, targets, SVC())


def digits_neighbours() -> Case:
    """The same with nearest neighbours, which give probabilities."""
    inputs, targets = datasets.load_digits(return_X_y=True)
    return _halves(inputs, targets, KNeighborsClassifier())


def digits_network() -> Case:
    """The same with a small neural network."""
    inputs, targets = datasets.load_digits(return_X_y=True)
    network = MLPClassifier((16,), tol=0.01, random_state=SEED)
    return _halves(inputs, targets, make_pipeline(StandardScaler(), network))


def linnerud() -> Case:
    """Three numbers at once."""
    inputs, targets = datasets.load_linnerud(return_X_y=True, as_frame=True)
    return _halves(inputs, targets, RandomForestRegressor(n_estimators=20, random_state=SEED))


def two_labels() -> Case:
    """Two classifications at once, with words as labels."""
    inputs, targets = datasets.load_wine(return_X_y=True, as_frame=True)
    labels = pd.DataFrame({"kind": targets.map({0: "a", 1: "b", 2: "c"}), "strong": (inputs["alcohol"] > 13).map(str)})
    return _halves(inputs, labels, MultiOutputClassifier(make_pipeline(StandardScaler(), LogisticRegression())))


def mixed_columns() -> Case:
    """Numbers, words and missing words in a DataFrame."""
    random = np.random.default_rng(SEED)
    size = 300
    frame = pd.DataFrame(
        {
            "age": random.integers(18, 80, size),
            "income": random.lognormal(10, 0.5, size).round(2),
            "city": random.choice(["Berlin", "Rome", "Oslo"], size),
            "owner": random.choice(["yes", "no"], size),
        }
    )
    frame.loc[random.random(size) < 0.1, "city"] = None
    targets = (frame["income"] > 22_000) ^ (frame["owner"] == "yes")
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["age", "income"]),
            ("words", OneHotEncoder(handle_unknown="ignore"), ["city", "owner"]),
        ]
    )
    return _halves(frame, targets, make_pipeline(columns, LogisticRegression()))


def texts() -> Case:
    """Sentences."""
    random = np.random.default_rng(SEED)
    good, bad = ["good", "great", "lovely", "fine"], ["bad", "awful", "poor", "dull"]
    labels = random.choice(["praise", "complaint"], 120)
    sentences = [
        " ".join(random.choice(good if label == "praise" else bad, 3)) + f" product {random.integers(9)}"
        for label in labels
    ]
    return _halves(sentences, labels, make_pipeline(TfidfVectorizer(), LogisticRegression()))


CASES: dict[str, Callable[[], Case]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        breast_cancer,
        breast_cancer_with_gaps,
        wine,
        diabetes,
        diabetes_linear,
        digits,
        digits_neighbours,
        digits_network,
        linnerud,
        two_labels,
        mixed_columns,
        texts,
    )
}
