"""Tests of batch predictions: whatever workers do or leave undone, a job ends and each row has exactly one result."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pandas as pd
import pytest
import skops.io
import sqlalchemy as sa
from sklearn.linear_model import LogisticRegression

from tests import databases
from tests.conftest import eventually
from webapp import app, jobs, registry
from webapp.audit import Actor
from webapp.batches import cutting, receiving, rows_name
from webapp.batches import results as batch_results
from webapp.batches.cutting import CHUNK_ROWS
from webapp.config import Settings
from webapp.db import Database, Session
from webapp.errors import Conflict, Invalid, NotFound
from webapp.jobs import LEASE, MOST_ATTEMPTS, Chunk, Done, Order, Progress
from webapp.log_writer import LogWriter
from webapp.predictions.log import Prediction
from webapp.predictions.refusals import HourlyRefusals
from webapp.serving.predictor import assemble
from webapp.signature.learn import learn
from webapp.signature.refused import UNKNOWN
from webapp.storage import Folder
from webapp.web import Parts
from webapp.worker.batches import Worker

EARLY = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ANN = Actor("cli:ann")
KEY = "key1"
ORDER = Order(KEY, test=False, model="credit", version=1, form="json")
FRAME = pd.DataFrame({"age": [20.0, 30.0, 40.0, 50.0]})
MODEL = LogisticRegression().fit(FRAME, ["no", "no", "yes", "yes"])


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.time = EARLY

    def __call__(self) -> datetime:
        return self.time

    def wait(self, time: timedelta) -> None:
        self.time += time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(jobs, "now", made)
    return made


def submit(database: Database, rows: int = 1) -> str:
    """Accept a batch of so many rows, whose files nobody needs; give its id."""
    counts = [min(CHUNK_ROWS, rows - first) for first in range(0, rows, CHUNK_ROWS)]
    with database.transaction() as session:
        return jobs.accept(session, ORDER, jobs.new_id(), counts).id


def claim(database: Database, owner: str = "a") -> Chunk | None:
    with database.transaction() as session:
        claimed = jobs.claim(session, owner)
        return None if claimed is None else claimed[1]


def claimed(database: Database, owner: str = "a") -> Chunk:
    chunk = claim(database, owner)
    assert chunk is not None
    return chunk


def finish(database: Database, chunk: Chunk, owner: str = "a", failed_rows: int = 0) -> bool:
    with database.transaction() as session:
        return jobs.finish(session, chunk, owner, failed_rows)


def cancel(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        jobs.cancel(session, jobs.get_job(session, job_id, KEY))


def progress(database: Database, job_id: str) -> Progress:
    with database.reading() as session:
        return jobs.progress(session, jobs.get_job(session, job_id, KEY))


def finished_by(database: Database, job_id: str) -> list[tuple[int, str | None, int]]:
    """Give the number of each chunk that is done, who has done it, and at which attempt."""
    done = sa.select(Chunk).where(Chunk.job_id == job_id, Chunk.done_at.is_not(None)).order_by(Chunk.number)
    with database.reading() as session:
        return [(chunk.number, chunk.leased_by, chunk.attempts) for chunk in session.scalars(done)]


def failure(database: Database, job_id: str) -> str:
    with database.reading() as session:
        return jobs.get_job(session, job_id, KEY).failure


# --- Jobs and chunks --------------------------------------------------------------------------------------


def test_a_job_has_a_chunk_for_each_of_its_files(database: Database) -> None:
    submit(database, 2 * CHUNK_ROWS + 3)
    chunks = [claimed(database) for _ in range(3)]
    assert claim(database) is None
    assert [(chunk.number, chunk.first_row, chunk.row_count) for chunk in chunks] == [
        (0, 0, CHUNK_ROWS),
        (1, CHUNK_ROWS, CHUNK_ROWS),
        (2, 2 * CHUNK_ROWS, 3),
    ]


def test_the_oldest_job_goes_first(database: Database, clock: Clock) -> None:
    first = submit(database)
    clock.wait(SECOND)
    second = submit(database)
    assert [claimed(database).job_id for _ in range(2)] == [first, second]


def test_another_keys_job_is_not_there(database: Database) -> None:
    job_id = submit(database)
    with database.reading() as session:
        assert jobs.get_job(session, job_id, KEY).id == job_id
        for unknown, key in ((job_id, "key2"), ("0" * 32, KEY)):
            with pytest.raises(NotFound) as caught:
                jobs.get_job(session, unknown, key)
            assert (caught.value.code, caught.value.detail) == (
                "unknown_job",
                "This key has no job with this id.",
            )


def test_a_job_is_accepted_with_the_transaction_or_not_at_all(database: Database) -> None:
    def accept(session: Session) -> None:
        jobs.accept(session, ORDER, jobs.new_id(), [1])
        message = "the door fails after the change"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError), database.transaction() as session:
        accept(session)
    assert claim(database) is None


# --- Leases -----------------------------------------------------------------------------------------------


def test_a_chunk_that_somebody_works_on_is_not_given_to_another(database: Database, clock: Clock) -> None:
    submit(database)
    chunk = claimed(database, "a")
    assert (chunk.leased_by, chunk.leased_until, chunk.attempts) == ("a", EARLY + LEASE, 1)
    clock.wait(LEASE)
    assert claim(database, "b") is None


def test_workers_that_claim_at_once_never_get_the_same_chunk(settings: Settings, database: Database) -> None:
    job_id = submit(database, 12 * CHUNK_ROWS)
    together = threading.Barrier(4)

    def work(owner: str) -> list[int]:
        own = Database(settings.sqlalchemy_url)
        together.wait()
        numbers = []
        while (chunk := claim(own, owner)) is not None:
            numbers.append(chunk.number)
            assert finish(own, chunk, owner)
        own.engine.dispose()
        return numbers

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(work, "abcd"))
    assert sorted(number for numbers in taken for number in numbers) == list(range(12))
    assert progress(database, job_id).status == "completed"
    assert [number for number, _, _ in finished_by(database, job_id)] == list(range(12))


def test_an_expired_lease_is_taken_over(database: Database, clock: Clock) -> None:
    submit(database)
    claimed(database, "a")
    clock.wait(LEASE + SECOND)
    chunk = claimed(database, "b")
    assert (chunk.leased_by, chunk.leased_until, chunk.attempts) == ("b", clock.time + LEASE, 2)


def test_the_former_holders_results_are_not_stored(database: Database, clock: Clock) -> None:
    job_id = submit(database)
    late = claimed(database, "a")
    clock.wait(LEASE + SECOND)
    chunk = claimed(database, "b")
    assert not finish(database, late, "a", failed_rows=1)
    assert (finished_by(database, job_id), progress(database, job_id).failed) == ([], 0)
    assert finish(database, chunk, "b")
    assert not finish(database, late, "a")
    assert not finish(database, chunk, "b")
    assert finished_by(database, job_id) == [(0, "b", 2)]
    assert claim(database) is None


def test_who_has_begun_another_attempt_cannot_finish_the_one_before(database: Database, clock: Clock) -> None:
    job_id = submit(database)
    first = claimed(database)
    clock.wait(LEASE + SECOND)
    second = claimed(database)
    assert not finish(database, first)
    assert finish(database, second)
    assert finished_by(database, job_id) == [(0, "a", 2)]


def test_a_chunk_that_is_given_back_waits_longer_after_each_attempt(database: Database, clock: Clock) -> None:
    job_id = submit(database)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        chunk = claimed(database)
        with database.transaction() as session:
            jobs.give_back(session, chunk, "a", "It is away.", SECOND)
        clock.wait(SECOND * attempt)
        assert claim(database) is None
        clock.wait(SECOND / 2)
    assert (progress(database, job_id).status, failure(database, job_id)) == ("failed", "It is away.")


def test_a_chunk_that_is_released_is_free_at_once_and_costs_no_attempt(database: Database) -> None:
    submit(database)
    chunk = claimed(database)
    with database.transaction() as session:
        jobs.release(session, chunk, "a")
    assert claimed(database, "b").attempts == 1


def test_a_lease_that_is_renewed_is_not_taken_over(database: Database, clock: Clock) -> None:
    submit(database)
    chunk = claimed(database, "a")
    for _ in range(5):
        clock.wait(LEASE / 2)
        with database.transaction() as session:
            jobs.renew(session, chunk, "a")
        assert claim(database, "b") is None
    clock.wait(LEASE + SECOND)
    assert claimed(database, "b").attempts == 2


def test_who_was_replaced_cannot_renew(database: Database, clock: Clock) -> None:
    submit(database)
    late = claimed(database, "a")
    clock.wait(LEASE + SECOND)
    claimed(database, "b")
    clock.wait(LEASE)
    with database.transaction() as session:
        jobs.renew(session, late, "a")
    clock.wait(SECOND)
    assert claimed(database, "c").leased_by == "c"


def test_a_late_holder_that_nobody_replaced_can_still_store_its_results(database: Database, clock: Clock) -> None:
    job_id = submit(database)
    chunk = claimed(database, "a")
    clock.wait(10 * LEASE)
    assert finish(database, chunk, "a")
    assert progress(database, job_id).status == "completed"


def test_a_job_whose_chunk_ends_every_worker_fails_with_a_reason(database: Database, clock: Clock) -> None:
    bad = submit(database, CHUNK_ROWS + 1)
    assert finish(database, claimed(database))
    for attempt in range(MOST_ATTEMPTS):
        assert progress(database, bad).status == "processing"
        assert claimed(database).attempts == attempt + 1
        clock.wait(LEASE + SECOND)
    clock.wait(SECOND)
    good = submit(database)

    assert claim(database) is None
    assert progress(database, bad) == Progress("failed", CHUNK_ROWS + 1, CHUNK_ROWS, 0, None)
    assert failure(database, bad) == f"Rows from {CHUNK_ROWS} on could not be computed in {MOST_ATTEMPTS} attempts."
    # What was done stays, and other jobs go on.
    assert len(finished_by(database, bad)) == 1
    assert claimed(database).job_id == good


@pytest.mark.parametrize("seed", range(8))
def test_whatever_workers_do_each_row_has_exactly_one_result_or_the_job_has_failed(
    database: Database, clock: Clock, seed: int
) -> None:
    chance = random.Random(seed)
    with database.transaction() as session:
        job_id = jobs.accept(session, ORDER, jobs.new_id(), [2, 2, 2, 1]).id
    holding: dict[str, Chunk] = {}
    seen = 0
    while progress(database, job_id).status == "processing":
        owner = chance.choice("abc")
        act = chance.choice(["claim", "finish", "die", "wait"])
        if act == "wait":
            clock.wait(LEASE / 2 + SECOND)
        elif act == "die":
            holding.pop(owner, None)
        elif owner not in holding:
            if (chunk := claim(database, owner)) is not None:
                holding[owner] = chunk
        elif act == "finish":
            finish(database, holding.pop(owner), owner)
        done = progress(database, job_id).done
        assert done >= seen, "progress went back"
        seen = done
    state = progress(database, job_id)
    assert (state.status, state.done) == ("completed", 7) or failure(database, job_id)
    assert len(finished_by(database, job_id)) == -(-state.done // 2)


# --- Progress ---------------------------------------------------------------------------------------------


def test_progress_counts_rows_and_tells_how_long_the_rest_will_take(database: Database, clock: Clock) -> None:
    job_id = submit(database, 3 * CHUNK_ROWS)
    total = 3 * CHUNK_ROWS
    assert progress(database, job_id) == Progress("processing", total, 0, 0, None)
    clock.wait(10 * SECOND)
    finish(database, claimed(database), failed_rows=7)
    assert progress(database, job_id) == Progress("processing", total, CHUNK_ROWS, 7, 20.0)
    clock.wait(30 * SECOND)
    finish(database, claimed(database), failed_rows=1)
    assert progress(database, job_id) == Progress("processing", total, 2 * CHUNK_ROWS, 8, 20.0)
    finish(database, claimed(database))
    assert progress(database, job_id) == Progress("completed", total, total, 8, None)


def test_only_a_completed_job_has_results(database: Database) -> None:
    job_id = submit(database, 2 * CHUNK_ROWS)
    first, second = claimed(database), claimed(database)
    finish(database, second)
    with database.reading() as session, pytest.raises(Conflict) as caught:
        jobs.done(session, jobs.get_job(session, job_id, KEY))
    assert caught.value.code == "job_not_completed"
    assert f"{CHUNK_ROWS} of {2 * CHUNK_ROWS} rows" in caught.value.detail
    finish(database, first)
    with database.reading() as session:
        assert jobs.done(session, jobs.get_job(session, job_id, KEY)) == [Done(0, 1, None), Done(1, 1, None)]


def test_a_cancelled_job_is_not_worked_on_and_keeps_what_is_done(database: Database) -> None:
    job_id = submit(database, 3 * CHUNK_ROWS)
    finish(database, claimed(database))
    in_hand = claimed(database)
    cancel(database, job_id)
    assert progress(database, job_id) == Progress("cancelled", 3 * CHUNK_ROWS, CHUNK_ROWS, 0, None)
    assert claim(database) is None
    finish(database, in_hand)
    assert progress(database, job_id).status == "cancelled"
    assert len(finished_by(database, job_id)) == 2


def test_a_finished_job_cannot_be_cancelled(database: Database) -> None:
    done = submit(database)
    finish(database, claimed(database))
    cancel(database, done)
    assert progress(database, done).status == "completed"
    failed = submit(database)
    with database.transaction() as session:
        jobs.fail(session, jobs.get_job(session, failed, KEY), "It cannot go on.")
    cancel(database, failed)
    assert progress(database, failed).status == "failed"


# --- Requests that come again -----------------------------------------------------------------------------


def accept(database: Database, order: Order, body: str = "a body") -> str:
    with database.transaction() as session:
        return jobs.accept(session, order, jobs.new_id(), [1], body).id


def test_the_same_request_is_the_same_job_and_another_one_is_refused(database: Database) -> None:
    order = replace(ORDER, idempotency_key="once")
    job_id = accept(database, order)
    assert accept(database, order) == job_id
    for other, body in ((order, "another body"), (replace(order, model="churn"), "a body")):
        with pytest.raises(Invalid) as caught:
            accept(database, other, body)
        assert (caught.value.code, caught.value.more) == ("idempotency_key_reused", {"job_id": job_id})


def test_what_one_key_calls_its_requests_is_no_concern_of_another(database: Database) -> None:
    order = replace(ORDER, idempotency_key="once")
    assert accept(database, order) != accept(database, replace(order, key_id="key2"))
    assert accept(database, ORDER) != accept(database, ORDER)


def test_the_same_request_many_times_at_once_is_one_job(settings: Settings, database: Database) -> None:
    order = replace(ORDER, idempotency_key="once")
    together = threading.Barrier(8)

    def come(_number: int) -> str:
        own = Database(settings.sqlalchemy_url)
        together.wait()
        job_id = accept(own, order)
        own.engine.dispose()
        return job_id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(come, range(8)))) == 1


# --- The worker -------------------------------------------------------------------------------------------


def register(parts: Parts) -> None:
    """Upload and activate the next version of the model, which takes people from 18 on."""
    declared = [{"name": "age", "minimum": 18}]
    signature = learn(MODEL, assemble, reference=FRAME, declared=declared).signature
    with parts.database.transaction() as session:
        version = registry.add_version(
            session,
            ANN,
            parts.settings.derive("versions"),
            "credit",
            artifact=parts.artifacts.put(skops.io.dumps(MODEL)),
            signature=signature.as_dict(),
            report={},
            card={},
        )
        session.flush()
        registry.activate(session, ANN, "credit", version.number)


def started(settings: Settings) -> Parts:
    parts = app.make_parts(settings)
    register(parts)
    parts.spool.start()
    parts.follower.start(None)
    return parts


def stop(parts: Parts) -> None:
    parts.follower.stop()
    parts.spool.stop()
    parts.database.engine.dispose()


@pytest.fixture
def parts(settings: Settings, database: Database) -> Iterator[Parts]:
    """The parts of a worker's process, started, with one active version."""
    made = started(settings)
    yield made
    stop(made)


