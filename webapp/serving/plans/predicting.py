"""What stands at the end of every plan: an answer to a matrix of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.serving.plans.steps import Matrix


@dataclass(frozen=True, slots=True)
class Predicting:
    """The part of a plan that predicts, in words, and as what it gives for a matrix: predictions and a table."""

    name: str
    answer: Callable[[Matrix], tuple[Any, Any]]
    # By column: the numbers at which trees part. Only a proof asks for them.
    thresholds: Callable[[], Mapping[int, Matrix]] = dict
    # Whether it is the estimator itself that is asked.
    is_itself: bool = False
