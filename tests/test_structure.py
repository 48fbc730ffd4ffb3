"""Tests of what is refused because compiled code could not take it, or because it would act while predicting."""

from __future__ import annotations

import faulthandler
import importlib.util
import io
import os
import resource
import signal
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
import skops.io
from sklearn.cluster import KMeans
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import NMF, MiniBatchNMF
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import KNNImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KDTree, KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PolynomialFeatures,
    SplineTransformer,
    StandardScaler,
)
from sklearn.random_projection import SparseRandomProjection
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.tree._tree import Tree

from webapp import artifacts, names
from webapp.errors import Invalid
from webapp.intake import structure
from webapp.intake.structure.walk import CONTAINERS, FUNCTIONS, PLAIN, is_python

FAR = 10**9
X = np.random.default_rng(0).normal(size=(120, 4))
CLASSES = np.arange(120) % 3
NUMBERS = X @ [1.0, 2, 3, 4]
TEXTS = ["one two three", "two three four", "five one", "six two"] * 30
WORDS = np.array([["Bern", "x"], ["Bonn", "y"], ["Oslo", "x"]] * 40, dtype=object)


# --- What is tampered with --------------------------------------------------------------------------------


def forest() -> Any:
    return RandomForestClassifier(n_estimators=5, random_state=0).fit(X, CLASSES)


def tree() -> Any:
    return DecisionTreeClassifier(random_state=0).fit(X, CLASSES)


def boosted() -> Any:
    return GradientBoostingClassifier(n_estimators=3, random_state=0).fit(X, CLASSES)


def hist_boosted() -> Any:
    return HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2).fit(X, CLASSES)


def isolated() -> Any:
    return IsolationForest(n_estimators=3, max_features=0.5, random_state=0).fit(X)


def near(**options: Any) -> Any:
    return KNeighborsClassifier(3, **options).fit(X, CLASSES)


def sparse_near() -> Any:
    return KNeighborsClassifier(3).fit(scipy.sparse.csr_matrix(X), CLASSES)


def machine(**options: Any) -> Any:
    return SVC(**options).fit(X, CLASSES)


def sparse_machine() -> Any:
    return SVC().fit(scipy.sparse.csr_matrix(X), CLASSES)


def texts() -> Any:
    return make_pipeline(CountVectorizer(), LogisticRegression()).fit(TEXTS, CLASSES)


def hashed() -> Any:
    return make_pipeline(HashingVectorizer(n_features=64), LogisticRegression()).fit(TEXTS, CLASSES)


def encoder(**options: Any) -> Any:
    return OneHotEncoder(**options).fit(WORDS)


def network() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MLPClassifier((3,), max_iter=2, random_state=np.random.RandomState(0)).fit(X, CLASSES)


def with_state(found: Any, **changed: Any) -> Any:
    """Give a tree with some of its state replaced."""
    made = Tree(found.n_features, np.asarray(found.n_classes), found.n_outputs)
    made.__setstate__(found.__getstate__() | changed)
    return made


def placed(found: Any, at: int, value: object) -> KDTree:
    """Give a search tree with one entry of its state replaced."""
    state = list(found.__getstate__())
    state[at] = value
    made = KDTree.__new__(KDTree)
    made.__setstate__(tuple(state))
    return made


Tamper = Callable[[Any], object]


def put(name: str, value: object) -> Tamper:
    """Set an attribute: `put("a.b", 1)` sets `model.a.b`."""

    def tamper(model: Any) -> None:
        *path, last = name.split(".")
        for part in path:
            model = getattr(model, part)
        setattr(model, last, value)

    return tamper


def at(get: Callable[[Any], Any], index: object, value: object) -> Tamper:
    """Set an item of an array that `get` finds in the model."""

    def tamper(model: Any) -> None:
        get(model)[index] = value

    return tamper


def state_of_tree(**changed: Any) -> Tamper:
    def tamper(model: Any) -> None:
        model.tree_ = with_state(model.tree_, **changed)

    return tamper


def state_of_search(index: int, value: object) -> Tamper:
    def tamper(model: Any) -> None:
        model._tree = placed(model._tree, index, value)

    return tamper


def drop(name: str) -> Tamper:
    return lambda model: delattr(model, name)


def wide_tree() -> Any:
    return DecisionTreeRegressor(random_state=0).fit(np.c_[X, X, X], NUMBERS)


