"""Checks of the trees and arrays in which nearest neighbours and nearest centres are looked up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster._kmeans import _BaseKMeans
from sklearn.impute import KNNImputer
from sklearn.metrics import _dist_metrics
from sklearn.neighbors import BallTree, KDTree
from sklearn.neighbors._base import NeighborsBase

from webapp.intake.structure.finding import Finding, expect, expect_features, expect_shape, member, places

MOST_THREADS = 1024
_BOXES = ("Chebyshev", "Euclidean", "Manhattan", "Minkowski")
_BALLS = (
    *("BrayCurtis", "Canberra", "Dice", "Hamming", "Haversine", "Jaccard", "Mahalanobis"),
    *("RogersTanimoto", "RussellRao", "SEuclidean", "SokalMichener", "SokalSneath"),
)
# The compiled distances; the one that calls a function of Python is none of them.
DISTANCES: dict[str, type] = {name: getattr(_dist_metrics, f"{name}Distance64") for name in (*_BOXES, *_BALLS)}
DISTANCES_OF = {KDTree: {DISTANCES[name] for name in _BOXES}, BallTree: set(DISTANCES.values())}


def search_tree(tree: KDTree | BallTree, path: str) -> Iterator[Finding]:
    """Check that each node of a search tree covers its own part of the points, and that all points are there."""
    data, order = np.asarray(tree.data), np.asarray(tree.idx_array)
    nodes = tree.node_data.base
    leaf_size, levels, count = tree.__getstate__()[4:7]
    points, features = data.shape
    yield from expect(leaf_size >= 1, member(path, "leaf_size"), f"The size of a leaf is {leaf_size}.")
    right = len(nodes) == count == 2 ** max(0, min(levels, 62)) - 1
    meaning = f"It says {count} nodes on {levels} levels; {len(nodes)} are stored."
    yield from expect(right, member(path, "n_nodes"), meaning)
    rows = 2 if isinstance(tree, KDTree) else 1
    yield from expect_shape(tree.node_bounds, (rows, len(nodes), features), member(path, "node_bounds"))
    yield from _order(order, points, path)
    yield from _cover(nodes, points, path)
    yield from _metric_of(tree, data, path)
    weight = tree.sample_weight
    if weight is not None:
        yield from expect_shape(weight, (points,), member(path, "sample_weight"))


def _order(order: NDArray[Any], points: int, path: str) -> Iterator[Finding]:
    name = member(path, "idx_array")
    outside = (order < 0) | (order >= points)
    yield from places(name, outside, lambda at: f"It names point {order[at]}; there are points 0 to {points - 1}.")
    meaning = f"It orders {len(order)} points, and there are {points}; each has to be named once."
    once = len(order) == points and (outside.any() or bool((np.bincount(order, minlength=points) == 1).all()))
    yield from expect(once, name, meaning)


def _cover(nodes: Any, points: int, path: str) -> Iterator[Finding]:  # noqa: ANN401 - records
    """Check from the root down: the children of a node share its points; what is below a leaf is never read."""
    start, end, leaf = nodes["idx_start"], nodes["idx_end"], nodes["is_leaf"] != 0
    name = member(path, "node_data")
    meaning = f"The root covers points {start[0]} to {end[0]} of {points}."
    yield from expect(start[0] == 0 and end[0] == points, f"{name}[0]", meaning)
    level = np.zeros(1, dtype=np.intp)
    while len(level):
        inner = level[~leaf[level]]
        bottom = 2 * inner + 2 >= len(nodes)
        for at in inner[bottom]:
            yield Finding(f"{name}[{at}].is_leaf", f"Node {at} has no children stored, and it is said to be no leaf.")
        inner = inner[~bottom]
        first, second = 2 * inner + 1, 2 * inner + 2
        shared = (start[first] == start[inner]) & (end[first] == start[second]) & (end[second] == end[inner])
        shared &= (start[first] <= end[first]) & (start[second] <= end[second])
        for at in inner[~shared]:
            yield Finding(f"{name}[{at}]", f"The children of node {at} do not share its points between them.")
        level = np.concatenate([first[shared], second[shared]])


def _metric_of(tree: KDTree | BallTree, data: NDArray[Any], path: str) -> Iterator[Finding]:
    metric, name = tree.__getstate__()[11], member(path, "dist_metric")
    if type(metric) not in DISTANCES_OF[type(tree)]:
        yield Finding(name, f"A {type(metric).__name__} stands where the tree's distance belongs.")
        return
    try:
        metric._validate_data(data)  # noqa: SLF001 - what the tree itself asks when it is made
    except ValueError as error:
        yield Finding(name, f"The distance is none between these points: {error}.")


def distance(metric: _dist_metrics.DistanceMetric64, path: str) -> Iterator[Finding]:
    """Check the weights or the matrix that a distance multiplies each row with."""
    power, vector, matrix = metric.__getstate__()[:3]
    yield from expect(power > 0, member(path, "p"), f"The power is {power}.")
    yield from expect(np.ndim(vector) == 1, member(path, "vec"), "The weights are no list.")
    rows = np.shape(matrix)[0]
    yield from expect_shape(matrix, (rows, rows), member(path, "mat"))


def neighbors(estimator: NeighborsBase, path: str) -> Iterator[Finding]:
    """Check that points, tree and labels are as many as each other and as wide as the rows that are let in."""
    points, tree = estimator._fit_X, estimator._tree  # noqa: SLF001 - what predict itself asks
    count, features = points.shape
    yield from expect_features(estimator, features, path, "its points")
    said = estimator.n_samples_fit_
    yield from expect(said == count, member(path, "n_samples_fit_"), f"It says {said} points; {count} are stored.")
    method = estimator._fit_method  # noqa: SLF001 - as above
    kind = {"kd_tree": KDTree, "ball_tree": BallTree}.get(method, type(None))
    if type(tree) is not kind:
        yield Finding(member(path, "_tree"), f"A {type(tree).__name__} stands there; {method!r} needs another.")
    elif tree is not None:
        yield from expect_shape(tree.data, (count, features), member(path, "_tree.data"))
    if hasattr(estimator, "_y"):
        yield from _labels(estimator, count, path)


def _labels(estimator: Any, count: int, path: str) -> Iterator[Finding]:  # noqa: ANN401 - classifiers and regressors
    known, name = estimator._y, member(path, "_y")  # noqa: SLF001 - what predict itself asks
    meaning = f"There are {len(known)} labels for {count} points."
    yield from expect(len(known) == count, name, meaning)
    if not hasattr(estimator, "classes_"):
        return
    classes = estimator.classes_ if estimator.outputs_2d_ else [estimator.classes_]
    labels = np.asarray(known).reshape(len(known), -1)
    yield from expect(labels.dtype.kind in "iu", name, "The labels are no numbers of classes.")
    yield from expect(labels.shape[1] == len(classes), name, f"There are {labels.shape[1]} outputs of {len(classes)}.")
    for column, known_classes in zip(labels.T, classes, strict=False):

        def meaning_at(at: int, column: NDArray[Any] = column, many: int = len(known_classes)) -> str:
            return f"Point {at} belongs to class {column[at]}; there are classes 0 to {many - 1}."

        yield from places(name, (column < 0) | (column >= len(known_classes)), meaning_at)


def centers(estimator: _BaseKMeans, path: str) -> Iterator[Finding]:
    """Check the centres that each row is compared with."""
    found, name = estimator.cluster_centers_, member(path, "cluster_centers_")
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not len(found):  # noqa: PLR2004 - rows and columns
        yield Finding(name, "These are no centres, one in each row.")
        return
    yield from expect_features(estimator, found.shape[1], path, "its centres")
    threads = estimator._n_threads  # noqa: SLF001 - what predict itself asks
    meaning = f"It asks for {threads} threads; 1 to {MOST_THREADS} are served."
    yield from expect(isinstance(threads, int) and 1 <= threads <= MOST_THREADS, member(path, "_n_threads"), meaning)


def neighbor_imputer(estimator: KNNImputer, path: str) -> Iterator[Finding]:
    """Check the points from which missing values are filled."""
    features = getattr(estimator, "n_features_in_", -1)
    points = estimator._fit_X  # noqa: SLF001 - what transform itself asks
    yield from expect_shape(points, (len(points), features), member(path, "_fit_X"))
    yield from expect_shape(estimator._mask_fit_X, points.shape, member(path, "_mask_fit_X"))  # noqa: SLF001
    yield from expect_shape(estimator._valid_mask, (features,), member(path, "_valid_mask"))  # noqa: SLF001
