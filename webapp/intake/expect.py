"""Reads expected outputs, as `--expect` and packed files bring them, and compares what a model gives with them.

A CSV: the input columns, then `expected`, and one column `expected:CLASS` per class that has a probability. Several
outputs are told apart by their names: `expected.y0`, `expected.y0:CLASS`. docs/versions.md describes it for people.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pandas as pd

from webapp.errors import Invalid
from webapp.serving.predictor import Outcome
from webapp.signature import Feature, Row, Signature, Value

WORD = "expected"
# Labels are identical; numbers may differ by this share of their size, since libraries of other versions round
# differently, and by so much in all where they are next to nothing.
RELATIVE = 1e-9
ABSOLUTE = 1e-12
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True, slots=True)
class Expected:
    """Inputs as they stand in the file (None where a cell is empty), and what has to come out for each row.

    An outcome has the form of an answer, `{"prediction": …, "probabilities": {…}}`, with objects by output name where
    there are several outputs. Predictions are text as in the file: only the model tells a label from a number.
    """

    rows: pd.DataFrame
    outcomes: list[dict[str, Any]]
    # Where each row begins in the file.
    lines: tuple[int, ...]

    def rows_for(self, signature: Signature) -> list[Row]:
        """Give the rows as `signature` takes them, in the order of `outcomes`."""
        names = _columns_for(signature, list(self.rows.columns))
        # The one thing that is never missing is a text: what is empty is an empty one.
        rows = self.rows[names].fillna("") if signature.container == "text" else self.rows[names]
        cells = rows.itertuples(index=False, name=None)
        return [
            tuple(_value(feature, cell, line) for feature, cell in zip(signature.features, row, strict=True))
            for line, row in zip(self.lines, cells, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Difference:
    """One output that is not what was expected: the line, the column, and both values."""

    line: int
    column: str
    expected: str | float
    given: Any

    def __str__(self) -> str:
        """Say it to a person."""
        given = "the model has no such output" if self.given is None else f"the model gives {self.given}"
        return f"line {self.line}, column “{self.column}”: {self.expected} was expected, {given}"


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of outputs: which output it is of, and of which class the probability."""

    name: str
    position: int
    output: str | None
    label: str | None


def _unreadable(detail: str) -> Invalid:
    way_out = "Make the file with `modelport pack`, or see docs/versions.md for its form."
    return Invalid("expect_unreadable", f"The expected outputs: {detail}. {way_out}")


# --- Reading ----------------------------------------------------------------------------------------------


def read(file: IO[bytes]) -> Expected:
    """Read the CSV; raise `Invalid` that names line and column of what is wrong."""
    lines, cells = _table(file)
    header, body = cells[0], cells[1:]
    outputs = _output_columns(header)
    taken = {column.position for column in outputs}
    inputs = [position for position in range(len(header)) if position not in taken]
    if not inputs:
        raise _unreadable("line 1 names no input; the columns of the reference go before “expected”")
    frame = pd.DataFrame(
        {header[at]: pd.Series([row[at] or None for row in body], dtype=object) for at in inputs}, dtype=object
    )
    outcomes = [_outcome(outputs, row, line) for line, row in zip(lines[1:], body, strict=True)]
    return Expected(frame, outcomes, tuple(lines[1:]))


def _table(file: IO[bytes]) -> tuple[list[int], list[list[str]]]:
    """Give the header and the rows, all of one length, and the line that each begins at."""
    reader = csv.reader(codecs.iterdecode(file, "utf-8-sig"), strict=True)
    lines: list[int] = []
    cells: list[list[str]] = []
    try:
        for begins, row in _numbered(reader):
            if cells and len(row) != len(cells[0]):
                raise _unreadable(f"line {begins} has {len(row)} cells, the header {len(cells[0])}")
            lines.append(begins)
            cells.append(row)
    except csv.Error as error:
        raise _unreadable(f"line {reader.line_num} is no CSV ({error})") from None
    except UnicodeDecodeError:
        raise _unreadable(f"what follows line {reader.line_num} is not UTF-8") from None
    if len(cells) <= 1:
        raise _unreadable("the file is empty" if not cells else "there is a header, but no rows")
    return lines, cells


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:  # noqa: ANN401 - csv has no name for its reader
    """Give the rows that are not empty lines, with the line that each begins at: a text may go over several."""
    begins = 1
    for row in reader:
        if row:
            yield begins, row
        begins = reader.line_num + 1