@pytest.fixture
def worker(parts: Parts) -> Worker:
    return Worker(parts, "this-host")


def send(
    parts: Parts,
    instances: int | Sequence[object] = 1,
    *,
    ids: Sequence[str | None] | None = None,
    version: int = 1,
    test: bool = False,
) -> str:
    """Take in a batch of JSON; give its id."""
    rows = [{"age": float(20 + row % 40)} for row in range(instances)] if isinstance(instances, int) else instances
    order = replace(ORDER, version=version, test=test)
    pieces = cutting.instances(rows, [None] * len(rows) if ids is None else ids)
    return receiving.receive(parts.database, parts.artifacts.storage, order, pieces, str).id


def results(parts: Parts, job_id: str) -> list[Any]:
    with parts.database.reading() as session:
        chunks = jobs.done(session, jobs.get_job(session, job_id, KEY))
    return list(batch_results.rows(parts.artifacts.storage, job_id, chunks))


def logged(parts: Parts) -> list[Prediction]:
    """Move the spool into SQL, as the log writer does; give what is in the log."""
    LogWriter(parts.database, parts.settings.spool_dir, "this-host").drain()
    with parts.database.reading() as session:
        return list(session.scalars(sa.select(Prediction).order_by(sa.text(databases.INSERTED))))


