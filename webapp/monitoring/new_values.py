"""New values by name: what categories hold that the reference has not, as the log has it and for as long as it does.

Counts know how many there were. Names are read from the newest predictions when somebody asks: what was hashed is a
hash there, and what was dropped, or removed with a subject or for its age, is named nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from webapp.drift import layout
from webapp.drift.bins import category
from webapp.drift.layout import Record, Variable
from webapp.predictions.counts import DriftReference

MOST_VALUES, MOST_CHARACTERS = 50, 40


@dataclass(frozen=True, slots=True)
class NewValue:
    """A value, shortened where it is long, and its part of the rows that were looked at (1 is all)."""

    value: str
    share: float


def named(
    reference: DriftReference, records: Sequence[Record], wanted: Collection[str]
) -> dict[str, tuple[NewValue, ...]]:
    """Name the new values of each `wanted` variable among records, the most frequent first."""
    found = {
        each.id: _new(each, records)
        for each in layout.from_json(reference.layout).variables
        if each.id in wanted and each.binning.kind == "category"
    }
    return {name: values for name, values in found.items() if values}


def _new(variable: Variable, records: Sequence[Record]) -> tuple[NewValue, ...]:
    known = {None, *variable.binning.values, *variable.binning.others}
    counted = Counter(value for value in map(category, variable.values(records)) if value not in known)
    ranked = sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))
    return tuple(NewValue(_short(str(value)), count / len(records)) for value, count in ranked[:MOST_VALUES])


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
