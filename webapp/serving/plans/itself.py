"""The estimator itself, asked with numbers: for kinds that gain more from a lean way in than from other arithmetic."""

from __future__ import annotations

import copy
from typing import Any

from webapp.serving.plans import NoPlan, Unplanned
from webapp.serving.plans.predicting import Predicting
from webapp.serving.plans.steps import Matrix, Numbers
from webapp.serving.predictor import ask


def compiled(estimator: Any, numbers: Numbers, asked: bool) -> Predicting:  # noqa: ANN401, FBT001 - any estimator
    """Give what asks an estimator; `asked` is whether for probabilities.

    A table costs scikit-learn several times what most predictions cost: it is made, and taken apart again.
    """
    if numbers.sparse:
        raise NoPlan("it reads a sparse matrix")
    bare = _nameless(estimator)

    def answer(matrix: Matrix) -> tuple[Any, Any]:
        try:
            return ask(bare, matrix, probabilities=asked)
        except MemoryError:
            raise
        except Exception as error:
            # What it refuses, it shall refuse in its own way.
            raise Unplanned from error

    return Predicting(f"{type(estimator).__name__} asked without a table", answer, is_itself=True)


def _nameless(estimator: Any) -> Any:  # noqa: ANN401 - of any kind
    """Give the same estimator, which does not expect its columns to have names."""
    bare = copy.copy(estimator)
    vars(bare).pop("feature_names_in_", None)
    return bare
