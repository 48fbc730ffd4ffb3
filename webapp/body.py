"""Request bodies: read within their limits, and as JSON so strictly that nothing is left to interpretation."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import flask
import numpy as np
import orjson
from flask import current_app, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge, UnsupportedMediaType

from webapp.errors import Invalid, Malformed, Problem, TooLarge

# Far more than any instance needs, far less than Python's own readers and writers of JSON can take.
MOST_LEVELS = 100
# A sign and the digits of the largest number that a float can hold.
MOST_INTEGER_CHARACTERS = 310
# What a form holds beside its files.
FORM_BYTES = 1024 * 1024
MOST_NAME_CHARACTERS = 100
# Smaller files stay in memory until they are saved.
SMALL_FILE_BYTES = 500 * 1024
_NUL = re.compile(r"(?<!\\)(?:\\\\)*(\\u0000)")
# Where a request keeps its body: it can be read from the connection only once.
_KEPT = "modelport.body"

# How an integer begins that orjson may read as a float: something that can stand before a number, and 19 digits.
_MANY_DIGITS = 19
_BEFORE_A_NUMBER = b" \t\r\n[,:-"
_OUTLINE = bytes.maketrans(b"0123456789" + _BEFORE_A_NUMBER, b"0" * 10 + b":" * len(_BEFORE_A_NUMBER))
_LONG_INTEGER = b":" + b"0" * _MANY_DIGITS
# From this size on NumPy is faster at looking at bytes.
_LARGE_BYTES = 8192


class Request(flask.Request):
    """A request whose files arrive where uploads wait: that disk has a quota, the system's `/tmp` may be memory."""

    def _get_file_stream(self, *_about: object, **_more: object) -> IO[bytes]:
        return cast("IO[bytes]", tempfile.SpooledTemporaryFile(SMALL_FILE_BYTES, dir=_files_folder()))


def _files_folder() -> str:
    folder = Path(current_app.config["FILES_FOLDER"])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(folder)


def read_json() -> Any:  # noqa: ANN401 - any JSON value
    """Read the body as JSON (RFC 8259, and I-JSON where that is silent); raise `Malformed` naming the place.

    What the body is called (Content-Type) does not matter: clients say anything.
    """
    return _document(_body())


def _document(content: bytes) -> Any:  # noqa: ANN401 - any JSON value
    document = _read_quickly(content)
    return _read_strictly(content) if document is None else document


def _read_quickly(content: bytes) -> dict[str, Any] | None:
    """Read an object by orjson; None where `_read_strictly` might say something else, of which it then decides.

    orjson refuses what is no JSON, and numbers beyond the range of floats. But of a name that stands twice it keeps
    the last value, an integer of more than 64 bits it reads as a float, and it takes the character NUL.
    """
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    if type(document) is not dict:
        return None
    # Looked for in two steps: a single byte is found much faster.
    escaped = b"\\" in content and b"\\u" in content
    if escaped and b"\\u0000" in content:
        return None
    colons, brackets, long_integer = _outline(content)
    names, siblings = _names(document)
    if long_integer or (colons != names and (escaped or colons != _colons(document))):
        return None
    # Siblings lie beside each other: no path from the outside to the inside crosses two of them.
    if brackets - siblings > MOST_LEVELS:
        _refuse_depth(document)
    return document


def _outline(content: bytes) -> tuple[int, int, bool]:
    """Give how many colons and opening brackets there are, and whether there may be an integer of many digits."""
    if len(content) < _LARGE_BYTES:
        brackets = content.count(b"{") + content.count(b"[")
        return content.count(b":"), brackets, _LONG_INTEGER in content.translate(_OUTLINE)
    codes = np.frombuffer(content, np.uint8)
    # One bit is the difference between the two kinds of brackets.
    brackets = int(np.count_nonzero((codes | 0x20) == ord("{")))
    return int(np.count_nonzero(codes == ord(":"))), brackets, _has_long_integer(codes)


def _has_long_integer(codes: Any) -> bool:  # noqa: ANN401 - an array
    run = digits = codes - np.uint8(ord("0")) < 10  # noqa: PLR2004 - smaller codes have become large ones
    for further in (1, 2, 4, 8, _MANY_DIGITS - 16):
        run = run[:-further] & run[further:]
    starts = np.flatnonzero(run[1:] & ~digits[: len(run) - 1])
    # What comes after a point is the rest of a float, as Python writes small ones.
    return bool(np.isin(codes[starts], np.frombuffer(_BEFORE_A_NUMBER, np.uint8)).any())


def _names(document: dict[str, Any]) -> tuple[int, int]:
    """Count the names of an object and of its instances, and the instances beside the first."""
    instances = document.get("instances")
    if type(instances) is list and set(map(type, instances)) == {dict}:
        return len(document) + sum(map(len, instances)), len(instances) - 1
    return len(document), 0


