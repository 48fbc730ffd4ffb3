"""Mutates honest model files, reads them, and opens the survivors in locked children: nothing may harm the parent.

    python -m tests.faults.mutations --count 100000 --seed 1

Each file is made from its own number alone: `--seed N --count 1` repeats number N (but for `.skops` files, which hold
addresses and times). A file that ended its child is kept as well. What the reader accepts goes the
way of an upload: opened, written in the canonical form, read and checked again, and asked for predictions, all in a
child that is forked from this warm process and locked. Exits 1 if anything but a refusal came out of the reader.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import select
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

# Before NumPy is imported: threads do not survive a fork.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import joblib
import numpy as np
import skops.io
from sklearn import ensemble, linear_model, naive_bayes, neighbors, neural_network, preprocessing, svm, tree
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from webapp import lock, names
from webapp.errors import Invalid, Refusal
from webapp.intake import child, reading, skops_reading, trial, warm

PROTOCOLS = (2, 3, 4, 5)
BATCH = 200
SECONDS_PER_FILE = 30
LIMITS = lock.Limits(memory_bytes=4 * 1024**3, cpu_seconds=120, written_bytes=1024**2)
# What a child tells of a file, one byte each: it began, and how it ended.
BEGAN, PREDICTED, REFUSED, RAISED = b"bpre"
OUTCOMES = {PREDICTED: "predicted", REFUSED: "refused later", RAISED: "an error later"}

Rows: TypeAlias = Any
Estimator: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Sample:
    """An honest file, and rows to predict."""

    kind: str
    form: str
    content: bytes
    rows: Rows


@cache
def samples() -> tuple[Sample, ...]:
    """Give honest files of a dozen kinds of estimator, in every format."""
    return tuple(
        Sample(kind, form, content, rows[:5])
        for kind, (estimator, rows) in _fitted().items()
        for form, content in _files(estimator).items()
    )


def _fitted() -> dict[str, tuple[Estimator, Rows]]:
    x, y = load_iris(return_X_y=True)
    x, y = x[::4], y[::4]
    words = np.array(["one", "two", "three"])[y]
    texts = np.array(["one two", "two three four", "five one"])[y]
    mixed = np.column_stack([x, words]).astype(object)
    columns = ColumnTransformer(
        [
            ("a", make_pipeline(SimpleImputer(), preprocessing.StandardScaler()), [0, 1]),
            ("b", preprocessing.OneHotEncoder(), [4]),
        ]
    )
    numbers = {
        "logistic": linear_model.LogisticRegression(max_iter=500),
        "ridge": linear_model.Ridge(),
        "descent": linear_model.SGDClassifier(random_state=0),
        "tree": tree.DecisionTreeClassifier(random_state=np.random.RandomState(0)),
        "forest": ensemble.RandomForestRegressor(3, random_state=0),
        "boosting": ensemble.HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=5, random_state=0),
        "neighbours": neighbors.KNeighborsClassifier(algorithm="kd_tree"),
        "vectors": svm.SVC(),
        "layers": neural_network.MLPRegressor(hidden_layer_sizes=[3], max_iter=500, tol=0.1, random_state=0),
        "bayes": naive_bayes.GaussianNB(),
        "process": GaussianProcessRegressor(alpha=0.1),
    }
    fitted = {kind: (estimator.fit(x, y), x) for kind, estimator in numbers.items()}
    text = make_pipeline(TfidfVectorizer(), linear_model.LogisticRegression())
    pipeline = make_pipeline(columns, linear_model.LogisticRegression(max_iter=500))
    return {**fitted, "text": (text.fit(texts, words), texts), "columns": (pipeline.fit(mixed, words), mixed)}


def _files(estimator: Estimator) -> dict[str, bytes]:
    files = {f"pickle {protocol}": pickle.dumps(estimator, protocol) for protocol in PROTOCOLS}
    for protocol in PROTOCOLS:
        file = io.BytesIO()
        joblib.dump(estimator, file, protocol=protocol)
        files[f"joblib {protocol}"] = file.getvalue()
    return {**files, "skops": skops.io.dumps(estimator)}


# --- Mutations --------------------------------------------------------------------------------------------

OPCODES = b"(.0NKMGXBC)t]}aesuRbhjqrc\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8e\x93\x94\x95\x96"
NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62)


def mutated(honest: Sequence[Sample], number: int) -> tuple[Sample, bytes]:
    """Give the mutated file of a number, and the sample that it was made of."""
    chance = random.Random(number)
    sample = chance.choice(honest)
    content = bytearray(sample.content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if content:
            chance.choice(MUTATIONS)(content, chance, chance.choice(honest).content)
    return sample, bytes(content)


def _flip(content: bytearray, chance: random.Random, _other: bytes) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _byte(content: bytearray, chance: random.Random, _other: bytes) -> None:
    content[chance.randrange(len(content))] = chance.randrange(256)


def _opcode(content: bytearray, chance: random.Random, _other: bytes) -> None:
    start = chance.randrange(len(content))
    places = range(start, min(len(content), start + 100))
    known = [place for place in places if content[place] in OPCODES]
    content[chance.choice(known or places)] = chance.choice(OPCODES)


def _number(content: bytearray, chance: random.Random, _other: bytes) -> None:
    size = chance.choice((1, 2, 4, 8))
    start = chance.randrange(len(content))
    value = chance.choice(NUMBERS) % 2 ** (8 * size)
    content[start : start + size] = value.to_bytes(size, "little")


def _splice(content: bytearray, chance: random.Random, other: bytes) -> None:
    start, source, size = chance.randrange(len(content)), chance.randrange(len(other)), chance.randrange(1, 200)
    content[start : start + chance.choice((0, size))] = other[source : source + size]


def _cut(content: bytearray, chance: random.Random, _other: bytes) -> None:
    start = chance.randrange(len(content))
    del content[start : start + chance.randrange(1, 50)]


def _double(content: bytearray, chance: random.Random, _other: bytes) -> None:
    start, size = chance.randrange(len(content)), chance.randrange(1, 100)
    content[start:start] = content[start : start + size]


def _word(content: bytearray, chance: random.Random, other: bytes) -> None:
    """Put another file's word of the same length in the place of one."""
    words = [word for word in other.split(b"\x8c") if 3 < len(word) < 40]
    word = chance.choice(words) if words else b"f8"
    start = chance.randrange(len(content))
    content[start : start + len(word)] = word


