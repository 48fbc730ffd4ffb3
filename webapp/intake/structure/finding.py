"""What a check reports: the place in the estimator, and what is wrong there in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# More than this from one file helps nobody.
MOST_FINDINGS = 100
STRUCTURE = "model_structure_invalid"
OPTION = "model_option_refused"


class Finding(NamedTuple):
    """One thing that is wrong: `name` is the path to it, such as `estimators_[3].tree_.children_left[17]`."""

    name: str
    meaning: str
    code: str = STRUCTURE


Check = Callable[[Any, str], Iterator[Finding]]


def member(path: str, name: str) -> str:
    """Give the path of an attribute; the estimator itself is the empty path."""
    return f"{path}.{name}" if path else name


def places(name: str, bad: NDArray[np.bool_], meaning: Callable[[int], str]) -> Iterator[Finding]:
    """Report the first places of an array that are bad."""
    for at in np.flatnonzero(bad)[:MOST_FINDINGS]:
        yield Finding(f"{name}[{at}]", meaning(int(at)))


def expect(holds: object, name: str, meaning: str) -> Iterator[Finding]:
    """Report `name` unless the condition holds."""
    if not holds:
        yield Finding(name, meaning)


def expect_shape(array: Any, shape: tuple[int, ...], name: str) -> Iterator[Finding]:  # noqa: ANN401 - what a file holds
    """Report an array that has another shape than the rest of the estimator needs."""
    found = np.shape(array) if not hasattr(array, "shape") else array.shape
    yield from expect(found == shape, name, f"Its shape is {found}; the rest of the estimator needs {shape}.")


def expect_features(estimator: Any, features: int, path: str, name: str) -> Iterator[Finding]:  # noqa: ANN401 - any kind
    """Report an estimator whose `name` was made for another number of features than predict lets in."""
    taken = getattr(estimator, "n_features_in_", None)
    meaning = f"The estimator takes {taken} features, but {name} was made for {features}."
    yield from expect(taken == features, member(path, "n_features_in_"), meaning)