def _colons(document: object) -> int:
    """Count the colons that a document without escapes has when it is written."""
    count, waiting = 0, [document]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            count += each.count(":")
        elif isinstance(each, dict):
            count += len(each)
            waiting += each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return count


def _read_strictly(content: bytes) -> Any:  # noqa: ANN401 - any JSON value
    text = _text(content)
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_float=_float, parse_int=_integer, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        raise Malformed("json_malformed", f"The body is not JSON: {error.msg} at {_place(error)}.") from None
    except RecursionError:
        raise _too_deep() from None
    # Counted first: most bodies have fewer brackets than they may have levels.
    if text.count("[") + text.count("{") > MOST_LEVELS:
        _refuse_depth(document)
    if "\\u" in text:
        _refuse_characters(text, document)
    return document


def _body() -> bytes:
    environ = request.environ
    kept: bytes | None = environ.get(_KEPT)
    if kept is not None:
        return kept
    _refuse_compressed(environ)
    most = current_app.config["MAX_CONTENT_LENGTH"]
    content = environ[_KEPT] = _stated(environ, most) or _read(most)
    return content


def _refuse_compressed(environ: dict[str, Any]) -> None:
    if environ.get("HTTP_CONTENT_ENCODING", "").lower() not in {"", "identity"}:
        raise UnsupportedMediaType("The body is compressed; send it as it is, without Content-Encoding.")


def _stated(environ: dict[str, Any], most: int) -> bytes:
    """Read a body whose length is stated and acceptable, as most are, or nothing."""
    length = environ.get("CONTENT_LENGTH") or ""
    if not (length.isascii() and length.isdigit()) or "HTTP_TRANSFER_ENCODING" in environ or int(length) > most:
        return b""
    try:
        content: bytes = environ["wsgi.input"].read(int(length))
    except OSError:
        raise _incomplete() from None
    # The first half of a table is a table, too.
    if len(content) < int(length):
        raise _incomplete()
    return content


def _read(most: int) -> bytes:
    # One more than may come: of a body in chunks, which states no length, no more than this is read.
    request.max_content_length = most + 1
    with _coming(most):
        content = request.get_data()
    if len(content) > most:
        raise _too_large(most)
    return content


def _incomplete() -> Malformed:
    return Malformed("body_incomplete", "The connection ended before the body did.")


def _too_large(most: int) -> TooLarge:
    return TooLarge("body_too_large", f"The body may have at most {most} bytes.")


def _text(content: bytes, form: str = "json") -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed(f"{form}_not_utf8", f"The body is not UTF-8 (byte {error.start}).") from None
    if "\0" in text[:2]:
        # UTF-16 and UTF-32 without a mark are UTF-8 too, full of NULs.
        raise Malformed(f"{form}_not_utf8", f"The body is not UTF-8 (byte {content.index(0)}).")
    return text


def _place(error: json.JSONDecodeError) -> str:
    return f"line {error.lineno}, column {error.colno}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        # Not checked yet: half of a surrogate pair could not be written into the answer.
        shown = twice[:100].encode(errors="backslashreplace").decode()
        raise Malformed("json_duplicate_name", f"The name “{shown}” stands twice in one object.")
    return document