MUTATIONS = (_flip, _flip, _byte, _opcode, _number, _splice, _cut, _double, _word)


# --- The reader -------------------------------------------------------------------------------------------


def read(sample: Sample, content: bytes) -> str | None:
    """Read a file; give the code with which it is refused."""
    try:
        if sample.form == "skops":
            skops_reading.read(content, names.SKOPS_NODES)
        else:
            reading.read(content, names.PICKLE)
    except Invalid as refused:
        return refused.code
    return None


# --- The survivors ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Survivor:
    """A mutated file that the reader accepts."""

    number: int
    sample: Sample
    content: bytes

    @property
    def label(self) -> str:
        """How it is called in what is printed."""
        return f"number {self.number} ({self.sample.kind}, {self.sample.form})"


def _kept(survivor: Survivor) -> Path:
    path = Path(tempfile.mkdtemp(prefix="mutation-")) / f"{survivor.number}.{survivor.sample.form.partition(' ')[0]}"
    path.write_bytes(survivor.content)
    return path


def _opened(survivor: Survivor) -> None:
    """Do what becomes of an upload that was read."""
    canonical = survivor.content
    if survivor.sample.form != "skops":
        canonical = skops.io.dumps(child.unpickle(canonical))
        skops_reading.read(canonical, names.SKOPS_NODES)
    trial.load(canonical, child.load_skops).estimator.predict(survivor.sample.rows)


