"""Checks of support vector machines, whose arrays libsvm reads by counts that stand in other arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse  # type: ignore[import-untyped] # scipy ships no types
from sklearn.svm import SVC, NuSVC
from sklearn.svm._base import BaseLibSVM

from webapp.intake.structure.finding import OPTION, Finding, expect, expect_features, expect_shape, member, places

KERNELS = {"linear", "poly", "rbf", "sigmoid", "precomputed"}
# One-class and regression machines are stored as if they told two classes apart.
CLASSES_OF_OTHERS = 2


def support_vectors(estimator: BaseLibSVM, path: str) -> Iterator[Finding]:
    """Check that the counts and the arrays of a machine belong together."""
    kernel = estimator.kernel
    if not isinstance(kernel, str) or kernel not in KERNELS:
        yield Finding(member(path, "kernel"), f"The kernel {kernel!r} is not served; it would be called.", OPTION)
    classifier = isinstance(estimator, SVC | NuSVC)
    classes = len(estimator.classes_) if classifier else CLASSES_OF_OTHERS
    vectors = len(estimator.support_)
    yield from expect(classes > 1, member(path, "classes_"), "It tells fewer than two classes apart.")
    yield from _support(estimator, path)
    yield from _counts(estimator, classes, vectors if classifier else None, path)
    yield from _coefficients(estimator, classes, vectors, path)
    pairs = classes * (classes - 1) // 2
    yield from _double(estimator._intercept_, (pairs,), member(path, "_intercept_"))
    for name in ("_probA", "_probB"):
        known = getattr(estimator, name)
        allowed = {0, pairs} if name == "_probA" or not classifier else {np.size(estimator._probA)}  # noqa: SLF001
        meaning = f"It holds {np.size(known)} values for {pairs} pairs of classes."
        yield from expect(np.ndim(known) == 1 and known.size in allowed, member(path, name), meaning)


def _support(estimator: Any, path: str) -> Iterator[Finding]:  # noqa: ANN401 - any machine
    support, rows = estimator.support_, estimator.shape_fit_[0]
    name = member(path, "support_")
    meaning = "It is no list of row numbers."
    yield from expect(np.ndim(support) == 1 and support.dtype == np.int32, name, meaning)
    bad = (np.ravel(support) < 0) | (np.ravel(support) >= rows)
    yield from places(name, bad, lambda at: f"It names training row {support[at]}; there were {rows}.")
    if estimator.kernel == "precomputed":
        yield from expect_features(estimator, rows, path, "its kernel")
        return
    vectors = estimator.support_vectors_
    sparse = scipy.sparse.issparse(vectors) and vectors.format == "csr"
    meaning = f"It says sparse={estimator._sparse}, and a {type(vectors).__name__} is stored."  # noqa: SLF001
    yield from expect(bool(estimator._sparse) == sparse, member(path, "_sparse"), meaning)  # noqa: SLF001
    features = getattr(estimator, "n_features_in_", -1)
    yield from expect_shape(vectors, (len(support), features), member(path, "support_vectors_"))


def _counts(estimator: Any, classes: int, vectors: int | None, path: str) -> Iterator[Finding]:  # noqa: ANN401
    counts, name = estimator._n_support, member(path, "_n_support")  # noqa: SLF001 - what libsvm gets
    meaning = f"It holds {np.size(counts)} counts of support vectors for {classes} classes."
    yield from expect(np.shape(counts) == (classes,) and counts.dtype == np.int32, name, meaning)
    yield from places(name, np.ravel(counts) < 0, lambda at: f"Class {at} has {counts[at]} support vectors.")
    total = int(np.sum(counts, dtype=np.int64))
    meaning = f"The counts add up to {total}; {vectors} support vectors are stored."
    yield from expect(vectors is None or total == vectors, name, meaning)


def _coefficients(estimator: Any, classes: int, vectors: int, path: str) -> Iterator[Finding]:  # noqa: ANN401
    stored, name = estimator._dual_coef_, member(path, "_dual_coef_")
    if scipy.sparse.issparse(stored):
        # libsvm takes the values alone, as if no entry had been left out.
        wanted = (classes - 1) * vectors
        meaning = f"It holds {stored.data.size} coefficients; {wanted} are needed."
        yield from expect(stored.data.size == wanted, name, meaning)
        yield from expect_shape(stored, (classes - 1, vectors), name)
    else:
        yield from _double(stored, (classes - 1, vectors), name)


def _double(array: Any, shape: tuple[int, ...], name: str) -> Iterator[Finding]:  # noqa: ANN401 - what a file holds
    yield from expect_shape(array, shape, name)
    yield from expect(array.dtype == np.float64, name, f"It holds {array.dtype} in place of float64.")
