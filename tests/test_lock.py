"""Tests of the lock: what hostile code tries behind it fails, what honest models need goes on."""

from __future__ import annotations

import io
import json
import mmap
import os
import pickle
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next import possible
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from tests import locked
from webapp import lock

# As the parent starts its children: nothing in the environment but one thread for each native library.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
SECRET = "the secret of this installation"


@contextmanager
def started(act: str, folder: Path, descriptor: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that locks itself."""
    with subprocess.Popen(
        [sys.executable, "-I", locked.__file__, act, str(folder), str(os.getpid()), str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[descriptor],
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(act: str, folder: Path, given: bytes = b"", descriptor: int = 2) -> str:
    """Run one to its end; give what it said."""
    with started(act, folder, descriptor) as process:
        said, _ = process.communicate(given, timeout=300)
    assert process.returncode == 0
    return said.decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a secret in it."""
    made = tmp_path_factory.mktemp("locked")
    (made / "secret").write_text(SECRET)
    (made / "secret").chmod(0o600)
    return made


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, str]:
    """What became of each attack."""
    with (folder / "open").open("wb") as file:
        lines = ran("attack", folder, descriptor=file.fileno()).splitlines()
    return dict(json.loads(line) for line in lines)


@pytest.mark.parametrize("name", locked.ATTACKS)
def test_what_hostile_code_tries_fails_with_a_plain_error(name: str, outcomes: dict[str, str]) -> None:
    assert outcomes[name] == locked.OTHER_ERRORS.get(name, "PermissionError")


def test_nothing_is_left_of_the_attacks(outcomes: dict[str, str], folder: Path) -> None:
    assert outcomes
    assert sorted(path.name for path in folder.iterdir()) == ["open", "secret"]
    assert (folder / "secret").read_text() == SECRET
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    assert (folder / "open").stat().st_size == locked.MIB


def test_a_locked_process_says_so_in_proc_and_is_dead_within_its_time(folder: Path) -> None:
    with started("spin", folder, 2) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        assert {name: status[name].strip() for name in ("NoNewPrivs", "Seccomp", "Threads")} == {
            "NoNewPrivs": "1",
            "Seccomp": "2",
            "Threads": "1",
        }
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
        process.stdin.write(b"go on\n")
        process.stdin.close()
        assert process.wait(timeout=300) == -signal.SIGKILL
        # No process of its session is left.
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


@pytest.mark.parametrize("wall", ["landlock", "seccomp"])
def test_each_wall_stands_on_its_own(wall: str, folder: Path) -> None:
    ran(wall, folder)
    assert (folder / "secret").read_text() == SECRET


@pytest.mark.parametrize("lacking", ["landlock", "seccomp"])
def test_where_the_kernel_lacks_a_wall_the_other_stands_and_people_are_told(lacking: str, folder: Path) -> None:
    landlock, seccomp, complete, missing = json.loads(ran(f"no {lacking}", folder))
    assert (landlock, seccomp, complete) == (lacking != "landlock", lacking != "seccomp", False)
    assert len(missing) == 1
    assert lacking in missing[0].lower()


def test_a_process_with_threads_is_not_locked(folder: Path) -> None:
    assert "OMP_NUM_THREADS=1" in ran("thread", folder)


def test_this_machine_has_every_wall() -> None:
    assert lock.support() == lock.Support(lock.support().landlock, seccomp=True, missing=())
    assert lock.support().landlock > 0
    assert lock.support().complete


def test_an_architecture_whose_calls_are_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not lock.support().seccomp
    assert [sentence for sentence in lock.support().missing if "riscv64" in sentence]


@pytest.mark.parametrize(("abi", "size", "files"), [(1, 8, 13), (2, 8, 14), (3, 8, 15), (4, 16, 15), (5, 16, 16)])
def test_each_version_of_landlock_gets_the_rights_it_knows(abi: int, size: int, files: int) -> None:
    ruleset = lock.ruleset_of(abi)
    assert len(ruleset) == size
    assert struct.unpack_from("=Q", ruleset) == ((1 << files) - 1,)
    assert struct.unpack("=QQQ", lock.ruleset_of(6)) == (0xFFFF, 3, 3)


def judged(program: bytes, architecture: int, called: int, third: int = 0) -> int:
    """Run a filter as the kernel does; give its verdict."""
    data = struct.pack("=IIQQQQ", called, architecture, 0, 0, 0, third)
    steps, at, value = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        code, then, otherwise, operand = steps[at]
        at += 1
        if code == lock.RETURN:
            return int(operand)
        if code == lock.LOAD:
            (value,) = struct.unpack_from("=I", data, operand)
        else:
            true = value == operand if code == lock.JUMP_IF_EQUAL else bool(value & operand)
            at += then if true else otherwise