def _work(survivors: Sequence[Survivor], to_parent: int) -> None:
    """Open one after the other, and tell of each."""
    lock.close(LIMITS)
    for survivor in survivors:
        os.write(to_parent, bytes([BEGAN]))
        try:
            _opened(survivor)
            outcome = PREDICTED
        except Refusal:
            outcome = REFUSED
        except BaseException:  # noqa: BLE001 - whatever it is, it is told as such
            outcome = RAISED
        os.write(to_parent, bytes([outcome]))


def _forked(survivors: Sequence[Survivor]) -> tuple[bytes, int]:
    """Give what a child told of the files, and the signal that ended it, or 0."""
    from_child, to_parent = os.pipe()
    pid = os.fork()
    if not pid:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - ends with the process
        try:
            _work(survivors, to_parent)
        finally:
            os._exit(0)
    os.close(to_parent)
    told = _listened(from_child, pid)
    os.close(from_child)
    return told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _listened(from_child: int, pid: int) -> bytes:
    """Hear a child out; end it when it hangs over one file. Behind the lock it can set itself no alarm."""
    told = b""
    while True:
        ready, _, _ = select.select([from_child], [], [], SECONDS_PER_FILE)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        if not (said := os.read(from_child, BATCH)):
            return told
        told += said


def survived(survivors: Sequence[Survivor], counts: Counter[tuple[str, str]]) -> list[str]:
    """Open survivors in children; count what became of them, and give a line for each that ended its child."""
    ended, waiting = [], list(survivors)
    while waiting:
        told, status = _forked(waiting)
        outcomes = bytes(byte for byte in told if byte != BEGAN)
        for survivor, outcome in zip(waiting, outcomes, strict=False):
            counts[survivor.sample.form, OUTCOMES[outcome]] += 1
        waiting = waiting[len(outcomes) :]
        if waiting:
            culprit = waiting.pop(0)
            how = signal.Signals(-status).name if status < 0 else f"exit {status}"
            counts[culprit.sample.form, "child ended"] += 1
            ended.append(
                f"number {culprit.number} ({culprit.sample.kind}, {culprit.sample.form}) ended its child: {how}"
            )
    return ended


def run(count: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str], list[str]]:
    """Give counts by format and outcome, what ended children, and what came out of the reader that may not."""
    honest = samples()
    counts: Counter[tuple[str, str]] = Counter()
    ended: list[str] = []
    wrong: list[str] = []
    waiting: list[Survivor] = []
    for number in range(seed, seed + count):
        sample, content = mutated(honest, number)
        started = time.perf_counter()
        try:
            code = read(sample, content)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            wrong.append(f"number {number} ({sample.kind}, {sample.form}): {error!r}")
            continue
        if time.perf_counter() - started > SECONDS_PER_FILE:
            wrong.append(f"number {number} ({sample.kind}, {sample.form}): read for more than {SECONDS_PER_FILE} s")
        if code:
            counts[sample.form, code] += 1
        else:
            waiting.append(Survivor(number, sample, content))
        if len(waiting) == BATCH:
            ended += survived(waiting, counts)
            waiting = []
    return counts, ended + survived(waiting, counts), wrong


def table(counts: Counter[tuple[str, str]]) -> str:
    """Write the counts, a line for each outcome and a column for each format."""
    forms = sorted({form for form, _ in counts})
    outcomes = sorted({outcome for _, outcome in counts})
    head = f"{'':28}" + "".join(f"{form:>10}" for form in forms) + f"{'all':>10}"
    lines = [
        f"{outcome:28}"
        + "".join(f"{counts[form, outcome]:>10,}" for form in forms)
        + f"{sum(counts[form, outcome] for form in forms):>10,}"
        for outcome in outcomes
    ]
    return "\n".join([head, *lines])


def main() -> int:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    warm.up()
    for sample in samples():
        # Honest as they are, all of them must be accepted and predict.
        assert read(sample, sample.content) is None, (sample.kind, sample.form)
    started = time.perf_counter()
    counts, ended, wrong = run(given.count, given.seed)
    print(table(counts))
    print(f"{given.count:,} files in {time.perf_counter() - started:.0f} s; {len(ended)} ended a child")
    print("\n".join([*ended, *(f"WRONG: {line}" for line in wrong)]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