def test_without_jobs_there_is_nothing_to_do(worker: Worker) -> None:
    assert not worker.work_once()


def test_what_a_killed_worker_of_the_same_host_held_is_free_at_once(worker: Worker, parts: Parts) -> None:
    job_id = send(parts)
    # No process has this id: it is more than there can be.
    assert claim(parts.database, f"this-host/{2**23}") is not None
    assert not worker.work_once()
    worker.beat()
    assert worker.work_once()
    assert progress(parts.database, job_id).status == "completed"


@pytest.mark.parametrize(
    "owner", [f"other-host/{2**23}", f"this-host/{os.getpid()}"], ids=["of another host", "that lives"]
)
def test_what_others_hold_is_left_to_them(owner: str, worker: Worker, parts: Parts) -> None:
    send(parts)
    assert claim(parts.database, owner) is not None
    worker.beat()
    assert not worker.work_once()


def test_a_worker_computes_a_chunk_and_logs_it_as_a_batch(worker: Worker, parts: Parts) -> None:
    job_id = send(parts, [{"age": 20}, {"age": 50}], ids=["order 7", None])
    assert worker.work_once()
    assert not worker.work_once()
    assert progress(parts.database, job_id) == Progress("completed", 2, 2, 0, None)
    first, second = results(parts, job_id)
    table = MODEL.predict_proba(FRAME.iloc[[0, 3]]).tolist()
    assert first == {
        "id": "order 7",
        "prediction": "no",
        "probability": table[0][0],
        "probabilities": {"no": table[0][0], "yes": table[0][1]},
        "model": "credit",
        "model_version": "1",
        "prediction_id": f"{job_id}-0",
    }
    assert (second["prediction"], second["prediction_id"], "id" in second) == ("yes", f"{job_id}-1", False)
    assert [(row.id, row.source, row.key_id, row.client_id, row.instance) for row in logged(parts)] == [
        (f"{job_id}-0", "batch", KEY, "order 7", {"age": 20.0}),
        (f"{job_id}-1", "batch", KEY, None, {"age": 50.0}),
    ]


