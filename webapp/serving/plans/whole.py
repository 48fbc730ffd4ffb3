"""The plan of a whole estimator: rows become numbers, steps change them, and what predicts answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline

from webapp.serving.plans import NoPlan, Plan, itself, linear, steps, trees
from webapp.serving.plans.predicting import Predicting
from webapp.serving.plans.steps import Matrix, Numbers
from webapp.signature import Row, Signature

# What hands a request on to the best that it has found.
SEARCHES = {GridSearchCV, RandomizedSearchCV}
# Of so many thresholds a proof is told, those first that the most rows came by.
MOST_THRESHOLDS = 100


def compiled(estimator: Any, signature: Signature) -> Plan:  # noqa: ANN401 - an estimator of any kind
    """Give the plan of a fitted estimator; raise `NoPlan` where there is none."""
    if signature.multi_output or signature.container == "text" or signature.probabilities not in {"none", "table"}:
        raise NoPlan("it has several outputs, or reads text")
    before: list[Any] = []
    while isinstance(estimator, Pipeline) or type(estimator) in SEARCHES:
        if isinstance(estimator, Pipeline):
            # What its last step is, may be a pipeline or a search again.
            before += [step for _, step in estimator.steps[:-1]]
            estimator = estimator.steps[-1][1]
        else:
            estimator = estimator.best_estimator_
    numbers = steps.numbers(steps.through(before, steps.raw(signature)))
    predicting = _predicting(estimator, numbers, signature.probabilities == "table")
    read, answer = numbers.read, predicting.answer

    # What numpy warns of at the ends of what can be computed is for those who train.
    @np.errstate(all="ignore")
    def ask(rows: Sequence[Row]) -> tuple[Any, Any]:
        return answer(read(rows))

    behind = f" behind {len(before)} step{'s' if len(before) > 1 else ''}" if before else ""
    return Plan(predicting.name + behind, ask, lambda: _edges(numbers, predicting.thresholds()), predicting.is_itself)


def _predicting(estimator: Any, numbers: Numbers, asked: bool) -> Predicting:  # noqa: ANN401, FBT001 - any estimator
    for make in (trees.compiled, linear.compiled):
        with suppress(NoPlan):
            if made := make(estimator, numbers, asked):
                return made
    return itself.compiled(estimator, numbers, asked)


def _edges(numbers: Numbers, thresholds: Mapping[int, Matrix]) -> dict[int, list[float]]:
    """Carry thresholds back to the values of a request.

    Trees compare in single precision: asked are the last such number that is not above a threshold, the one after it,
    and the middle between the two, where rounding parts.
    """
    found: dict[int, list[float]] = {}
    each = max(1, MOST_THRESHOLDS // max(1, len(thresholds)))
    for column, known in thresholds.items():
        if (origin := numbers.origins[column]) is None:
            continue
        # Where trees ask whether a value is missing, the threshold is infinite.
        some = np.array(list(islice(_different(known[np.isfinite(known)]), each)))
        nearest = some.astype(np.float32)
        below = np.where(nearest <= some, nearest, np.nextafter(nearest, np.float32(-np.inf)))
        above = np.nextafter(below, np.float32(np.inf)).astype(np.float64)
        middle = (below + above) / 2
        around = (some, below.astype(np.float64), above, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf))
        raw = np.column_stack(around).ravel() * origin.scale + origin.offset
        found.setdefault(origin.position, []).extend(raw[np.isfinite(raw)].tolist())
    return found


def _different(numbers: Matrix) -> Iterator[float]:
    """Give numbers in their order, none of them twice."""
    seen = set()
    for number in numbers:
        if number not in seen:
            seen.add(number)
            yield float(number)