def _float(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise _out_of_range(literal)
    return number


def _integer(literal: str) -> int:
    if len(literal) > MOST_INTEGER_CHARACTERS:
        raise _out_of_range(literal)
    return int(literal)


def _out_of_range(literal: str) -> Malformed:
    shown = literal if len(literal) <= 40 else f"{literal[:40]}…"  # noqa: PLR2004 - enough to find it
    return Malformed("json_number_out_of_range", f"{shown} is beyond the range of numbers (about ±1.8e308).")


def _no_constant(literal: str) -> NoReturn:
    raise Malformed("json_malformed", f"{literal} is not JSON; a missing value is null.")


def _too_deep() -> Malformed:
    return Malformed("json_too_deep", f"The body is nested more than {MOST_LEVELS} levels deep.")


def _refuse_depth(document: object) -> None:
    levels, level = 0, [document]
    while parents := [each for each in level if isinstance(each, dict | list)]:
        levels += 1
        if levels > MOST_LEVELS:
            raise _too_deep()
        level = [child for parent in parents for child in (parent.values() if isinstance(parent, dict) else parent)]


def _refuse_characters(text: str, document: object) -> None:
    if "\\u0000" in text and (nul := _NUL.search(text)):
        place = _place(json.JSONDecodeError("", text, nul.start(1)))
        raise Malformed("json_nul", f"A string holds the character NUL at {place}.")
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise Malformed("json_lone_surrogate", f"A string holds {half}, one half of a surrogate pair.") from None


# --- Bodies of any size ---------------------------------------------------------------------------------------


class Came(io.RawIOBase):
    """What a request brings, read piece by piece; knows the SHA-256 of what was read."""

    def __init__(self, source: IO[bytes], most: int, stated: int | None = None) -> None:
        """`source` says by its own errors that more than `most` bytes come; fewer than `stated` are refused here."""
        self._source = source
        self._most = most
        self._missing = stated or 0
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of what was read so far."""
        return self._sha256.hexdigest()

    def readable(self) -> bool:
        """It is; the base class asks."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as the base class
        """Read what fits, in words where that fails."""
        with _coming(self._most):
            content = self._source.read(len(buffer))
        self._missing -= len(content)
        # The first half of a table is a table, too.
        if not content and self._missing > 0:
            raise _incomplete()
        self._sha256.update(content)
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def _coming(most: int) -> Iterator[None]:
    try:
        yield
    except RequestEntityTooLarge:
        raise _too_large(most) from None
    except ClientDisconnected:
        raise _incomplete() from None
    except ParseException:
        # Gunicorn reads the chunks of a body when it is asked for them.
        raise Malformed("body_malformed", "The body's chunks are not as HTTP wants them.") from None


def came(most: int) -> Came:
    """Give the body as it comes, or the file that a form brings as its part `file`; `most` bytes at most."""
    _refuse_compressed(request.environ)
    with _coming(most):
        if request.mimetype != "multipart/form-data":
            request.max_content_length = most
            return Came(request.stream, most, request.content_length)
        admit(most)
        file = request.files.get("file")
    if file is None or not file.filename:
        problem = Problem("/file", "required", "Send the table as the part “file” of the form.")
        raise Invalid("file_missing", problem.message, problems=(problem,))
    return Came(file.stream, most)


def kept(source: IO[bytes]) -> IO[bytes]:
    """Give all of what comes as a file at its beginning, which goes when it is closed."""
    file = tempfile.TemporaryFile(dir=_files_folder())  # noqa: SIM115 - whoever gets it closes it
    shutil.copyfileobj(source, file)
    file.seek(0)
    return cast("IO[bytes]", file)


def sha256() -> str:
    """Give the SHA-256 of the whole body."""
    return hashlib.sha256(_body()).hexdigest()


# --- Tables ---------------------------------------------------------------------------------------------------


def is_csv() -> bool:
    """Whether the body says of itself that it is a table."""
    return request.mimetype == "text/csv"


def read_csv(most: int) -> dict[str, Sequence[str]]:
    """Read the body as CSV (RFC 4180) with a line of names: the cells of each column, by name, in the table's order.

    Of more than `most` rows one more is given. Raises `Malformed` with the line where it is no table. Empty lines at
    the end are not rows.
    """
    text = _text(_body(), "csv").rstrip("\r\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Malformed("csv_nul", f"Line {line} holds the character NUL.")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        # A body of short lines has millions of them, and a row takes a hundred times the room of its line.
        rows = list(islice(reader, 1 + most + 1))
    except csv.Error as error:
        raise Malformed("csv_malformed", f"The body is not CSV: {error} at line {reader.line_num}.") from None
    if not rows or not rows[0]:
        raise Malformed("csv_empty", "The body has no line of names; the first line names the columns.")
    names, cells = rows[0], rows[1:]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise Malformed("csv_duplicate_name", f"The column “{twice[0][:100]}” stands twice in the first line.")
    for number, row in enumerate(cells, 1):
        if len(row) != len(names):
            detail = f"Row {number} has {len(row)} cells; the first line names {len(names)} columns."
            raise Malformed("csv_malformed", detail)
    return dict(zip(names, zip(*cells, strict=True) if cells else [()] * len(names), strict=True))


def present() -> bool:
    """Whether the request brought anything to read."""
    return bool(_body())


def admit(most_bytes: int) -> None:
    """Let this request's body be larger than others: it brings files."""
    # The fields and the lines between the parts take some room, too.
    request.max_content_length = most_bytes + FORM_BYTES


def files(parts: Iterable[str]) -> dict[str, tuple[str, Callable[[Path], None]]]:
    """Give, for each part that came as a file, what it was called and how to save it; `file` must be among them."""
    came = {part: request.files[part] for part in parts if part in request.files and request.files[part].filename}
    if "file" not in came:
        problem = Problem("/file", "required", "Choose the model's file: .skops, .joblib or .pkl.")
        raise Invalid("file_missing", problem.message, problems=(problem,))
    # A name is a label: what is no letter of it is left out, and nothing is ever opened by it.
    return {part: (_label(file.filename or ""), file.save) for part, file in came.items()}


def _label(name: str) -> str:
    shown = "".join(each for each in name.replace("\\", "/").rpartition("/")[2] if each.isprintable())
    return shown[-MOST_NAME_CHARACTERS:] or "file"
