"""Proves that a plan answers as scikit-learn does: on rows that are known, and on those where the two might part."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from webapp.serving.golden import PLAN_TOLERANCE
from webapp.serving.plans import Plan, Unplanned, compiled
from webapp.serving.predictor import Predictor
from webapp.signature import Feature, Row, Signature, Value
from webapp.signature.example import STRANGE_TEXT, made_up

# Of rows that are given, of rows with one probing value, and of mixtures of such values.
MOST_GIVEN = 1032
PROBES = 1500
MIXTURES = 200
# Rows that are asked alone: of the plan as many as this takes, of scikit-learn in any case a few.
PLAN_SECONDS = 0.3
ESTIMATOR_SECONDS = 0.2
FEWEST_ALONE = 5
MOST_ALONE = 60
# So long an estimator is asked for many rows at once that its plan asks itself, each time for as many as all before.
TOGETHER_SECONDS = 0.5
FIRST_TOGETHER = 32
# A plan that leaves more than this share to scikit-learn is none.
MOST_LEFT = 0.5
# So long it is sought which of many rows scikit-learn refuses; what stays unanswered may be no more than this share.
REFUSED_SECONDS = 2.0
MOST_UNANSWERED = 0.5
# Beyond single precision, and where scaling overflows.
HUGE = (1e39, -1e39, 1e308)

# Predictions, and the table of probabilities or None.
Answer = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Proof:
    """What a comparison of a plan with scikit-learn found. It holds when there is no reason against it."""

    plan: str
    rows: int = 0
    # Rows that the plan left to scikit-learn.
    left: int = 0
    label_differences: int = 0
    # Relative to the number itself, or to the usual size of such numbers where it is smaller: next to zero, a sum of
    # large terms is nothing but rounding.
    largest_difference: float = 0.0
    # Of a single row: medians over different rows.
    plan_microseconds: float = 0.0
    estimator_microseconds: float = 0.0
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the plan may answer."""
        return not self.reason


def planned(
    predictor: Predictor,
    estimator: Any,  # noqa: ANN401 - an estimator of any kind
    signature: Signature,
    rows: Callable[[], Sequence[Row]],
    known: Proof | None = None,
) -> tuple[Predictor, Proof | None]:
    """Give the predictor with a plan where there is one that holds, and its proof; None where there is no plan.

    `rows` gives what is known beside the probes; `known` is a proof of the same plan that was made before. Nothing that
    goes wrong here keeps the estimator from answering.
    """
    try:
        plan = compiled(estimator, signature)
    except Exception as error:  # noqa: BLE001 - whatever it is, the estimator answers
        return predictor, Proof("", reason=f"No plan could be made: {type(error).__name__}.")
    if plan is None:
        return predictor, None
    if known is not None and known.plan == plan.name:
        return (predictor.by(plan) if known.holds else predictor), known
    try:
        proof = prove(estimator, plan, signature, rows())
    except Exception as error:  # noqa: BLE001 - whatever it is, the estimator answers
        proof = Proof(plan.name, reason=f"It could not be proven: {type(error).__name__}.")
    return (predictor.by(plan) if proof.holds else predictor), proof


def prove(estimator: Any, plan: Plan, signature: Signature, rows: Sequence[Row]) -> Proof:  # noqa: ANN401 - of any kind
    """Compare a plan with its estimator on `rows` and on generated ones, all in one call and alone."""
    comparison = _Comparison(estimator, plan, signature)
    random = np.random.default_rng(0)
    given = list(rows[:MOST_GIVEN])
    bases = given or [tuple(made_up(feature) for feature in signature.features)]
    # What numpy warns of at the ends of what can be computed is sought here.
    with np.errstate(all="ignore"):
        for group in (given, list(_probes(signature, bases, plan, random))):
            if group:
                comparison.bulk(group)
        spread = [bases[at] for at in random.permutation(len(bases))[:MOST_ALONE].tolist()]
        comparison.alone([*_huge(signature, bases[0]), *spread])
    return comparison.proof()


# --- Comparing ----------------------------------------------------------------------------------------------


