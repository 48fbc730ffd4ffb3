"""Tests of exports that take a while: written once, given up in the end, kept for a week; and those of a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import databases
from tests.test_predictions import AT, HOST, record
from webapp import app, db, exporting
from webapp.audit import Actor, AuditRecord
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Conflict
from webapp.predictions import exports, files, log
from webapp.predictions.exports import Export
from webapp.predictions.search import Wanted
from webapp.storage import Folder
from webapp.web import Parts
from webapp.worker.exports import Exporter

ANN = Actor("user:ann")


@pytest.fixture
def parts(settings: Settings, database: Database) -> Iterator[Parts]:
    """The parts of a worker's process, of which nothing is started; ten predictions are logged."""
    made = app.make_parts(settings)
    with made.database.transaction() as session:
        rows = [record(number, at=AT + number, model="prices" if number == 9 else "churn") for number in range(10)]
        log.insert(session, log.Piece(HOST, "segment", rows, 1))
    yield made
    made.database.engine.dispose()


def ask(parts: Parts, wanted: Wanted = Wanted(), form: str = "jsonl") -> str:  # noqa: B008 - it is frozen
    with parts.database.transaction() as session:
        return exports.ask(session, ANN, form, wanted).id


def get(parts: Parts, export_id: str) -> Export:
    with parts.database.reading() as session:
        return exports.get_export(session, export_id)


def ids(parts: Parts, export_id: str) -> list[str]:
    content = parts.artifacts.storage.get(get(parts, export_id).file_name)
    return [json.loads(line)["prediction_id"] for line in content.splitlines()]


def work(parts: Parts) -> bool:
    return Exporter(parts, "this-host").work_once()


def pass_by(parts: Parts, **moments: timedelta) -> None:
    """Move moments of all exports into the past."""
    with parts.database.transaction() as session:
        for export in session.scalars(sa.select(Export)):
            for name, span in moments.items():
                setattr(export, name, getattr(export, name) - span)


def test_a_file_has_what_was_in_the_log_when_it_was_asked_for(parts: Parts) -> None:
    export_id = ask(parts, Wanted(model="churn"))
    with parts.database.transaction() as session:
        later = record("later", at=db.now().timestamp() + 60)
        log.insert(session, log.Piece(HOST, "segment", [later], 2))
    assert work(parts)
    assert ids(parts, export_id) == [f"r-{number}" for number in reversed(range(9))]
    done = get(parts, export_id)
    assert (done.status, done.rows, done.share) == ("completed", 9, 1.0)
    assert done.bytes == len(parts.artifacts.storage.get(done.file_name))
    assert not work(parts)


