"""Gives the results of a completed job, chunk by chunk: as lines of JSON, as a table, or as Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

from webapp import parquet
from webapp.batches import computing, results_name
from webapp.batches.cutting import ID
from webapp.errors import Invalid
from webapp.jobs import Done
from webapp.parquet import Kind
from webapp.storage import Storage

# The forms in which results are given, and what HTTP calls each.
MIMETYPES = {"jsonl": "application/jsonl", "csv": "text/csv", "parquet": parquet.MIMETYPE}
# So many rows of a table are written at a time.
PIECE_ROWS = 1000


def require(form: str) -> None:
    """Refuse a form that results are not given in here, with the way out."""
    if form not in MIMETYPES:
        raise Invalid("unknown_format", "Results are given as jsonl, csv or parquet: ?format=csv.")
    if form == "parquet":
        parquet.require()


def written(storage: Storage, job_id: str, chunks: Sequence[Done], form: str) -> Iterator[bytes]:
    """Give all results in one of the forms, piece by piece."""
    require(form)
    if form == "jsonl":
        return pieces(storage, job_id, chunks)
    return _table(storage, job_id, chunks) if form == "csv" else _parquet(storage, job_id, chunks)


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
    names = list(_columns(storage, job_id, chunks))
    yield _lines(names, [dict(zip(names, names, strict=True))])
    every = rows(storage, job_id, chunks)
    while piece := list(islice(every, PIECE_ROWS)):
        yield _lines(names, [_cells(row) for row in piece])


def _columns(storage: Storage, job_id: str, chunks: Sequence[Done]) -> dict[str, Any]:
    """Give the names of the columns, each with a cell that shows what it holds."""
    # They are those of the first row that was answered, which may be a late one.
    answered = (row for row in rows(storage, job_id, chunks) if "error" not in row)
    return {ID: "", **dict(cells(next(answered, {}))), "warnings": "", "error": ""}


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


# --- As Parquet ---------------------------------------------------------------------------------------------

_KINDS: Mapping[type, Kind] = {bool: "truth", int: "whole", float: "number"}


def _parquet(storage: Storage, job_id: str, chunks: Sequence[Done]) -> Iterator[bytes]:
    """Give the same columns; numbers are numbers, and a cell of which a row has nothing is null."""
    shown = _columns(storage, job_id, chunks)
    kinds: dict[str, Kind] = {name: _KINDS.get(type(cell), "text") for name, cell in shown.items()}
    every = map(_cells, rows(storage, job_id, chunks))
    return parquet.written(kinds, ([_typed(kind, row.get(name)) for name, kind in kinds.items()] for row in every))


def _typed(kind: Kind, cell: Any) -> Any:  # noqa: ANN401 - as its column has it
    if cell is None or cell == "":
        return None
    return json.dumps(cell) if kind == "text" and not isinstance(cell, str) else cell
