"""Describes the values of an input in a time and in the reference, as people look at them: it decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped] # scipy ships no types
from sqlalchemy.orm import Session

from webapp import signature
from webapp.artifacts import ArtifactStore
from webapp.drift.layout import Record
from webapp.predictions import log, traffic
from webapp.predictions.traffic import HOUR
from webapp.registry import Version
from webapp.serving import sample

# The newest of the time, and the first of the reference.
MOST_ROWS = 5000
FEWEST_ROWS = 2
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True, slots=True)
class Values:
    """A sample of numbers. The deviation is that of the sample (n - 1)."""

    rows: int
    mean: float
    deviation: float
    minimum: float
    maximum: float
    # Each of `PERCENTILES`.
    percentiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """An input in a time and in the reference, with the two-sample Kolmogorov-Smirnov test of both samples.

    Its p-value is no rule: with many rows it is small for changes that matter to nobody.
    """

    name: str
    here: Values
    reference: Values | None
    ks: float | None
    ks_p: float | None

    def as_dict(self) -> dict[str, Any]:
        """Give the public form."""
        return asdict(self)


def newest(session: Session, model: str, version: int, since: datetime, until: datetime) -> list[Record]:
    """Give the newest predictions of a time, as many as are looked at."""
    # Rows of other versions lie between: what is counted by the hour says where the newest ones of this one are.
    hours = traffic.newest_hours(session, model, version, since, until, MOST_ROWS)
    if not hours:
        return []
    return list(log.records(session, model, version, max(since, hours[-1]), min(until, hours[0] + HOUR), MOST_ROWS))


def numbers_of(version: Version) -> list[str]:
    """Name the inputs of a version that are numbers."""
    return [each.name for each in signature.from_dict(version.signature).features if each.kind in {"number", "integer"}]


def describe(
    store: ArtifactStore, version: Version, names: Sequence[str], records: Sequence[Record]
) -> list[Description]:
    """Describe inputs that are numbers, as these records have them; those that have no value there are left out."""
    instances = [each["instance"] for each in records]
    referenced = _referenced(store, version)
    found = (_described(name, _numbers(instances, name), _numbers(referenced, name)) for name in names)
    return [each for each in found if each is not None]


def _referenced(store: ArtifactStore, version: Version) -> Sequence[dict[str, Any]]:
    if version.reference is None:
        return []
    return sample.referenced(store.get(version.reference), signature.from_dict(version.signature), MOST_ROWS)


def _numbers(instances: Sequence[dict[str, Any]], name: str) -> list[float]:
    values = (each.get(name) for each in instances)
    return [float(value) for value in values if isinstance(value, int | float)]


def _described(name: str, here: Sequence[float], reference: Sequence[float]) -> Description | None:
    if len(here) < FEWEST_ROWS:
        return None
    if len(reference) < FEWEST_ROWS:
        return Description(name, _values(here), None, None, None)
    test = stats.ks_2samp(here, reference, method="asymp")
    return Description(name, _values(here), _values(reference), float(test.statistic), float(test.pvalue))


def _values(numbers: Sequence[float]) -> Values:
    array = np.array(numbers)
    ends = float(array.min()), float(array.max())
    percentiles = tuple(np.percentile(array, PERCENTILES).tolist())
    return Values(len(array), float(array.mean()), float(array.std(ddof=1)), *ends, percentiles)