def narrow_start(model: Any) -> None:
    model.init_ = boosted().init_.fit(X, CLASSES % 2)


def twister_beyond(model: Any) -> None:
    state = model.random_state.get_state(legacy=False)
    state["state"]["pos"] = 70_000
    model.random_state.set_state(state)


def philox_beyond(model: Any) -> None:
    bits = np.random.Philox(0)
    bits.state = bits.state | {"buffer_pos": 70_000}
    model.random_state = np.random.Generator(bits)


def split_by_category(model: Any) -> None:
    found = model._predictors[1][2]
    found.nodes["is_categorical"][0] = 1
    found.raw_left_cat_bitsets = found.binned_left_cat_bitsets = np.zeros((1, 8), np.uint32)


class Case(NamedTuple):
    """A model, what is done to it, and the place and code of the refusal."""

    make: Callable[[], Any]
    tamper: Tamper
    place: str
    code: str = "model_structure_invalid"


def option(make: Callable[[], Any], tamper: Tamper, place: str) -> Case:
    return Case(make, tamper, place, "model_option_refused")


def _third(model: Any) -> Any:
    return model.estimators_[3].tree_


def _nodes(model: Any) -> Any:
    return model._predictors[1][2].nodes


CASES = {
    # Decision trees.
    "child far outside": Case(
        forest, at(lambda m: _third(m).children_left, 0, FAR), "estimators_[3].tree_.children_left[0]"
    ),
    "child just outside": Case(
        tree, lambda m: at(lambda m: m.tree_.children_right, 0, m.tree_.node_count)(m), "tree_.children_right[0]"
    ),
    "negative child": Case(tree, at(lambda m: m.tree_.children_left, 0, -7), "tree_.children_left[0]"),
    "child that is its own parent": Case(tree, at(lambda m: m.tree_.children_left, 0, 0), "tree_.children_left[0]"),
    "child with two parents": Case(tree, at(lambda m: m.tree_.children_left, 0, 2), "tree_.nodes[1]"),
    "leaf with one child": Case(tree, at(lambda m: m.tree_.children_left, 0, -1), "tree_.children_right[0]"),
    "feature too large": Case(tree, at(lambda m: m.tree_.feature, 0, 4), "tree_.feature[0]"),
    "negative feature": Case(tree, at(lambda m: m.tree_.feature, 0, -FAR), "tree_.feature[0]"),
    "threshold that is no number": Case(tree, at(lambda m: m.tree_.threshold, 0, np.nan), "tree_.threshold[0]"),
    "missing value neither left nor right": Case(
        tree, at(lambda m: m.tree_.missing_go_to_left, 0, 7), "tree_.missing_go_to_left[0]"
    ),
    "other number of nodes than stored": Case(tree, state_of_tree(node_count=3), "tree_.node_count"),
    "no nodes": Case(tree, state_of_tree(node_count=0), "tree_.node_count"),
    "wrong depth": Case(tree, state_of_tree(max_depth=1), "tree_.max_depth"),
    "tree wider than its estimator": Case(tree, put("n_features_in_", 3), "n_features_in_"),
    "tree without a width": Case(tree, drop("n_features_in_"), "n_features_in_"),
    "tree with other classes": Case(tree, put("classes_", np.arange(2)), "classes_"),
    "no tree": Case(tree, put("tree_", None), "tree_"),
    "forest with a wider tree": Case(
        lambda: RandomForestRegressor(3).fit(X, NUMBERS), at(lambda m: m.estimators_, 1, wide_tree()), "estimators_[1]"
    ),
    "forest with another estimator": Case(forest, at(lambda m: m.estimators_, 1, StandardScaler()), "estimators_[1]"),
    "isolation forest with other features": Case(
        isolated, at(lambda m: m.estimators_features_, 1, np.array([0, 9])), "estimators_features_[1][1]"
    ),
    "isolation forest with fewer features": Case(
        isolated, at(lambda m: m.estimators_features_, 1, np.array([0])), "estimators_[1]"
    ),
    # Boosters.
    "booster with more columns": Case(
        boosted, lambda m: put("estimators_", np.hstack([m.estimators_] * 2))(m), "estimators_"
    ),
    "booster with a wider tree": Case(boosted, at(lambda m: m.estimators_, (1, 2), wide_tree()), "estimators_[5]"),
    "booster that starts too narrow": Case(boosted, narrow_start, "init_"),
    "histogram child outside": Case(
        hist_boosted, at(lambda m: _nodes(m)["left"], 0, 2**31), "_predictors[1][2].nodes['left'][0]"
    ),
    "histogram cycle": Case(
        hist_boosted, at(lambda m: _nodes(m)["right"], 0, 0), "_predictors[1][2].nodes['right'][0]"
    ),
    "histogram child with two parents": Case(
        hist_boosted, at(lambda m: _nodes(m)["right"], 0, 1), "_predictors[1][2].nodes[1]"
    ),
    "histogram feature too large": Case(
        hist_boosted, at(lambda m: _nodes(m)["feature_idx"], 0, FAR), "_predictors[1][2].nodes['feature_idx'][0]"
    ),
    "histogram category of a number": Case(
        hist_boosted, at(lambda m: _nodes(m)["is_categorical"], 0, 1), "_predictors[1][2].nodes['bitset_idx'][0]"
    ),
    "histogram split by a category of another": Case(
        hist_boosted, split_by_category, "_predictors[1][2].nodes['is_categorical'][0]"
    ),
    "histogram sets too narrow": Case(
        hist_boosted,
        lambda m: put("raw_left_cat_bitsets", np.zeros((3, 1), np.uint32))(m._predictors[0][0]),
        "_predictors[0][0].raw_left_cat_bitsets",
    ),
    "histogram stage too long": Case(
        hist_boosted, lambda m: m._predictors[0].append(m._predictors[0][0]), "_predictors[0]"
    ),
    "histogram mapper too narrow": Case(
        hist_boosted, put("_bin_mapper.is_categorical_", np.zeros(3, np.uint8)), "_bin_mapper.is_categorical_"
    ),
    "histogram still in fit": Case(hist_boosted, put("_in_fit", True), "_in_fit"),  # noqa: FBT003
    "histogram behind a scaler": Case(hist_boosted, put("_preprocessor", StandardScaler()), "_preprocessor"),
    # Neighbours and centres.
    "point outside": Case(near, at(lambda m: m._tree.get_arrays()[1], 3, FAR), "_tree.idx_array[3]"),
    "point named twice": Case(near, at(lambda m: m._tree.get_arrays()[1], slice(0, 2), 5), "_tree.idx_array"),
    "node that covers more": Case(near, at(lambda m: m._tree.get_arrays()[2]["idx_end"], 0, FAR), "_tree.node_data[0]"),
    "node without children": Case(
        near, at(lambda m: m._tree.get_arrays()[2]["is_leaf"], 2, 0), "_tree.node_data[2].is_leaf"
    ),
    "children that overlap": Case(near, at(lambda m: m._tree.get_arrays()[2]["idx_start"], 2, 0), "_tree.node_data[0]"),
    "bounds of fewer nodes": Case(near, state_of_search(3, np.zeros((2, 1, 4))), "_tree.node_bounds"),
    "leaves of no size": Case(near, state_of_search(4, 0), "_tree.leaf_size"),
    "other number of levels": Case(near, state_of_search(5, 9), "_tree.n_nodes"),
    "tree without a distance": Case(near, state_of_search(11, None), "_tree.dist_metric"),
    "tree that was never filled": Case(near, put("_tree", KDTree.__new__(KDTree)), "_tree.dist_metric"),
    "tree of other points": Case(near, put("_tree", KDTree(X[:, :3])), "_tree.data"),
    "distance with fewer weights": Case(
        partial(near, algorithm="ball_tree", metric="minkowski", metric_params={"w": np.ones(4)}),
        lambda m: m._tree.__getstate__()[11].__setstate__((2.0, np.ones(1), np.zeros((1, 1)))),
        "_tree.dist_metric",
    ),
    "matrix that is not square": Case(
        partial(near, algorithm="ball_tree", metric="mahalanobis", metric_params={"VI": np.eye(4)}),
        lambda m: m._tree.__getstate__()[11].__setstate__((2.0, np.ones(4), np.ones((4, 1)))),
        "_tree.dist_metric.mat",
    ),
    "tree that is not there": Case(near, put("_tree", None), "_tree"),
    "label without a class": Case(partial(near, algorithm="brute"), at(lambda m: m._y, 3, FAR), "_y[3]"),
    "fewer labels than points": Case(partial(near, algorithm="brute"), put("_y", np.zeros(3, int)), "_y"),
    "points wider than rows": Case(partial(near, algorithm="brute"), put("_fit_X", np.c_[X, X]), "n_features_in_"),
    "more points than stored": Case(near, put("n_samples_fit_", 500), "n_samples_fit_"),
    "radius label without a class": Case(
        lambda: RadiusNeighborsClassifier(3.0, algorithm="brute").fit(X, CLASSES), at(lambda m: m._y, 0, -9), "_y[0]"
    ),
    "centres wider than rows": Case(
        lambda: KMeans(3, n_init=1).fit(X), put("cluster_centers_", np.zeros((3, 400))), "n_features_in_"
    ),
    "a million threads": Case(lambda: KMeans(3, n_init=1).fit(X), put("_n_threads", 10**6), "_n_threads"),
    "imputer of fewer columns": Case(lambda: KNNImputer().fit(X), put("_fit_X", X[:, :2]), "_fit_X"),
    # Sparse matrices.
    "sparse index outside": Case(sparse_near, at(lambda m: m._fit_X.indices, 5, FAR), "_fit_X.indices[5]"),
    "sparse index negative": Case(sparse_near, at(lambda m: m._fit_X.indices, 5, -1), "_fit_X.indices[5]"),
    "sparse row that ends early": Case(sparse_near, at(lambda m: m._fit_X.indptr, 3, FAR), "_fit_X.indptr[3]"),
    "sparse rows beyond the values": Case(sparse_near, at(lambda m: m._fit_X.indptr, -1, FAR), "_fit_X.indptr"),
    "sparse matrix in coordinates": Case(
        lambda: SparseRandomProjection(2, random_state=0).fit(X),
        lambda m: put("components_", scipy.sparse.coo_matrix(m.components_))(m),
        "components_",
    ),
    "sparse projection outside": Case(
        lambda: SparseRandomProjection(2, random_state=0).fit(X),
        at(lambda m: m.components_.indices, 0, FAR),
        "components_.indices[0]",
    ),
    # Support vectors.
    "fewer support vectors than counted": Case(machine, at(lambda m: m._n_support, 0, FAR), "_n_support"),
    "negative count of support vectors": Case(machine, at(lambda m: m._n_support, 0, -FAR), "_n_support[0]"),
    "more classes than coefficients": Case(machine, put("_n_support", np.ones(40, np.int32)), "_n_support"),
    "fewer coefficients": Case(machine, put("_dual_coef_", np.zeros((1, 3))), "_dual_coef_"),
    "fewer intercepts": Case(machine, put("_intercept_", np.zeros(1)), "_intercept_"),
    "fewer probabilities": Case(machine, put("_probA", np.zeros(1)), "_probA"),
    "row of the kernel outside": Case(
        lambda: SVC(kernel="precomputed").fit(X @ X.T, CLASSES), at(lambda m: m.support_, 2, FAR), "support_[2]"
    ),
    "support vectors too narrow": Case(machine, put("support_vectors_", np.zeros((3, 1))), "support_vectors_"),
    "machine of another kind": Case(machine, put("_impl", "epsilon_svr"), "_impl"),
    "sparse machine that counts more": Case(sparse_machine, at(lambda m: m._n_support, 0, FAR), "_n_support"),
    "sparse machine with fewer coefficients": Case(
        sparse_machine, put("_dual_coef_", scipy.sparse.csr_matrix((2, 3))), "_dual_coef_"
    ),
    "regression with more classes": Case(
        lambda: SVR().fit(X, NUMBERS), put("_n_support", np.ones(40, np.int32)), "_n_support"
    ),
    # What is written to by column.
    "word in no column": Case(texts, at(lambda m: m[0].vocabulary_, "six", FAR), "steps[0][1].vocabulary_['six']"),
    "word in a negative column": Case(
        texts, at(lambda m: m[0].vocabulary_, "six", -1), "steps[0][1].vocabulary_['six']"
    ),
    "name in no column": Case(
        lambda: DictVectorizer().fit([{"a": 1, "b": 2}]), at(lambda m: m.vocabulary_, "b", FAR), "vocabulary_['b']"
    ),
    "fewer weights than words": Case(
        lambda: TfidfVectorizer().fit(TEXTS), put("_tfidf.idf_", np.ones((2, 2))), "_tfidf.idf_"
    ),
    "columns that are not there": Case(encoder, put("_n_features_outs", [1, 1]), "_n_features_outs"),
    "categories out of order": Case(
        lambda: OneHotEncoder().fit(X[:5]),
        lambda m: at(lambda m: m.categories_, 0, m.categories_[0][::-1])(m),
        "categories_[0]",
    ),
    "rare category outside": Case(
        partial(encoder, max_categories=2),
        at(lambda m: m._default_to_infrequent_mappings[0], 0, 50),
        "_default_to_infrequent_mappings[0]",
    ),
    "dropped category outside": Case(
        partial(encoder, drop="first"), at(lambda m: m._drop_idx_after_grouping, 0, -5), "_drop_idx_after_grouping[0]"
    ),
    "spline with fewer coefficients": Case(
        lambda: SplineTransformer().fit(X), lambda m: put("_c", np.zeros((1, 6)))(m.bsplines_[1]), "bsplines_[1].c"
    ),
    "spline of a higher degree": Case(
        lambda: SplineTransformer().fit(X), lambda m: put("k", 50)(m.bsplines_[1]), "bsplines_[1].k"
    ),
    "more components than stored": Case(
        lambda: NMF(2, max_iter=500, tol=0.1).fit(abs(X)), put("_n_components", 900), "_n_components"
    ),
    "mini-batches of more components": Case(
        lambda: MiniBatchNMF(2, max_iter=5, tol=0.1).fit(abs(X)), put("_n_components", 900), "_n_components"
    ),
    "something else in place of a spline": Case(
        lambda: SplineTransformer().fit(X),
        at(lambda m: m.bsplines_, 1, StandardScaler()),
        "bsplines_[1]",
    ),
    "numbers made in advance from outside": Case(
        network, philox_beyond, "random_state.bit_generator.state['buffer_pos']"
    ),
    "random numbers from outside": Case(network, twister_beyond, "random_state._bit_generator.state['pos']"),
    # What would act.
    "opens files": option(texts, lambda m: put("input", "filename")(m[0]), "steps[0][1].input"),
    "reads what is open": option(hashed, lambda m: put("input", "file")(m[0]), "steps[0][1].input"),
    "function for words": option(texts, lambda m: put("tokenizer", os.listdir)(m[0]), "steps[0][1].tokenizer"),
    "function as kernel": option(machine, put("kernel", print), "kernel"),
    "function as distance": option(near, put("metric", print), "metric"),
    "function as weights": option(near, put("weights", os.system), "weights"),
    "class as weights": option(near, put("weights", bytearray), "weights"),
    "scorer as function": option(lambda: FunctionTransformer(np.log1p).fit(abs(X)), put("func", sorted), "func"),
    "function that writes": option(
        lambda: FunctionTransformer(np.log1p).fit(abs(X)), put("kw_args", {"out": X}), "kw_args"
    ),
    "function in a list": option(texts, lambda m: put("stop_words", [print])(m[0]), "steps[0][1].stop_words[0]"),
    "function of a target": option(
        lambda: TransformedTargetRegressor(LinearRegression(), func=np.log1p, inverse_func=np.expm1).fit(
            X, abs(NUMBERS)
        ),
        put("transformer_.inverse_func", os.path.exists),
        "transformer_.inverse_func",
    ),
    "method that is replaced": Case(tree, put("_validate_X_predict", np.log1p), "_validate_X_predict"),
    "hash over no columns": option(hashed, lambda m: put("n_features", 0)(m[0]), "steps[0][1].n_features"),
    "hash over all columns": option(lambda: FeatureHasher().fit([]), put("n_features", 2**31 - 1), "n_features"),
    "polynomials without end": option(lambda: PolynomialFeatures(2).fit(X), put("_n_out_full", 10**12), "_n_out_full"),
    # Structures anywhere inside.
    "tree in a pipeline in a bag": Case(
        lambda: BaggingClassifier(make_pipeline(StandardScaler(), tree()), 2).fit(X, CLASSES),
        at(lambda m: m.estimators_[1][1].tree_.feature, 0, 99),
        "estimators_[1].steps[1][1].tree_.feature[0]",
    ),
    "compiled class without a check": Case(tree, put("extra", io.BytesIO()), "extra"),
    "tree without its arrays": Case(tree, lambda m: delattr(m, "n_outputs_"), ""),
}


