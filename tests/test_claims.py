"""Tests of the pages that claim something: every test that they name is there, and every claim names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECURITY, RELIABILITY = PAGES = ("docs/security.md", "docs/reliability.md")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
MOST_LINES = 130


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def shown_in(file: str) -> set[str]:
    """Give the names of the tests in a file; none where there is no file."""
    path = ROOT / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def claims(page: str) -> list[list[str]]:
    """Give the cells of the table of claims: three columns, of which the last names what shows them."""
    lines = [line for line in text_of(page).splitlines() if line.startswith("| ") and "---" not in line]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    titles = next(at for at, cells in enumerate(table) if cells[-1] == "Shown by")
    return table[titles + 1 :]


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = NAMED.findall(text_of(page))
    assert len(named) > 20
    assert [f"{file}::{test}" for file, test in named if test not in shown_in(file)] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_looks_like_a_test_on_a_page_is_named_with_its_file(page: str) -> None:
    assert text_of(page).count("::") == len(NAMED.findall(text_of(page)))


@pytest.mark.parametrize("page", PAGES)
def test_every_claim_names_a_test_that_shows_it(page: str) -> None:
    assert {len(cells) for cells in claims(page)} == {3}
    assert [cells for cells in claims(page) if not NAMED.search(cells[-1])] == []


def test_the_numbered_claims_of_security_are_all_there() -> None:
    assert [number for number, _, _ in claims(SECURITY) if number != "U"] == [f"S{number}" for number in range(1, 17)]


@pytest.mark.parametrize("page", PAGES)
def test_such_a_page_is_one_page(page: str) -> None:
    lines = text_of(page).splitlines()
    assert len(lines) <= MOST_LINES
    assert [line for line in lines if len(line) > 120 and not line.startswith("| ")] == []


def test_who_looks_for_how_to_report_finds_the_page_and_back() -> None:
    assert "](docs/security.md)" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "](../SECURITY.md)" in text_of(SECURITY)
