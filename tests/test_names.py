"""Tests of the table of names: it is what the script finds, in parts at least, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import sklearn

from webapp import names

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "webapp" / "names.json"
# All 2,100 configurations take minutes: `python scripts/estimator_names.py --check`.
EVERY = 60
# What turns a mention into a call, or text into code.
CALLERS = re.compile(
    r"(functools|operator|os|posix|subprocess|importlib|pickle|numpy\.(ctypeslib|f2py|load|fromfile|vectorize))\b"
    r"|builtins\.(getattr|eval|exec|compile|open|__import__)|scipy\.stats"
)


def test_the_script_finds_no_name_that_the_table_lacks() -> None:
    command = [sys.executable, "scripts/estimator_names.py", "--check", "--every", str(EVERY)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    print(done.stdout.splitlines()[1])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_table_is_of_the_installed_scikit_learn() -> None:
    assert sklearn.__version__.startswith(json.loads(TABLE.read_text())["scikit-learn"] + ".")


def test_each_entry_of_the_table_stands_on_a_line_of_its_own_and_in_order() -> None:
    table = json.loads(TABLE.read_text())
    entries = [table["pickle"], table["skops"], table["skops_nodes"]]
    assert all(sorted(part) == part for part in entries)
    assert len(TABLE.read_text().splitlines()) == sum(map(len, entries)) + 2 * len(entries) + 3


def test_no_name_of_the_table_calls_what_a_file_names() -> None:
    known = names.PICKLE | names.SKOPS | {name for _, name in names.SKOPS_NODES}
    assert not {name for name in known if CALLERS.match(name)}
    assert not {loader for loader, _ in names.SKOPS_NODES} & {"MethodNode", "OperatorFuncNode", "PartialNode"}


def test_a_class_is_called_by_skops_only_where_its_arguments_are_checked() -> None:
    called = {pair for pair in names.SKOPS_NODES if pair[0] in {"ConstructorFromReduceNode", "TreeNode"}}
    assert called == {("ConstructorFromReduceNode", "builtins.range"), ("TreeNode", "sklearn.tree._tree.Tree")}
