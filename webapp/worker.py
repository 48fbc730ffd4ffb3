"""The worker: what runs off the request path. Batch chunks, inspections of uploads, checks of plans: a thread each."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import sqlalchemy.exc

from webapp import fleet, jobs
from webapp.db import Session
from webapp.errors import Invalid, Problem, Refusal, Unavailable
from webapp.jobs import Chunk, Job
from webapp.predictions.spool import Origin, record
from webapp.recomputation import Recomputation
from webapp.serving.loaded import Answer, LoadedVersion
from webapp.uploads import Desk, sweeping, waiting
from webapp.web import Parts

LOG = logging.getLogger(__name__)
IDLE_SECONDS = 0.25
RETRY_SECONDS = 1.0
BEAT_SECONDS = 10.0
RECOMPUTE_SECONDS = 5.0
SWEEP_SECONDS = 600.0


class Loop:
    """Does one piece of work after the other until it is stopped."""

    def __init__(self, parts: Parts, host: str) -> None:
        """`parts` are those of this process, started."""
        self._parts = parts
        self._host = host
        self._owner = f"{host}/{os.getpid()}"
        self._beat = -math.inf
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask `run` to finish the piece in hand and return."""
        self._stop.set()

    def run(self) -> None:
        """Work until stopped."""
        while not self._stop.is_set():
            try:
                self.beat()
                worked = self.work_once()
            except (sqlalchemy.exc.SQLAlchemyError, Unavailable) as error:
                LOG.warning("worker.unavailable", extra={"reason": type(error).__name__})
                self._stop.wait(RETRY_SECONDS)
            else:
                if not worked:
                    self._stop.wait(IDLE_SECONDS)

    def work_once(self) -> bool:
        """Work on one piece; tells whether there was one."""
        raise NotImplementedError

    def beat(self) -> None:
        """Say now and then that this process lives."""
        if time.monotonic() - self._beat > BEAT_SECONDS:
            with self._parts.database.transaction() as session:
                fleet.beat(session, self._host, "worker")
            self._beat = time.monotonic()

    @contextmanager
    def _holding(self, renew: Callable[[Session], None], life: timedelta) -> Iterator[None]:
        """Renew a lease as long as it is worked under."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(life.total_seconds() / 3):
                with suppress(sqlalchemy.exc.SQLAlchemyError, Refusal), self._parts.database.transaction() as session:
                    renew(session)

        renewing = threading.Thread(target=keep, name="lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()


class Inspector(Loop):
    """Claims an upload and brings it to its end; one at a time, so that predictions keep the machine."""

    def beat(self) -> None:
        """Remove now and then what uploads left behind; the loop beside this one says that the process lives."""
        if time.monotonic() - self._beat > SWEEP_SECONDS:
            self._beat = time.monotonic()
            if left := sweeping.sweep(self._parts.desk):
                LOG.info("worker.swept", extra={"names": left})

    def work_once(self) -> bool:
        """Work on one upload; tells whether there was one."""
        made = self._parts
        # Looked at first: asking for a lease takes the write lock, and mostly there is nothing to lease.
        with made.database.reading() as session:
            if not waiting.under_way(session):
                return False
        with made.database.transaction() as session:
            pending = waiting.claim(session, self._owner)
        if pending is None:
            return False
        with self._holding(lambda session: waiting.renew(session, pending.id, self._owner), waiting.LEASE):
            waiting.work(Desk(made.settings, made.database, made.artifacts), pending)
        LOG.info("worker.upload", extra={"upload": pending.id, "model": pending.model})
        return True


class Recomputer(Loop):
    """Looks every few seconds whether what plans have answered is what scikit-learn says."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; what is committed before the first look is not looked at."""
        super().__init__(parts, host)
        self._recomputation = Recomputation(parts.database, parts.runtime)
        self._looked = -math.inf

    def beat(self) -> None:
        """Leave it to the loop beside this one to say that the process lives."""

    def work_once(self) -> bool:
        """Look when it is time to; tells whether there was anything to compute."""
        if time.monotonic() - self._looked < RECOMPUTE_SECONDS:
            return False
        self._looked = time.monotonic()
        try:
            return self._recomputation.look() > 0
        except (sqlalchemy.exc.SQLAlchemyError, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a version does, the others are looked at again
            LOG.warning("worker.not_recomputed", extra={"reason": type(error).__name__})
            return False


class Worker(Loop):
    """Claims a chunk, computes it, stores its results; then the next."""

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
        with self._holding(lambda session: jobs.renew(session, chunk, self._owner), jobs.LEASE):
            loaded = self._parts.follower.served(job.model, job.version)
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


def run(worker: Worker, *others: Loop) -> None:
    """Run in the foreground until SIGTERM or SIGINT. What the others leave undone is done after the next start."""

    def stop(*_signal: object) -> None:
        for loop in (worker, *others):
            loop.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for loop in others:
        threading.Thread(target=loop.run, name=type(loop).__name__.lower(), daemon=True).start()
    worker.run()
