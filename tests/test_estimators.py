"""Tests of the page of estimators: it is what the script finds, each has its line, and all answers are exact."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - two more searches are listed then
from sklearn.utils import all_estimators

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "estimators.md"
WAY_OUT = re.compile(r"\. (Choose|Encode|Give|Name|Save|Train|Use) .*\.$")


@pytest.fixture(scope="module")
def checked() -> subprocess.CompletedProcess[str]:
    """Every estimator sent through the intake and asked, in a process of its own, and the page compared with that."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "scripts/estimator_table.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    print(f"{done.stdout.partition(chr(10))[0]}, {seconds:.0f} s of CPU time")
    return done


def lines() -> dict[str, list[str]]:
    """Give the cells of each estimator's line."""
    table = PAGE.read_text(encoding="utf-8").partition("|---|---|---|---|---|\n")[2].partition("\n\n")[0]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {cells[0]: cells[1:] for cells in split}


def test_the_page_is_what_the_script_finds(checked: subprocess.CompletedProcess[str]) -> None:
    assert checked.returncode == 0, checked.stdout[-3000:] + checked.stderr[-2000:]


def test_every_accepted_estimator_answers_exactly_in_bulk_and_row_by_row(
    checked: subprocess.CompletedProcess[str],
) -> None:
    # What differs is printed, and the script fails.
    assert "asked at once:" not in checked.stdout, checked.stdout[-3000:]
    found = lines()
    accepted = {kind for kind, (_, accepted, _, _) in found.items() if accepted != "no"}
    assert len(accepted) >= 118
    assert {found[kind][2] for kind in accepted} == {"yes"}


def test_every_estimator_that_predicts_has_its_line() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicting = {name for name, cls in all_estimators() if hasattr(cls, "predict")}
    assert predicting <= lines().keys()


def test_what_is_refused_has_a_reason_and_a_way_out() -> None:
    for kind, (_, accepted, exact, refused) in lines().items():
        tried = accepted.split(" of ")
        if len(set(tried)) == 1 and accepted != "no":
            assert not refused, kind
        else:
            assert WAY_OUT.search(refused), kind
        assert exact == ("-" if accepted == "no" else "yes"), kind