def test_a_test_keys_batch_is_logged_as_a_test(worker: Worker, parts: Parts) -> None:
    send(parts, test=True)
    worker.work_once()
    assert [row.source for row in logged(parts)] == ["test"]


def test_rows_that_cannot_be_answered_have_their_errors_in_place(worker: Worker, parts: Parts) -> None:
    rows: list[object] = [{"age": 30}] * (CHUNK_ROWS + 6)
    rows[1] = {"age": 17}
    rows[CHUNK_ROWS] = "not an object"
    rows[CHUNK_ROWS + 2] = {"age": "old", "colour": "red"}
    job_id = send(parts, rows, ids=[str(number) for number in range(len(rows))])
    assert [worker.work_once() for _ in range(3)] == [True, True, False]
    assert progress(parts.database, job_id) == Progress("completed", len(rows), len(rows), 3, None)
    found = results(parts, job_id)
    assert [result["id"] for result in found] == [str(number) for number in range(len(rows))]
    errors = {number: result["error"] for number, result in enumerate(found) if "error" in result}
    assert set(errors) == {1, CHUNK_ROWS, CHUNK_ROWS + 2}
    assert errors[1]["code"] == "invalid_instances"
    assert errors[1]["errors"] == [
        {"pointer": "/instances/1/age", "code": "out_of_bounds", "message": "Must be at least 18."}
    ]
    assert [each["pointer"] for each in errors[CHUNK_ROWS]["errors"]] == [f"/instances/{CHUNK_ROWS}"]
    assert {each["pointer"] for each in errors[CHUNK_ROWS + 2]["errors"]} == {
        f"/instances/{CHUNK_ROWS + 2}/age",
        f"/instances/{CHUNK_ROWS + 2}/colour",
    }
    # Only what was answered is a prediction.
    assert len(logged(parts)) == len(rows) - 3