@pytest.mark.parametrize("name", lock.MACHINES)
def test_the_filter_lets_through_what_its_table_says_and_nothing_else(name: str) -> None:
    machine = lock.MACHINES[name]
    program = lock.filter_of(machine)
    known = {numbers[machine.column] for numbers in (lock.CALLS | lock.MEMORY_CALLS).values()}
    x32 = 0x40000000
    allowed = {called for called in range(2000) if judged(program, machine.audit, called) == lock.ALLOW}
    assert allowed == known
    assert {judged(program, machine.audit, x32 + called) for called in range(2000)} == {lock.REFUSE}
    assert judged(program, machine.audit ^ 1, 0) == lock.KILL_PROCESS
    assert not allowed & {numbers[machine.column] for numbers in locked.NUMBERS.values()}
    for numbers in lock.MEMORY_CALLS.values():
        called = numbers[machine.column]
        assert judged(program, machine.audit, called, mmap.PROT_READ | mmap.PROT_WRITE) == lock.ALLOW
        assert judged(program, machine.audit, called, mmap.PROT_READ | mmap.PROT_EXEC) == lock.REFUSE


# --- honest models ----------------------------------------------------------------------------------------

NUMBERS_OF_ROWS = np.random.RandomState(0).uniform(0.1, 3, (40, 3))
CLASSES = np.array(["no", "yes"])[np.arange(40) % 2]
TABLE = pd.DataFrame({"city": ["Rom", "Oslo", None, "Bonn"] * 10, "kind": ["ä", "b"] * 20, "size": np.arange(40.0)})
TEXTS = ["one two three", "two three four", "five one", "six"] * 10


def models() -> dict[str, tuple[Any, Any]]:
    """Give fitted models of many kinds, and rows for each."""
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["city", "kind"]),
        (StandardScaler(), ["size"]),
    )
    plain = [
        LogisticRegression(),
        RandomForestClassifier(5),
        ExtraTreesClassifier(5),
        HistGradientBoostingClassifier(max_iter=5),
        GradientBoostingClassifier(n_estimators=5),
        SVC(),
        GaussianProcessClassifier(),
        MLPClassifier(tol=0.1),
        make_pipeline(IterativeImputer(), SVC()),
        IsolationForest(n_estimators=5),
        KMeans(2, n_init=1),
        *(KNeighborsClassifier(3, algorithm=each) for each in ("auto", "ball_tree", "kd_tree", "brute")),
    ]
    table = [make_pipeline(columns, LogisticRegression()), make_pipeline(columns, KNeighborsClassifier(3))]
    text = [make_pipeline(TfidfVectorizer(), LogisticRegression())]
    numbers = [Ridge(), RandomForestRegressor(5), HistGradientBoostingRegressor(max_iter=5)]
    fitted = [(each.fit(NUMBERS_OF_ROWS, CLASSES), NUMBERS_OF_ROWS) for each in plain]
    fitted += [(each.fit(TABLE, CLASSES), TABLE) for each in table]
    fitted += [(each.fit(TEXTS, CLASSES), TEXTS) for each in text]
    fitted += [(each.fit(NUMBERS_OF_ROWS, NUMBERS_OF_ROWS[:, 0]), NUMBERS_OF_ROWS) for each in numbers]
    return {f"{place} {type(each).__name__}": (each, rows) for place, (each, rows) in enumerate(fitted)}


def dumped(estimator: Any, way: str) -> bytes:
    """Write a model as joblib does, compressed in one of its ways."""
    packed = io.BytesIO()
    joblib.dump(estimator, packed, compress=0 if way == "plain" else (way, 3))
    return packed.getvalue()


def test_honest_models_load_and_predict_behind_the_lock(tmp_path: Path) -> None:
    fitted = models()
    ways = ("plain", "zlib", "gzip", "bz2", "xz", "lzma")
    given = {
        name: (ways[place % len(ways)], dumped(estimator, ways[place % len(ways)]), rows)
        for place, (name, (estimator, rows)) in enumerate(fitted.items())
    }
    TABLE.fillna("").to_csv(tmp_path / "reference.csv", index=False)
    with (tmp_path / "reference.csv").open("rb") as file:
        answer = json.loads(ran("honest", tmp_path, pickle.dumps(given), file.fileno()))
    assert answer["reference"]["kind"] == TABLE["kind"].tolist()
    expected = {name: [estimator.predict(rows).tolist()] * 2 for name, (estimator, rows) in fitted.items()}
    assert answer["predicted"] == expected
