"""The chain of the audit trail: whoever edits, deletes or inserts a row behind Modelport's back is found out."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from tests import databases
from webapp import app, audit
from webapp.audit import Actor, Anchor, AuditRecord, Trail
from webapp.config import Settings
from webapp.db import Database, now
from webapp.worker.anchors import Anchorer

ANN = Actor("user:ann", "192.0.2.7", "a" * 32)


def note(database: Database, *subjects: str) -> None:
    """Note changes of several subjects, each in a transaction of its own."""
    for subject in subjects:
        with database.transaction() as session:
            audit.record(session, ANN, "keys.edit", subject, before={"größe": 1.5, "b": None}, after=[1, "ä"])


def seen(database: Database, known: Anchor | None = None) -> Trail:
    """Verify the trail."""
    with database.reading() as session:
        return audit.verify(session, known)


def meddle(database: Database, statement: str) -> None:
    """Write the table as somebody with the database's password would."""
    with database.engine.begin() as connection:
        connection.execute(sa.text(statement))


def test_a_trail_that_nobody_touched_is_intact(database: Database) -> None:
    assert seen(database) == Trail(0, None, None)
    note(database, "one", "two", "three")
    with database.transaction() as session:
        audit.record(session, ANN, "keys.roll", "four")
        audit.record(session, ANN, "keys.revoke", "five")
    trail = seen(database)
    assert (trail.rows, trail.broken) == (5, None)
    assert trail.last is not None
    assert seen(database, trail.last).broken is None
    with database.reading() as session:
        assert audit.last(session) == trail.last


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE audit_records SET actor = 'user:bob' WHERE id = 2", 2),
        ("UPDATE audit_records SET detail = '{}' WHERE id = 3", 3),
        ("UPDATE audit_records SET at = '2020-01-01 00:00:00' WHERE id = 1", 1),
        ("UPDATE audit_records SET subject = 'x', digest = NULL WHERE id = 3", 3),
        ("DELETE FROM audit_records WHERE id = 2", 3),
        ("DELETE FROM audit_records WHERE id = 1", 2),
        ("UPDATE audit_records SET id = 9 WHERE id = 3", 4),
    ],
)
def test_a_row_that_was_edited_deleted_or_moved_is_found(database: Database, statement: str, broken: int) -> None:
    note(database, "one", "two", "three", "four")
    meddle(database, statement)
    assert seen(database).broken == broken
    # What comes afterwards does not mend it.
    note(database, "five")
    assert seen(database).broken == broken


def test_an_end_that_was_cut_off_and_a_chain_made_anew_are_told_by_a_row_that_was_seen_elsewhere(
    database: Database,
) -> None:
    note(database, "one", "two", "three")
    last = seen(database).last
    assert last is not None
    meddle(database, "DELETE FROM audit_records WHERE id = 3")
    assert seen(database).broken is None
    assert seen(database, last).broken == 3
    # Without digests all rows look like those of an older release, which are chained when the next one comes.
    meddle(database, "UPDATE audit_records SET digest = NULL, actor = 'user:bob'")
    note(database, "another third", "fourth")
    assert seen(database).rows == 4
    assert seen(database, Anchor(2, "0" * 64)).broken == 2


def test_rows_of_an_older_release_are_chained_when_the_next_one_comes(database: Database) -> None:
    plain = {"at": now(), "actor": "cli:root", "address": "", "request_id": "", "action": "keys.create", "detail": {}}
    with database.transaction() as session:
        session.execute(sa.insert(AuditRecord), [{**plain, "subject": name} for name in ("one", "two")])
    assert seen(database).broken == 1
    note(database, "three")
    assert seen(database) == Trail(3, seen(database).last, None)


def test_changes_that_come_at_once_stand_one_after_the_other(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: note(database, *(f"{number}.{each}" for each in range(5))), range(8)))
    trail = seen(database)
    assert (trail.rows, trail.broken) == (40, None)


def test_a_change_that_is_rolled_back_leaves_no_trace(database: Database) -> None:
    note(database, "one")

    def fail() -> None:
        with database.transaction() as session:
            audit.record(session, ANN, "keys.edit", "two")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert seen(database).rows == 1


def test_the_command_says_what_it_finds_and_a_row_that_is_known_from_elsewhere(
    settings: Settings, database: Database
) -> None:
    def ran(*options: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
        given = {"MODELPORT_DATA_DIR": str(settings.data_dir), **databases.environment(settings.data_dir)}
        command = [sys.executable, "-m", "webapp.cli", "audit", "verify", *options]
        return subprocess.run(command, env={**clean, **given}, capture_output=True, text=True, check=False)

    note(database, "one", "two")
    done = ran("--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["intact"], document["rows"]) == (0, True, 2)
    assert ran("--known", document["last"]).returncode == 0
    assert ran("--known", "two").returncode == 2
    meddle(database, "UPDATE audit_records SET subject = 'x' WHERE id = 2")
    done = ran()
    assert done.returncode == 1
    assert "Row 2 is not as it was written" in done.stdout
    assert json.loads(ran("--json").stdout)["first_broken"] == 2


def test_the_worker_says_in_the_log_where_the_trail_ends(
    settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:

    parts = app.create_app(settings).extensions["modelport"]
    caplog.set_level(logging.INFO)
    note(database, "one")
    Anchorer(parts, "host").look()
    [line] = [each for each in caplog.records if each.message == "audit.last"]
    assert vars(line)["row"] == str(seen(database).last)