class _Comparison:
    def __init__(self, estimator: Any, plan: Plan, signature: Signature) -> None:  # noqa: ANN401 - of any kind
        self._itself = Predictor(estimator, signature)
        self._plan = plan
        self._labelled = signature.outputs[0].classes is not None
        self._rows = self._left = self._labels = self._forms = self._not_refused = self._unanswered = 0
        self._largest = 0.0
        self._plan_took: list[float] = []
        self._estimator_took: list[float] = []

    def bulk(self, rows: Sequence[Row]) -> None:
        """Compare one call for all rows with one call of the plan, and with calls for single rows."""
        parts = list(self._affordable(rows))
        usual = _usual(parts)
        for some, expected in parts:
            self._at_once(some, expected, usual)
        until = time.perf_counter() + PLAN_SECONDS
        for some, expected in parts:
            for at, row in enumerate(some):
                if time.perf_counter() > until:
                    return
                if (answer := self._asked_alone(row)) is not None:
                    self._compare(answer, _part(expected, at, at + 1), usual)

    def _affordable(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], Answer]]:
        """Ask scikit-learn in ever larger calls; of a plan that asks it, too, as long as there is time.

        Some take seconds for a few rows.
        """
        until = time.perf_counter() + TOGETHER_SECONDS if self._plan.is_itself else math.inf
        first, end = 0, FIRST_TOGETHER
        while first < len(rows) and (first == 0 or time.perf_counter() < until):
            yield from self._answered(rows[first:end])
            first, end = end, end * 2

    def _answered(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], Answer]]:
        """Ask scikit-learn: by halves where it refuses, so that one row does not hide all others."""
        until = time.perf_counter() + REFUSED_SECONDS
        waiting = deque([rows])
        while waiting and time.perf_counter() < until:
            some = waiting.popleft()
            try:
                expected = self._itself.arrays(some)
            except Exception:  # noqa: BLE001 - any way of refusing counts
                if middle := len(some) // 2:
                    waiting += [some[:middle], some[middle:]]
                else:
                    self._unanswered += 1
                    self._not_refused += self._asked_alone(some[0]) is not None
                continue
            self._rows += len(some)
            yield some, expected
        self._unanswered += sum(map(len, waiting))

    def _at_once(self, rows: Sequence[Row], expected: Answer, usual: Sequence[float]) -> None:
        """Compare one call of the plan: by halves where it leaves some rows to scikit-learn."""
        try:
            self._compare(self._plan.ask(rows), expected, usual)
        except Unplanned:
            if not (middle := len(rows) // 2):
                self._left += 1
                return
            self._at_once(rows[:middle], _part(expected, 0, middle), usual)
            self._at_once(rows[middle:], _part(expected, middle, len(rows)), usual)

    def alone(self, rows: Sequence[Row]) -> None:
        """Compare calls for single rows, as far as scikit-learn is fast enough; what one refuses must both."""
        until = time.perf_counter() + ESTIMATOR_SECONDS
        for count, row in enumerate(rows):
            if count >= FEWEST_ALONE and time.perf_counter() > until:
                break
            self._rows += 1
            answer = self._asked_alone(row)
            self._left += answer is None
            started = time.perf_counter()
            try:
                expected = self._itself.arrays([row])
            except Exception:  # noqa: BLE001 - any way of refusing counts
                self._not_refused += answer is not None
                continue
            self._estimator_took.append(time.perf_counter() - started)
            if answer is not None:
                self._compare(answer, expected, _usual([([row], expected)]))

    def _asked_alone(self, row: Row) -> Answer | None:
        started = time.perf_counter()
        try:
            answer = self._plan.ask([row])
        except Unplanned:
            return None
        self._plan_took.append(time.perf_counter() - started)
        return answer

    def _compare(self, answer: Answer, expected: Answer, usual: Sequence[float]) -> None:
        for position, (one, other) in enumerate(zip(answer, expected, strict=True)):
            if not _alike(one, other):
                self._forms += 1
            elif other is not None and position == 0 and self._labelled:
                self._labels += int((one.ravel() != other.ravel()).sum())
            elif other is not None:
                self._largest = max(self._largest, _difference(one.ravel(), other.ravel(), usual[position]))

    def proof(self) -> Proof:
        plan, estimator = _microseconds(self._plan_took), _microseconds(self._estimator_took)
        return Proof(
            self._plan.name,
            self._rows,
            self._left,
            self._labels,
            self._largest,
            plan,
            estimator,
            self._reason(plan, estimator),
        )

    def _reason(self, plan: float, estimator: float) -> str:
        reasons = {
            "It answers in another form than scikit-learn.": self._forms,
            f"It gives another label than scikit-learn for {self._labels} rows.": self._labels,
            f"Its numbers differ from scikit-learn's by up to {self._largest:.1e}.": not self._largest
            <= PLAN_TOLERANCE,
            "It answers what scikit-learn refuses.": self._not_refused,
            "Scikit-learn answers too few of the rows that it was to be compared on.": self._unanswered
            > MOST_UNANSWERED * (self._rows + self._unanswered),
            "It leaves most rows to scikit-learn.": self._left > MOST_LEFT * self._rows,
            "It is not faster than scikit-learn.": not plan < estimator,
        }
        return next((reason for reason, found in reasons.items() if found), "")


def _alike(one: Any, other: Any) -> bool:  # noqa: ANN401 - arrays, or None
    if one is None or other is None:
        return one is other
    return bool(one.size == other.size and len(one) == len(other) and one.dtype == other.dtype)


def _part(answer: Answer, first: int, end: int) -> Answer:
    predicted, table = answer
    return predicted[first:end], None if table is None else table[first:end]


def _usual(parts: Sequence[tuple[Sequence[Row], Answer]]) -> list[float]:
    """Give the usual size of numbers, by which those next to zero are measured."""
    return [_usual_size([expected[position] for _, expected in parts]) for position in range(2)]


def _usual_size(arrays: Sequence[Any]) -> float:
    found = [array.ravel() for array in arrays if array is not None and array.dtype.kind == "f"]
    sizes = np.abs(np.concatenate(found or [np.empty(0)]))
    # What is no number has no size, and would have every rounding look like a difference.
    sizes = sizes[np.isfinite(sizes)]
    return float(np.median(sizes)) if sizes.size else 0.0


def _difference(one: Any, other: Any, usual: float) -> float:  # noqa: ANN401 - arrays
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return 0.0
    one, other = one[~same], other[~same]
    found = float(np.max(np.abs(one - other) / np.maximum(np.maximum(np.abs(one), np.abs(other)), usual)))
    return math.inf if math.isnan(found) else found


def _microseconds(took: Sequence[float]) -> float:
    return statistics.median(took) * 1e6 if took else math.inf


# --- Probes -------------------------------------------------------------------------------------------------


def _probes(signature: Signature, bases: Sequence[Row], plan: Plan, random: np.random.Generator) -> Iterator[Row]:
    """Give rows with one probing value each, then mixtures of such values."""
    edges = plan.edges()
    pools = [
        _pool(feature, position, bases, edges.get(position, ())) for position, feature in enumerate(signature.features)
    ]
    every = [(position, value) for position, pool in enumerate(pools) for value in pool]
    # Each value comes in turn, with another row around it: not every row gets to the place where it counts.
    order = random.permutation(len(every))[np.arange(PROBES) % len(every)].tolist()
    for base, at in zip(random.integers(len(bases), size=PROBES).tolist(), order, strict=True):
        position, value = every[at]
        yield (*bases[base][:position], value, *bases[base][position + 1 :])
    for _ in range(MIXTURES):
        yield tuple(pool[int(random.integers(len(pool)))] for pool in pools)


def _pool(feature: Feature, position: int, bases: Sequence[Row], edges: Sequence[float]) -> list[Value]:
    """Give the values that are worth asking about, as far as the feature may have them."""
    found: list[Value] = [None] if feature.nullable else []
    if feature.allowed is not None:
        return [*found, *feature.allowed]
    seen = list(dict.fromkeys(row[position] for row in bases if row[position] is not None))
    found += list(feature.observed_values or ())
    if feature.kind == "boolean":
        return [*found, False, True]
    if feature.kind == "string":
        return [*found, *seen[:20], STRANGE_TEXT, ""]
    numbers = [float(value) for value in seen if value is not None]
    probing = [*numbers[:20], *_ends(feature, numbers), *edges]
    if feature.kind == "integer":
        probing = [float(side) for number in probing for side in (math.floor(number), math.ceil(number))]
    return [*found, *_within(feature, probing)] or [made_up(feature)]


def _ends(feature: Feature, numbers: Sequence[float]) -> Iterator[float]:
    """Give zero, and the ends of what was seen and of what is allowed: at them, next to them, and far beyond."""
    known = (feature.minimum, feature.maximum, feature.observed_minimum, feature.observed_maximum)
    ends = [end for end in (*known, min(numbers, default=None), max(numbers, default=None)) if end is not None]
    span = max(ends) - min(ends) if ends else 1.0
    yield from (0.0, -0.0)
    for end in ends:
        yield from (end, math.nextafter(end, -math.inf), math.nextafter(end, math.inf), end - span, end + span)
        yield from (end - 1000 * span, end + 1000 * span)


def _within(feature: Feature, numbers: Sequence[float]) -> list[float]:
    low = -math.inf if feature.minimum is None else feature.minimum
    high = math.inf if feature.maximum is None else feature.maximum
    return [number for number in dict.fromkeys(numbers) if math.isfinite(number) and low <= number <= high]


def _huge(signature: Signature, base: Row) -> Iterator[Row]:
    """Give rows that trees refuse, as their numbers do not fit single precision."""
    numeric = [
        position
        for position, feature in enumerate(signature.features)
        if feature.kind in {"number", "integer"} and feature.allowed is None
    ]
    for position in islice(numeric, 2):
        for value in _within(signature.features[position], HUGE):
            yield (*base[:position], value, *base[position + 1 :])
