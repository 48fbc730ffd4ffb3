"""Tests of uploads that one replica receives and the worker of another inspects, by way of the store they share."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests import object_store
from tests.object_store import BUCKET
from webapp import artifacts, config, registry
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Unavailable
from webapp.uploads import Desk, Wish, quarantine, sweeping, waiting
from webapp.uploads.waiting import LEASE, MOST_ATTEMPTS, PendingUpload

ANN = Actor("user:ann", "192.0.2.7", "request-of-ann")
PLACE = f"s3://{BUCKET}/production"


@pytest.fixture(scope="module")
def server() -> Iterator[object_store.Server]:
    """S3 of this machine."""
    made = object_store.Server()
    yield made
    made.end()


@pytest.fixture(autouse=True)
def empty(server: object_store.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in it, and this process knows its way there."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.clear()


@pytest.fixture(params=["store", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What the replicas share: an object store, or a folder that both machines have."""
    return PLACE if request.param == "store" else str(tmp_path / "shared")


def desk_at(place: str, settings: Settings, database: Database, name: str) -> Desk:
    """Give the place of a replica where uploads are taken in."""
    given = config.prepare(replace(settings, data_dir=settings.data_dir.with_name(name), artifact_store=place or None))
    return Desk(given, database, artifacts.opened(given))


@pytest.fixture
def one(place: str, settings: Settings, database: Database) -> Desk:
    """A replica, which receives."""
    return desk_at(place, settings, database, "one")


@pytest.fixture
def other(place: str, settings: Settings, database: Database) -> Desk:
    """A replica beside it, whose worker inspects."""
    return desk_at(place, settings, database, "other")


def writes(content: bytes) -> Callable[[Path], None]:
    """Give what saves a file that came."""

    def save(path: Path) -> None:
        path.write_bytes(content)

    return save


def receive(desk: Desk, content: bytes = b"", **parts: bytes) -> str:
    """Take in a file; an empty one is refused without opening it."""
    files = {"file": ("m.joblib", writes(content))} | {part: (part, writes(given)) for part, given in parts.items()}
    return waiting.receive(desk, ANN, Wish("iris"), files)


def claim(desk: Desk) -> PendingUpload:
    """Take the lease on the upload that waits, also when another one's has not run out."""
    with desk.database.transaction() as session:
        [pending] = waiting.under_way(session)
        pending.leased_until = pending.at - LEASE
    with desk.database.transaction() as session:
        claimed = waiting.claim(session, "other/1")
    assert claimed is not None
    return claimed


def row(desk: Desk, upload_id: str) -> PendingUpload:
    with desk.database.reading() as session:
        return waiting.get_upload(session, upload_id)


def shared(desk: Desk) -> list[str]:
    """Give what waits in the store, without digests."""
    return [name.partition(".")[0] for name in desk.artifacts.storage.names(quarantine.PLACE)]


def here(desk: Desk) -> list[Path]:
    """Give what lies in the replica's own quarantine."""
    return list(desk.settings.quarantine_dir.glob("*"))


def test_what_one_replica_receives_another_makes_a_version_of(one: Desk, other: Desk, tmp_path: Path) -> None:
    file = tmp_path / "iris.joblib"
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), file)
    upload_id = receive(one, file.read_bytes(), metadata=b'{"accuracy": 0.9}')
    assert shared(one) == [f"quarantine/{upload_id}/file", f"quarantine/{upload_id}/metadata"]
    assert here(one) == []

    waiting.work(other, claim(other))

    found = row(one, upload_id)
    assert (found.version, found.refusal) == (1, None)
    assert shared(one) == here(other) == []
    with one.database.reading() as session:
        [artifact, *_] = registry.every_artifact(session)
    assert one.artifacts.get(artifact) == other.artifacts.get(artifact)


def test_without_a_shared_store_files_wait_where_they_came(settings: Settings, database: Database) -> None:
    alone = desk_at("", settings, database, "alone")
    upload_id = receive(alone)
    assert (alone.folder(upload_id) / "file").exists()
    assert not alone.settings.artifacts_dir.exists()


def test_what_was_refused_leaves_the_store(one: Desk, other: Desk) -> None:
    upload_id = receive(one)
    waiting.work(other, claim(other))
    refusal = row(one, upload_id).refusal
    assert refusal is not None
    assert refusal["code"] == "model_format_unknown"
    assert shared(one) == here(other) == []


@pytest.mark.parametrize("content", [b"other bytes", b"longer than what came" * 1000])
def test_nobody_inspects_other_bytes_than_those_that_came(one: Desk, other: Desk, content: bytes) -> None:
    upload_id = receive(one, b"what came")
    [name] = one.artifacts.storage.names(quarantine.PLACE)
    one.artifacts.storage.delete(name)
    one.artifacts.storage.put(name, io.BytesIO(content))
    waiting.work(other, claim(other))
    refusal = row(one, upload_id).refusal
    assert refusal is not None
    assert (refusal["code"], "Upload again" in refusal["detail"]) == ("upload_files_damaged", True)
    assert shared(one) == here(other) == []


def test_files_that_the_store_lost_are_named(one: Desk, other: Desk) -> None:
    upload_id = receive(one)
    for name in list(one.artifacts.storage.names(quarantine.PLACE)):
        one.artifacts.storage.delete(name)
    waiting.work(other, claim(other))
    refusal = row(one, upload_id).refusal
    assert refusal is not None
    assert (refusal["code"], "m.joblib" in refusal["detail"]) == ("upload_files_missing", True)


@pytest.mark.parametrize("place", ["store"], indirect=True)
def test_a_store_that_is_away_uses_up_no_attempt(one: Desk, other: Desk, server: object_store.Server) -> None:
    upload_id = receive(one)
    with server.way.closed():
        for _ in range(MOST_ATTEMPTS + 1):
            with pytest.raises(Unavailable, match="store_unavailable"):
                waiting.work(other, claim(other))
        assert here(other) == []
    assert row(one, upload_id).attempts == 0
    waiting.work(other, claim(other))
    refusal = row(one, upload_id).refusal
    assert refusal is not None
    assert refusal["code"] == "model_format_unknown"


@pytest.mark.parametrize("place", ["store"], indirect=True)
def test_an_upload_that_cannot_be_kept_is_refused_and_leaves_nothing(one: Desk, server: object_store.Server) -> None:
    with server.way.closed(), pytest.raises(Unavailable, match="store_unavailable"):
        receive(one)
    assert here(one) == shared(one) == []
    with one.database.reading() as session:
        assert waiting.under_way(session) == []


def test_what_was_left_behind_is_swept_also_in_the_store(
    one: Desk, other: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = receive(one)
    ended = other.folder("of-a-worker-that-ended")
    ended.mkdir(parents=True)
    os.utime(ended, (0, time.time() - 2 * sweeping.LEFT_BEHIND.total_seconds()))
    one.artifacts.storage.put("quarantine/nobodys/file.0", io.BytesIO())
    model = one.artifacts.put(b"an artifact that no row names")
    assert sweeping.sweep(other) == [ended.name]
    monkeypatch.setattr(sweeping, "LEFT_BEHIND", timedelta(seconds=-60))
    assert sweeping.sweep(other) == ["quarantine/nobodys/file.0"]
    assert shared(one) == [f"quarantine/{kept}/file"]
    # Others may have one store, too: what they know of is not for this database to judge.
    assert one.artifacts.stored(model)
