"""Checks of decision trees, and of the forests and boosters that call them without looking again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, IsolationForest
from sklearn.ensemble._forest import BaseForest
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree import BaseDecisionTree, DecisionTreeRegressor
from sklearn.tree._tree import Tree

from webapp.intake.structure.finding import Finding, expect, expect_features, expect_shape, member, places

LEAF = -1
CATEGORY_WORDS = 8


def tree(tree: Tree, path: str) -> Iterator[Finding]:
    """Check that every walk from the root ends in a leaf, inside the tree and inside the row."""
    count = tree.node_count
    if not 0 < count == tree.capacity:
        # Reading the nodes would already leave the memory that is theirs.
        meaning = f"It says {count} nodes, and {tree.capacity} are stored."
        yield Finding(member(path, "node_count"), meaning)
        return
    state = tree.__getstate__()
    nodes, inner = state["nodes"], state["nodes"]["left_child"] != LEAF
    yield from _nodes(nodes, inner, tree.n_features, path)
    findings = list(_children(nodes["left_child"], nodes["right_child"], inner, path))
    yield from findings
    if not findings:
        yield from _shape_of_tree(nodes["left_child"], nodes["right_child"], inner, tree.max_depth, path)
    yield from expect_shape(state["values"], (count, tree.n_outputs, tree.max_n_classes), member(path, "value"))
    classes = tree.n_classes
    meaning = f"The numbers of classes are {classes.tolist()}; there are {tree.max_n_classes} columns for them."
    fits = classes.size and classes.min() >= 1 and classes.max() <= tree.max_n_classes
    yield from expect(fits, member(path, "n_classes"), meaning)


def _nodes(nodes: Any, inner: NDArray[np.bool_], features: int, path: str) -> Iterator[Finding]:  # noqa: ANN401 - records
    feature, threshold = nodes["feature"], nodes["threshold"]
    yield from places(
        member(path, "feature"),
        inner & ((feature < 0) | (feature >= features)),
        lambda at: f"Node {at} splits on feature {feature[at]}; there are features 0 to {features - 1}.",
    )
    yield from places(
        member(path, "threshold"), inner & np.isnan(threshold), lambda at: f"Node {at} splits at no number (NaN)."
    )
    yield from places(
        member(path, "missing_go_to_left"),
        nodes["missing_go_to_left"] > 1,
        lambda at: f"Node {at} says neither 0 nor 1 about missing values.",
    )


def _children(
    left: NDArray[Any], right: NDArray[Any], inner: NDArray[np.bool_], path: str, names: tuple[str, str] | None = None
) -> Iterator[Finding]:
    count = len(left)
    own = np.arange(count)
    for name, child in zip(names or ("children_left", "children_right"), (left, right), strict=True):

        def meaning(at: int, name: str = name, child: NDArray[Any] = child) -> str:
            side = "left" if "left" in name else "right"
            return (
                f"The {side} child of node {at} is given as node {child[at]}; a child stands behind its parent,"
                f" and the last of the {count} nodes is node {count - 1}."
            )

        yield from places(member(path, name), inner & ((child <= own) | (child >= count)), meaning)
    if names is None:
        yield from places(
            member(path, "children_right"),
            ~inner & (right != LEAF),
            lambda at: f"Node {at} has no left child, so it is a leaf; yet its right child is node {right[at]}.",
        )


def _shape_of_tree(
    left: NDArray[Any], right: NDArray[Any], inner: NDArray[np.bool_], deepest: int, path: str
) -> Iterator[Finding]:
    count = len(left)
    parents = np.bincount(np.concatenate([left[inner], right[inner]]), minlength=count)
    parents[0] += 1
    findings = list(
        places(member(path, "nodes"), parents != 1, lambda at: f"Node {at} has {parents[at] - (at == 0)} parents.")
    )
    yield from findings
    if not findings:
        depth = int(_depths(left, right, inner).max())
        meaning = f"It says that the deepest leaf is at depth {deepest}; it is at depth {depth}."
        yield from expect(deepest == depth, member(path, "max_depth"), meaning)


def _depths(left: NDArray[Any], right: NDArray[Any], inner: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Give each node's depth. Ancestors are looked up by leaps that double, so a chain costs no more than a bush."""
    ancestor = np.zeros(len(left), dtype=np.intp)
    own = np.flatnonzero(inner)
    ancestor[left[own]] = own
    ancestor[right[own]] = own
    depth = np.ones(len(left), dtype=np.intp)
    depth[0] = 0
    while ancestor.any():
        depth += depth[ancestor]
        ancestor = ancestor[ancestor]
    return depth


