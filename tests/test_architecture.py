"""Tests of the house itself: its map, its layers, and what may not stand in its code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "webapp"
MODULES = sorted(PACKAGE.rglob("*.py"))
CHILD = Path("webapp/intake/child.py")
PLANS = Path("webapp/serving/plans/__init__.py")
ARTIFACTS = Path("webapp/artifacts.py")
PACK = Path("webapp/pack.py")
MOST_LINES = 60

# What reads objects or code out of bytes, and what hands a line to a shell.
FORBIDDEN_PARTS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "NumpyUnpickler"}
FORBIDDEN = {
    "eval",
    "exec",
    "joblib.load",
    "joblib.numpy_pickle",
    "numpy.load",
    "os.popen",
    "os.system",
    "pandas.read_pickle",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.load",
}
SKOPS_LOADERS = {"skops.io.load", "skops.io.loads"}
# The places that may, each with what it may.
ALLOWED = {
    (CHILD, "joblib.numpy_pickle"),
    (CHILD, "joblib.numpy_pickle.NumpyUnpickler"),
    # A program of its own, which runs where the model was trained and never in the server.
    (PACK, "joblib.load"),
}


def place(path: Path) -> Path:
    return path.relative_to(ROOT)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(node: ast.AST) -> str:
    """Give the name of `a.b.c`; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Give what an import statement brings in: the name in the module, and the full name."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
            yield alias.name, alias.name
    elif isinstance(node, ast.ImportFrom):
        # Relative ones are ours.
        source = node.module if node.module and not node.level else f"webapp.{node.module or ''}"
        yield source, source
        yield from ((alias.asname or alias.name, f"{source}.{alias.name}") for alias in node.names)


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def uses(module: ast.Module) -> Iterator[str]:
    """Give the full name of everything that is imported or named, whatever it is imported as."""
    known = dict(found for node in ast.walk(module) for found in imports(node))
    yield from known.values()
    for node in ast.walk(module):
        first, dot, rest = dotted(node).partition(".")
        if first:
            yield known.get(first, first) + dot + rest


def offences(module: ast.Module) -> set[str]:
    """Give everything that may not stand in the code."""
    named = {name for name in uses(module) if name in FORBIDDEN or set(name.split(".")) & FORBIDDEN_PARTS}
    words = (node for node in ast.walk(module) if isinstance(node, ast.keyword) and node.arg == "shell")
    shells = {f"shell={ast.unparse(word.value)}" for word in words}
    return named | (shells - {"shell=False"})


def loads_with_skops(module: ast.Module) -> bool:
    return not SKOPS_LOADERS.isdisjoint(uses(module))


def test_the_modules_are_found() -> None:
    assert {CHILD, ARTIFACTS} < {place(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(place(path)))
def test_each_module_opens_with_one_sentence_that_says_what_it_is_for(path: Path) -> None:
    said = ast.get_docstring(tree(path), clean=True) or ""
    first, _, rest = said.partition("\n")
    assert first.strip(), "the first line is empty"
    assert first.endswith("."), "the first line is no sentence"
    assert not rest or rest.startswith("\n"), "what follows the sentence is no paragraph of its own"
    # The first line of the file, so that `head -1` prints the map of the house.
    assert path.read_text(encoding="utf-8").startswith(f'"""{first}')


def test_the_import_contracts_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(place(path)))
def test_nothing_reads_objects_out_of_bytes_or_calls_a_shell(path: Path) -> None:
    found = {(place(path), name) for name in offences(tree(path))}
    assert found <= ALLOWED


def test_the_one_reader_of_pickles_is_where_it_is_said_to_be() -> None:
    found = {(path, name) for path in (CHILD, PACK) for name in offences(tree(ROOT / path))}
    assert found == ALLOWED


def test_no_module_imports_the_program_that_packs() -> None:
    assert not [place(path) for path in MODULES if "webapp.pack" in uses(tree(path))]


def test_skops_files_are_loaded_in_one_place() -> None:
    assert [place(path) for path in MODULES if loads_with_skops(tree(path))] == [ARTIFACTS]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(place(path)))
def test_functions_are_short(path: Path) -> None:
    for function in functions(tree(path)):
        first, last = function.body[0].lineno, function.body[-1].end_lineno or 0
        assert last - first < MOST_LINES, f"{function.name} has {last - first + 1} lines"


# Nothing of ours may be read before the child has limited itself; plans know the classes of scikit-learn, whose import
# takes a second that a command which loads no version need not wait.
@pytest.mark.parametrize(
    "path", [path for path in MODULES if place(path) not in {CHILD, PLANS}], ids=lambda path: str(place(path))
)
def test_no_function_imports_modules_of_ours(path: Path) -> None:
    for function in functions(tree(path)):
        inside = {name for node in ast.walk(function) for _, name in imports(node)}
        assert not [name for name in inside if name.split(".")[0] == "webapp"], function.name


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "from joblib import load",
        "from joblib.numpy_pickle import NumpyUnpickler",
        "import joblib as j; j.load(file)",
        "import cloudpickle",
        "from yaml import load",
        "import yaml; yaml.load(text)",
        "eval(text)",
        "run = exec",
        "subprocess.run(line, shell=True)",
        "subprocess.run(line, shell=choice)",
        "import numpy as np; np.load(file, allow_pickle=True)",
        "import os; os.system(line)",
    ],
)
def test_the_search_finds_what_it_is_there_for(code: str) -> None:
    assert offences(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "import skops.io; skops.io.load(file)",
        "import skops.io; read = skops.io.loads",
        "import skops.io as io; io.load(file)",
        "from skops import io; io.load(file)",
        "from skops.io import load",
        "from skops.io import loads as read",
    ],
)
def test_the_search_finds_loading_with_skops(code: str) -> None:
    assert loads_with_skops(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "import skops.io; skops.io.dumps(x)",
        "from skops.io import get_untrusted_types",
        "import json; json.loads(x)",
        "store.load(x)",
        "subprocess.run(command, shell=False)",
        "model.eval",
    ],
)
def test_the_search_lets_pass_what_is_harmless(code: str) -> None:
    assert not offences(ast.parse(code))
    assert not loads_with_skops(ast.parse(code))
