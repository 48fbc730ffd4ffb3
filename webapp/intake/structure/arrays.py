"""Checks of what is indexed by compiled code outside of trees: sparse matrices, vocabularies, categories, splines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.interpolate import BSpline  # type: ignore[import-untyped] # scipy ships no types
from sklearn.decomposition import NMF, MiniBatchNMF
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.preprocessing import OneHotEncoder, SplineTransformer

from webapp.intake.structure.finding import Finding, expect, expect_features, expect_shape, member, places

COMPRESSED = {"csr": 0, "csc": 1}
# How many numbers MT19937 and Philox make at a time; the position in them is part of their state.
TWISTER_WORDS = 624
PHILOX_WORDS = 4


def sparse(matrix: Any, path: str) -> Iterator[Finding]:  # noqa: ANN401 - scipy ships no types
    """Check that a sparse matrix points only into itself."""
    along = COMPRESSED.get(matrix.format)
    if along is None:
        yield Finding(path, f"A sparse matrix of the form {matrix.format} is not served; store it as csr.")
        return
    starts, indices = matrix.indptr, matrix.indices
    major, minor = matrix.shape[along], matrix.shape[1 - along]
    stored = min(len(indices), len(matrix.data))
    name = member(path, "indptr")
    if starts.shape != (major + 1,) or starts[0] != 0 or starts[-1] != stored or len(matrix.data) != len(indices):
        ends = f"It goes from {starts[:1]} to {starts[-1:]} in {len(starts)} steps"
        yield Finding(name, f"{ends}; {major} lines with {stored} values are stored.")
    yield from places(
        name, np.diff(starts, append=starts[-1:]) < 0, lambda at: f"Line {at} ends before it begins: {starts[at]}."
    )
    line = "row" if along else "column"
    bad = (indices < 0) | (indices >= minor)
    yield from places(
        member(path, "indices"), bad, lambda at: f"A value stands in {line} {indices[at]}; there are 0 to {minor - 1}."
    )


def vocabulary(estimator: CountVectorizer | DictVectorizer, path: str) -> Iterator[Finding]:
    """Check that the words have the columns 0, 1, 2 … each once: a column is written to without a look at the width."""
    words, name = estimator.vocabulary_, member(path, "vocabulary_")
    if type(words) is not dict:
        yield Finding(name, f"A {type(words).__name__} stands where the vocabulary belongs.")
        return
    count, taken = len(words), set()
    for word, column in words.items():
        right = isinstance(column, int | np.integer) and not isinstance(column, bool) and 0 <= column < count
        if not right or column in taken:
            meaning = f"Its column is {column!r}; each of the {count} words has one of its own, 0 to {count - 1}."
            yield Finding(f"{name}[{word!r:.60}]", meaning)
        taken.add(column)
    if hasattr(estimator, "feature_names_"):
        known = len(estimator.feature_names_)
        yield from expect(known == count, member(path, "feature_names_"), f"There are {known} for {count} columns.")


def weights_of_words(estimator: TfidfTransformer, path: str) -> Iterator[Finding]:
    """Check that there is one weight for each column."""
    name = member(path, "idf_")
    yield from expect(np.ndim(estimator.idf_) == 1, name, "The weights are no list.")
    if hasattr(estimator, "n_features_in_"):
        yield from expect_shape(estimator.idf_, (estimator.n_features_in_,), name)


def categories(estimator: OneHotEncoder, path: str) -> Iterator[Finding]:
    """Check that each category has its place inside of the columns that are counted for its feature."""
    known, widths = estimator.categories_, estimator._n_features_outs  # noqa: SLF001 - what transform itself asks
    yield from expect_features(estimator, len(known), path, "its categories")
    for at, values in enumerate(known):
        name = f"{member(path, 'categories_')}[{at}]"
        if not isinstance(values, np.ndarray) or values.ndim != 1:
            yield Finding(name, "These are no categories.")
        elif values.dtype.kind != "O" and not _ascending(values):
            yield Finding(name, "The categories do not stand in order; they are looked up as if they did.")
    yield from _dropped(estimator, path)
    wanted = estimator._compute_n_features_outs()  # noqa: SLF001 - as it is counted while fitting
    meaning = f"It counts {widths} columns; the categories need {wanted}."
    yield from expect(list(widths) == list(wanted), member(path, "_n_features_outs"), meaning)


def _ascending(values: Any) -> bool:  # noqa: ANN401 - numbers or texts
    present = values[values == values]  # noqa: PLR0124 - what is not equal to itself is NaN, which stands last
    last = values[len(present) :]
    return bool((present[1:] > present[:-1]).all()) and not (last == last).any() and len(last) <= 1  # noqa: PLR0124


def _dropped(estimator: Any, path: str) -> Iterator[Finding]:  # noqa: ANN401 - an encoder
    sizes = np.array([len(values) for values in estimator.categories_])
    if estimator._infrequent_enabled:  # noqa: SLF001 - what transform itself asks
        rare = estimator._infrequent_indices  # noqa: SLF001 - as above
        mappings = estimator._default_to_infrequent_mappings  # noqa: SLF001 - as above
        name = member(path, "_default_to_infrequent_mappings")
        yield from expect(len(rare) == len(mappings) == len(sizes), name, "There is not one for each feature.")
        for at, (few, mapping) in enumerate(zip(rare, mappings, strict=False)):
            if few is None and mapping is None:
                continue
            width = int(sizes[at]) - len(few) + 1
            inside = np.shape(mapping) == (sizes[at],) and bool(((mapping >= 0) & (mapping < width)).all())
            yield from expect(inside, f"{name}[{at}]", f"It leads outside of the {width} columns of feature {at}.")
            sizes[at] = width
    drops = estimator._drop_idx_after_grouping  # noqa: SLF001 - as above
    name = member(path, "_drop_idx_after_grouping")
    if drops is not None:
        yield from expect_shape(drops, (len(sizes),), name)
        for at, (drop, size) in enumerate(zip(drops, sizes, strict=False)):
            inside = drop is None or (isinstance(drop, int | np.integer) and 0 <= drop < size)
            yield from expect(inside, f"{name}[{at}]", f"It drops category {drop!r} of {size}.")


def spline(found: BSpline, path: str) -> Iterator[Finding]:
    """Check that knots, coefficients and degree belong together."""
    knots, values, degree = found._t, found._c, found.k  # noqa: SLF001 - what evaluation itself reads
    if np.ndim(knots) != 1 or knots.dtype != np.float64 or not isinstance(degree, int | np.integer) or degree < 0:
        yield Finding(path, "This is no spline: knots in a list and a degree.")
        return
    pieces = len(knots) - int(degree) - 1
    meaning = f"{len(knots)} knots are too few for degree {degree}."
    yield from expect(pieces >= degree + 1, member(path, "k"), meaning)
    meaning = f"It holds {len(values)} coefficients; {pieces} are needed."
    yield from expect(len(values) >= pieces, member(path, "c"), meaning)
    yield from expect(np.asarray(values).dtype == np.float64, member(path, "c"), "The coefficients are no numbers.")
    ordered = np.isfinite(knots).all() and (np.diff(knots) >= 0).all()
    yield from expect(ordered, member(path, "t"), "The knots are not in order.")


def splines(estimator: SplineTransformer, path: str) -> Iterator[Finding]:
    """Check that there is one spline for each feature."""
    yield from expect_features(estimator, len(estimator.bsplines_), path, "its splines")
    for at, found in enumerate(estimator.bsplines_):
        meaning = f"A {type(found).__name__} stands where a spline belongs."
        yield from expect(type(found) is BSpline, f"{member(path, 'bsplines_')}[{at}]", meaning)


def factors(estimator: NMF | MiniBatchNMF, path: str) -> Iterator[Finding]:
    """Check the number of components, by which compiled code writes into arrays made from them."""
    found, said = estimator.components_, estimator._n_components  # noqa: SLF001 - what transform itself asks
    yield from expect_features(estimator, np.shape(found)[1], path, "its components")
    meaning = f"It says {said} components; {len(found)} are stored."
    yield from expect(said == len(found), member(path, "_n_components"), meaning)


def twister(generator: np.random.MT19937, path: str) -> Iterator[Finding]:
    """Check the position in the numbers that were made in advance."""
    at = generator.state["state"]["pos"]
    meaning = f"The next number is number {at} of {TWISTER_WORDS}."
    yield from expect(0 <= at <= TWISTER_WORDS, member(path, "state['pos']"), meaning)


def philox(generator: np.random.Philox, path: str) -> Iterator[Finding]:
    """Check the position in the numbers that were made in advance."""
    at = generator.state["buffer_pos"]
    meaning = f"The next number is number {at} of {PHILOX_WORDS}."
    yield from expect(0 <= at <= PHILOX_WORDS, member(path, "state['buffer_pos']"), meaning)
