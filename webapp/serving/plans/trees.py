"""Trees and ensembles of them: all trees of an ensemble are walked in one call of scikit-learn's own compiled code.

The trees are joined into a single one. At its top, signposts lead to each tree by one feature more, the number of the
tree; a row is then asked once for each tree, as so many rows that differ in this number alone. What comes out is added
up in the order in which scikit-learn adds it, so that nothing is rounded differently. For many rows at once it is
faster to ask one tree after another, as scikit-learn does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.ensemble._gb import _init_raw_predictions
from sklearn.ensemble._gradient_boosting import predict_stages
from sklearn.ensemble._hist_gradient_boosting._predictor import _predict_from_raw_data
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
from sklearn.tree._tree import Tree

from webapp.serving.plans import NoPlan, Unplanned
from webapp.serving.plans.predicting import Predicting
from webapp.serving.plans.steps import Matrix, Numbers

Answer = Callable[[Matrix], tuple[Any, Any]]
Raws = Callable[[Matrix], Matrix]
# Up to so many rows are asked through the joined tree, as long as their copies are not too large.
FEW_ROWS = 24
MOST_CELLS = 200_000
# A copy of more nodes is not worth its memory: 64 bytes each.
MOST_NODES = 4_000_000

CLASSIFYING = (DecisionTreeClassifier, ExtraTreeClassifier, RandomForestClassifier, ExtraTreesClassifier)
SINGLE = (DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor)
FORESTS = (RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor)
BOOSTED = (GradientBoostingClassifier, GradientBoostingRegressor)
HISTOGRAMS = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)


def compiled(estimator: Any, numbers: Numbers, asked: bool) -> Predicting | None:  # noqa: ANN401, FBT001 - any estimator
    """Give what answers for trees, or None where there are none; `asked` is whether for probabilities."""
    makers = {
        **dict.fromkeys(SINGLE, _single),
        **dict.fromkeys(FORESTS, _forest),
        **dict.fromkeys(BOOSTED, _boosted),
        **dict.fromkeys(HISTOGRAMS, _histograms),
    }
    make = makers.get(type(estimator))
    if make is None:
        return None
    if estimator.n_features_in_ != len(numbers.origins):
        raise NoPlan("it was fitted with another number of columns")
    return make(estimator, numbers, asked)


# --- Joining ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the fields of a node are called."""

    left: str
    right: str
    feature: str
    threshold: str


PLAIN = _Layout("left_child", "right_child", "feature", "threshold")
HISTOGRAM = _Layout("left", "right", "feature_idx", "num_threshold")


def _joined(trees: Sequence[Matrix], leaves: Sequence[Matrix], width: int, layout: _Layout) -> Matrix:
    """Put trees behind signposts that ask for feature `width`, the number of the tree.

    `leaves` says of each tree which of its nodes are leaves.
    """
    posts = len(trees) - 1
    starts = (posts + np.cumsum([0, *map(len, trees)])).tolist()
    # Filled piece by piece: others wait for the interpreter while it copies.
    joined = np.zeros(starts[-1], dtype=trees[0].dtype)
    free = iter(range(posts))

    def post(first: int, end: int) -> int:
        if end - first == 1:
            return int(starts[first])
        place, middle = next(free), (first + end) // 2
        left, right = post(first, middle), post(middle, end)
        node = joined[place : place + 1]
        node[layout.left], node[layout.right] = left, right
        node[layout.feature], node[layout.threshold] = width, middle - 0.5
        return place

    post(0, len(trees))
    for tree, is_leaf, start in zip(trees, leaves, starts[:-1], strict=True):
        nodes = joined[start : start + len(tree)]
        nodes[:] = tree
        for side in (layout.left, layout.right):
            nodes[side][~is_leaf] += start
    return joined


def _copies(matrix: Matrix, numbers: Matrix) -> Matrix:
    """Repeat each row once for each tree, with the tree's number behind it."""
    rows, width = matrix.shape
    copies = np.empty((rows, len(numbers), width + 1), dtype=matrix.dtype)
    copies[:, :, :width] = matrix[:, np.newaxis]
    copies[:, :, width] = numbers
    return copies.reshape(-1, width + 1)


def _added_up(values: Matrix) -> Matrix:
    """Add up the second of three axes, one after another: numpy adds a plain list by halves, which rounds otherwise."""
    if values.shape[2] == 1:
        values = values.cumsum(axis=1)
        return values[:, -1]
    summed: Matrix = np.add.reduce(values, axis=1)
    return summed


