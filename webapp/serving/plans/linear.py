"""Linear models: a product, an intercept, and the link that scikit-learn puts behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit  # type: ignore[import-untyped] # scipy ships no types
from sklearn.linear_model import LogisticRegression, SGDClassifier, _base
from sklearn.linear_model._base import LinearClassifierMixin, LinearModel
from sklearn.linear_model._coordinate_descent import ElasticNet
from sklearn.linear_model._ridge import Ridge, _RidgeClassifierMixin
from sklearn.linear_model._stochastic_gradient import BaseSGDRegressor

from webapp.serving.plans import NoPlan, Unplanned
from webapp.serving.plans.predicting import Predicting
from webapp.serving.plans.steps import Matrix, Numbers

Scores = Callable[[Matrix], Matrix]
# So many products are added up one after another at a time.
MOST_CELLS = 1_000_000
# Before scikit-learn 1.9 models of several outputs had no class of their own.
MULTI_OUTPUT = getattr(_base, "MultiOutputLinearModel", LinearModel)
# A kind is told by the methods that answer, so that a class with its own is not taken for one of these.
REGRESSING = {LinearModel.predict, MULTI_OUTPUT.predict, Ridge.predict, BaseSGDRegressor.predict}
DECIDING = {LinearModel._decision_function, ElasticNet._decision_function, BaseSGDRegressor._decision_function}  # noqa: SLF001
CLASSIFYING = {LinearClassifierMixin.predict, _RidgeClassifierMixin.predict}
TWO = 2


def compiled(estimator: Any, numbers: Numbers, asked: bool) -> Predicting | None:  # noqa: ANN401, FBT001 - any estimator
    """Give what answers for a linear model, or None where it is none; `asked` is whether for probabilities."""
    kind = type(estimator)
    if getattr(kind, "predict", None) in REGRESSING and getattr(kind, "_decision_function", None) in DECIDING:
        return Predicting("a linear model", _regressor(_scores(estimator, numbers)))
    if (
        getattr(kind, "predict", None) in CLASSIFYING
        and getattr(kind, "decision_function", None) is LinearClassifierMixin.decision_function
    ):
        return Predicting("a linear classifier", _classifier(estimator, _scores(estimator, numbers), asked))
    return None


def _scores(estimator: Any, numbers: Numbers) -> Scores:  # noqa: ANN401 - any linear model
    coefficients, intercept = estimator.coef_, estimator.intercept_
    if type(coefficients) is not np.ndarray or coefficients.shape[-1] != len(numbers.origins):
        raise NoPlan("its coefficients are no plain matrix of this width")
    turned = coefficients.T
    if numbers.sparse:
        return lambda matrix: _added_up(matrix, coefficients) + intercept
    return lambda matrix: matrix @ turned + intercept


def _added_up(matrix: Matrix, coefficients: Matrix) -> Matrix:
    """Multiply as a sparse matrix does: one product after another, column by column."""
    if coefficients.ndim == 1:
        return _added_up(matrix, coefficients[np.newaxis])[:, 0]
    result = np.empty((len(matrix), len(coefficients)))
    step = max(1, MOST_CELLS // max(1, matrix.shape[1]))
    for first in range(0, len(matrix), step):
        some = matrix[first : first + step]
        for at, each in enumerate(coefficients):
            result[first : first + step, at] = (some * each).cumsum(axis=1)[:, -1]
    return result


def _regressor(scores: Scores) -> Callable[[Matrix], tuple[Any, Any]]:
    def answer(matrix: Matrix) -> tuple[Any, Any]:
        return _finite(scores(matrix)).reshape(len(matrix)), None

    return answer


def _finite(scores: Matrix) -> Matrix:
    """Leave to the estimator what is not finite: it refuses such input, and here none comes out of any other."""
    if not np.isfinite(scores).all():
        raise Unplanned
    return scores


def _classifier(estimator: Any, scores: Scores, asked: bool) -> Callable[[Matrix], tuple[Any, Any]]:  # noqa: ANN401, FBT001
    classes = estimator.classes_
    outputs = 1 if np.ndim(estimator.coef_) == 1 else len(estimator.coef_)
    if type(classes) is not np.ndarray or classes.ndim != 1 or outputs != (1 if len(classes) == TWO else len(classes)):
        raise NoPlan("it has not one row of coefficients for each class")
    probabilities = _probabilities(estimator) if asked else None

    def answer(matrix: Matrix) -> tuple[Any, Any]:
        found = _finite(scores(matrix))
        if outputs == 1:
            found = found.reshape(-1)
            chosen = (found > 0).astype(np.intp)
        else:
            chosen = found.argmax(axis=1)
        # The scores are not needed any more: what follows may write over them.
        return classes.take(chosen, axis=0), probabilities and probabilities(found)

    return answer


def _probabilities(estimator: Any) -> Callable[[Matrix], Matrix]:  # noqa: ANN401 - any linear classifier
    if getattr(type(estimator), "predict_proba", None) is LogisticRegression.predict_proba:
        return _one_against_rest if len(estimator.classes_) <= TWO else _softmax
    if type(estimator) is SGDClassifier and estimator.loss == "log_loss":
        return _one_against_rest
    raise NoPlan("its probabilities are made in another way")


def _one_against_rest(scores: Matrix) -> Matrix:
    expit(scores, out=scores)
    if scores.ndim == 1:
        table = np.empty((len(scores), 2))
        np.subtract(1, scores, out=table[:, 0])
        table[:, 1] = scores
        return table
    total = scores.sum(axis=1)
    if not total.all():
        raise Unplanned
    scores /= total.reshape(len(scores), -1)
    return scores


def _softmax(scores: Matrix) -> Matrix:
    scores -= scores.max(axis=1).reshape(-1, 1)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1).reshape(-1, 1)
    return scores
