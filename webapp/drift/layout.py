"""What of a version's predictions is counted: every input and output, each in its cells, in one row of numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from webapp.drift import bins
from webapp.drift.bins import Binning, Counts
from webapp.signature import Feature, Output, Signature

Role = Literal["input", "prediction", "probability"]
# A prediction as it is logged: with `instance`, `prediction`, `probability`, `probabilities`.
Record = Mapping[str, Any]
# As counts are stored: 32 bits are enough for an hour.
STORED = np.dtype("<u4")
TWO = 2


@dataclass(frozen=True, slots=True)
class Variable:
    """One input or output. Of a classifier's probabilities, that of `label` or of the class that was predicted."""

    role: Role
    name: str
    binning: Binning
    # Of several outputs, which one.
    output: str | None = None
    label: str | None = None

    @property
    def id(self) -> str:
        """Tell it from every other variable of the version; an input may be called `prediction`, too."""
        return f"{self.role}:{self.name}"

    def values(self, records: Sequence[Record]) -> list[Any]:
        """Give its values in these records, None where one has none."""
        if self.role == "input":
            return [record["instance"].get(self.name) for record in records]
        field = self.role if self.role == "prediction" or self.label is None else "probabilities"
        found = [record[field] for record in records]
        for inner in (self.output, self.label if field == "probabilities" else None):
            if inner is not None:
                found = [value.get(inner) if isinstance(value, dict) else None for value in found]
        return found


@dataclass(frozen=True, slots=True)
class Layout:
    """The variables of a version in the order in which they are counted."""

    variables: tuple[Variable, ...]

    @property
    def width(self) -> int:
        """How many cells there are in all."""
        return sum(each.binning.size for each in self.variables)

    def count(self, records: Sequence[Record]) -> Counts:
        """Count records: the cells of all variables, one variable after the other."""
        return np.concatenate([each.binning.count(each.values(records)) for each in self.variables])

    def parts(self, counts: Counts) -> Iterator[tuple[Variable, Counts]]:
        """Give each variable with its part of what `count` gave."""
        ends = list(accumulate(each.binning.size for each in self.variables))
        yield from zip(self.variables, np.split(counts, ends[:-1]), strict=True)

    def rows(self, counts: Counts) -> int:
        """How many records were counted: every variable is, in each."""
        return int(counts[: self.variables[0].binning.size].sum())

    def as_json(self) -> str:
        """Give the stored form, which `from_json` reads back."""
        return json.dumps([{**_plain(each), "binning": each.binning.as_dict()} for each in self.variables])


def _plain(variable: Variable) -> dict[str, Any]:
    return {name: getattr(variable, name) for name in ("role", "name", "output", "label")}


@lru_cache(maxsize=64)
def from_json(text: str) -> Layout:
    """Read the form that `Layout.as_json` gives."""
    return Layout(
        tuple(Variable(**{**item, "binning": Binning.from_dict(item["binning"])}) for item in json.loads(text))
    )


def packed(counts: Counts) -> bytes:
    """Give the stored form of an hour's counts."""
    return counts.astype(STORED).tobytes()


def unpacked(content: bytes) -> Counts:
    """Read what `packed` gave."""
    return np.frombuffer(content, dtype=STORED).astype(np.int64)


# --- Made from a reference ----------------------------------------------------------------------------------


def of(signature: Signature, records: Sequence[Record]) -> Layout:
    """Give the layout for a version whose reference, asked of the version itself, gives these records."""
    # What the log has not as it was sent cannot be compared.
    plain = [each for each in signature.features if each.log not in {"hash", "drop"}]
    inputs = [Variable("input", each.name, _of_feature(each, records)) for each in plain]
    outputs = [variable for output in signature.outputs for variable in _of_output(signature, output, records)]
    return Layout((*inputs, *outputs))


def _of_feature(feature: Feature, records: Sequence[Record]) -> Binning:
    values = [record["instance"].get(feature.name) for record in records]
    known = feature.allowed or feature.observed_values
    if feature.kind == "string":
        return bins.of_texts(values, known)
    if feature.kind == "boolean" or known is not None:
        return bins.of_categories(values, known or (False, True))
    return bins.of_numbers(values)


def _of_output(signature: Signature, output: Output, records: Sequence[Record]) -> Iterator[Variable]:
    within = output.name if signature.multi_output else None
    bare = Variable("prediction", output.name, bins.of_shares(), within)
    predicted = bare.values(records)
    if output.classes is None:
        yield Variable("prediction", output.name, bins.of_numbers(predicted), within)
        return
    yield Variable("prediction", output.name, bins.of_categories(predicted, output.classes), within)
    if signature.probabilities != "none":
        # Of two classes the probability of one says all; of more, how sure the answer is.
        label = str(output.classes[-1]) if len(output.classes) == TWO else None
        yield Variable("probability", output.name, bins.of_shares(), within, label)