def refused(model: object) -> Invalid:
    with pytest.raises(Invalid) as caught:
        structure.check(model)
    return caught.value


def listed(refusal: Invalid) -> list[dict[str, str]]:
    findings: Any = refusal.more["findings"]
    return list(findings)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_was_tampered_with_is_refused_with_its_place(case: Case) -> None:
    model = case.make()
    structure.check(model)
    case.tamper(model)
    refusal = refused(model)
    assert refusal.code == case.code
    names_found = [finding["name"] for finding in listed(refusal)]
    assert case.place in names_found or not case.place, listed(refusal)
    assert all(finding["meaning"].endswith(".") for finding in listed(refusal))


# --- Why it has to be refused -----------------------------------------------------------------------------

# What ends a process for certain, and the rows that do it. The rest reads what it should not, or writes there,
# and the process may live on with wrong answers.
DEADLY = {
    "child far outside": X,
    "child that is its own parent": X,
    "negative feature": X,
    "histogram child outside": X,
    "histogram feature too large": X,
    "point outside": X,
    "sparse index outside": X,
    "sparse projection outside": X,
    "sparse row that ends early": X,
    "row of the kernel outside": X @ X.T,
    "sparse machine that counts more": X,
    "word in no column": TEXTS,
    "hash over no columns": TEXTS,
}


