"""The estimator itself, asked with numbers: for kinds that gain more from a lean way in than from other arithmetic."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, VotingClassifier
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.semi_supervised import LabelPropagation, LabelSpreading

from webapp.serving.plans import NoPlan, Unplanned
from webapp.serving.plans.predicting import Predicting
from webapp.serving.plans.steps import Matrix, Numbers
from webapp.serving.predictor import ask

# Kinds whose label is the class of the largest probability, as their code has it or as it follows from it.
LEADING = {
    AdaBoostClassifier,
    BaggingClassifier,
    BernoulliNB,
    CalibratedClassifierCV,
    CategoricalNB,
    ComplementNB,
    GaussianNB,
    KNeighborsClassifier,
    LabelPropagation,
    LabelSpreading,
    LinearDiscriminantAnalysis,
    MLPClassifier,
    MultinomialNB,
    QuadraticDiscriminantAnalysis,
    VotingClassifier,
}
# Where the two largest are nearer to each other, rounding decides, and only `predict` knows how.
CLEAR = 1e-9


def compiled(estimator: Any, numbers: Numbers, asked: bool) -> Predicting:  # noqa: ANN401, FBT001 - any estimator
    """Give what asks an estimator; `asked` is whether for probabilities.

    A table costs scikit-learn several times what most predictions cost: it is made, and taken apart again. Where the
    label follows from the probabilities, it is not computed a second time.
    """
    if numbers.sparse:
        raise NoPlan("it reads a sparse matrix")
    bare = _nameless(estimator)
    leads = asked and type(estimator) in LEADING and len(estimator.classes_) > 1

    def answer(matrix: Matrix) -> tuple[Any, Any]:
        try:
            return (_by_probabilities(bare, matrix) if leads else None) or ask(bare, matrix, probabilities=asked)
        except MemoryError:
            raise
        except Exception as error:
            # What it refuses, it shall refuse in its own way.
            raise Unplanned from error

    way = "for its probabilities alone, without a table" if leads else "without a table"
    return Predicting(f"{type(estimator).__name__} asked {way}", answer, is_itself=True)


def _by_probabilities(bare: Any, matrix: Matrix) -> tuple[Any, Any] | None:  # noqa: ANN401 - of any kind
    """Give the labels that follow from the probabilities, and these; None where some do not follow clearly."""
    # Whoever computes with it may write over it.
    table = bare.predict_proba(matrix.copy())
    second, first = np.partition(table, -2, axis=1)[:, -2:].T
    return (bare.classes_.take(table.argmax(axis=1)), table) if (first - second > CLEAR).all() else None


def _nameless(estimator: Any) -> Any:  # noqa: ANN401 - of any kind
    """Give the same estimator, which does not expect its columns to have names."""
    bare = copy.copy(estimator)
    vars(bare).pop("feature_names_in_", None)
    return bare
