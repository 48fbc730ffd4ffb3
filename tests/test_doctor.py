"""Tests of `modelport doctor`: what it finds on a fresh machine, on a healthy one, and where something is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from webapp import fleet, registry
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Database

ANN = Actor("user:ann")
HOST = "this-host"
SIGNATURE = {"features": [], "outputs": [], "container": "array", "probabilities": "none"}


def ran(data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a data directory."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    return subprocess.run(
        [sys.executable, "-m", "webapp.cli", "doctor", *options],
        env={**clean, "MODELPORT_DATA_DIR": str(data_dir), **databases.environment(data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )


def found(settings: Settings) -> tuple[int, dict[str, dict[str, Any]]]:
    """Give the exit code, and the checks by name."""
    done = ran(settings.data_dir, "--json")
    document = json.loads(done.stdout)
    assert document["healthy"] == (done.returncode == 0)
    assert not done.stderr
    return done.returncode, {check.pop("name"): check for check in document["checks"]}


@pytest.fixture
def artifact(settings: Settings, database: Database) -> Path:
    """The stored file of a model's active version."""
    store = ArtifactStore(settings.artifacts_dir)
    digest = store.put(b"the bytes of a model")
    with database.transaction() as session:
        made = registry.add_version(
            session,
            ANN,
            settings.derive("versions"),
            "churn",
            artifact=digest,
            signature=SIGNATURE,
            report={},
            card={},
            label=None,
        )
        registry.activate(session, ANN, "churn", made.number)
    return settings.artifacts_dir / digest[:2] / digest


@pytest.fixture
def serving(database: Database) -> None:
    """What the processes of a host report while they run."""
    with database.transaction() as session:
        fleet.report(session, HOST, 1, 4711, 1)
        fleet.beat(session, HOST, "worker")
        fleet.beat(session, HOST, "log writer")


def test_where_there_is_no_data_yet_it_says_so_and_makes_none(tmp_path: Path) -> None:
    done = ran(tmp_path / "data")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "modelport db upgrade" in done.stdout
    assert not (tmp_path / "data").exists()


def test_a_fresh_data_directory_is_healthy_and_the_processes_are_missed(database: Database, settings: Settings) -> None:
    code, checks = found(settings)
    assert code == 0
    assert {name for name, check in checks.items() if check["state"] == "bad"} == set()
    assert {name: checks[name]["state"] for name in ("Web workers", "Worker", "Log writer", "Artifacts")} == {
        "Web workers": "warn",
        "Worker": "warn",
        "Log writer": "warn",
        "Artifacts": "warn",
    }
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")


def test_what_serves_well_is_ok_throughout(artifact: Path, serving: None, settings: Settings) -> None:
    _, checks = found(settings)
    machine = {"Disk", "Lock", "Versions"}
    assert {check["state"] for name, check in checks.items() if name not in machine} == {"ok"}
    of_database = {"Database"} if databases.ON_POSTGRESQL else {"Database", "SQLite"}
    assert machine | of_database | {"Secret key", "Artifacts", "Worker"} <= checks.keys()


def test_people_read_one_line_per_check_and_what_to_do(database: Database, settings: Settings) -> None:
    said = ran(settings.data_dir).stdout
    assert "ok    Data directory: " in said
    assert "warn  Web workers: None is live.\n      → Start them with `modelport serve`." in said


def test_a_damaged_artifact_is_bad_and_named(artifact: Path, settings: Settings) -> None:
    artifact.chmod(0o600)
    artifact.write_bytes(b"other bytes")
    code, checks = found(settings)
    assert code == 1
    assert checks["Artifacts"]["state"] == "bad"
    assert "churn version 1" in checks["Artifacts"]["finding"]
    artifact.unlink()
    assert "not in the store" in found(settings)[1]["Artifacts"]["finding"]


def test_a_silent_process_is_bad_where_others_serve(artifact: Path, serving: None, settings: Settings) -> None:
    with Database(settings.sqlalchemy_url).transaction() as session:
        for heartbeat in fleet.heartbeats(session):
            if heartbeat.process == "log writer":
                session.delete(heartbeat)
    code, checks = found(settings)
    assert code == 1
    assert (checks["Worker"]["state"], checks["Log writer"]["state"]) == ("ok", "bad")


def test_a_worker_that_cannot_load_is_bad(serving: None, database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        fleet.report(session, HOST, 1, 4711, 1, "The artifact of churn is not in the store.")
    assert found(settings)[1]["Web workers"]["state"] == "bad"


def test_files_open_to_others_are_told(database: Database, settings: Settings) -> None:
    settings.data_dir.chmod(0o755)
    (settings.data_dir / "secret-key").chmod(0o644)
    code, checks = found(settings)
    assert code == 1
    assert (checks["Data directory"]["state"], checks["Secret key"]["state"]) == ("warn", "bad")
    assert "chmod 600" in checks["Secret key"]["remedy"]


def test_a_lost_secret_is_not_made_anew(database: Database, settings: Settings) -> None:
    (settings.data_dir / "secret-key").unlink()
    assert found(settings)[1]["Secret key"]["state"] == "bad"
    assert not (settings.data_dir / "secret-key").exists()


@pytest.mark.sqlite("only SQLite's database is a file")
def test_a_database_that_is_missing_empty_or_no_database_is_bad(database: Database, settings: Settings) -> None:
    file = settings.data_dir / "modelport.db"
    file.write_bytes(b"no database at all" * 100)
    assert "damaged" in found(settings)[1]["Database"]["finding"]
    file.write_bytes(b"")
    assert "modelport db upgrade" in found(settings)[1]["Database"]["finding"]
    file.unlink()
    assert found(settings)[1]["Database"]["state"] == "bad"
    assert not file.exists()