def test_a_batch_without_one_good_row_is_completed_too(worker: Worker, parts: Parts) -> None:
    job_id = send(parts, [{"age": 1}, {}])
    worker.work_once()
    assert progress(parts.database, job_id) == Progress("completed", 2, 2, 2, None)
    assert logged(parts) == []


def test_a_job_gets_the_version_it_was_accepted_for(worker: Worker, parts: Parts) -> None:
    job_id = send(parts, 3)
    register(parts)
    worker.work_once()
    assert {result["model_version"] for result in results(parts, job_id)} == {"1"}


def test_a_version_that_was_registered_a_moment_ago_is_found(worker: Worker, parts: Parts) -> None:
    register(parts)
    job_id = send(parts, 3, version=2)
    worker.work_once()
    assert {result["model_version"] for result in results(parts, job_id)} == {"2"}


def test_a_job_whose_version_cannot_be_loaded_fails_with_a_reason_and_others_go_on(
    worker: Worker, parts: Parts, clock: Clock
) -> None:
    bad = send(parts, version=9)
    clock.wait(SECOND)
    good = send(parts)
    for _ in range(MOST_ATTEMPTS + 1):
        while worker.work_once():
            pass
        clock.wait(LEASE + SECOND)
    assert progress(parts.database, bad).status == "failed"
    assert failure(parts.database, bad)
    assert progress(parts.database, good).status == "completed"