def decision_tree(estimator: BaseDecisionTree, path: str) -> Iterator[Finding]:
    """Check that a tree's estimator lets in only rows of the width that its nodes index."""
    inside = estimator.tree_
    if type(inside) is not Tree:
        yield Finding(member(path, "tree_"), f"A {type(inside).__name__} stands where the tree belongs.")
        return
    yield from expect_features(estimator, inside.n_features, path, "its tree")
    meaning = f"The estimator has {estimator.n_outputs_} outputs, its tree {inside.n_outputs}."
    yield from expect(inside.n_outputs == estimator.n_outputs_, member(path, "n_outputs_"), meaning)
    if hasattr(estimator, "classes_"):
        classes = [estimator.classes_] if estimator.n_outputs_ == 1 else estimator.classes_
        sizes = [len(part) for part in classes]
        meaning = f"There are {sizes} classes, and the tree counts {inside.n_classes.tolist()}."
        yield from expect(sizes == inside.n_classes.tolist(), member(path, "classes_"), meaning)
        said = np.ravel(estimator.n_classes_).tolist()
        yield from expect(said == sizes, member(path, "n_classes_"), f"It says {said} classes; there are {sizes}.")


def _trees_in(estimators: Any, path: str) -> Iterator[Finding]:  # noqa: ANN401 - what a file holds
    for at, part in enumerate(estimators):
        right = isinstance(part, BaseDecisionTree) and type(getattr(part, "tree_", None)) is Tree
        yield from expect(right, f"{path}[{at}]", f"A {type(part).__name__} stands where a fitted tree belongs.")


def forest(estimator: BaseForest, path: str) -> Iterator[Finding]:
    """Check the trees of a forest, which get its rows without a check of their own."""
    name = member(path, "estimators_")
    yield from expect(type(estimator.estimators_) is list, name, "The trees do not stand in a list.")
    findings = list(_trees_in(estimator.estimators_, name))
    yield from findings or _width_of_trees(estimator, estimator.estimators_, name)


def _width_of_trees(estimator: Any, trees: list[Any], name: str) -> Iterator[Finding]:  # noqa: ANN401 - forests, boosters
    taken = getattr(estimator, "n_features_in_", None)
    for at, part in enumerate(trees):
        meaning = f"The ensemble takes {taken} features, this tree was made for {part.tree_.n_features}."
        yield from expect(part.tree_.n_features == taken, f"{name}[{at}]", meaning)


def isolation_forest(estimator: IsolationForest, path: str) -> Iterator[Finding]:
    """Check trees that each get some of the columns, again without a check of their own."""
    trees, features, taken = estimator.estimators_, estimator.estimators_features_, estimator.n_features_in_
    name = member(path, "estimators_")
    if len(trees) != len(features):
        yield Finding(
            member(path, "estimators_features_"), f"There are {len(trees)} trees and {len(features)} choices."
        )
        return
    findings = list(_trees_in(trees, name))
    yield from findings
    if findings:
        return
    whole = estimator._max_features == taken  # noqa: SLF001 - what predict itself asks
    for at, (part, chosen) in enumerate(zip(trees, features, strict=True)):
        width = taken if whole else len(chosen)
        meaning = f"It gets {width} features and was made for {part.tree_.n_features}."
        yield from expect(part.tree_.n_features == width, f"{name}[{at}]", meaning)
        yield from _in_range(np.asarray(chosen), taken, f"{member(path, 'estimators_features_')}[{at}]", "feature")


def _in_range(values: NDArray[Any], end: int, name: str, noun: str) -> Iterator[Finding]:
    if values.ndim != 1 or values.dtype.kind not in "iu":
        yield Finding(name, f"It is no list of {noun} numbers.")
        return
    bad = (values < 0) | (values >= end)
    yield from places(name, bad, lambda at: f"It names {noun} {values[at]}; there are 0 to {end - 1}.")


def gradient_boosting(estimator: BaseGradientBoosting, path: str) -> Iterator[Finding]:
    """Check trees whose leaves are added into an array by the tree's place in its stage."""
    name, trees = member(path, "estimators_"), estimator.estimators_
    columns = estimator.n_trees_per_iteration_
    if not isinstance(trees, np.ndarray) or trees.dtype != object or trees.shape != (len(trees), columns):
        yield Finding(name, f"The trees do not stand in an array with {columns} columns.")
        return
    findings = list(_trees_in(trees.ravel(), name))
    yield from findings or chain(
        _width_of_trees(estimator, trees.ravel().tolist(), name), _single_values(trees.ravel().tolist(), name)
    )


def _single_values(trees: list[Any], name: str) -> Iterator[Finding]:
    for at, part in enumerate(trees):
        single = isinstance(part, DecisionTreeRegressor) and part.tree_.n_outputs == part.tree_.max_n_classes == 1
        yield from expect(single, f"{name}[{at}]", "Its leaves do not hold one number each.")


