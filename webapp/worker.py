"""The worker: what runs off the request path. It works on batch chunks as long as there are some."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy.exc

from webapp import jobs
from webapp.errors import Invalid, Problem, Refusal, Unavailable
from webapp.jobs import Chunk, Job
from webapp.predictions.spool import Origin, record
from webapp.serving.runtime import Answer, LoadedVersion
from webapp.web import Parts

LOG = logging.getLogger(__name__)
IDLE_SECONDS = 0.25
RETRY_SECONDS = 1.0


class Worker:
    """Claims a chunk, computes it, stores its results; then the next."""

    def __init__(self, parts: Parts, host: str) -> None:
        """`parts` are those of this process, started."""
        self._parts = parts
        self._owner = f"{host}/{os.getpid()}"
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask `run` to finish the chunk in hand and return."""
        self._stop.set()

    def run(self) -> None:
        """Work until stopped."""
        while not self._stop.is_set():
            try:
                worked = self.work_once()
            except (sqlalchemy.exc.SQLAlchemyError, Unavailable) as error:
                LOG.warning("worker.unavailable", extra={"reason": type(error).__name__})
                self._stop.wait(RETRY_SECONDS)
            else:
                if not worked:
                    self._stop.wait(IDLE_SECONDS)

    def work_once(self) -> bool:
        """Work on one chunk; tells whether there was one."""
        if self._parts.spool.full:
            # What could not be logged would be computed in vain, and count as an attempt.
            return False
        with self._parts.database.transaction() as session:
            claimed = jobs.claim(session, self._owner)
        if claimed is None:
            return False
        job, chunk = claimed
        try:
            outcomes = self._computed(job, chunk)
        except Exception as error:  # noqa: BLE001 - no chunk may end the worker; its attempts end the job
            self._give_back(chunk, error)
        else:
            self._finish(chunk, outcomes)
        return True

    def _computed(self, job: Job, chunk: Chunk) -> list[Answer | Invalid]:
        with self._holding(chunk):
            loaded = self._loaded(job)
            outcomes = _outcomes(job, chunk, loaded)
            self._log(job, chunk, loaded, outcomes)
            return outcomes

    def _give_back(self, chunk: Chunk, error: Exception) -> None:
        kind = type(error).__name__
        LOG.warning("worker.chunk_failed", extra={"job": chunk.job_id, "chunk": chunk.number, "reason": kind})
        reason = error.detail if isinstance(error, Refusal) else f"It could not be computed ({kind})."
        with self._parts.database.transaction() as session:
            jobs.give_back(session, chunk, self._owner, reason)

    def _finish(self, chunk: Chunk, outcomes: Sequence[Answer | Invalid]) -> None:
        results = [_result(outcome, given) for outcome, given in zip(outcomes, chunk.ids, strict=True)]
        failed = sum(isinstance(outcome, Invalid) for outcome in outcomes)
        with self._parts.database.transaction() as session:
            stored = jobs.finish(session, chunk, self._owner, results, failed)
        done = {"job": chunk.job_id, "chunk": chunk.number, "rows": len(results), "stored": stored}
        LOG.info("worker.chunk", extra=done)

    @contextmanager
    def _holding(self, chunk: Chunk) -> Iterator[None]:
        """Renew the lease as long as the chunk is worked on."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(jobs.LEASE.total_seconds() / 3):
                with suppress(sqlalchemy.exc.SQLAlchemyError, Refusal), self._parts.database.transaction() as session:
                    jobs.renew(session, chunk, self._owner)

        renewing = threading.Thread(target=renew, name="lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()

    def _loaded(self, job: Job) -> LoadedVersion:
        try:
            return self._parts.runtime.served(job.model, job.version)
        except Refusal:
            if not self._parts.follower.catch_up(loaded=True):
                raise
            return self._parts.runtime.served(job.model, job.version)

    def _log(self, job: Job, chunk: Chunk, loaded: LoadedVersion, outcomes: Sequence[Answer | Invalid]) -> None:
        if self._parts.settings.prediction_log > 0:
            source = "test" if job.test else "batch"
            origin = Origin(time.time(), job.key_id, job.id, source, latency_seconds=0.0)
            self._parts.spool.append(
                [
                    record(origin, loaded, outcome, given)
                    for outcome, given in zip(outcomes, chunk.ids, strict=True)
                    if isinstance(outcome, Answer)
                ]
            )


def _outcomes(job: Job, chunk: Chunk, loaded: LoadedVersion) -> list[Answer | Invalid]:
    """Give an outcome for every row: an answer, or why it cannot have one.

    Rows that are not acceptable are found by one attempt at all of them; the others are then answered together.
    """
    outcomes: dict[int, Answer | Invalid] = {}
    waiting = list(range(chunk.row_count))
    while waiting:
        try:
            answers = _predicted(job, chunk, loaded, waiting)
        except Invalid as invalid:
            refused = _refused_rows(chunk, invalid) or _refused_alone(job, chunk, loaded, waiting)
            # A refusal that names no row that waits is a refusal of all of them.
            outcomes |= refused if refused.keys() & set(waiting) else dict.fromkeys(waiting, invalid)
            waiting = [row for row in waiting if row not in outcomes]
        else:
            outcomes |= dict(zip(waiting, answers, strict=True))
            waiting = []
    return [outcomes[row] for row in range(chunk.row_count)]


def _predicted(job: Job, chunk: Chunk, loaded: LoadedVersion, rows: Sequence[int]) -> list[Answer]:
    numbers = [chunk.first_row + row for row in rows]
    return loaded.predict(
        [chunk.instances[row] for row in rows],
        [f"/instances/{number}" for number in numbers],
        [f"{job.id}-{number}" for number in numbers],
    )


def _refused_rows(chunk: Chunk, invalid: Invalid) -> dict[int, Invalid]:
    """Sort the problems of many rows by row."""
    by_row: dict[int, list[Problem]] = {}
    for problem in invalid.problems:
        number = int(problem.pointer.split("/")[2])
        by_row.setdefault(number - chunk.first_row, []).append(problem)
    return {row: Invalid(invalid.code, invalid.detail, problems=tuple(found)) for row, found in by_row.items()}


def _refused_alone(job: Job, chunk: Chunk, loaded: LoadedVersion, rows: Sequence[int]) -> dict[int, Invalid]:
    """Find by single attempts the rows of a refusal that names none."""
    refused = {}
    for row in rows:
        try:
            _predicted(job, chunk, loaded, [row])
        except Invalid as invalid:
            refused[row] = invalid
    return refused


def _result(outcome: Answer | Invalid, given: str | None) -> dict[str, Any]:
    named: dict[str, Any] = {} if given is None else {"id": given}
    if isinstance(outcome, Answer):
        return named | outcome.document
    problems = [{"pointer": each.pointer, "code": each.code, "message": each.message} for each in outcome.problems]
    return named | {"error": {"code": outcome.code, "detail": outcome.detail, "errors": problems}}


def run(worker: Worker) -> None:
    """Run in the foreground until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
