"""Files of the log: what was searched, with what turned out to be true, as JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from webapp import parquet
from webapp.db import Database, now
from webapp.errors import Invalid
from webapp.parquet import Kind
from webapp.predictions import log, search, truth
from webapp.predictions.search import Wanted

# The forms, and what HTTP calls each.
MIMETYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson; charset=utf-8",
    "parquet": parquet.MIMETYPE,
}
# So many rows are read in one transaction.
PIECE_ROWS = 500
# What a spreadsheet would take for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = (
    "prediction_id",
    "id",
    "at",
    "model",
    "version",
    "model_version",
    "key_id",
    "source",
    "prediction",
    "probability",
    "outcome",
    "observed_at",
    "latency_seconds",
    "warnings",
    "instance",
)

Line = dict[str, Any]


def require(form: str) -> None:
    """Refuse a form that cannot be written here, with the way out."""
    if form not in MIMETYPES:
        raise Invalid("form_unknown", f"The form is one of {', '.join(MIMETYPES)}.")
    if form == "parquet":
        parquet.require()


def lines(database: Database, wanted: Wanted, most: int | None = None) -> Iterator[Line]:
    """Give what is wanted, the newest first, at most so many; the log is never held up by who reads slowly."""
    # What comes in meanwhile stays out: it ends where it began.
    wanted = replace(wanted, until=wanted.until or now())
    place, left = None, most
    while left is None or left > 0:
        # A transaction per piece, ended before it is sent: a slow reader must not hold up those who write.
        with database.reading() as session:
            size = PIECE_ROWS if left is None else min(PIECE_ROWS, left)
            piece = search.search(session, wanted, size=size, before=place)
            told = truth.known(session, [row.id for row in piece.rows])
        for row in piece.rows:
            yield _line(row, told.get(row.id))
        left, place = left if left is None else left - len(piece.rows), piece.older
        if place is None:
            return


def _line(row: log.Prediction, outcome: truth.Outcome | None) -> Line:
    known = truth.describe(outcome) if outcome else {"outcome": None, "observed_at": None}
    return {**log.describe(row), "version": row.version, "key_id": row.key_id, **known}


def written(found: Iterable[Line], form: str) -> Iterator[bytes]:
    """Write lines in one of the forms, piece by piece."""
    ways: Mapping[str, Callable[[Iterable[Line]], Iterator[bytes]]] = {
        "csv": _csv,
        "jsonl": _jsonl,
        "parquet": _parquet,
    }
    require(form)
    return ways[form](found)


def _jsonl(found: Iterable[Line]) -> Iterator[bytes]:
    for line in found:
        # Half of a surrogate pair, which UTF-8 cannot say, is written as JSON can.
        yield json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


# --- As a table ---------------------------------------------------------------------------------------------


def _csv(found: Iterable[Line]) -> Iterator[bytes]:
    yield _joined(COLUMNS)
    for line in found:
        yield _joined(_cell(_plain(line[name])) for name in COLUMNS)


def _joined(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _cell(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Write texts so that no spreadsheet takes one for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


# What is no text in a Parquet file.
_KINDS: Mapping[str, Kind] = {
    "at": "moment",
    "observed_at": "moment",
    "version": "whole",
    "probability": "number",
    "latency_seconds": "number",
}


def _parquet(found: Iterable[Line]) -> Iterator[bytes]:
    kinds = {name: _KINDS.get(name, "text") for name in COLUMNS}
    return parquet.written(kinds, ([_typed(name, line[name]) for name in COLUMNS] for line in found))


def _typed(name: str, value: Any) -> Any:  # noqa: ANN401 - as its column has it
    if name in {"at", "observed_at"}:
        return value and datetime.fromisoformat(value)
    if name == "probability":
        # Of several outputs there is no one probability.
        return value if isinstance(value, float) else None
    if name in {"version", "latency_seconds"} or value is None:
        return value
    # Classes may be texts or numbers, and a file has one kind of them.
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
