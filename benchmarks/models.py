"""The models that are measured: each with its training rows, its files, and the request that asks it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from webapp.cli import demo

SEED = 42
# So many rows differ from one another; the second number shares no factor with the first, and strides far.
DIFFERENT, COPRIME = 10_000_000, 3_819_661
WIDE_FEATURES, WIDE_ROWS = 30, 2000
# The same for the rows that are made of normal numbers.
SPREAD = ("f00", -2.0, 2.0)


@dataclass(frozen=True, slots=True)
class Files:
    """Where a model's files are."""

    model: Path
    reference: Path
    metadata: Path | None


@dataclass(frozen=True)
class Case:
    """One model to measure."""

    name: str
    make: Callable[[], Any]
    data: Callable[[], tuple[pd.DataFrame, Any]] = demo.rows
    metadata: dict[str, Any] | None = None
    # The feature that makes each request another one, and a range of it in which most training rows are.
    varied: str = "income"
    low: float = 20_000.0
    high: float = 100_000.0

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows it is trained with."""
        return self.data()[0]

    @cached_property
    def estimator(self) -> Any:  # noqa: ANN401 - an estimator of any kind
        """The fitted estimator."""
        rows, target = self.data()
        return self.make().fit(rows, target)

    def instances(self) -> Iterator[dict[str, Any]]:
        """Give rows for ever, in the types of their columns, no two alike: a cache helps with none of them."""
        found: list[dict[str, Any]] = json.loads(self.rows.to_json(orient="records", double_precision=15))
        for number in itertools.count():
            place = number * COPRIME % DIFFERENT / DIFFERENT
            yield {**found[number % len(found)], self.varied: round(self.low + (self.high - self.low) * place, 7)}

    def bodies(self, rows: int = 1) -> Iterator[bytes]:
        """Give bodies of requests for ever, with so many rows each."""
        instances = self.instances()
        while True:
            taken = list(itertools.islice(instances, rows))
            yield json.dumps(taken[0] if rows == 1 else {"instances": taken}).encode()

    def write(self, folder: Path) -> Files:
        """Write what is uploaded."""
        folder.mkdir(parents=True, exist_ok=True)
        model, reference = folder / f"{self.name}.joblib", folder / f"{self.name}.csv"
        joblib.dump(self.estimator, model)
        self.rows.to_csv(reference, index=False)
        if self.metadata is None:
            return Files(model, reference, None)
        metadata = folder / f"{self.name}.json"
        metadata.write_text(json.dumps(self.metadata), encoding="utf-8")
        return Files(model, reference, metadata)


def wide() -> tuple[pd.DataFrame, Any]:
    """Give rows of 30 features and two classes; always the same ones."""
    random = np.random.default_rng(SEED)
    names = [f"f{number:02}" for number in range(WIDE_FEATURES)]
    rows = pd.DataFrame(random.normal(size=(WIDE_ROWS, WIDE_FEATURES)).round(6), columns=names)
    return rows, (rows.iloc[:, :5].sum(axis=1) + random.normal(size=WIDE_ROWS) > 0).astype(int)


def heavy() -> tuple[pd.DataFrame, Any]:
    """Give rows that a regression forest cannot summarise: its file grows with their number."""
    random = np.random.default_rng(SEED)
    rows = pd.DataFrame(random.normal(size=(20_000, 10)), columns=[f"f{number:02}" for number in range(10)])
    return rows, random.normal(size=20_000)


def scaled(estimator: Any) -> Any:  # noqa: ANN401 - an estimator of any kind
    """Put the guide's scaler before an estimator."""
    return make_pipeline(StandardScaler(), estimator)


GUIDE = Case(
    "guide", lambda: scaled(RandomForestClassifier(n_estimators=100, random_state=SEED)), metadata=demo.METADATA
)
LINEAR = Case("linear", lambda: scaled(LogisticRegression()), metadata=demo.METADATA)
BOOSTING = Case("boosting", lambda: scaled(GradientBoostingClassifier(random_state=SEED)), metadata=demo.METADATA)
HISTOGRAM = Case("histogram", lambda: scaled(HistGradientBoostingClassifier(random_state=SEED)), metadata=demo.METADATA)
VECTORS = Case("svc", lambda: scaled(SVC()), metadata=demo.METADATA)
NEIGHBOURS = Case("knn", lambda: scaled(KNeighborsClassifier()), metadata=demo.METADATA)
NETWORK = Case("mlp", lambda: scaled(MLPClassifier(random_state=SEED, max_iter=500)), metadata=demo.METADATA)
WIDE = Case("wide", lambda: scaled(RandomForestClassifier(n_estimators=100, random_state=SEED)), wide, None, *SPREAD)
# About 100 MB as a file, and another version of it.
HEAVY = Case("heavy", lambda: RandomForestRegressor(n_estimators=55, random_state=SEED), heavy, None, *SPREAD)
HEAVY_AGAIN = replace(HEAVY, make=lambda: RandomForestRegressor(n_estimators=55, random_state=SEED + 1))

ALL = {case.name: case for case in (GUIDE, LINEAR, BOOSTING, HISTOGRAM, VECTORS, NEIGHBOURS, NETWORK, WIDE, HEAVY)}
