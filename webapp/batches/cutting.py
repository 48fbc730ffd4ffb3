"""Cuts the rows of a batch into chunks while they come: as the text that they are, of which a piece is in memory."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from webapp.errors import Invalid, Malformed, Problem, member
from webapp.signature import Signature

CHUNK_ROWS = 5000
# Where rows are long, a chunk has fewer.
CHUNK_BYTES = 4 * 1024 * 1024
MOST_ROW_BYTES = 8 * 1024 * 1024
BLOCK_BYTES = 256 * 1024
# The column of a table, and the entry of an object, that holds the caller's own ids, unless it is a feature.
ID = "id"
BOM = b"\xef\xbb\xbf"
_ENDS = b"\r\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of one chunk, in the form of their job."""

    row_count: int
    content: bytes


class _Lines:
    """The lines of a body, each with its end."""

    def __init__(self, body: IO[bytes]) -> None:
        self._body = body
        self._lines: Iterator[bytes] = iter(())
        # How many were given.
        self.number = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = next(self._lines, b"")
        if not line:
            self._lines = iter(self._read())
            line = next(self._lines)
        self.number += 1
        return line

    def some(self) -> list[bytes]:
        """Give what is left of the lines that were read together, or the next ones; nothing at the end."""
        lines = list(self._lines) or self._read()
        self._lines = iter(())
        self.number += len(lines)
        return lines

    def _read(self) -> list[bytes]:
        block = self._body.read(BLOCK_BYTES)
        if block and not block.endswith(b"\n"):
            rest = self._body.readline(MOST_ROW_BYTES)
            if len(rest) == MOST_ROW_BYTES:
                line = self.number + block.count(b"\n") + 1
                raise Malformed("row_too_long", f"Line {line} has more than {MOST_ROW_BYTES} bytes.")
            block += rest
        return io.BytesIO(block).readlines()


def table(signature: Signature, body: IO[bytes]) -> Iterator[Piece]:
    """Cut CSV (RFC 4180) with a line of names, which each chunk begins with; raise where it is no table of the model's.

    What is wrong with single rows is found when they are computed.
    """
    lines = _Lines(body)
    head = next(lines, b"").removeprefix(BOM)
    head = (_quoted(head, lines, 1) if head.count(b'"') % 2 else head).rstrip(_ENDS)
    check_names(signature, _names(head))
    return _pieces(_rows(lines), head + b"\n")


def objects(body: IO[bytes]) -> Iterator[Piece]:
    """Cut JSON lines: an object on each."""
    lines = _Lines(body)
    first = lines.some()
    if first:
        first[0] = first[0].removeprefix(BOM)
        if not first[0].lstrip().startswith(b"{"):
            detail = "Line 1 is no JSON object; send one object per line, or a table with a line of names as text/csv."
            raise Malformed("jsonl_malformed", detail)
    return _pieces(itertools.chain([first], iter(lines.some, [])), b"")


def instances(given: Sequence[Any], ids: Sequence[str | None]) -> Iterator[Piece]:
    """Cut what a JSON body held."""
    for first in range(0, len(given), CHUNK_ROWS):
        some = given[first : first + CHUNK_ROWS]
        document = {"instances": some, "ids": ids[first : first + CHUNK_ROWS]}
        yield Piece(len(some), json.dumps(document).encode())


def _rows(lines: _Lines) -> Iterator[list[bytes]]:
    """Give the text of the rows of a table, many at a time."""
    while some := lines.some():
        if _are_rows(some):
            yield some
        else:
            yield list(_each(some, lines))


def _are_rows(lines: Sequence[bytes]) -> bool:
    """Whether each line is a row by itself, as is plain where nothing is quoted."""
    text = b"".join(lines)
    whole = b'"' not in text and text.count(b"\r") == text.count(b"\r\n")
    return whole and max(map(len, lines)) <= csv.field_size_limit()


def _each(some: Sequence[bytes], lines: _Lines) -> Iterator[bytes]:
    first = lines.number - len(some) + 1
    following = iter(enumerate(some, first))
    for number, line in following:
        yield _quoted(line, itertools.chain((each for _, each in following), lines), number)


