"""Writes the tables of docs/performance.md from the results that `python -m benchmarks.goals --keep` left."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS, RESULTS, ROOMS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
SAID = {True: "met", False: "**missed**", None: ""}
# What is less than this share of a request is not named.
LEAST_SHARE = 0.01

Found = dict[str, Any]


def goals(held: Found) -> Iterator[str]:
    """Give the lines of the table of goals."""
    yield "| work | goal | median | smallest to largest | |"
    yield "|---|---|---|---|---|"
    for goal in GOALS:
        for row in _rows(held, goal):
            yield _line(row)
    yield ""
    for machine, date in sorted({(each["machine"], each["date"]) for each in held.values()}):
        yield f"Measured on {date}: {machine}. The client ran on the same machine."


def _rows(held: Found, goal: str) -> list[Found]:
    return [row for row in held.get(goal, {"rows": []})["rows"] if row["goal"] != ROOMS]


def _line(row: Found) -> str:
    unit, found = row["unit"], row["measured"]
    bound = "" if row["wanted"] is None else f"{'≤' if row['at_most'] else '≥'} {row['wanted']:g} {unit}"
    spread = f"{_number(min(found))} to {_number(max(found))}"
    return f"| {row['what']} | {bound} | {_number(statistics.median(found))} {unit} | {spread} | {SAID[row['met']]} |"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits say enough


def rooms(held: Found) -> Iterator[str]:
    """Give the lines of the table that says where one request's time goes."""
    yield "| where | share of one request |"
    yield "|---|---|"
    for row in (each for each in held.get("around", {"rows": []})["rows"] if each["goal"] == ROOMS):
        whole = sum(spent for [spent] in row["details"].values())
        shares = {room: spent / whole for room, [spent] in row["details"].items()}
        for room, share in shares.items():
            if share >= LEAST_SHARE:
                yield f"| `{room}` | {share:.0%} |"
        yield f"| everything else | {sum(share for share in shares.values() if share < LEAST_SHARE):.0%} |"


def filled(text: str, name: str, lines: Iterator[str]) -> str:
    """Put lines between the two marks of a name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    table = "\n".join([begin, *lines, end])
    filled_text, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: table, text, flags=re.DOTALL)
    assert count == 1, f"{PAGE} has no place for {name}"
    return filled_text


def main() -> None:
    """Fill both tables."""
    held = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(filled(filled(text, "goals", goals(held)), "rooms", rooms(held)), encoding="utf-8")


if __name__ == "__main__":
    main()
