"""Tests of percentiles: where a value lies among those of a reference, read once and never without bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from webapp.artifacts import ArtifactStore, name_of
from webapp.serving import percentiles
from webapp.signature import Feature, Output, Signature

SIGNATURE = Signature(
    (Feature("age"), Feature("plan", "string"), Feature("score")), "frame", "regression", (Output("y"),)
)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def reference(store: ArtifactStore, rows: int = 1001) -> str:
    lines = ["age,plan,other", *(f"{row},pro,1" for row in range(rows)), ",free,1", "inf,free,1"]
    return store.put("\n".join(lines).encode())


def test_a_value_has_its_place_among_all(store: ArtifactStore) -> None:
    found = percentiles.of(store, reference(store), SIGNATURE)
    assert list(found) == ["age"], "texts have none, and what is not there neither"
    assert [percentiles.percent(found["age"], value) for value in (-5, 0, 500, 505, 1000, 2000)] == [
        0, 0, 50, 50.5, 100, 100,
    ]  # fmt: skip


def test_of_many_that_are_the_same_half_lie_below() -> None:
    zeros_and_ones = (0.0,) * 51 + (1.0,) * 50
    assert percentiles.percent(zeros_and_ones, 0.0) == 25
    assert percentiles.percent(zeros_and_ones, 1.0) == 75.5


def test_it_is_read_once(store: ArtifactStore) -> None:
    digest = reference(store)
    first = percentiles.of(store, digest, SIGNATURE)
    (store.storage.path / name_of(digest)).unlink()  # type: ignore[union-attr] # a folder
    assert percentiles.of(store, digest, SIGNATURE) is first


def test_without_a_reference_that_can_be_read_there_are_none(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert percentiles.of(store, None, SIGNATURE) == {}
    assert percentiles.of(store, "0" * 64, SIGNATURE) == {}
    assert percentiles.of(store, store.put(b"\xff\xfe\x00"), SIGNATURE) == {}
    damaged = reference(store, 7)
    path = store.storage.path / name_of(damaged)  # type: ignore[union-attr] # a folder
    path.chmod(0o600)
    path.write_bytes(b"age\n1\n")
    assert percentiles.of(store, damaged, SIGNATURE) == {}
    monkeypatch.setattr(percentiles, "MOST_BYTES", 100)
    assert percentiles.of(store, reference(store), SIGNATURE) == {}
