"""Tests of erasure: what is kept about a subject goes, wherever it is, and what is on its way does not come in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO

import pytest
import sqlalchemy as sa

from tests import databases
from tests.test_predictions import HOST, record, truth_of
from webapp import app, db, erasure, jobs
from webapp.audit import Actor, AuditRecord
from webapp.batches import results_name
from webapp.config import Settings
from webapp.db import Database
from webapp.erasure import Erased
from webapp.jobs import Chunk, Job, Order
from webapp.log_writer import LogWriter
from webapp.predictions import exports, log, subjects, truth
from webapp.predictions.log import Prediction
from webapp.predictions.search import Wanted
from webapp.predictions.spool import Spool
from webapp.predictions.subjects import SubjectDeletion
from webapp.signature import keeping
from webapp.web import Parts
from webapp.worker.exports import Exporter
from webapp.worker.removal import REMOVED_WITHIN, Remover

ANN = Actor("user:ann")
ADA, BOB = "ada@example.com", "bob@example.com"


@dataclass
class Kept:
    """An installation in which predictions about people are kept."""

    parts: Parts
    writer: LogWriter
    spool: Spool
    numbers: list[int] = field(default_factory=list)

    @property
    def key(self) -> bytes:
        return self.parts.settings.derive(keeping.KEY)

    def made(self, whom: str | None, model: str = "churn", **more: object) -> dict[str, object]:
        """Make a record about somebody."""
        self.numbers.append(number := len(self.numbers))
        subject = None if whom is None else keeping.subject(self.key, whom)
        facts = {"model": model, "at": db.now().timestamp(), "subject": subject, **more}
        return record(number, **facts)

    def log(self, *whom: str | None, **more: object) -> None:
        """Have predictions about people in the log."""
        self.spool.append([self.made(each, **more) for each in whom])
        self.writer.drain()

    def logged(self) -> set[str]:
        with self.parts.database.reading() as session:
            return set(session.scalars(sa.select(Prediction.id)))

    def erase(self, whom: str, model: str | None = None) -> Erased:
        storage = self.parts.artifacts.storage
        return erasure.erase(self.parts.database, storage, ANN, keeping.subjects(self.key, whom), model)

    def batch(self) -> str:
        """Accept a batch of which everything is computed and stored."""
        order = Order("key1", test=False, model="churn", version=3, form="json")
        with self.parts.database.transaction() as session:
            job_id = jobs.accept(session, order, jobs.new_id(), [1]).id
        with self.parts.database.transaction() as session:
            session.execute(sa.update(Chunk).where(Chunk.job_id == job_id).values(done_at=db.now(), attempts=1))
        self.parts.artifacts.storage.put(results_name(job_id, 0, 1), BytesIO(b"{}\n"))
        return job_id

    def batches(self) -> set[str]:
        with self.parts.database.reading() as session:
            return set(session.scalars(sa.select(Job.id)))


@pytest.fixture
def kept(settings: Settings, database: Database) -> Iterator[Kept]:
    parts = app.make_parts(settings)
    parts.spool.start()
    yield Kept(parts, LogWriter(database, settings.spool_dir, HOST), parts.spool)
    parts.spool.stop()
    parts.database.engine.dispose()


def test_a_subjects_predictions_go_with_what_was_told_and_others_stay(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "MOST_ROWS", 2)
    kept.log(ADA, BOB, None, ADA, ADA, ADA, ADA)
    with kept.parts.database.transaction() as session:
        truth.put(session, [truth_of(each, "no") for each in ("r-0", "r-1")])
    assert kept.erase(ADA) == Erased(5, 0, 0)
    assert kept.logged() == {"r-1", "r-2"}
    with kept.parts.database.reading() as session:
        assert set(truth.known(session, ["r-0", "r-1"])) == {"r-1"}
    assert kept.erase(ADA) == Erased(0, 0, 0)


def test_of_one_model_only_where_it_is_named(kept: Kept) -> None:
    kept.log(ADA)
    kept.log(ADA, model="prices")
    assert kept.erase(ADA, "prices").predictions == 1
    assert kept.logged() == {"r-0"}


def test_what_waits_in_a_spool_does_not_come_into_the_log(kept: Kept) -> None:
    kept.spool.append([kept.made(ADA), kept.made(BOB), kept.made(ADA, model="prices")])
    kept.erase(ADA, "churn")
    assert kept.writer.drain() == 3
    assert kept.logged() == {"r-1", "r-2"}


def test_what_is_predicted_afterwards_is_kept(kept: Kept) -> None:
    kept.erase(ADA)
    kept.log(ADA, at=(db.now() + timedelta(seconds=1)).timestamp())
    assert kept.logged() == {"r-0"}


@pytest.mark.postgresql("SQLite lets one transaction write at a time")
def test_a_row_that_is_being_inserted_beside_the_deletion_is_deleted(kept: Kept) -> None:
    """A log writer may have looked for marks before there was one, and commit after it."""
    with kept.parts.database.transaction() as session:
        made = kept.made(ADA)
        log.insert(session, log.Piece(HOST, "other", erasure.screened(session, [made]), 1))
        deleting = threading.Thread(target=kept.erase, args=[ADA])
        deleting.start()
        deleting.join(0.5)
        assert deleting.is_alive(), "it waits for who inserts"
    deleting.join()
    assert kept.logged() == set()


def test_a_batch_that_the_subject_is_in_goes_with_its_files(kept: Kept) -> None:
    with_ada, without = kept.batch(), kept.batch()
    kept.log(ADA, BOB, request_id=with_ada, source="batch")
    kept.log(BOB, request_id=without, source="batch")
    assert kept.erase(ADA) == Erased(1, 1, 0)
    assert kept.batches() == {without}
    assert list(kept.parts.artifacts.storage.names("batches")) == [results_name(without, 0, 1)]


def test_a_batch_from_before_that_is_computed_afterwards_goes_when_the_subject_turns_up(kept: Kept) -> None:
    with_ada, without = kept.batch(), kept.batch()
    kept.erase(ADA)
    later = (db.now() + timedelta(minutes=1)).timestamp()
    kept.log(ADA, BOB, request_id=with_ada, source="batch", at=later)
    kept.log(BOB, request_id=without, source="batch", at=later)
    assert kept.logged() == {"r-1", "r-2"}
    assert kept.batches() == {without}


def test_exports_that_may_have_the_subject_go_and_those_of_other_models_stay(kept: Kept) -> None:
    kept.log(ADA)
    with kept.parts.database.transaction() as session:
        of_all = exports.ask(session, ANN, "jsonl", Wanted()).id
        of_churn = exports.ask(session, ANN, "jsonl", Wanted(model="churn")).id
        of_prices = exports.ask(session, ANN, "jsonl", Wanted(model="prices")).id
    exporter = Exporter(kept.parts, HOST)
    while exporter.work_once():
        pass
    assert kept.erase(ADA, "churn").exports == 2
    names = {name.split("/")[1] for name in kept.parts.artifacts.storage.names("exports")}
    assert names == {of_prices}
    assert not names & {of_all, of_churn}
    assert kept.erase(ADA).exports == 1


def test_the_trail_has_a_hash_and_never_the_value(kept: Kept, settings: Settings) -> None:
    kept.log(ADA)
    kept.erase(ADA)
    with kept.parts.database.reading() as session:
        [noted] = session.scalars(sa.select(AuditRecord).where(AuditRecord.action == "predictions.delete_subject"))
    assert noted.subject == keeping.subject(kept.key, ADA)[:16]
    assert ADA.encode() not in databases.everything(settings.data_dir)


def test_a_mark_stays_as_long_as_anything_it_is_for_may_come(kept: Kept) -> None:
    kept.erase(ADA)
    days = timedelta(days=kept.parts.settings.retention_days)

    def marks() -> int:
        with kept.parts.database.reading() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(SubjectDeletion)) or 0

    def older(span: timedelta) -> None:
        with kept.parts.database.transaction() as session:
            session.execute(sa.update(SubjectDeletion).values(at=db.now() - span))

    older(days)
    Remover(kept.parts, HOST).work_once()
    assert marks() == 1
    older(days + 2 * REMOVED_WITHIN)
    Remover(kept.parts, HOST).work_once()
    assert marks() == 0


def test_who_is_looked_for_is_found_by_an_index(kept: Kept) -> None:
    kept.log(*[ADA, BOB] * 20)
    with kept.parts.database.engine.connect() as connection:
        statement = "SELECT id FROM predictions WHERE subject IN ('a', 'b') LIMIT 1000"
        if databases.ON_POSTGRESQL:
            connection.exec_driver_sql("SET enable_seqscan = off")
            statement = f"EXPLAIN {statement}"
        else:
            statement = f"EXPLAIN QUERY PLAN {statement}"
        plan = " ".join(str(row) for row in connection.exec_driver_sql(statement))
    assert "ix_predictions_subject" in plan


def test_a_command_deletes_whom_it_is_told_or_reads(kept: Kept, settings: Settings) -> None:
    kept.log(ADA, BOB)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    given = {"MODELPORT_DATA_DIR": str(settings.data_dir), **databases.environment(settings.data_dir)}
    command = [sys.executable, "-m", "webapp.cli", "predictions", "delete-subject", "-", "--json"]
    done = subprocess.run(command, env={**clean, **given}, input=f"{ADA}\n".encode(), capture_output=True, check=False)
    assert json.loads(done.stdout) == {"predictions": 1, "batches": 0, "exports": 0}
    assert kept.logged() == {"r-1"}
    done = subprocess.run(command, env={**clean, **given}, input=b"\n", capture_output=True, check=False)
    assert (done.returncode, b"subject_missing" in done.stderr) == (1, True)


def test_marks_are_looked_for_only_where_somebody_is_named(kept: Kept) -> None:
    asked: list[str] = []
    sa.event.listen(
        kept.writer._database.engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement)
    )
    kept.log(None)
    assert not [each for each in asked if "subject_deletions" in each]
    assert subjects.marks_of(None, [kept.made(None)]) == []  # type: ignore[arg-type] # nothing is asked
