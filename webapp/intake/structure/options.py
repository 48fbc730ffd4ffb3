"""What would act while predicting: functions of the file's choice, files that are opened, work without a bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.interpolate import interp1d  # type: ignore[import-untyped] # scipy ships no types
from sklearn._loss.loss import BaseLoss
from sklearn.base import BaseEstimator
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.gaussian_process.kernels import Kernel
from sklearn.metrics._scorer import _BaseScorer, _PassthroughScorer
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures

from webapp import names
from webapp.intake.structure.finding import OPTION, STRUCTURE, Finding, member
from webapp.intake.structure.walk import FUNCTIONS, attributes, is_python

# Sparse rows as wide as this are still multiplied with; wider ones no model has coefficients for.
MOST_HASHED = 2**26
MOST_POLYNOMIALS = 2**20
# Functions that are called while fitting and scoring only, and one that scipy asks to make arrays.
NOT_CALLED = {"score_func", "_score_func", "scoring", "_asarray"}
CALLED = {"func", "inverse_func", "pooling_func"}
TYPES = {"dtype", "dtype_include", "dtype_exclude", "type", "cv"}
# Objects that can be called and belong where they are; what they hold is walked like everything else.
PARTS = (BaseEstimator, BaseLoss, Kernel, _BaseScorer, _PassthroughScorer, interp1d)


def _full_name(found: Any) -> str:  # noqa: ANN401 - anything that can be called
    return f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', type(found).__name__)}"


def _pure(found: object) -> bool:
    """Tell whether a function takes one array and gives one, and does nothing else."""
    if isinstance(found, np.ufunc):
        return found.nin == found.nout == 1 and getattr(np, found.__name__, None) is found
    return found is np.mean


def function(found: Any, path: str) -> Iterator[Finding]:  # noqa: ANN401 - anything that can be called
    """Check a function or class that stands anywhere in the estimator."""
    known = isinstance(found, type) or _pure(found) or _full_name(found) in names.SKOPS
    if not known:
        meaning = f"The function {_full_name(found)} is not among those that are called or kept."
        yield Finding(path, meaning, OPTION)


def of_object(found: object, path: str) -> Iterator[Finding]:
    """Check the attributes of an object: which can be called, and which hide a method of its class."""
    for name, value in attributes(found).items():
        inherited = getattr(type(found), name, None) if is_python(type(found)) else None
        if isinstance(inherited, str | list | tuple | dict) or callable(inherited):
            yield Finding(member(path, name), "It hides what the class itself says under this name.", STRUCTURE)
        if callable(value) and not _belongs(name, value):
            meaning = f"{_full_name(value)} would be called while predicting. Use one of NumPy's own, such as log1p."
            yield Finding(member(path, name), meaning, OPTION)


def _belongs(name: str, value: object) -> bool:
    if name in CALLED:
        return _pure(value)
    if isinstance(value, type):
        return name in TYPES
    return isinstance(value, PARTS) if not isinstance(value, FUNCTIONS) else name in NOT_CALLED


def arguments_of_function(estimator: FunctionTransformer, path: str) -> Iterator[Finding]:
    """Refuse arguments: `out` would write into another part of the model."""
    for name in ("kw_args", "inv_kw_args"):
        if given := getattr(estimator, name, None):
            yield Finding(member(path, name), f"The function would be called with {sorted(map(str, given))}.", OPTION)


def text_input(estimator: CountVectorizer | HashingVectorizer, path: str) -> Iterator[Finding]:
    """Refuse a vectorizer that takes each text for the name of a file and opens it."""
    if estimator.input != "content":
        meaning = f"With input={estimator.input!r} it would open files that a request names; use input='content'."
        yield Finding(member(path, "input"), meaning, OPTION)


def hashed_width(estimator: FeatureHasher | HashingVectorizer, path: str) -> Iterator[Finding]:
    """Refuse a number of columns that compiled code would divide by as it is."""
    width = estimator.n_features
    if not isinstance(width, int | np.integer) or isinstance(width, bool) or not 1 <= width <= MOST_HASHED:
        meaning = f"It makes {width!r} columns; 1 to {MOST_HASHED} are served."
        yield Finding(member(path, "n_features"), meaning, OPTION)


def polynomial_width(estimator: PolynomialFeatures, path: str) -> Iterator[Finding]:
    """Refuse more columns than a row of a request is worth."""
    for name in ("n_output_features_", "_n_out_full"):
        width = getattr(estimator, name)
        if not isinstance(width, int | np.integer) or not 0 <= width <= MOST_POLYNOMIALS:
            meaning = f"It makes {width!r} columns; up to {MOST_POLYNOMIALS} are served."
            yield Finding(member(path, name), meaning, OPTION)
