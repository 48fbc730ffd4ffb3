"""Tests of artifacts that are kept in an object store: copies here, what is verified, and the commands."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests import object_store
from tests.object_store import BUCKET
from webapp import artifacts, config, registry
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import NotFound, Unavailable
from webapp.storage import Folder, Remote

PLACE = f"s3://{BUCKET}/production"
CONTENT = b"the bytes of a model"


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


class Machine:
    """A machine whose artifacts are in the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(Remote(PLACE), Folder(folder))

    def path(self, digest: str) -> Path:
        """Where its copy is."""
        return self.folder / artifacts.name_of(digest)


@pytest.fixture
def one(tmp_path: Path) -> Machine:
    """A machine."""
    return Machine(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Machine:
    """A machine beside it."""
    return Machine(tmp_path / "other")


def damage(server: object_store.Server, digest: str) -> None:
    server.client.put_object(Bucket=BUCKET, Key=f"production/{artifacts.name_of(digest)}", Body=b"other bytes")


# --- The store and its copies -------------------------------------------------------------------------------


def test_what_one_machine_stores_another_reads(one: Machine, other: Machine, server: object_store.Server) -> None:
    digest = one.store.put(io.BytesIO(CONTENT))
    assert server.names() == [f"production/{digest[:2]}/{digest}"]
    assert not other.path(digest).exists()
    assert other.store.get(digest) == CONTENT
    assert one.path(digest).read_bytes() == other.path(digest).read_bytes() == CONTENT


def test_what_was_used_here_is_there_while_the_store_is_away(one: Machine, server: object_store.Server) -> None:
    used, new = one.store.put(CONTENT), "0" * 64
    with server.way.closed():
        assert one.store.get(used) == CONTENT
        assert Machine(one.folder).store.get(used) == CONTENT
        for ask in (lambda: one.store.get(new), lambda: one.store.stored(used), lambda: one.store.put(b"another")):
            with pytest.raises(Unavailable, match="store_unavailable"):
                ask()


@pytest.mark.parametrize("wrong", ["damaged", "cut short", "missing"])
def test_a_copy_that_is_not_what_was_stored_is_fetched_anew(one: Machine, wrong: str) -> None:
    digest = one.store.put(CONTENT)
    one.path(digest).unlink()
    if wrong != "missing":
        one.path(digest).write_bytes(CONTENT[:5] if wrong == "cut short" else b"x" * len(CONTENT))
    assert one.store.get(digest) == CONTENT
    assert one.path(digest).read_bytes() == CONTENT


def test_damaged_bytes_of_the_store_are_never_given_nor_kept(
    one: Machine, other: Machine, server: object_store.Server
) -> None:
    digest = one.store.put(CONTENT)
    damage(server, digest)
    with pytest.raises(Unavailable, match="artifact_damaged"):
        other.store.get(digest)
    assert not other.path(digest).exists()
    assert one.store.get(digest) == CONTENT
    one.store.put(CONTENT)
    assert other.store.get(digest) == CONTENT


def test_an_object_that_was_lost_is_missing_where_there_is_no_copy(
    one: Machine, other: Machine, server: object_store.Server
) -> None:
    digest = one.store.put(CONTENT)
    server.clear()
    with pytest.raises(NotFound, match="artifact_missing"):
        other.store.get(digest)
    assert one.store.get(digest) == CONTENT


def test_a_disk_without_room_for_a_copy_is_no_obstacle(one: Machine, other: Machine) -> None:
    digest = one.store.put(CONTENT)
    other.folder.write_bytes(b"a file where the folder should be")
    assert other.store.get(digest) == CONTENT


def test_a_store_elsewhere_needs_a_folder_for_copies() -> None:
    with pytest.raises(ValueError, match="None"):
        ArtifactStore(Remote(PLACE))


@pytest.mark.parametrize("place", ["", "/folder", "file:///folder", PLACE])
def test_the_settings_name_the_store(settings: Settings, tmp_path: Path, place: str) -> None:
    given = place.replace("/folder", str(tmp_path / "folder"))
    environ = {"MODELPORT_DATA_DIR": str(settings.data_dir), "MODELPORT_ARTIFACT_STORE": given}
    store = artifacts.opened(config.load(environ))
    digest = store.put(CONTENT)
    folder = {"": settings.artifacts_dir, PLACE: None}.get(place, tmp_path / "folder")
    assert store.get(digest) == CONTENT
    assert folder is None or (folder / artifacts.name_of(digest)).exists()
    # A folder is as near as a copy of it would be.
    assert settings.artifacts_dir.exists() == (place in {"", PLACE})


# --- The commands -------------------------------------------------------------------------------------------


def ran(settings: Settings, *words: str, store: str = "") -> tuple[int, dict[str, Any], str]:
    """Run a command; give its exit code, its document and what it said on stderr."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    done = subprocess.run(
        [sys.executable, "-m", "webapp.cli", *words, "--json"],
        env={
            **clean,
            "MODELPORT_DATA_DIR": str(settings.data_dir),
            "MODELPORT_DATABASE_URL": settings.sqlalchemy_url,
            "MODELPORT_ARTIFACT_STORE": store,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@pytest.fixture
def model(settings: Settings, database: Database, tmp_path: Path) -> None:
    """A model with one active version, stored in the folder."""
    file = tmp_path / "iris.joblib"
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), file)
    code, _, said = ran(settings, "models", "upload", str(file), "--name", "iris", "--activate")
    assert code == 0, said


def checks(settings: Settings) -> dict[str, dict[str, Any]]:
    """Give what the doctor finds, by name."""
    _, document, _ = ran(settings, "doctor", store=PLACE)
    return {check["name"]: check for check in document["checks"]}


def test_artifacts_move_into_a_store_and_are_served_from_there(
    model: None, settings: Settings, server: object_store.Server
) -> None:
    stored = sorted(path.name for path in settings.artifacts_dir.glob("??/*"))
    assert ran(settings, "models", "copy-artifacts", PLACE)[:2] == (
        0,
        {"copied": len(stored), "present": 0, "failures": []},
    )
    assert [name.rpartition("/")[2] for name in server.names()] == stored
    damage(server, stored[0])
    assert ran(settings, "models", "copy-artifacts", PLACE)[1] == {
        "copied": 1,
        "present": len(stored) - 1,
        "failures": [],
    }
    for path in settings.artifacts_dir.glob("??/*"):
        path.unlink()
    code, document, _ = ran(settings, "models", "verify", "--all", store=PLACE)
    assert (code, document["failed"]) == (0, 0)
    assert [each["checked"] for each in document["versions"]] == ["loads, and answers its golden rows as before"]
    found = checks(settings)
    assert (found["Artifact store"]["state"], found["Artifacts"]["state"]) == ("ok", "ok")
    with server.way.closed():
        found = checks(settings)
        assert (found["Artifact store"]["state"], found["Artifacts"]["state"]) == ("bad", "ok")
        assert ran(settings, "models", "verify", "--all", store=PLACE)[0] == 0
    server.clear()
    found = checks(settings)
    assert (found["Artifact store"]["state"], found["Artifacts"]["state"]) == ("ok", "bad")
    assert "iris version 1" in found["Artifacts"]["finding"]


def test_what_cannot_be_copied_is_said_and_the_rest_is_copied(
    database: Database, settings: Settings, server: object_store.Server
) -> None:
    folder = ArtifactStore(settings.artifacts_dir)
    there, lost = folder.put(CONTENT), "0" * 64
    with database.transaction() as session:
        for number, digest in enumerate((there, lost)):
            registry.add_version(
                session,
                Actor("user:ann"),
                settings.derive("versions"),
                f"model-{number}",
                artifact=digest,
                signature={"features": [], "outputs": [], "container": "array", "probabilities": "none"},
                report={},
                card={},
                label=None,
            )
    code, document, _ = ran(settings, "models", "copy-artifacts", PLACE)
    assert (code, document["copied"], len(document["failures"])) == (1, 1, 1)
    assert lost[:12] in document["failures"][0]
    assert server.names() == [f"production/{artifacts.name_of(there)}"]
    with server.way.closed():
        code, document, said = ran(settings, "models", "copy-artifacts", PLACE)
    assert (code, document["error"]["code"]) == (1, "store_unavailable")
    assert object_store.SECRET not in said


def test_a_place_that_cannot_be_one_is_wrong_usage(settings: Settings, database: Database) -> None:
    code, _, said = ran(settings, "models", "copy-artifacts", "nowhere://x")
    assert code == 2
    assert "names a kind of store that is not known: nowhere" in said
