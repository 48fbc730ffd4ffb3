"""Counts rows that were refused by field and rule: what was asked for, never a value, and never much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from webapp.errors import Invalid

# What a caller calls a field is nobody's name here; a row may also be refused as a whole.
UNKNOWN, WHOLE = "(unknown field)", "(whole row)"
# So many fields with their rules are told apart. The others count together.
MOST_PLACES = 50
OTHERS = ("(other fields)", "other")

# How many rows a rule refused, by field and the rule's code.
Fields = dict[str, dict[str, int]]
# A row (by its pointer), a field and a code.
Mark = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows were asked, how many of them were refused, and why: one row may have several reasons."""

    asked: int = 0
    refused: int = 0
    fields: Fields = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        """Count together."""
        fields = _added(self.fields, _flat(other.fields))
        return Tally(self.asked + other.asked, self.refused + other.refused, fields)


def marks(invalid: Invalid, pointers: Sequence[str], names: Collection[str]) -> set[Mark]:
    """Say which of the rows at these pointers were refused, and why; a refusal that names none is of all."""
    depth = pointers[0].count("/")
    found = {(*_place(each.pointer.split("/"), depth, names), each.code) for each in invalid.problems}
    return found or {(pointer, WHOLE, invalid.code) for pointer in pointers}


def _place(parts: list[str], depth: int, names: Collection[str]) -> tuple[str, str]:
    row, inside = "/".join(parts[: depth + 1]), parts[depth + 1 :]
    if not inside:
        return row, WHOLE
    name = inside[0].replace("~1", "/").replace("~0", "~")
    return row, name if name in names else UNKNOWN


def tally(asked: int, found: Collection[Mark]) -> Tally:
    """Count what `marks` gave."""
    counted = Counter((name, code) for _, name, code in found)
    return Tally(asked, len({row for row, _, _ in found}), _added({}, counted))


def _flat(fields: Fields) -> Mapping[tuple[str, str], int]:
    return {(name, code): rows for name, codes in fields.items() for code, rows in codes.items()}


def _added(fields: Fields, more: Mapping[tuple[str, str], int]) -> Fields:
    """Add counts to others; where there are too many places, those with the fewest rows go to the others."""
    total = Counter(_flat(fields))
    for place, rows in _most_first(more):
        total[place if place in total or len(total) < MOST_PLACES else OTHERS] += rows
    made: Fields = {}
    for (name, code), rows in total.items():
        made.setdefault(name, {})[code] = rows
    return made


def _most_first(counted: Mapping[tuple[str, str], int]) -> Iterable[tuple[tuple[str, str], int]]:
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))
