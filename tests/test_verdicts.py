"""Tests of kept proofs: they save the next process a proof, and nobody else's are believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from webapp import artifacts
from webapp.artifacts import ArtifactStore
from webapp.catalog import ServedVersion
from webapp.serving import proof, verdicts
from webapp.serving.loading import Loader
from webapp.serving.predictor import assemble
from webapp.serving.proof import Proof
from webapp.serving.verdicts import Verdicts
from webapp.signature.learn import learn

SECRET = b"the secret that seals versions"
VERSION = ServedVersion("m", 1, "v1", "a" * 64, "the seal", {}, reference="b" * 64)
PROOF = Proof("100 trees", 2714, 6, 0, 3e-16, 226.49799939244986, 2240.3, "")


@pytest.fixture
def kept(tmp_path: Path) -> Verdicts:
    found = Verdicts(tmp_path / "proofs", SECRET)
    found.keep(VERSION, PROOF)
    return found


def test_another_process_finds_what_was_kept_as_it_was(kept: Verdicts, tmp_path: Path) -> None:
    assert Verdicts(tmp_path / "proofs", SECRET).of(VERSION) == PROOF


def test_what_was_never_proven_is_absent(kept: Verdicts) -> None:
    assert kept.of(replace(VERSION, number=2)) is None


@pytest.mark.parametrize("changed", [{"seal": "another seal"}, {"reference": "c" * 64}, {"reference": None}])
def test_the_proof_of_something_else_of_that_name_is_absent(kept: Verdicts, changed: dict[str, Any]) -> None:
    assert kept.of(replace(VERSION, **changed)) is None


def test_a_proof_that_another_secret_signed_is_absent(kept: Verdicts, tmp_path: Path) -> None:
    assert Verdicts(tmp_path / "proofs", b"another secret").of(VERSION) is None


@pytest.mark.parametrize("name", ["version", "_code"])
def test_a_proof_by_other_libraries_or_other_code_is_absent(
    kept: Verdicts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    where = verdicts.metadata if name == "version" else verdicts
    monkeypatch.setattr(where, name, lambda *_: "another")
    assert Verdicts(tmp_path / "proofs", SECRET).of(VERSION) is None


def test_a_proof_from_before_the_machine_was_started_anew_is_absent(
    kept: Verdicts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boot").write_text("another start")
    monkeypatch.setattr(verdicts, "BOOT", tmp_path / "boot")
    assert kept.of(VERSION) is None


def test_a_proof_of_which_any_byte_was_changed_is_absent(kept: Verdicts, tmp_path: Path) -> None:
    (file,) = (tmp_path / "proofs").iterdir()
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert kept.of(VERSION) is None
        file.write_bytes(whole[:at])
        assert kept.of(VERSION) is None
    file.write_bytes(whole)
    assert kept.of(VERSION) == PROOF


def test_a_version_has_one_file_which_belongs_to_its_user_alone(kept: Verdicts, tmp_path: Path) -> None:
    kept.keep(VERSION, replace(PROOF, rows=7))
    (file,) = (tmp_path / "proofs").iterdir()
    assert not file.stat().st_mode & 0o077
    assert kept.of(VERSION) == replace(PROOF, rows=7)


def test_a_proof_that_was_forgotten_is_absent(kept: Verdicts) -> None:
    kept.forget(VERSION)
    assert kept.of(VERSION) is None
    kept.forget(VERSION)


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "proofs").touch()
    found = Verdicts(tmp_path / "proofs", SECRET)
    found.keep(VERSION, PROOF)
    found.forget(VERSION)
    assert found.of(VERSION) is None


# --- In a process that serves -------------------------------------------------------------------------------


class Shelf:
    """A stored version, processes that load it, and how many proofs they have made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count proofs, which are made as always."""
        self.folder = folder
        frame = pd.DataFrame(np.random.default_rng(5).normal(size=(300, 3)), columns=["a", "b", "c"])
        estimator = LogisticRegression().fit(frame, frame["a"] > 0)
        signature = learn(estimator, assemble, reference=frame, declared=()).signature.as_dict()
        self.store = ArtifactStore(folder / "artifacts")
        digest = self.store.put(skops.io.dumps(estimator))
        seal = artifacts.seal(SECRET, "m", 1, digest, signature)
        self.version = ServedVersion("m", 1, "v1", digest, seal, signature)
        self.proofs: list[Proof] = []
        real = proof.prove

        def prove(*given: Any) -> Proof:
            self.proofs.append(real(*given))
            return self.proofs[-1]

        monkeypatch.setattr(proof, "prove", prove)

    def process(self) -> Loader:
        """Give what loads versions in another process of the host."""
        return Loader(self.store, SECRET, None, Verdicts(self.folder / "proofs", SECRET))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(tmp_path, monkeypatch)


def test_of_the_processes_of_a_host_one_proves_a_plan(shelf: Shelf) -> None:
    first, second = (shelf.process().load(shelf.version) for _ in range(2))
    assert shelf.proofs == [first.proof]
    assert second.proof == first.proof
    assert second.predictor.plan is not None
    rows: Sequence[Any] = [(0.1, 0.2, 0.3), (-1.0, 2.0, 0.0)]
    assert second.predictor.predict(rows, ["", ""]) == first.predictor.predict(rows, ["", ""])


def test_a_plan_that_was_switched_off_and_is_allowed_again_is_proven_again(shelf: Shelf) -> None:
    process = shelf.process()
    loaded = process.load(shelf.version)
    off = process.without_plan(loaded, replace(shelf.version, may_plan=False))
    assert (off.proof, off.predictor.plan) == (None, None)
    process.load(shelf.version)
    assert len(shelf.proofs) == 2


def test_so_is_one_that_was_off_when_a_process_started(shelf: Shelf) -> None:
    shelf.process().load(shelf.version)
    off = shelf.process().load(replace(shelf.version, may_plan=False))
    assert (off.proof, off.predictor.plan) == (None, None)
    shelf.process().load(shelf.version)
    assert len(shelf.proofs) == 2


def test_the_proof_of_another_plan_is_none_of_this_one(shelf: Shelf) -> None:
    Verdicts(shelf.folder / "proofs", SECRET).keep(shelf.version, PROOF)
    loaded = shelf.process().load(shelf.version)
    assert shelf.proofs == [loaded.proof]


def test_a_reason_against_a_plan_is_kept_by_nobody(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    real = proof.prove
    monkeypatch.setattr(proof, "prove", lambda *given: replace(real(*given), reason="It is not faster."))
    assert shelf.process().load(shelf.version).predictor.plan is None
    monkeypatch.setattr(proof, "prove", real)
    assert shelf.process().load(shelf.version).predictor.plan is not None
    assert len(shelf.proofs) == 2
