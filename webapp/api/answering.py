"""How predictions are answered: one as an object, many as a list or as a table, large ones piece by piece."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson
from flask import Response, request

from webapp.api.asking import ID, Asked
from webapp.batches.results import cells
from webapp.serving.loaded import Answer, LoadedVersion

# So many rows are written at a time: what waits for a slow client is a piece, not the answer to a whole table.
PIECE_ROWS = 1000
JSON = "application/json"
CSV = "text/csv"
# What all rows of an answer have in common.
_COMMON = ("model", "model_version")


def response(loaded: LoadedVersion, asked: Asked, answers: Sequence[Answer]) -> Response:
    """Give the answer in the form that the request wants."""
    if asked.single:
        made = Response(_json(answers[0].document), mimetype=JSON)
    else:
        rows = (_row(answer, given) for answer, given in zip(answers, asked.ids, strict=True))
        if _wants_table():
            pieces, mimetype = _table(rows), CSV
        else:
            pieces, mimetype = _list(loaded, rows), JSON
        # An answer of one piece states its length.
        made = Response(pieces if len(answers) > PIECE_ROWS else b"".join(pieces), mimetype=mimetype)
    made.headers["X-Model-Version"] = loaded.version.shown
    if loaded.cache is not None:
        made.headers["X-Cache"] = "hit" if all(answer.cached for answer in answers) else "miss"
    return made


def _wants_table() -> bool:
    return "HTTP_ACCEPT" in request.environ and request.accept_mimetypes.best_match((JSON, CSV)) == CSV


def _row(answer: Answer, given: str | None) -> dict[str, Any]:
    """Leave out what all rows have in common, and give the caller's own id back."""
    own = {name: value for name, value in answer.document.items() if name not in _COMMON}
    return own if given is None else {ID: given, **own}


def _list(loaded: LoadedVersion, rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    head = _json({"model": loaded.version.model, "model_version": loaded.version.shown})
    before = head[:-1] + b',"predictions":['
    for piece in _pieces(rows):
        yield before + _json(piece)[1:-1]
        before = b","
    yield b"]}"


def _table(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    names: list[str] | None = None
    for piece in _pieces(rows):
        lines = [dict(cells(row)) for row in piece]
        text = io.StringIO()
        if names is None:
            names = [*lines[0]] if "warnings" in lines[0] else [*lines[0], "warnings"]
            csv.writer(text).writerow(names)
        csv.DictWriter(text, names, restval="").writerows(lines)
        yield text.getvalue().encode()


def _json(document: object) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:
        # A class may be called by half of a surrogate pair, which UTF-8 cannot say and JSON can.
        return json.dumps(document, separators=(",", ":")).encode()


def _pieces(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    remaining = iter(rows)
    while piece := list(islice(remaining, PIECE_ROWS)):
        yield piece
