"""Computes one chunk: from its rows and a loaded version, the bytes of its results and of its lines in the log."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from webapp.batches import Form, reading
from webapp.batches.reading import Rows
from webapp.errors import Invalid, Problem
from webapp.predictions.spool import Origin, encode, record
from webapp.serving.loaded import Answer, LoadedVersion
from webapp.signature import refused
from webapp.signature.refused import Mark, Tally


@dataclass(frozen=True, slots=True)
class Task:
    """A chunk to be computed, apart from its rows: plain values, which can be sent elsewhere."""

    job_id: str
    key_id: str
    # `batch`, or `test` for a test key's; None where nothing is logged.
    source: str | None
    form: Form
    first_row: int


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of a chunk."""

    # A line of JSON for each row.
    results: bytes
    row_count: int
    failed_rows: int
    # Lines of the spool, for the rows that were answered.
    logged: bytes
    # Why the others were not; of a batch whose rows are logged as predictions of a caller.
    refused: Tally = field(default_factory=Tally)


def compute(loaded: LoadedVersion, task: Task, content: bytes) -> Computed:
    """Answer every row of a chunk, or say why it cannot be."""
    rows = reading.read(task.form, loaded.signature, content)
    outcomes = _outcomes(task, rows, loaded)
    lines = [line(_result(outcome, given)) for outcome, given in zip(outcomes, rows.ids, strict=True)]
    failed = sum(isinstance(outcome, Invalid) for outcome in outcomes)
    logged, tally = _logged(task, rows, loaded, outcomes), _refused(task, loaded, outcomes)
    return Computed(b"".join(lines), len(lines), failed, logged, tally)


def _logged(task: Task, rows: Rows, loaded: LoadedVersion, outcomes: Sequence[Answer | Invalid]) -> bytes:
    if task.source is None:
        return b""
    origin = Origin(time.time(), task.key_id, task.job_id, task.source, latency_seconds=0.0)
    return b"".join(
        encode(record(origin, loaded, outcome, given))
        for outcome, given in zip(outcomes, rows.ids, strict=True)
        if isinstance(outcome, Answer)
    )


def _refused(task: Task, loaded: LoadedVersion, outcomes: Sequence[Answer | Invalid]) -> Tally:
    if task.source != "batch":
        return Tally()
    found: set[Mark] = set()
    for number, outcome in enumerate(outcomes, task.first_row):
        if isinstance(outcome, Invalid):
            found |= refused.marks(outcome, [f"/instances/{number}"], loaded.checker.names)
    return refused.tally(sum(isinstance(each, Invalid) for each in outcomes), found)


def _outcomes(task: Task, rows: Rows, loaded: LoadedVersion) -> list[Answer | Invalid]:
    """Give an outcome for every row: an answer, or why it cannot have one.

    Rows that are not acceptable are found by one attempt at all of them; the others are then answered together.
    """
    outcomes: dict[int, Answer | Invalid] = {**rows.refused}
    waiting = [row for row in range(len(rows.instances)) if row not in outcomes]
    while waiting:
        try:
            answers = _predicted(task, rows, loaded, waiting)
        except Invalid as invalid:
            refused = _refused_rows(task, invalid) or _refused_alone(task, rows, loaded, waiting)
            # A refusal that names no row that waits is a refusal of all of them.
            outcomes |= refused if refused.keys() & set(waiting) else dict.fromkeys(waiting, invalid)
            waiting = [row for row in waiting if row not in outcomes]
        else:
            outcomes |= dict(zip(waiting, answers, strict=True))
            waiting = []
    return [outcomes[row] for row in range(len(rows.instances))]


def _predicted(task: Task, rows: Rows, loaded: LoadedVersion, waiting: Sequence[int]) -> list[Answer]:
    numbers = [task.first_row + row for row in waiting]
    return loaded.predict(
        [rows.instances[row] for row in waiting],
        [f"/instances/{number}" for number in numbers],
        [f"{task.job_id}-{number}" for number in numbers],
    )


def _refused_rows(task: Task, invalid: Invalid) -> dict[int, Invalid]:
    """Sort the problems of many rows by row."""
    by_row: dict[int, list[Problem]] = {}
    for problem in invalid.problems:
        number = int(problem.pointer.split("/")[2])
        by_row.setdefault(number - task.first_row, []).append(problem)
    return {row: Invalid(invalid.code, invalid.detail, problems=tuple(found)) for row, found in by_row.items()}


def _refused_alone(task: Task, rows: Rows, loaded: LoadedVersion, waiting: Sequence[int]) -> dict[int, Invalid]:
    """Find by single attempts the rows of a refusal that names none."""
    refused = {}
    for row in waiting:
        try:
            _predicted(task, rows, loaded, [row])
        except Invalid as invalid:
            refused[row] = invalid
    return refused


def _result(outcome: Answer | Invalid, given: str | None) -> dict[str, Any]:
    named: dict[str, Any] = {} if given is None else {"id": given}
    if isinstance(outcome, Answer):
        return named | outcome.document
    problems = [{"pointer": each.pointer, "code": each.code, "message": each.message} for each in outcome.problems]
    return named | {"error": {"code": outcome.code, "detail": outcome.detail, "errors": problems}}


def line(result: dict[str, Any]) -> bytes:
    """Write a result as a line of JSON."""
    try:
        return orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # A class may be called by half of a surrogate pair, which UTF-8 cannot say and JSON can.
        return json.dumps(result, separators=(",", ":")).encode() + b"\n"