def test_on_the_way_it_is_told_how_far_it_is(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TELL_SECONDS", 0)
    export_id = ask(parts, Wanted(until=db.now()))
    seen = []
    lines = files.lines

    def looked_at(*given: object) -> Iterator[files.Line]:
        for line in lines(*given):  # type: ignore[arg-type] # as it was called
            export = get(parts, export_id)
            seen.append((export.status, export.rows))
            yield line

    monkeypatch.setattr(files, "lines", looked_at)
    work(parts)
    assert seen == [("processing", max(0, number - 1)) for number in range(10)]


def test_a_lease_that_ran_out_is_taken_over_and_the_slow_one_leaves_nothing(parts: Parts) -> None:
    export_id = ask(parts)
    with parts.database.transaction() as session:
        slow = exports.claim(session, "a-host/1")
        assert slow
    assert not work(parts), "somebody holds it"
    pass_by(parts, leased_until=2 * exports.LEASE)
    assert work(parts)
    exporting.write(parts.database, parts.artifacts.storage, slow, "a-host/1", lambda: False)
    assert len(ids(parts, export_id)) == 10
    assert list(parts.artifacts.storage.names("exports")) == [get(parts, export_id).file_name]


def test_one_that_is_removed_meanwhile_ends(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TELL_SECONDS", 0)
    export_id = ask(parts)
    with parts.database.transaction() as session:
        claimed = exports.claim(session, "a-host/1")
        assert claimed
    with parts.database.transaction() as session:
        exports.remove(session, ANN, export_id)
    exporting.write(parts.database, parts.artifacts.storage, claimed, "a-host/1", lambda: False)
    assert not list(parts.artifacts.storage.names("exports"))


def test_what_cannot_be_written_is_tried_again_and_given_up_with_the_reason(parts: Parts) -> None:
    storage = parts.artifacts.storage
    assert isinstance(storage, Folder)
    export_id = ask(parts)
    # A file stands where the folder would be.
    storage.path.mkdir(exist_ok=True)
    (storage.path / "exports").touch()
    for _ in range(exports.MOST_ATTEMPTS):
        assert work(parts)
        assert not work(parts), "it waits for a while"
        pass_by(parts, leased_until=timedelta(hours=1))
    assert not work(parts)
    given_up = get(parts, export_id)
    assert (given_up.status, "could not be written" in given_up.failure) == ("failed", True)


def test_no_more_wait_than_have_room(parts: Parts) -> None:
    for _ in range(exports.MOST_WAITING):
        ask(parts)
    with pytest.raises(Conflict, match="exports_waiting"):
        ask(parts)


def test_files_are_kept_for_a_week_and_those_of_no_export_for_a_day(parts: Parts) -> None:
    storage = parts.artifacts.storage
    assert isinstance(storage, Folder)
    old, new = ask(parts), ask(parts)
    work(parts)
    work(parts)
    with parts.database.transaction() as session:
        exports.get_export(session, old).asked_at -= exports.KEPT
    path = storage.path / "exports" / "of-nobody" / "1.csv"
    path.parent.mkdir()
    path.touch()
    exports.expire(parts.database, storage)
    assert {name.split("/")[1] for name in storage.names("exports")} == {new, "of-nobody"}
    long_ago = (db.now() - 2 * exports.LEFT_BEHIND).timestamp()
    os.utime(path, (long_ago, long_ago))
    exports.expire(parts.database, storage)
    assert {name.split("/")[1] for name in storage.names("exports")} == {new}


# --- By command ---------------------------------------------------------------------------------------------


def ran(settings: Settings, *options: str) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    given = {"MODELPORT_DATA_DIR": str(settings.data_dir), **databases.environment(settings.data_dir)}
    command = [sys.executable, "-m", "webapp.cli", "predictions", "export", *options]
    return subprocess.run(command, env={**clean, **given}, capture_output=True, check=False)


def test_a_command_writes_a_line_for_each_prediction_and_is_noted(settings: Settings, parts: Parts) -> None:
    done = ran(settings, "--model", "churn", "--version", "3", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prediction_id"] for row in rows] == [f"r-{number}" for number in reversed(range(9))]
    assert (rows[0]["outcome"], rows[0]["instance"]["age"]) == (None, 35.0)
    with parts.database.reading() as session:
        [noted] = session.scalars(sa.select(AuditRecord).where(AuditRecord.action == "predictions.export"))
    assert noted.detail == {"form": "jsonl", "wanted": {"model": "churn", "version": 3}}


def test_a_command_writes_a_file_or_says_what_is_wrong(settings: Settings, parts: Parts, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    done = ran(settings, "--format", "csv", "--output", str(file), "--since", "2000-01-01", "--json")
    assert json.loads(done.stdout) == {"rows": 10, "file": str(file)}
    assert len(file.read_text().splitlines()) == 11
    assert [path.name for path in tmp_path.iterdir() if "out.csv" in path.name] == ["out.csv"]
    assert ran(settings, "--until", "2000-01-01").stdout == b""
    for options, code in (
        (("--since", "soon"), b"time_unreadable"),
        (("--output", str(tmp_path / "none" / "out")), b"output_unusable"),
    ):
        refused = ran(settings, *options)
        assert (refused.returncode, code in refused.stderr) == (1, True)
