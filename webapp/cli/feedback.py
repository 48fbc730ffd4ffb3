"""`modelport feedback`: tell what turned out to be true, from a table, as an operator on the server."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from webapp import audit, feedback, keys
from webapp.cli import Command, Console, pass_console
from webapp.db import Session
from webapp.errors import Conflict, Malformed, NotFound
from webapp.feedback import Answer

FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
# So many rows are taken in one transaction.
MOST_AT_ONCE = 10_000
# More rows that were not taken help nobody.
MOST_NAMED = 20
EVERY_KEY = "every key"


@click.command("feedback", cls=Command)
@click.argument("file", type=FILE)
@click.option("--key", metavar="ID-OR-NAME", help="Whose predictions; needed for ids of a caller's own. Default: all.")
@pass_console
def tell(console: Console, file: Path, key: str | None) -> None:
    """Take ground truth from FILE, a CSV with the columns prediction_id or id, outcome and observed_at.

    Rows are taken or refused by themselves, and may be sent again; what stands before a line that cannot be read is
    kept. Ends with 1 where any row was not taken.
    """
    with console.database.reading() as session:
        key_id = None if key is None else _key_id(session, key)
    counts: Counter[str] = Counter()
    left_out: list[dict[str, Any]] = []
    every = _rows(file)
    while rows := list(islice(every, MOST_AT_ONCE)):
        answers = _take(console, key_id, [item for _, item in rows])
        counts.update(feedback.counted(answers))
        wrong = [(line, each) for (line, _), each in zip(rows, answers, strict=True) if each.code]
        left_out += [{"line": line, **each.as_dict()} for line, each in wrong[: MOST_NAMED - len(left_out)]]
    if not counts.total():
        raise Malformed("no_items", f"{file.name} has no rows below its line of names.")
    said = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    lines = [f"line {each['line']}: {each['message']} [{each['code']}]" for each in left_out]
    more = counts["unknown"] + counts["refused"] - len(left_out)
    lines += [f"and {more:,} more that were not taken"] if more > 0 else []
    console.answer({**counts, "not_taken": left_out}, "\n".join([*lines, f"{said}."]))
    if counts["unknown"] or counts["refused"]:
        sys.exit(1)


def _take(console: Console, key_id: str | None, items: list[dict[str, str]]) -> list[Answer]:
    with console.database.transaction() as session:
        answers = feedback.take(session, key_id, items)
        found = feedback.counted(answers)
        if found["accepted"] or found["changed"]:
            audit.record(session, console.actor, "feedback.tell", key_id or EVERY_KEY, **found)
    return answers


def _key_id(session: Session, asked: str) -> str:
    found = keys.named(session, asked)
    if not found:
        raise NotFound("unknown_key", f"No key has the id or name “{asked}”; see `modelport keys list`.")
    if len(found) > 1:
        raise Conflict("key_ambiguous", f"{len(found)} keys are called “{asked}”; name one of {', '.join(found)}.")
    return found[0]


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Give each row with its line; an empty cell is nothing there."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.reader(opened, strict=True)
        try:
            names = next(reader, [])
            _check_names(file, names)
            for cells in reader:
                if cells and len(cells) != len(names):
                    detail = (
                        f"Line {reader.line_num} has {len(cells)} cells; the first line names {len(names)} columns."
                    )
                    raise Malformed("csv_malformed", detail)
                if any("\0" in cell for cell in cells):
                    raise Malformed("csv_nul", f"Line {reader.line_num} holds the character NUL.")
                if cells:
                    yield reader.line_num, {name: cell for name, cell in zip(names, cells, strict=True) if cell}
        except (csv.Error, UnicodeDecodeError) as error:
            place = f"{file.name} is not CSV in UTF-8, at line {reader.line_num + 1}"
            raise Malformed("csv_malformed", f"{place}: {error}.") from None


def _check_names(file: Path, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise Malformed("csv_duplicate_name", f"A column stands twice in the first line of {file.name}.")
    if "outcome" not in names or not {"prediction_id", "id"} & set(names):
        detail = f"The first line of {file.name} names the columns “outcome” and “prediction_id” or “id”."
        raise Malformed("columns_missing", detail)
    if strangers := sorted(set(names) - feedback.FIELDS):
        there = ", ".join(sorted(feedback.FIELDS))
        raise Malformed("unknown_field", f"{file.name} has a column “{strangers[0]}”; there are: {there}.")
