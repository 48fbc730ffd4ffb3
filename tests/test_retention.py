"""Tests of retention: what is older than it has to be kept goes, a little at a time; all else stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from io import BytesIO

import pytest
import sqlalchemy as sa

from tests.test_predictions import HOST, record
from webapp import app, db, jobs
from webapp.batches import receiving, results_name
from webapp.config import Settings
from webapp.db import Database
from webapp.jobs import Chunk, Job, Order
from webapp.predictions import log, refusals, traffic
from webapp.predictions.log import Prediction
from webapp.signature.refused import Tally
from webapp.storage import Folder
from webapp.web import Parts
from webapp.worker import removal
from webapp.worker.removal import Remover

ORDER = Order("key1", test=False, model="credit", version=1, form="json")
DAYS = 90
DAY = timedelta(days=1)


@pytest.fixture
def parts(settings: Settings, database: Database) -> Iterator[Parts]:
    """The parts of a worker's process, of which nothing is started."""
    made = app.make_parts(settings)
    yield made
    made.database.engine.dispose()


def ago(days: float) -> datetime:
    return db.now() - days * DAY


def predict(parts: Parts, *days: float) -> None:
    """Log a prediction of each age, called after it."""
    with parts.database.transaction() as session:
        made = [record(each, id=f"{each:g} days", at=ago(each).timestamp()) for each in days]
        log.insert(session, log.Piece(HOST, "segment", made, 1))


def predictions(parts: Parts) -> set[str]:
    with parts.database.reading() as session:
        return set(session.scalars(sa.select(Prediction.id)))


def batch(parts: Parts, days: float, **ended: datetime) -> str:
    """Accept a batch of one row that long ago; give its id."""
    with parts.database.transaction() as session:
        job = jobs.accept(session, ORDER, jobs.new_id(), [1])
        job.created_at = ago(days)
        for name, moment in ended.items():
            setattr(job, name, moment)
        return job.id


def compute(parts: Parts, job_id: str) -> None:
    """Do the one chunk of a batch."""
    with parts.database.transaction() as session:
        session.execute(sa.update(Chunk).where(Chunk.job_id == job_id).values(done_at=db.now(), attempts=1))
    parts.artifacts.storage.put(results_name(job_id, 0, 1), BytesIO(b"{}\n"))


def batches(parts: Parts) -> set[str]:
    with parts.database.reading() as session:
        chunks = set(session.scalars(sa.select(Chunk.job_id)))
        assert chunks == set(session.scalars(sa.select(Job.id)))
        return chunks


def test_counts_of_refusals_stay_when_predictions_go(parts: Parts) -> None:
    predict(parts, DAYS + 1)
    with parts.database.transaction() as session:
        refusals.count(session, "churn", 3, ago(DAYS + 1), Tally(5, 1, {"age": {"required": 1}}))
    while Remover(parts, HOST).look():
        pass
    assert predictions(parts) == set()
    with parts.database.reading() as session:
        (tally,) = refusals.by_day(session, "churn", ago(DAYS + 3), ago(DAYS)).values()
    assert (tally.refused, tally.fields) == (1, {"age": {"required": 1}})


def test_predictions_go_when_they_are_too_old_and_what_is_counted_of_them_stays(parts: Parts) -> None:
    predict(parts, 0, DAYS - 0.01, DAYS + 0.01, DAYS + 200)
    with parts.database.reading() as session:
        counted = session.scalar(sa.select(sa.func.sum(traffic.HourlyTraffic.predictions)))
    remover = Remover(parts, "this-host")
    assert not remover.work_once()
    assert predictions(parts) == {"0 days", "89.99 days"}
    with parts.database.reading() as session:
        assert session.scalar(sa.select(sa.func.sum(traffic.HourlyTraffic.predictions))) == counted == 4


def test_no_step_removes_much_and_after_the_last_the_remover_rests(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "MOST_PREDICTIONS", 2)
    predict(parts, *range(DAYS + 1, DAYS + 6))
    remover = Remover(parts, "this-host")
    left = []
    for _ in range(5):
        remover.work_once()
        left.append(sorted(predictions(parts)))
    # The oldest first.
    assert left == [["91 days", "92 days", "93 days"], ["91 days"], [], [], []]
    predict(parts, DAYS + 1)
    remover.work_once()
    assert predictions(parts) == {"91 days"}
    monkeypatch.setattr(remover, "_seconds", 0)
    remover.work_once()
    assert predictions(parts) == set()


def test_ended_batches_go_with_their_files_and_those_under_way_stay(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = DAYS + 1
    done, waits, new = batch(parts, old), batch(parts, old), batch(parts, 1)
    cancelled, failed = batch(parts, old, cancelled_at=ago(old)), batch(parts, old, failed_at=ago(old))
    for each in (done, new):
        compute(parts, each)
    assert batches(parts) == {done, waits, new, cancelled, failed}
    monkeypatch.setattr(removal, "MOST_JOBS", 2)
    remover = Remover(parts, "this-host")
    remover.work_once()
    assert len(batches(parts)) == 3
    remover.work_once()
    assert batches(parts) == {waits, new}

    storage = parts.artifacts.storage
    assert isinstance(storage, Folder)
    for name in storage.names("batches"):
        long_ago = (ago(0) - receiving.LEFT_BEHIND - DAY).timestamp()
        os.utime(storage.path / name, (long_ago, long_ago))
    receiving.sweep(parts.database, storage)
    assert list(storage.names("batches")) == [results_name(new, 0, 1)]


def test_without_a_bound_everything_is_kept(settings: Settings, parts: Parts) -> None:
    predict(parts, 36_500 / 2)
    for_ever = replace(parts, settings=replace(settings, retention_days=0))
    Remover(for_ever, "this-host").work_once()
    assert len(predictions(parts)) == 1