def _together(trees: Sequence[Tree], values: Sequence[Matrix], width: int, outputs: int) -> Raws | None:
    """Give what asks all trees at once and adds up their values, or None where they are too large to be copied.

    `values` are those of each tree's nodes. Of trees that have one value each, every `outputs` in turn belong to
    different outputs.
    """
    if sum(map(len, values)) > MOST_NODES:
        return None
    # A leaf in front of all for each value that no tree gives.
    leaf = np.zeros(1, dtype=trees[0].__getstate__()["nodes"].dtype)
    leaf["left_child"] = leaf["right_child"] = -1
    nodes = [leaf] * (len(values) - len(trees)) + [tree.__getstate__()["nodes"] for tree in trees]
    joined = _joined(nodes, [each["left_child"] == -1 for each in nodes], width, PLAIN)
    filling = np.zeros((len(nodes) - 1, values[0].shape[1]))
    known = np.concatenate([filling, *values])
    whole = Tree(width + 1, np.array([1], dtype=np.intp), 1)
    whole.__setstate__(
        {"max_depth": 0, "node_count": len(joined), "nodes": joined, "values": np.zeros((len(joined), 1, 1))}
    )
    numbers, apply = np.arange(len(nodes), dtype=np.float32), whole.apply

    def ask(matrix: Matrix) -> Matrix:
        found = known.take(apply(_copies(matrix, numbers)), axis=0)
        return _added_up(found.reshape(len(matrix), -1, outputs))

    return ask


