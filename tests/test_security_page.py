"""Tests of docs/security.md: every test that it names is there, and every claim that is numbered names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
MOST_LINES = 130


def shown_in(file: str) -> set[str]:
    """Give the names of the tests in a file; none where there is no file."""
    path = ROOT / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def rows() -> list[list[str]]:
    """Give the cells of the table of claims."""
    lines = [line for line in PAGE.splitlines() if NAMED.search(line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 50
    assert [f"{file}::{test}" for file, test in named if test not in shown_in(file)] == []


def test_what_looks_like_a_test_on_the_page_is_named_with_its_file() -> None:
    assert PAGE.count("::") == len(NAMED.findall(PAGE))


def test_every_claim_names_a_test_that_shows_it() -> None:
    claims = rows()
    assert {len(cells) for cells in claims} == {3}
    assert all(NAMED.search(shown) for _, _, shown in claims)
    assert [number for number, _, _ in claims if number != "U"] == [f"S{number}" for number in range(1, 17)]


def test_the_page_is_one_page() -> None:
    assert len(PAGE.splitlines()) <= MOST_LINES
    assert all(len(line) <= 120 for line in PAGE.splitlines() if not line.startswith("| "))


def test_who_looks_for_how_to_report_finds_the_page_and_back() -> None:
    assert "](docs/security.md)" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "](../SECURITY.md)" in PAGE
