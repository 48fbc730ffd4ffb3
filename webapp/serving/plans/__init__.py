"""Plans: an estimator's arithmetic prepared once, used only where it is proven to give the estimator's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.signature import Row, Signature


class Unplanned(Exception):  # noqa: N818 - a fact, not a fault: the estimator answers instead
    """These rows are none that the plan was proven for."""


class NoPlan(Exception):  # noqa: N818 - a fact, not a fault: the estimator answers instead
    """There is no plan for this kind of estimator, or for what it was fitted with."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What answers in the estimator's place.

    `ask` takes rows in the signature's order and gives what `predict` and `predict_proba` would: n labels or values,
    and the table of probabilities where the signature has one, else None. It raises `Unplanned` for rows that it
    leaves to the estimator.
    """

    # In the words of the version's page, such as “100 trees behind 2 steps”.
    name: str
    ask: Callable[[Sequence[Row]], tuple[Any, Any]]
    # By the feature's place in a row: numbers at which the answer may jump, for a proof to ask about.
    edges: Callable[[], Mapping[int, Sequence[float]]] = dict
    # Whether it asks the estimator itself: then callers gain by being answered together, where other plans are done
    # before anybody could come, and few rows show that it is asked rightly.
    is_itself: bool = False


def compiled(estimator: Any, signature: Signature) -> Plan | None:  # noqa: ANN401 - an estimator of any kind
    """Give the plan of a fitted estimator, or None where there is none for its kind."""
    # Here, because it imports all of scikit-learn: commands that load nothing start in a fraction of the time.
    from webapp.serving.plans import whole  # noqa: PLC0415

    try:
        return whole.compiled(estimator, signature)
    except NoPlan:
        return None