def _by_size(few: Raws | None, many: Raws, trees: int, width: int) -> Raws:
    if few is None:
        return many
    most = min(FEW_ROWS, MOST_CELLS // (trees * (width + 1)))
    return lambda matrix: few(matrix) if len(matrix) <= most else many(matrix)


def _single_precision(matrix: Matrix, missing: bool) -> Matrix:  # noqa: FBT001 - whether NaN is taken
    """Round as trees do, and leave to the estimator what it refuses then."""
    rounded = matrix.astype(np.float32, order="C")
    if np.isinf(rounded).any() if missing else not np.isfinite(rounded).all():
        raise Unplanned
    return rounded


def _thresholds(trees: Sequence[Tree]) -> Mapping[int, Matrix]:
    return _by_travel(
        *(
            np.concatenate([getattr(tree, name) for tree in trees])
            for name in ("feature", "threshold", "n_node_samples")
        )
    )


def _histogram_thresholds(predictors: Sequence[Any]) -> Mapping[int, Matrix]:
    inner = np.concatenate([each.nodes[each.nodes["is_leaf"] == 0] for each in predictors])
    return _by_travel(inner["feature_idx"], inner["num_threshold"], inner["count"])


def _by_travel(features: Matrix, thresholds: Matrix, rows: Matrix) -> Mapping[int, Matrix]:
    """Give each feature's thresholds, those first that the most rows came by in training."""
    order = np.argsort(-rows.astype(np.int64), kind="stable")
    features, thresholds = features[order], thresholds[order]
    return {int(each): thresholds[features == each] for each in np.unique(features[features >= 0])}


# --- Kinds --------------------------------------------------------------------------------------------------


def _single(estimator: Any, numbers: Numbers, _asked: bool) -> Predicting:  # noqa: ANN401, FBT001 - any tree
    _one_output(estimator)
    tree, missing = estimator.tree_, _takes_missing(estimator, numbers)
    finish = _finished(estimator)

    def answer(matrix: Matrix) -> tuple[Any, Any]:
        return finish(tree.predict(_single_precision(matrix, missing)))

    return Predicting("a tree", answer, partial(_thresholds, [tree]))


def _forest(estimator: Any, numbers: Numbers, _asked: bool) -> Predicting:  # noqa: ANN401, FBT001 - any forest
    _one_output(estimator)
    trees = [each.tree_ for each in estimator.estimators_]
    missing, finish = _takes_missing(estimator.estimators_[0], numbers), _finished(estimator)
    outputs, width = trees[0].value.shape[2], len(numbers.origins)

    def many(matrix: Matrix) -> Matrix:
        total = np.zeros((len(matrix), outputs))
        for tree in trees:
            total += tree.predict(matrix)
        return total

    few = _together(trees, [tree.value[:, 0, :] for tree in trees], width, outputs)
    ask, count = _by_size(few, many, len(trees), width), len(trees)

    def answer(matrix: Matrix) -> tuple[Any, Any]:
        total = ask(_single_precision(matrix, missing))
        total /= count
        return finish(total)

    return Predicting(f"{count} tree{'' if count == 1 else 's'}", answer, partial(_thresholds, trees))


def _boosted(estimator: Any, numbers: Numbers, asked: bool) -> Predicting:  # noqa: ANN401, FBT001 - any boosting
    stages, rate, width = estimator.estimators_, estimator.learning_rate, len(numbers.origins)
    start, trees = _start(estimator, width), [each.tree_ for each in stages.ravel()]
    outputs = stages.shape[1]

    def many(matrix: Matrix) -> Matrix:
        raws = np.repeat(start[np.newaxis], len(matrix), axis=0)
        predict_stages(stages, matrix, rate, raws)
        return raws

    values = [np.array([[each]]) for each in start.tolist()] + [rate * tree.value[:, 0, :] for tree in trees]
    ask = _by_size(_together(trees, values, width, outputs), many, len(values), width)
    finish = _linked(estimator, outputs, asked, lambda raws: raws >= 0)

    def answer(matrix: Matrix) -> tuple[Any, Any]:
        return finish(ask(_single_precision(matrix, missing=False)))

    return Predicting(f"{len(trees)} boosted trees", answer, partial(_thresholds, trees))


def _start(estimator: Any, width: int) -> Matrix:  # noqa: ANN401 - any boosting
    """Give what boosting begins with, which must be the same for all rows."""
    first = estimator.init_
    if isinstance(first, str) and first == "zero":
        return np.zeros(estimator.n_trees_per_iteration_)
    if type(first) not in {DummyClassifier, DummyRegressor} or getattr(first, "strategy", "") in {
        "stratified",
        "uniform",
    }:
        raise NoPlan("it begins with another estimator")
    row = np.zeros((1, width), dtype=np.float32)
    classifying = isinstance(estimator, GradientBoostingClassifier)
    start: Matrix = _init_raw_predictions(row, first, estimator._loss, classifying)[0]  # noqa: SLF001
    return start


def _histograms(estimator: Any, numbers: Numbers, asked: bool) -> Predicting:  # noqa: ANN401, FBT001 - any boosting
    if numbers.sparse or estimator._preprocessor is not None or estimator.is_categorical_ is not None:  # noqa: SLF001
        raise NoPlan("it has categories of its own")
    outputs, width = estimator.n_trees_per_iteration_, len(numbers.origins)
    start = np.broadcast_to(np.ravel(estimator._baseline_prediction), (outputs,)).astype(np.float64)  # noqa: SLF001
    predictors = [each for stage in estimator._predictors for each in stage]  # noqa: SLF001
    categories, places = estimator._bin_mapper.make_known_categories_bitsets()  # noqa: SLF001

    def many(matrix: Matrix) -> Matrix:
        raws = np.zeros((len(matrix), outputs))
        raws += start
        for at, predictor in enumerate(predictors):
            raws[:, at % outputs] += predictor.predict(matrix, categories, places, 1)
        return raws

    leaves = np.zeros(outputs, dtype=predictors[0].nodes.dtype)
    leaves["value"], leaves["is_leaf"] = start, 1
    trees = [leaves[at : at + 1] for at in range(outputs)] + [each.nodes for each in predictors]
    few = None
    if sum(map(len, trees)) <= MOST_NODES:
        joined = _joined(trees, [tree["is_leaf"] == 1 for tree in trees], width, HISTOGRAM)
        count, none = np.arange(len(trees), dtype=np.float64), predictors[0].raw_left_cat_bitsets

        def few(matrix: Matrix) -> Matrix:
            values = np.empty(len(matrix) * len(trees))
            _predict_from_raw_data(joined, _copies(matrix, count), none, categories, places, 1, values)
            return _added_up(values.reshape(len(matrix), -1, outputs))

    ask = _by_size(few, many, len(trees), width)
    finish = _linked(estimator, outputs, asked, lambda raws: raws > 0)

    def answer(matrix: Matrix) -> tuple[Any, Any]:
        if not numbers.finite and np.isinf(matrix).any():
            raise Unplanned
        return finish(ask(matrix))

    thresholds = partial(_histogram_thresholds, predictors)
    return Predicting(f"{len(predictors)} boosted trees over histograms", answer, thresholds)


# --- From values to answers ---------------------------------------------------------------------------------


def _one_output(estimator: Any) -> None:  # noqa: ANN401 - any tree or forest
    if estimator.n_outputs_ != 1:
        raise NoPlan("it has several outputs")


def _takes_missing(tree: Any, numbers: Numbers) -> bool:  # noqa: ANN401 - any tree
    """Whether NaN is a value like another, which no sparse matrix may hold."""
    return not numbers.sparse and bool(tree._support_missing_values(np.empty((0, 0))))  # noqa: SLF001


def _finished(estimator: Any) -> Callable[[Matrix], tuple[Any, Any]]:  # noqa: ANN401 - any tree or forest
    """Give what makes an answer of mean values: classes and their shares, or the values themselves."""
    if type(estimator) not in CLASSIFYING:
        return lambda values: (values[:, 0], None)
    classes = estimator.classes_
    return lambda values: (classes.take(values.argmax(axis=1), axis=0), values)


def _linked(
    estimator: Any,  # noqa: ANN401 - any boosting
    outputs: int,
    asked: bool,  # noqa: FBT001
    positive: Callable[[Matrix], Matrix],
) -> Callable[[Matrix], tuple[Any, Any]]:
    """Give what makes an answer of raw values; `positive` tells the second of two classes."""
    loss = estimator._loss  # noqa: SLF001 - there is no public way
    if type(estimator) is GradientBoostingRegressor:
        return lambda raws: (raws.ravel(), None)
    if type(estimator) is HistGradientBoostingRegressor:
        return lambda raws: (loss.link.inverse(raws.ravel()), None)
    classes, table = estimator.classes_, loss.predict_proba

    def finish(raws: Matrix) -> tuple[Any, Any]:
        chosen = positive(raws.ravel()).astype(np.intp) if outputs == 1 else raws.argmax(axis=1)
        return classes[chosen], table(raws) if asked else None

    return finish