def _output_columns(header: list[str]) -> list[_Column]:
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise _unreadable(f"line 1 has the column “{twice[0]}” twice")
    found = []
    for position, name in enumerate(header):
        head, colon, label = name.partition(":")
        word, dot, output = head.partition(".")
        if word == WORD:
            found.append(_Column(name, position, output if dot else None, label if colon else None))
    wanted = {column.output for column in found if column.label is None}
    if not wanted:
        raise _unreadable(f"line 1 has no column “{WORD}”; it has: {_some(header)}")
    if None in wanted and len(wanted) > 1:
        raise _unreadable(f"line 1 has “{WORD}” beside outputs with names; use one or the other")
    for column in found:
        if column.output not in wanted:
            raise _unreadable(f"line 1 has “{column.name}”, but not “{column.name.partition(':')[0]}”")
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")  # noqa: PLR2004 - what fits a sentence


def _outcome(columns: list[_Column], row: list[str], line: int) -> dict[str, Any]:
    predictions: dict[str | None, str] = {}
    probabilities: dict[str | None, dict[str, float]] = {}
    for column in columns:
        cell = row[column.position]
        if cell == "":
            raise _unreadable(f"line {line}, column “{column.name}” is empty")
        if column.label is None:
            predictions[column.output] = cell
        else:
            probabilities.setdefault(column.output, {})[column.label] = _probability(cell, line, column.name)
    if None in predictions:
        return {"prediction": predictions[None], "probabilities": probabilities.get(None, {})}
    return {"prediction": predictions, "probabilities": probabilities}


def _probability(cell: str, line: int, column: str) -> float:
    number = _number(cell)
    if number is None or not math.isfinite(number):
        raise _unreadable(f"line {line}, column “{column}” has “{cell}”, which is no number")
    return number


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


# --- As a signature takes them ----------------------------------------------------------------------------


def _columns_for(signature: Signature, columns: list[str]) -> list[str]:
    names = [feature.name for feature in signature.features]
    if signature.container == "text" and len(columns) == 1:
        return columns
    if missing := [name for name in names if name not in columns]:
        raise _unreadable(f"line 1 has no column for: {_some(missing)}; it has: {_some(columns)}")
    return names


def _value(feature: Feature, cell: str | None, line: int) -> Value:
    if cell is None:
        return None
    if feature.kind == "string":
        return cell
    number = TRUTH.get(cell.lower()) if feature.kind == "boolean" else _number(cell)
    if number is None:
        kind = "true or false" if feature.kind == "boolean" else "number"
        raise _unreadable(f"line {line}, column “{feature.name}” has “{cell}”, which is no {kind}")
    return None if math.isnan(number) else number


# --- Comparing --------------------------------------------------------------------------------------------


def differences(expected: Expected, outcomes: Sequence[Outcome]) -> list[Difference]:
    """Give the outputs that are not as expected, in the order of the file.

    `outcomes` are for `expected.rows_for(signature)`, in that order. Labels are identical, or they differ; numbers may
    differ by `RELATIVE` of their size.
    """
    return [
        difference
        for line, wanted, outcome in zip(expected.lines, expected.outcomes, outcomes, strict=True)
        for difference in _differing(line, wanted, outcome)
    ]


def _differing(line: int, wanted: dict[str, Any], outcome: Outcome) -> Iterator[Difference]:
    for column, cell, given in _pairs(wanted, outcome):
        same = _same_number(cell, given) if isinstance(cell, float) else _same(cell, given)
        if not same:
            yield Difference(line, column, cell, given)


def _pairs(wanted: dict[str, Any], outcome: Outcome) -> Iterator[tuple[str, str | float, Any]]:
    """Give, column by column, what was expected and what came."""
    if not isinstance(wanted["prediction"], dict):
        yield from _of_one(
            WORD, wanted["prediction"], wanted["probabilities"], outcome.prediction, outcome.probabilities
        )
        return
    for name, cell in wanted["prediction"].items():
        labels, tables = _member(outcome.prediction, name), _member(outcome.probabilities, name)
        yield from _of_one(f"{WORD}.{name}", cell, wanted["probabilities"].get(name, {}), labels, tables)


def _of_one(
    column: str,
    cell: str,
    table: dict[str, float],
    prediction: Any,  # noqa: ANN401 - a label or a number
    probabilities: Any,  # noqa: ANN401 - by class, if there are any
) -> Iterator[tuple[str, str | float, Any]]:
    yield column, cell, prediction
    yield from ((f"{column}:{label}", number, _member(probabilities, label)) for label, number in table.items())


def _member(found: Any, name: str) -> Any:  # noqa: ANN401 - what came
    return found.get(name) if isinstance(found, dict) else None


def _same(cell: str, given: Any) -> bool:  # noqa: ANN401 - what came
    if isinstance(given, bool):
        return TRUTH.get(cell.lower()) is given
    if isinstance(given, int):
        return cell == str(given) or _number(cell) == given
    if isinstance(given, float):
        return _same_number(_number(cell), given)
    return isinstance(given, str) and cell == given


def _same_number(wanted: float | None, given: Any) -> bool:  # noqa: ANN401 - what came
    if wanted is None or not isinstance(given, float | int):
        return False
    return math.isclose(wanted, given, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
