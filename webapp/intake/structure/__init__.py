"""Refuses loaded estimators whose inner structures compiled code could not take, before anything is predicted.

A file can load cleanly and still end the process at predict: compiled code follows the indices stored in trees,
search trees and sparse matrices without looking. Here every object that an estimator holds is visited, and what
the tables below say about its class is checked. A compiled class that stands in no table is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np
import scipy.sparse  # type: ignore[import-untyped] # scipy ships no types
from scipy.interpolate import BSpline  # type: ignore[import-untyped]
from sklearn.cluster._kmeans import _BaseKMeans
from sklearn.decomposition import NMF, MiniBatchNMF
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._forest import BaseForest
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer
from sklearn.impute import KNNImputer
from sklearn.neighbors import BallTree, KDTree
from sklearn.neighbors._base import NeighborsBase
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, PolynomialFeatures, SplineTransformer
from sklearn.svm._base import BaseLibSVM
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

from webapp.errors import Invalid
from webapp.intake.structure import arrays, neighbors, options, support_vectors, trees
from webapp.intake.structure.finding import MOST_FINDINGS, OPTION, STRUCTURE, Check, Finding
from webapp.intake.structure.walk import FUNCTIONS, is_python, walk

__all__ = ["HARMLESS", "NATIVE", "check"]

_LOSSES = (
    "AbsoluteError ExponentialLoss HalfBinomialLoss HalfGammaLoss HalfMultinomialLoss HalfPoissonLoss HalfSquaredError"
    " HalfTweedieLoss HalfTweedieLossIdentity HuberLoss PinballLoss"
)
_SGD_LOSSES = "EpsilonInsensitive Hinge ModifiedHuber SquaredEpsilonInsensitive SquaredHinge"


def _compiled(module: str, listed: str, form: str = "{}") -> list[type]:
    """Give compiled classes by name: they stand in private modules, one for each kind of number."""
    found = import_module(module)
    return [getattr(found, form.format(name)) for name in listed.split()]


# Compiled classes, exactly.
NATIVE: dict[type, Check] = {
    Tree: trees.tree,
    KDTree: neighbors.search_tree,
    BallTree: neighbors.search_tree,
    **dict.fromkeys(neighbors.DISTANCES.values(), neighbors.distance),
    np.random.MT19937: arrays.twister,
    np.random.Philox: arrays.philox,
}
# Compiled classes that need no check, each with the reason.
HARMLESS: dict[type, str] = {
    **dict.fromkeys(
        [
            *_compiled("sklearn._loss._loss", _LOSSES, "Cy{}"),
            *_compiled("sklearn.linear_model._sgd_fast", _SGD_LOSSES),
        ],
        "a loss holds at most one number, and is asked while fitting only",
    ),
    **dict.fromkeys(
        [np.random.PCG64, np.random.PCG64DXSM, np.random.SFC64],
        "its state is numbers, none of them a position",
    ),
    **dict.fromkeys([np.random.RandomState, np.random.Generator], "its state is that of the bit generator in it"),
    np.random.SeedSequence: "it is read while a generator is made, through Python",
}
# Classes made in Python whose arrays compiled code trusts: the attribute that fit sets, and the check.
FITTED: list[tuple[type, str, Check]] = [
    (BaseDecisionTree, "tree_", trees.decision_tree),
    (BaseForest, "estimators_", trees.forest),
    (IsolationForest, "estimators_", trees.isolation_forest),
    (BaseGradientBoosting, "estimators_", trees.gradient_boosting),
    (BaseHistGradientBoosting, "_predictors", trees.hist_gradient_boosting),
    (TreePredictor, "nodes", trees.predictor),
    (NeighborsBase, "_fit_X", neighbors.neighbors),
    (KNNImputer, "_fit_X", neighbors.neighbor_imputer),
    (_BaseKMeans, "cluster_centers_", neighbors.centers),
    (BaseLibSVM, "support_", support_vectors.support_vectors),
    (CountVectorizer, "vocabulary_", arrays.vocabulary),
    (CountVectorizer, "input", options.text_input),
    (DictVectorizer, "vocabulary_", arrays.vocabulary),
    (TfidfTransformer, "idf_", arrays.weights_of_words),
    (OneHotEncoder, "categories_", arrays.categories),
    (SplineTransformer, "bsplines_", arrays.splines),
    (BSpline, "k", arrays.spline),
    (NMF, "components_", arrays.factors),
    (MiniBatchNMF, "components_", arrays.factors),
    (HashingVectorizer, "input", options.text_input),
    (HashingVectorizer, "n_features", options.hashed_width),
    (FeatureHasher, "n_features", options.hashed_width),
    (FunctionTransformer, "func", options.arguments_of_function),
    (PolynomialFeatures, "n_output_features_", options.polynomial_width),
]
# What can only be found out by calling, once every structure is known to be right.
AT_LAST: list[tuple[type, str, Check]] = [(BaseGradientBoosting, "estimators_", trees.start_of_boosting)]


def check(estimator: object) -> list[str]:
    """Give the names of the kinds that were checked; raise `Invalid` with every place that is wrong."""
    found = list(walk(estimator))
    kinds: set[str] = set()
    findings = list(islice(_findings(found, FITTED, kinds), MOST_FINDINGS))
    findings = findings or list(islice(_findings_at_last(found), MOST_FINDINGS))
    if findings:
        raise _refusal(findings)
    return sorted(kinds)


def _refusal(findings: list[Finding]) -> Invalid:
    structure = any(finding.code == STRUCTURE for finding in findings)
    first = findings[0]
    detail = (
        f"Parts of the model do not fit together and could stop the server: {first.name}: {first.meaning}"
        if structure
        else f"The model would do more than compute when it predicts: {first.name}: {first.meaning}"
    )
    listed = [{"name": finding.name, "meaning": finding.meaning} for finding in findings]
    return Invalid(STRUCTURE if structure else OPTION, detail, more={"findings": listed})


def _findings(found: list[tuple[str, Any]], table: list[tuple[type, str, Check]], kinds: set[str]) -> Iterator[Finding]:
    for path, part in found:
        if isinstance(part, FUNCTIONS):
            yield from options.function(part, path)
            continue
        for test in _tests(part, table):
            kinds.add(type(part).__name__)
            yield from _tried(test, part, path)
        yield from _unknown(part, path)
        yield from options.of_object(part, path)


def _findings_at_last(found: list[tuple[str, Any]]) -> Iterator[Finding]:
    for path, part in found:
        for cls, fitted, test in AT_LAST:
            if isinstance(part, cls) and fitted in vars(part):
                yield from _tried(test, part, path)


def _tests(part: object, table: list[tuple[type, str, Check]]) -> Iterator[Check]:
    if scipy.sparse.issparse(part):
        yield arrays.sparse
    elif type(part) in NATIVE:
        yield NATIVE[type(part)]
    elif held := getattr(part, "__dict__", None):
        yield from (test for cls, fitted, test in table if isinstance(part, cls) and fitted in held)


def _tried(test: Check, part: object, path: str) -> Iterator[Finding]:
    try:
        yield from test(part, path)
    except Exception as error:  # noqa: BLE001 - whatever a check trips over, predict would trip over too
        yield Finding(path or type(part).__name__, f"The {type(part).__name__} is incomplete or damaged: {error}.")


def _unknown(part: object, path: str) -> Iterator[Finding]:
    cls = type(part)
    known = cls in NATIVE or cls in HARMLESS or scipy.sparse.issparse(part) or is_python(cls)
    if not known and cls not in {np.ndarray, np.ma.MaskedArray}:
        meaning = f"{cls.__module__}.{cls.__qualname__} keeps its state in compiled code, which nothing here can check."
        yield Finding(path or cls.__name__, meaning)
