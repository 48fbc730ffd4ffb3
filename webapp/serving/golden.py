"""Golden rows: a few instances and the outputs that a version must give for them, checked at every load."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from webapp.errors import Invalid, Unavailable
from webapp.serving.predictor import Outcome, Predictor
from webapp.signature import Feature, Row, Signature, Value

# So many are spread over the reference; the others lie at the edges of what was seen.
SPREAD_ROWS = 12
MOST_ROWS = 32
# Another processor's linear algebra differs in the last bits; a damaged model in the first ones.
RELATIVE_TOLERANCE = 1e-9
ABSOLUTE_TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows in the signature's order, and what the estimator said to each when the version was made."""

    rows: tuple[Row, ...]
    outcomes: tuple[Outcome, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give the JSON form, which `from_json` reads back; numbers come back as they were."""
        return {"rows": self.rows, "outcomes": [asdict(outcome) for outcome in self.outcomes]}

    @classmethod
    def from_json(cls, content: bytes) -> Golden:
        """Read the stored form."""
        document = json.loads(content)
        rows = tuple(tuple(row) for row in document["rows"])
        return cls(rows, tuple(Outcome(**outcome) for outcome in document["outcomes"]))


def record(predictor: Predictor, signature: Signature, rows: Sequence[Row]) -> Golden:
    """Choose golden rows among `rows` and at the edges of what they hold; ask the estimator for their outputs."""
    chosen = [row for row in _candidates(signature, rows) if _is_taken(predictor, row)][:MOST_ROWS]
    return Golden(tuple(chosen), tuple(predictor.predict(chosen, [""] * len(chosen))) if chosen else ())


def check(predictor: Predictor, golden: Golden) -> None:
    """Raise `Unavailable` when the estimator no longer gives the recorded outputs."""
    if not golden.rows:
        return
    places = [f"golden row {number}" for number in range(1, len(golden.rows) + 1)]
    try:
        outcomes = predictor.predict(golden.rows, places)
    except Invalid as invalid:
        raise Unavailable("golden_rows_differ", f"It no longer takes its golden rows: {invalid.detail}") from invalid
    wrong = [
        place
        for place, outcome, expected in zip(places, outcomes, golden.outcomes, strict=True)
        if not same(asdict(outcome), asdict(expected))
    ]
    if wrong:
        detail = f"It answers {len(wrong)} of its {len(places)} golden rows otherwise than when it was made."
        raise Unavailable("golden_rows_differ", detail)


def same(one: Any, other: Any) -> bool:  # noqa: ANN401 - plain JSON values
    """Whether two outputs agree: labels are identical, numbers equal but for the last bits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, float) and isinstance(other, int | float) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    return type(one) is type(other) and bool(one == other)


# What a plan's numbers may differ by from scikit-learn's own.
PLAN_TOLERANCE = 1e-12


def same_within(one: Any, other: Any, scale: float) -> bool:  # noqa: ANN401 - plain JSON values
    """Whether an output is one that a plan may give for another: labels are identical, numbers within 1e-12.

    That is relative to the number, or to the scale of such outputs: 1 for probabilities, of which the small one of two
    is what the large one leaves. Values are compared, not types: a database may keep 1.0 as 1.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_within(one[name], other[name], scale) for name in one)
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=PLAN_TOLERANCE, abs_tol=PLAN_TOLERANCE * scale)
    return type(one) is type(other) and bool(one == other)


def agree(one: Outcome, other: Outcome, scale: float) -> bool:
    """Whether an outcome is one that a plan may give for another; `scale` is that of predictions."""
    shares = ((each.probability, each.probabilities) for each in (one, other))
    return same_within(one.prediction, other.prediction, scale) and all(
        same_within(mine, theirs, 1.0) for mine, theirs in zip(*shares, strict=True)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- Choosing -----------------------------------------------------------------------------------------------


def _candidates(signature: Signature, rows: Sequence[Row]) -> Iterator[Row]:
    """Give rows spread over all, then one for each edge of each feature, without repeating any."""
    seen: set[Row] = set()
    step = max(1, len(rows) // SPREAD_ROWS)
    spread = list(rows[::step][:SPREAD_ROWS])
    for row in (*spread, *_edges(signature, rows, spread[0])):
        if row not in seen:
            seen.add(row)
            yield row


def _edges(signature: Signature, rows: Sequence[Row], base: Row) -> Iterator[Row]:
    for position, feature in enumerate(signature.features):
        for value in _edge_values(feature, [row[position] for row in rows]):
            yield (*base[:position], value, *base[position + 1 :])


def _edge_values(feature: Feature, seen: Sequence[Value]) -> Iterator[Value]:
    numbers = [value for value in seen if isinstance(value, float)]
    if numbers:
        yield min(numbers)
        yield max(numbers)
    if feature.nullable:
        yield None
    if feature.observed_values and len(feature.observed_values) > 1:
        yield feature.observed_values[-1]


def _is_taken(predictor: Predictor, row: Row) -> bool:
    try:
        predictor.predict([row], [""])
    except Invalid:
        return False
    return True
