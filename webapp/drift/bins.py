"""Cells that values are counted in: fixed by the reference, so that counts can be added up over any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
# What of a value is counted: the number, the text or class itself, or how long a text is.
Kind = Literal["number", "category", "length"]

QUANTILES = 10
# Numbers of which there are so few are told apart, as codes are.
MOST_DISTINCT = 12
MOST_CATEGORIES = 25
# A text of which the reference has this share of different ones says something only by its length.
FREE_TEXT_SHARE = 0.5
FEWEST_FOR_FREE_TEXT = 50
PROBABILITY_BINS = 20
MOST_NUMBER = 1e308

MISSING, BELOW, ABOVE = "missing", "below", "above"
OTHER, NEW = "other", "new"


@dataclass(frozen=True, slots=True)
class Binning:
    """How one variable is counted.

    Numbers: missing, below the first edge, one cell up to each further edge (the first holds both its ends), above the
    last. Categories: missing, one cell per value, other values that the reference had, new ones.
    """

    kind: Kind
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    # Values of the reference that have no cell of their own.
    others: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Give the JSON form, which `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Binning:
        """Read the form that `as_dict` gives."""
        lists = {name: tuple(document[name]) for name in ("edges", "values", "others")}
        return cls(document["kind"], **lists)

    @property
    def is_ordered(self) -> bool:
        """Whether neighbouring cells are like one another."""
        return self.kind != "category"

    @property
    def cells(self) -> list[str]:
        """Name the cells in their order."""
        if self.kind == "category":
            return [MISSING, *self.values, OTHER, NEW]
        between = [f"{low:g} … {high:g}" for low, high in pairwise(self.edges)]
        return [MISSING, BELOW, *between, ABOVE]

    @property
    def size(self) -> int:
        """How many cells there are."""
        return len(self.values) + 3 if self.kind == "category" else len(self.edges) + 2

    def count(self, values: Sequence[Any]) -> Counts:
        """Count values as logged instances have them, None for a missing one: one number per cell."""
        return np.bincount(self.places(values), minlength=self.size).astype(np.int64)

    def places(self, values: Sequence[Any]) -> Counts:
        """Give the place of the cell in which each value is counted."""
        if self.kind == "category":
            return self._places_of_categories(values)
        if self.kind == "length":
            values = [None if value is None else len(str(value)) for value in values]
        return self._places_of_numbers(_numbers(values))

    def _places_of_numbers(self, numbers: npt.NDArray[np.float64]) -> Counts:
        edges = np.array(self.edges)
        # Of a value on an edge it is said that it lies below it: a value that many have keeps a cell of its own.
        places = np.searchsorted(edges, numbers, side="left") + 1
        places[numbers == edges[0]] = 2
        places[np.isnan(numbers)] = 0
        return places

    def _places_of_categories(self, values: Sequence[Any]) -> Counts:
        new = len(self.values) + 2
        place: dict[str | None, int] = {value: number for number, value in enumerate(self.values, start=1)}
        place |= dict.fromkeys(self.others, new - 1)
        place[None] = 0
        return np.array([place.get(category(value), new) for value in values], dtype=np.int64)


def _numbers(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        # Whatever a record holds, those beside it are counted.
        plain = (value if isinstance(value, int | float) else None for value in values)
        return np.array([None if value is None or abs(value) > MOST_NUMBER else value for value in plain], np.float64)


def category(value: Any) -> str | None:  # noqa: ANN401 - a JSON value
    """Give a class or category as it is told apart: a database may keep 1.0 as 1."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


# --- Made from a reference ----------------------------------------------------------------------------------


def of_numbers(values: Iterable[float | None]) -> Binning:
    """Give about equally full cells, or one for each where there are few different numbers."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    known = known[np.isfinite(known)]
    distinct = np.unique(known)
    if len(distinct) == 0:
        return Binning("number", (0.0, 0.0))
    if len(distinct) == 1:
        return Binning("number", (float(distinct[0]), float(distinct[0])))
    if len(distinct) <= MOST_DISTINCT:
        return Binning("number", _between(distinct.tolist()))
    inner = np.quantile(known, np.linspace(0, 1, QUANTILES + 1)[1:-1], method="inverted_cdf")
    low, high = float(distinct[0]), float(distinct[-1])
    edges = [low, *(edge for edge in np.unique(inner).tolist() if low < edge < high), high]
    # Where a tenth or more is the smallest number, it has a cell to itself.
    return Binning("number", tuple([low, *edges] if np.mean(known == low) >= 1 / QUANTILES else edges))


def _between(distinct: list[float]) -> tuple[float, ...]:
    middles = [(low + high) / 2 for low, high in pairwise(distinct)]
    return (distinct[0], *middles, distinct[-1])


def of_lengths(texts: Iterable[str | None]) -> Binning:
    """Count free texts by how many characters they have."""
    made = of_numbers(None if text is None else float(len(text)) for text in texts)
    return Binning("length", made.edges)


def of_shares() -> Binning:
    """Count probabilities in cells of equal width."""
    return Binning("number", tuple(np.linspace(0, 1, PROBABILITY_BINS + 1).round(4).tolist()))


def of_categories(values: Iterable[Any], known: Iterable[Any] = ()) -> Binning:
    """Give the most frequent values a cell each; `known` ones are none that is new, though the reference lacks them."""
    found = Counter(value for value in map(category, values) if value is not None)
    names = {name for name in map(category, known) if name is not None}
    found.update(dict.fromkeys(names, 0))
    ranked = sorted(found, key=lambda value: (-found[value], value))
    return Binning("category", values=tuple(ranked[:MOST_CATEGORIES]), others=tuple(ranked[MOST_CATEGORIES:]))


def of_texts(texts: Sequence[str | None], known: Iterable[Any] | None) -> Binning:
    """Tell texts apart where the reference repeats them or they are `known`; else only how long they are."""
    present = [text for text in texts if text is not None]
    if known is None and len(present) >= FEWEST_FOR_FREE_TEXT and len(set(present)) > FREE_TEXT_SHARE * len(present):
        return of_lengths(texts)
    return of_categories(texts, known or ())
