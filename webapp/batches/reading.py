"""Reads the rows of a chunk: what the check takes, the caller's own ids, and the rows that cannot be read."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from webapp.batches import Form
from webapp.batches.cutting import ID
from webapp.errors import Invalid
from webapp.signature import Signature, cells

MOST_ID_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a chunk, in their order."""

    instances: list[Any]
    ids: list[str | None]
    # Rows that are none, and why; something stands in their place.
    refused: dict[int, Invalid] = field(default_factory=dict)


def read(form: Form, signature: Signature, content: bytes) -> Rows:
    """Read a chunk in the form of its job."""
    return FORMS[form](signature, content)


def _table(signature: Signature, content: bytes) -> Rows:
    names, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    refused: dict[int, Invalid] = {}
    if set(map(len, rows)) != {len(names)}:
        for position, row in enumerate(rows):
            if len(row) != len(names):
                detail = f"The row has {len(row)} cells; the first line names {len(names)} columns."
                refused[position] = Invalid("csv_malformed", detail)
                rows[position] = [""] * len(names)
    columns: dict[str, Sequence[str]] = dict(zip(names, zip(*rows, strict=True), strict=True))
    ids: list[str | None] = [*columns.pop(ID)] if _has_ids(signature, columns) else [None] * len(rows)
    for position, given in enumerate(ids):
        if given and not _is_usable(given):
            ids[position], refused[position] = None, _unusable_id()
    return Rows(cells.instances(signature, columns), ids, refused)


def _has_ids(signature: Signature, names: Mapping[str, object]) -> bool:
    return ID in names and all(feature.name != ID for feature in signature.features)


def _is_usable(given: str) -> bool:
    return len(given) <= MOST_ID_CHARACTERS and "\0" not in given


def _unusable_id() -> Invalid:
    return Invalid("ids_unusable", f"“{ID}” is a string of up to {MOST_ID_CHARACTERS} characters.")


def _lines(signature: Signature, content: bytes) -> Rows:
    named = all(feature.name != ID for feature in signature.features)
    rows = Rows([], [])
    for position, line in enumerate(content.removesuffix(b"\n").split(b"\n")):
        instance, given = None, None
        try:
            instance = _document(line)
            if named and isinstance(instance, dict):
                given = _taken_id(instance)
        except Invalid as invalid:
            rows.refused[position] = invalid
        rows.instances.append(instance)
        rows.ids.append(given)
    return rows


def _taken_id(instance: dict[str, Any]) -> str | None:
    given = instance.pop(ID, None)
    if given is None or (isinstance(given, str) and _is_usable(given)):
        return given
    raise _unusable_id()


def _document(line: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Read one line, strictly: no name may stand twice."""
    try:
        document = orjson.loads(line)
        # As many colons as names: none stands twice, and no string holds one.
        if type(document) is not dict or len(document) != line.count(b":"):
            json.loads(line, object_pairs_hook=_check_unique)
    except (ValueError, RecursionError) as error:
        raise Invalid("json_malformed", f"The line is not JSON: {error}.") from None
    return document


def _check_unique(pairs: list[tuple[str, Any]]) -> None:
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"the name {twice[0][:100]!a} stands twice in one object")


def _body(_signature: Signature, content: bytes) -> Rows:
    """Read what a JSON body held, which was checked when it came."""
    document = json.loads(content)
    return Rows(document["instances"], document["ids"])


FORMS: Mapping[Form, Callable[[Signature, bytes], Rows]] = {"csv": _table, "jsonl": _lines, "json": _body}