def start_of_boosting(
    estimator: GradientBoostingClassifier | GradientBoostingRegressor, path: str
) -> Iterator[Finding]:
    """Check, once all else is known to be right, that the starting values have a column for each tree of a stage."""
    row = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
    found = estimator._raw_predict_init(row)  # noqa: SLF001 - what predict itself asks
    columns = estimator.estimators_.shape[1]
    meaning = f"It starts with values of shape {found.shape}; the stages need one row and {columns} columns."
    right = found.shape == (1, columns) and found.dtype == np.float64
    yield from expect(right, member(path, "init_"), meaning)


def predictor(found: TreePredictor, path: str) -> Iterator[Finding]:
    """Check one tree of histogram gradient boosting, as far as it can be told without its booster."""
    nodes, name = found.nodes, member(path, "nodes")
    if not isinstance(nodes, np.ndarray) or nodes.dtype != PREDICTOR_RECORD_DTYPE or nodes.ndim != 1 or not len(nodes):
        yield Finding(name, "These are no nodes of a tree.")
        return
    inner = nodes["is_leaf"] == 0
    names = ("nodes['left']", "nodes['right']")
    left, right = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
    findings = list(_children(left, right, inner, path, names))
    yield from findings
    if not findings:
        yield from _one_parent(left, right, inner, name)
    yield from _bitsets(found, inner & (nodes["is_categorical"] != 0), path)


def _one_parent(left: NDArray[Any], right: NDArray[Any], inner: NDArray[np.bool_], name: str) -> Iterator[Finding]:
    parents = np.bincount(np.concatenate([left[inner], right[inner]]), minlength=len(left))
    parents[0] += 1
    yield from places(name, parents != 1, lambda at: f"Node {at} has {parents[at] - (at == 0)} parents.")


def _bitsets(found: TreePredictor, split: NDArray[np.bool_], path: str) -> Iterator[Finding]:
    index = found.nodes["bitset_idx"]
    for name in ("raw_left_cat_bitsets", "binned_left_cat_bitsets"):
        bitsets = getattr(found, name)
        if np.ndim(bitsets) != 2 or bitsets.dtype != np.uint32 or bitsets.shape[1] != CATEGORY_WORDS:  # noqa: PLR2004
            yield Finding(member(path, name), "These are no sets of categories: eight words of 32 bits each.")
            continue
        count = len(bitsets)

        def meaning(at: int, count: int = count) -> str:
            return f"Node {at} asks for set {index[at]} of categories; there are {count}."

        yield from places(member(path, "nodes['bitset_idx']"), split & (index >= count), meaning)


def hist_gradient_boosting(estimator: BaseHistGradientBoosting, path: str) -> Iterator[Finding]:
    """Check that the trees index only the columns and the categories that the booster hands them."""
    features = getattr(estimator, "n_features_in_", None)
    mapper = estimator._bin_mapper  # noqa: SLF001 - what predict itself asks
    categorical = np.asarray(mapper.is_categorical_)
    yield from expect(
        estimator._preprocessor is None,  # noqa: SLF001 - as above
        member(path, "_preprocessor"),
        "What stands before the trees could give them rows of another width; encode categories in a step of their own.",
    )
    yield from expect(
        not getattr(estimator, "_in_fit", False),
        member(path, "_in_fit"),
        "The estimator was saved while it was fitted.",
    )
    name = member(path, "_bin_mapper.is_categorical_")
    if categorical.shape != (features,) or len(mapper.bin_thresholds_) != features:
        yield Finding(name, f"It knows {categorical.size} features; the estimator takes {features}.")
        return
    yield from _stages(estimator, categorical.astype(bool), path)


def _stages(estimator: Any, categorical: NDArray[np.bool_], path: str) -> Iterator[Finding]:  # noqa: ANN401 - both kinds
    columns = estimator.n_trees_per_iteration_
    for at, stage in enumerate(estimator._predictors):  # noqa: SLF001 - what predict itself asks
        name = f"{member(path, '_predictors')}[{at}]"
        yield from expect(len(stage) == columns, name, f"The stage has {len(stage)} trees; each has {columns}.")
        for k, found in enumerate(stage):
            if type(found) is TreePredictor:
                yield from _features(found.nodes, categorical, f"{name}[{k}]")
            else:
                yield Finding(f"{name}[{k}]", f"A {type(found).__name__} stands where a tree belongs.")


def _features(nodes: Any, categorical: NDArray[np.bool_], path: str) -> Iterator[Finding]:  # noqa: ANN401 - records
    feature, inner = nodes["feature_idx"], nodes["is_leaf"] == 0
    outside = inner & ((feature < 0) | (feature >= len(categorical)))
    yield from places(
        f"{path}.nodes['feature_idx']",
        outside,
        lambda at: f"Node {at} splits on feature {feature[at]}; there are features 0 to {len(categorical) - 1}.",
    )
    numeric = ~categorical[np.where(outside, 0, feature) * inner]
    yield from places(
        f"{path}.nodes['is_categorical']",
        inner & ~outside & (nodes["is_categorical"] != 0) & numeric,
        lambda at: f"Node {at} splits feature {feature[at]} by category; that feature has none.",
    )
