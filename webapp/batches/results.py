"""Gives the results of a completed job, chunk by chunk: as lines of JSON, or as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

from webapp.batches import computing, results_name
from webapp.batches.cutting import ID
from webapp.jobs import Done
from webapp.storage import Storage

# The forms in which results are given, and what HTTP calls each.
MIMETYPES = {"jsonl": "application/jsonl", "csv": "text/csv"}
# So many rows of a table are written at a time.
PIECE_ROWS = 1000


def written(storage: Storage, job_id: str, chunks: Sequence[Done], form: str) -> Iterator[bytes]:
    """Give all results in one of the forms, piece by piece."""
    return pieces(storage, job_id, chunks) if form == "jsonl" else _table(storage, job_id, chunks)


def pieces(storage: Storage, job_id: str, chunks: Iterable[Done]) -> Iterator[bytes]:
    """Give the lines of each chunk, in the order of the request."""
    for chunk in chunks:
        if chunk.results is None:
            yield storage.get(results_name(job_id, chunk.number, chunk.attempt))
        else:
            yield b"".join(map(computing.line, chunk.results))


def rows(storage: Storage, job_id: str, chunks: Sequence[Done]) -> Iterator[dict[str, Any]]:
    """Give the result of each row."""
    for piece in pieces(storage, job_id, chunks):
        yield from map(_read, piece.splitlines())


def _read(line: bytes) -> Any:  # noqa: ANN401 - as it was written
    try:
        return orjson.loads(line)
    except ValueError:
        # It holds half of a surrogate pair, which only Python's own way takes.
        return json.loads(line)


# --- As a table ---------------------------------------------------------------------------------------------


def _table(storage: Storage, job_id: str, chunks: Sequence[Done]) -> Iterator[bytes]:
    """Give a line for each row; one that could not be answered says why in its last column."""
    # The columns are those of the first row that was answered, which may be a late one.
    answered = (row for row in rows(storage, job_id, chunks) if "error" not in row)
    names = list(dict.fromkeys([ID, *dict(cells(next(answered, {}))), "warnings", "error"]))
    yield _lines(names, [dict(zip(names, names, strict=True))])
    every = rows(storage, job_id, chunks)
    while piece := list(islice(every, PIECE_ROWS)):
        yield _lines(names, [_cells(row) for row in piece])


def _lines(names: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, names, restval="").writerows(lines)
    return text.getvalue().encode()


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    if "error" not in row:
        return dict(cells(row))
    error = row["error"]
    places = [f"{each['pointer']}: {each['message']}" for each in error["errors"]]
    return {ID: row.get(ID, ""), "error": "; ".join(places) or error["detail"]}


def cells(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give a row's cells by their column; what has names of its own, such as probabilities, has a column for each."""
    for name, value in row.items():
        if name == "warnings":
            yield name, "; ".join(f"{each['feature']}: {each['code']}" for each in value)
        elif isinstance(value, dict):
            yield from ((f"{name}_{inner}", cell) for inner, cell in cells(value))
        else:
            yield name, value