CRASHED = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT}
# An endless walk in compiled code is ended by the limit on its time.
ENDED = {signal.SIGXCPU, signal.SIGKILL}


def exit_code_of(work: Callable[[], object]) -> int:
    """Do the work in a child and give its exit code: the negative of the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        # One that waits uses no time: it must not hold up the tests for ever.
        signal.alarm(60)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", DEADLY)
def test_without_the_check_predicting_ends_the_process(name: str) -> None:
    model = CASES[name].make()
    CASES[name].tamper(model)
    act = model.predict if hasattr(model, "predict") else model.transform
    expected = ENDED if name == "child that is its own parent" else CRASHED
    assert -exit_code_of(lambda: act(DEADLY[name])) in expected


# --- What a file really holds -----------------------------------------------------------------------------


def changed_file(content: bytes, change: Callable[[Any], bool]) -> bytes:
    """Write a `.skops` file again with the first array changed that `change` says it has changed."""
    made, done = io.BytesIO(), False
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            if name.endswith(".npy") and not done:
                array = np.load(io.BytesIO(member), allow_pickle=False)
                done = change(array)
                file = io.BytesIO()
                np.save(file, array, allow_pickle=False)
                member = file.getvalue()
            new.writestr(name, member)
    assert done
    return made.getvalue()


def changed_field(field: str, value: int) -> Callable[[Any], bool]:
    def change(array: Any) -> bool:
        if field not in (array.dtype.names or ()):
            return False
        array[field][0] = value
        return True

    return change


def changed_order(array: Any) -> bool:
    found = array.dtype == np.intp and array.shape == (len(X),) and bool((np.sort(array) == np.arange(len(X))).all())
    if found:
        array[7] = -FAR
    return found


@pytest.mark.parametrize(
    ("make", "change", "place"),
    [
        (tree, changed_field("left_child", FAR), "tree_.children_left[0]"),
        (tree, changed_field("feature", FAR), "tree_.feature[0]"),
        (hist_boosted, changed_field("left", FAR), ".nodes['left'][0]"),
        (near, changed_order, "_tree.idx_array[7]"),
        (near, changed_field("idx_end", FAR), "_tree.node_data[0]"),
    ],
)
def test_a_file_with_one_number_changed_loads_and_is_refused(
    make: Callable[[], Any], change: Callable[[Any], bool], place: str
) -> None:
    model = artifacts.load(changed_file(skops.io.dumps(make()), change))
    assert any(finding["name"].endswith(place) for finding in listed(refused(model)))


def test_all_places_are_reported_up_to_a_hundred() -> None:
    model = forest()
    for part in model.estimators_[1:3]:
        part.tree_.feature[0] = 99
    assert [finding["name"] for finding in listed(refused(model))] == [
        "estimators_[1].tree_.feature[0]",
        "estimators_[2].tree_.feature[0]",
    ]
    for part in model.estimators_:
        part.tree_.threshold[:] = np.nan
    assert len(listed(refused(model))) == 100


def test_the_refusal_says_what_is_wrong_in_words() -> None:
    model = tree()
    model.tree_.feature[0] = 4
    refusal = refused(model)
    assert listed(refusal)[0]["meaning"] == "Node 0 splits on feature 4; there are features 0 to 3."
    assert "tree_.feature[0]" in refusal.detail


# --- What is in order -------------------------------------------------------------------------------------


@cache
def script() -> ModuleType:
    """Give the script that fits every estimator to find out which names its file needs."""
    path = Path(__file__).parent.parent / "scripts" / "estimator_names.py"
    spec = importlib.util.spec_from_file_location("estimator_names", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["estimator_names"] = module
    spec.loader.exec_module(module)
    return module


# Settings with structures of their own beside the plain setting of each kind.
ALSO = {
    "FunctionTransformer(log1p)",
    "GaussianProcessRegressor(Sum)",
    "KNeighborsClassifier on sparse",
    "KNeighborsClassifier(mahalanobis, ball_tree)",
    "KNeighborsClassifier(seuclidean, ball_tree)",
    "MLPClassifier(random_state=RandomState(MT19937))",
    "OneHotEncoder(drop='first')",
    "OneHotEncoder(handle_unknown='infrequent_if_exist')",
    "RandomForestClassifier on gaps",
    "RandomForestClassifier on multilabel",
    "SVC on sparse",
    "SVC(kernel='precomputed')",
    "SVC(probability=True)",
    "SVR on sparse numbers",
    "TransformedTargetRegressor(log1p)",
}


def stored_copies() -> Iterator[tuple[str, Any]]:
    """Give each kind in its plain setting as it comes back from a file; those that no file can hold are left out."""
    for case in script()._cases():
        if case.label != case.kind and case.label not in ALSO:
            continue
        fitted = script()._fitted(case)
        if fitted is None:
            continue
        try:
            content = skops.io.dumps(fitted[0])
            allowed = set(skops.io.get_untrusted_types(data=content)) <= names.SKOPS
        except (TypeError, ValueError, AttributeError, RecursionError):
            continue
        if allowed:
            yield case.label, artifacts.load(content)


def test_estimators_of_all_kinds_pass() -> None:
    passed, seconds = 0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label, model in stored_copies():
            began = perf_counter()
            try:
                structure.check(model)
            except Invalid as refusal:
                pytest.fail(f"{label}: {refusal.more}")
            seconds += perf_counter() - began
            passed += 1
    print(f"{passed} estimators checked in {seconds:.2f} s")
    assert passed > 150


def test_the_kinds_that_were_checked_are_named() -> None:
    assert structure.check(make_pipeline(StandardScaler(), near()).fit(X, CLASSES)) == [
        "EuclideanDistance64",
        "KDTree",
        "KNeighborsClassifier",
    ]


def test_a_forest_of_many_nodes_is_checked_and_the_time_is_printed() -> None:
    rows = np.random.default_rng(0).normal(size=(1600, 5))
    model = RandomForestRegressor(60, random_state=0).fit(rows, rows[:, 0] + rows[:, 1])
    began = perf_counter()
    structure.check(model)
    nodes = sum(part.tree_.node_count for part in model.estimators_)
    print(f"{nodes} nodes checked in {perf_counter() - began:.3f} s")


def test_every_compiled_class_that_a_file_may_hold_has_a_check_or_a_reason() -> None:
    missing = []
    for name in sorted(names.SKOPS | names.PICKLE):
        module, _, attribute = name.rpartition(".")
        if module == "__builtin__" or module.startswith("numpy.core."):
            continue
        found = getattr(import_module(module), attribute)
        plain = not isinstance(found, type) or issubclass(found, (*PLAIN, *CONTAINERS, *FUNCTIONS)) or found is object
        if plain or is_python(found) or issubclass(found, np.ndarray) or found.__module__ == "joblib.numpy_pickle":
            continue
        if found not in structure.NATIVE and found not in structure.HARMLESS:
            missing.append(name)
    assert missing == []
    assert all(structure.HARMLESS.values())
