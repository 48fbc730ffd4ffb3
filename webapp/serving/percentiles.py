"""Where a value lies among those of a reference: its percentiles, read once by each process that is asked."""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pandas as pd

from webapp.artifacts import ArtifactStore
from webapp.errors import Refusal
from webapp.signature import Signature

# A page waits while it is read: of a larger reference only the ends are known, which the signature has.
MOST_BYTES = 32 * 1024 * 1024
# Some kilobytes each.
MOST_KEPT = 64
STEPS = 101

Percentiles = Mapping[str, tuple[float, ...]]


def of(store: ArtifactStore, digest: str | None, signature: Signature) -> Percentiles:
    """Give the percentiles of each number in a reference; of none where it is not there, too large or unreadable."""
    names = tuple(each.name for each in signature.features if each.kind in {"number", "integer"})
    if digest is None or not names:
        return {}
    try:
        return _read(store, digest, names)
    except (Refusal, OSError, ValueError):
        # It only adds to a page; the next one tries again.
        return {}


@lru_cache(MOST_KEPT)
def _read(store: ArtifactStore, digest: str, names: tuple[str, ...]) -> Percentiles:
    content = store.get_small(digest, MOST_BYTES)
    if content is None:
        return {}
    frame = pd.read_csv(io.BytesIO(content), usecols=lambda name: str(name) in names, low_memory=False)
    found = {}
    for name, column in frame.rename(columns=str).items():
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
        numbers = numbers[np.isfinite(numbers)]
        if len(numbers):
            found[str(name)] = tuple(np.quantile(numbers, np.linspace(0, 1, STEPS)).tolist())
    return found


def percent(percentiles: tuple[float, ...], value: float) -> float:
    """Give how many percent of a reference lie below a value; of several that are the same, half."""
    place = (bisect_left(percentiles, value) + bisect_right(percentiles, value) - 1) / 2
    return min(max(place, 0.0), STEPS - 1.0)