def _quoted(line: bytes, following: Iterable[bytes], number: int) -> bytes:
    """Give the text of a row that goes on as long as a quoted cell does."""
    taken: list[bytes] = []

    def texts() -> Iterator[str]:
        size = 0
        for each in itertools.chain([line], following):
            taken.append(each)
            size += len(each)
            if size > MOST_ROW_BYTES:
                raise Malformed("row_too_long", f"The row at line {number} has more than {MOST_ROW_BYTES} bytes.")
            yield each.decode(errors="replace")

    try:
        next(csv.reader(texts(), strict=True))
    except csv.Error as error:
        raise Malformed("csv_malformed", f"The row at line {number} is not CSV: {error}.") from None
    return b"".join(taken)


def _names(head: bytes) -> list[str]:
    try:
        names = next(csv.reader(io.StringIO(head.decode(), newline=""), strict=True), [])
    except UnicodeDecodeError:
        raise Malformed("batch_not_utf8", "The first line is not UTF-8; save the table as UTF-8.") from None
    except csv.Error as error:
        raise Malformed("csv_malformed", f"The first line is not CSV: {error}.") from None
    if b"\0" in head:
        # UTF-16 without a mark is UTF-8, too, full of NULs.
        raise Malformed("batch_not_utf8", "The first line holds the character NUL; save the table as UTF-8.")
    if not names:
        raise Malformed("csv_empty", "The body has no line of names; the first line names the columns.")
    return names


def check_names(signature: Signature, names: Sequence[str]) -> None:
    """Refuse a table none of whose rows could be answered."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise Malformed("csv_duplicate_name", f"The column “{twice[0][:100]}” stands twice in the first line.")
    features = {feature.name: feature for feature in signature.features}
    problems = [
        Problem(member("", name[:100]), "unknown_field", "The model has no feature of this name.")
        for name in names
        if name not in features and name != ID
    ]
    problems += [
        Problem(member("", name), "required", "The table has no column for this feature.")
        for name, feature in features.items()
        if name not in names and feature.default is None
    ]
    if not problems and not features.keys() & set(names):
        problems = [Problem("", "empty", "The table has no column beside its ids.")]
    if problems:
        listed = ", ".join(list(features)[:20]) + (", …" if len(features) > 20 else "")  # noqa: PLR2004 - enough to see
        detail = f"The columns are not the model's features: {listed}."
        raise Invalid("columns_not_the_models", detail, problems=tuple(problems))


def _pieces(rows: Iterable[list[bytes]], head: bytes) -> Iterator[Piece]:
    """Put rows together to chunks."""
    taken: list[bytes] = []
    given = 0
    for some in _without_end(rows):
        taken += some
        while len(taken) >= CHUNK_ROWS or sum(map(len, taken)) >= CHUNK_BYTES:
            yield _piece(taken[:CHUNK_ROWS], head, given)
            given += len(taken[:CHUNK_ROWS])
            del taken[:CHUNK_ROWS]
    if taken:
        yield _piece(taken, head, given)
    elif not given:
        problem = Problem("", "empty", "At least one row is needed.")
        raise Invalid("no_instances", problem.message, problems=(problem,))


def _without_end(rows: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
    """Leave out empty lines at the end, which are no rows."""
    empty = 0
    for some in rows:
        end = len(some)
        while end and not some[end - 1].strip(_ENDS):
            end -= 1
        if end:
            while empty:
                yield [b"\n"] * min(empty, CHUNK_ROWS)
                empty -= min(empty, CHUNK_ROWS)
            yield some[:end]
        empty += len(some) - end


def _piece(rows: Sequence[bytes], head: bytes, before: int) -> Piece:
    content = b"".join(rows)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        ends = itertools.accumulate(map(len, rows))
        row = before + 1 + next(position for position, end in enumerate(ends) if end > error.start)
        raise Malformed("batch_not_utf8", f"Row {row} is not UTF-8; save the file as UTF-8.") from None
    return Piece(len(rows), head + content)
