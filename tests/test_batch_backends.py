"""Tests of where batches are computed: threads, processes and a Dask cluster give the same bytes, and none hangs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
import skops.io

from scripts.processes import children
from tests.conftest import eventually
from tests.dask_cluster import Cluster
from webapp import app, artifacts, jobs, registry
from webapp.audit import Actor
from webapp.batches import backends, cutting, receiving, results
from webapp.cli import demo
from webapp.config import Settings
from webapp.db import Database
from webapp.jobs import Order, Progress
from webapp.serving.predictor import assemble
from webapp.signature.learn import learn
from webapp.web import Parts
from webapp.worker.batches import Worker

ROWS = 20_000
MODEL = "credit-risk"
ORDER = Order("key1", test=False, model=MODEL, version=1, form="csv")


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    return demo.rows()[0].astype(float)


@pytest.fixture(scope="module")
def estimator(people: pd.DataFrame) -> bytes:
    """The demo's model, as a file."""
    content: bytes = skops.io.dumps(demo.train(people, demo.rows()[1]))
    return content


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster().start()
    yield made
    made.kill()


@pytest.fixture
def installation(settings: Settings, database: Database, people: pd.DataFrame, estimator: bytes) -> Settings:
    """An installation with the demo's model active."""
    parts = app.make_parts(settings)
    signature = learn(artifacts.load(estimator), assemble, reference=people, declared=[]).signature
    with database.transaction() as session:
        version = registry.add_version(
            session,
            Actor("cli:ann"),
            settings.derive("versions"),
            MODEL,
            artifact=parts.artifacts.put(estimator),
            signature=signature.as_dict(),
            report={},
            card={},
        )
        session.flush()
        registry.activate(session, Actor("cli:ann"), MODEL, version.number)
    return settings


@contextmanager
def working(settings: Settings) -> Iterator[Parts]:
    """Run a batch worker with these settings."""
    parts = app.make_parts(settings)
    parts.spool.start()
    parts.follower.start(None)
    worker = Worker(parts, "this-host")
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        yield parts
    finally:
        worker.stop()
        running.join()
        parts.follower.stop()
        parts.spool.stop()
        parts.database.engine.dispose()


def send(parts: Parts, people: pd.DataFrame, rows: int = ROWS) -> str:
    table = pd.concat([people] * -(-rows // len(people)))[:rows].to_csv(index_label="id").encode()
    loaded = parts.follower.served(MODEL, 1)
    pieces = cutting.table(loaded.signature, BytesIO(table))
    return receiving.receive(parts.database, parts.artifacts.storage, ORDER, pieces, str).id


def progress(parts: Parts, job_id: str) -> tuple[Progress, str]:
    with parts.database.reading() as session:
        job = jobs.find_job(session, job_id)
        return jobs.progress(session, job), job.failure


def ended(parts: Parts, job_id: str) -> tuple[Progress, str]:
    """Wait for a job's end, and look that it never goes back."""
    seen = [0]

    def look() -> bool:
        state = progress(parts, job_id)[0]
        assert state.done >= seen[-1], "progress went back"
        seen.append(state.done)
        return state.status != "processing"

    eventually(look, within_seconds=180)
    return progress(parts, job_id)


def result_of(parts: Parts, job_id: str) -> bytes:
    """Give all results of a job; each of its own predictions is called after it."""
    with parts.database.reading() as session:
        chunks = jobs.done(session, jobs.find_job(session, job_id))
    return b"".join(results.pieces(parts.artifacts.storage, job_id, chunks)).replace(job_id.encode(), b"JOB")


def test_threads_processes_and_a_cluster_give_the_same_bytes(
    installation: Settings, people: pd.DataFrame, cluster: Cluster
) -> None:
    found = {}
    for backend in ("threading", "loky", "dask"):
        with working(replace(installation, batch_backend=backend, dask_address=cluster.address)) as parts:
            job_id = send(parts, people)
            assert ended(parts, job_id) == (Progress("completed", ROWS, ROWS, 0, None), "")
            found[backend] = result_of(parts, job_id)
    assert found["threading"].count(b"\n") == ROWS
    assert found["loky"] == found["threading"]
    assert found["dask"] == found["threading"]


def test_a_job_waits_for_a_cluster_that_comes_back(
    installation: Settings, people: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(jobs, "LONG_PAUSE", timedelta(seconds=15))
    own = Cluster().start()
    try:
        with working(replace(installation, batch_backend="dask", dask_address=own.address)) as parts:
            job_id = send(parts, people, 200_000)
            eventually(lambda: progress(parts, job_id)[0].done > 0, within_seconds=120)
            own.kill()
            own.start()
            assert ended(parts, job_id) == (Progress("completed", 200_000, 200_000, 0, None), "")
            assert result_of(parts, job_id).count(b"\n") == 200_000
    finally:
        own.kill()


def test_a_job_whose_cluster_stays_away_ends_with_the_reason(
    installation: Settings, people: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(jobs, "LONG_PAUSE", timedelta(seconds=0.1))
    with working(replace(installation, batch_backend="dask", dask_address="tcp://127.0.0.1:9")) as parts:
        state, failure = ended(parts, send(parts, people))
    assert (state.status, state.done) == ("failed", 0)
    assert failure.startswith("The Dask cluster at tcp://127.0.0.1:9 cannot be reached")


def test_a_process_that_is_killed_costs_an_attempt_and_no_row(
    installation: Settings, people: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAUSE", timedelta(seconds=0.1))
    with working(replace(installation, batch_backend="loky")) as parts:
        job_id = send(parts, people, 100_000)
        eventually(lambda: progress(parts, job_id)[0].done > 0, within_seconds=120)
        os.kill(next(filter(_computes, children(os.getpid()))), signal.SIGKILL)
        assert ended(parts, job_id) == (Progress("completed", 100_000, 100_000, 0, None), "")
        assert result_of(parts, job_id).count(b"\n") == 100_000


def _computes(pid: int) -> bool:
    return b"LokyProcess" in Path(f"/proc/{pid}/cmdline").read_bytes()