def test_without_a_prediction_log_there_are_results_only(settings: Settings, database: Database) -> None:
    parts = started(replace(settings, prediction_log=0.0))
    job_id = send(parts, 3)
    Worker(parts, "this-host").work_once()
    assert progress(parts.database, job_id).status == "completed"
    assert logged(parts) == []
    stop(parts)


def test_a_chunk_that_is_computed_again_after_a_crash_is_logged_once(
    worker: Worker, parts: Parts, clock: Clock
) -> None:
    job_id = send(parts, 3)
    worker.work_once()
    # As if the worker had died when the rows were logged and the results not yet stored.
    name = rows_name(job_id, 0)
    parts.artifacts.storage.put(name, BytesIO(json.dumps({"instances": [{"age": 20}] * 3, "ids": [None] * 3}).encode()))
    with parts.database.transaction() as session:
        session.execute(sa.update(Chunk).values(done_at=None, leased_until=clock.time))
    clock.wait(LEASE + SECOND)
    assert Worker(parts, "another-host").work_once()
    assert len(results(parts, job_id)) == 3
    assert [row.id for row in logged(parts)] == [f"{job_id}-{row}" for row in range(3)]


def refused(parts: Parts) -> list[tuple[int, int, int, dict[str, dict[str, int]]]]:
    """Give what was counted of refusals, by version."""
    with parts.database.reading() as session:
        return [(row.version, row.asked, row.refused, row.fields) for row in session.scalars(sa.select(HourlyRefusals))]


def test_rows_that_are_refused_are_counted_with_their_chunk_once(
    worker: Worker, parts: Parts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = send(parts, [{"age": 20}, {"age": "x"}, {"age": None, "name": "y"}])
    with monkeypatch.context() as patch:
        # The attempt ends between the log and the results.
        patch.setattr(Folder, "put", lambda *_: (_ for _ in ()).throw(OSError))
        worker.work_once()
    assert refused(parts) == []
    clock.wait(LEASE + SECOND)
    assert worker.work_once()
    assert progress(parts.database, job_id).failed == 2
    (counted,) = refused(parts)
    assert counted[:3] == (1, 2, 2)
    assert counted[3]["age"]["not_a_number"] == 1
    assert counted[3][UNKNOWN] == {"unknown_field": 1}


def test_a_full_spool_makes_the_worker_wait_and_costs_the_job_no_attempt(
    settings: Settings, database: Database
) -> None:
    parts = started(replace(settings, spool_full="refuse", spool_max_bytes=1000))
    worker = Worker(parts, "this-host")
    first = send(parts, 10)
    assert worker.work_once()
    eventually(lambda: parts.spool.full)
    second = send(parts, 3)
    assert not worker.work_once()
    with parts.database.reading() as session:
        assert session.scalars(sa.select(Chunk.attempts).where(Chunk.job_id == second)).all() == [0]
    eventually(lambda: len(logged(parts)) == 10)
    eventually(lambda: not parts.spool.full)
    assert worker.work_once()
    assert [progress(parts.database, job_id).status for job_id in (first, second)] == ["completed"] * 2
    stop(parts)


def test_a_running_worker_ends_when_it_is_stopped_and_has_done_everything(worker: Worker, parts: Parts) -> None:
    job_ids = [send(parts, CHUNK_ROWS + 1) for _ in range(2)]
    running = threading.Thread(target=worker.run)
    running.start()
    eventually(lambda: all(progress(parts.database, job_id).status == "completed" for job_id in job_ids))
    worker.stop()
    running.join()
    found = [row.id for row in logged(parts)]
    assert len(found) == len(set(found)) == 2 * (CHUNK_ROWS + 1)
