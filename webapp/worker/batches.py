"""Computes batches: claims chunks, as many as the backend takes, and makes files of what becomes of them."""

from __future__ import annotations

import io
import json
import logging
import math
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import sqlalchemy.exc

from webapp import faults, jobs, leases, metrics
from webapp.alerts.rounds import Round
from webapp.batches import Form, backends, receiving, results_name, rows_name
from webapp.batches.backends import NotComputed
from webapp.batches.computing import Computed, Task
from webapp.db import Session, now
from webapp.errors import Refusal, Unavailable
from webapp.jobs import Chunk, Job
from webapp.predictions import refusals
from webapp.predictions.exports import Export
from webapp.uploads import waiting
from webapp.web import Parts
from webapp.webhooks.deliveries import Delivery
from webapp.worker.loop import Loop, Periodic

LOG = logging.getLogger(__name__)
SWEEP_SECONDS = 600.0
# While chunks are under way: how long until what computes them is looked at.
LOOK_SECONDS = 1.0
COUNT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class _Held:
    """A chunk under way, the attempt at which is this worker's."""

    job: Job
    chunk: Chunk


class Worker(Loop):
    """Claims chunks, as many as the backend computes at a time, and makes files of what becomes of them."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; the backend is started by the first chunk."""
        super().__init__(parts, host)
        self._backend = backends.made(parts.settings)
        self._storage = parts.artifacts.storage
        self._held: dict[Future[Computed], _Held] = {}
        self._swept = time.monotonic()

    def run(self) -> None:
        """Work until stopped; what is under way then is left to whoever comes next."""
        try:
            with self._holding(self._renew, jobs.LEASE):
                super().run()
        finally:
            self._let_go()

    def beat(self) -> None:
        """Say now and then that this process lives, and remove what belongs to no batch."""
        if self._beat == -math.inf:
            self._succeed()
        super().beat()
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            if left := receiving.sweep(self._parts.database, self._storage):
                LOG.info("worker.swept_batches", extra={"files": left})

    def _succeed(self) -> None:
        """Take over from a process of this host that was killed; its attempts count."""
        with self._parts.database.transaction() as session:
            leased = (Chunk, waiting.PendingUpload, Export, Delivery, Round)
            freed = sum(leases.free(session, each, self._host) for each in leased)
        if freed:
            LOG.info("worker.succeeded", extra={"freed": freed})

    def work_once(self) -> bool:
        """Bring one chunk to its end; tells whether there was one."""
        self._fill()
        while self._held and not self._stop.is_set():
            ended, _ = wait(self._held, LOOK_SECONDS, FIRST_COMPLETED)
            if ended:
                future = ended.pop()
                self._end(future, self._held.pop(future))
                return True
            self._look()
        return False

    def _fill(self) -> None:
        """Claim as many chunks as there is room for."""
        # What could not be logged would be computed in vain, and count as an attempt. And a batch can wait until what
        # it has logged so far is in the database.
        if self._parts.spool.full or self._parts.spool.half_full or not self._is_work():
            return
        room = self._room()
        while len(self._held) < room and not self._stop.is_set():
            with self._parts.database.transaction() as session:
                claimed = jobs.claim(session, self._owner)
            if claimed is None:
                return
            if not self._begin(_Held(*claimed)):
                # What failed for one may fail for all: each look costs an attempt of one chunk, not of every one.
                return

    def _is_work(self) -> bool:
        # Looked at first: asking for a lease takes the write lock, and mostly there is nothing to lease.
        with self._parts.database.reading() as session:
            return jobs.has_work(session)

    def _room(self) -> int:
        """Give how many chunks may be under way; one where the backend is away: its attempts end the job."""
        try:
            return self._backend.room()
        except Unavailable as away:
            self._lose(away)
            return 1

    def _look(self) -> None:
        """Say that this process lives, and give back what will not come back: waiting for it would never end."""
        self.beat()
        try:
            self._backend.room()
        except Unavailable as away:
            self._lose(away)

    def _lose(self, away: Unavailable) -> None:
        while self._held:
            _, held = self._held.popitem()
            self._give_back(held.chunk, away)

    def _begin(self, held: _Held) -> bool:
        """Hand a chunk to the backend; tells whether it took it."""
        job, chunk = held.job, held.chunk
        try:
            loaded = self._parts.follower.served(job.model, job.version)
            source = None if self._parts.settings.prediction_log == 0 else "test" if job.test else "batch"
            form, content = self._rows(held)
            task = Task(job.id, job.key_id, source, form, chunk.first_row)
            self._held[self._backend.submit(loaded, task, content)] = held
        except Exception as error:  # noqa: BLE001 - no chunk may end the worker; its attempts end the job
            self._give_back(chunk, error)
            return False
        return True

    def _rows(self, held: _Held) -> tuple[Form, bytes]:
        chunk = held.chunk
        if chunk.instances is not None:
            # It was accepted before there were files.
            return "json", json.dumps({"instances": chunk.instances, "ids": chunk.ids}).encode()
        return cast("Form", held.job.form), self._storage.get(rows_name(chunk.job_id, chunk.number))

    def _end(self, future: Future[Computed], held: _Held) -> None:
        try:
            computed = future.result()
            if computed.row_count != held.chunk.row_count:
                raise Unavailable("batch_file_damaged", "The file of its rows is not what was stored.")  # noqa: TRY301 - one way to give back
            if computed.logged:
                self._parts.spool.append_lines(computed.logged)
            self._store(held, computed)
        except Exception as error:  # noqa: BLE001 - as above
            self._give_back(held.chunk, error)

    def _store(self, held: _Held, computed: Computed) -> None:
        job, chunk = held.job, held.chunk
        name = results_name(chunk.job_id, chunk.number, chunk.attempts)
        self._storage.put(name, io.BytesIO(computed.results))
        faults.point("batch.computed")
        with self._parts.database.transaction() as session:
            stored = jobs.finish(session, chunk, self._owner, computed.failed_rows)
            if stored and computed.refused.refused:
                refusals.count(session, job.model, job.version, now(), computed.refused)
        # The rows are of no more use; where another attempt counts, the results of this one are not.
        with suppress(Refusal, OSError):
            self._storage.delete(rows_name(chunk.job_id, chunk.number) if stored else name)
        if stored:
            metrics.BATCH_ROWS.labels("answered").inc(computed.row_count - computed.failed_rows)
            metrics.BATCH_ROWS.labels("refused").inc(computed.failed_rows)
        done = {"job": chunk.job_id, "chunk": chunk.number, "rows": computed.row_count, "stored": stored}
        LOG.info("worker.chunk", extra=done)

    def _give_back(self, chunk: Chunk, error: Exception) -> None:
        kind = type(error).__name__
        LOG.warning("worker.chunk_failed", extra={"job": chunk.job_id, "chunk": chunk.number, "reason": kind})
        reason = error.detail if isinstance(error, Refusal | NotComputed) else f"It could not be computed ({kind})."
        # What is away for everyone may come again: it is waited for longer than what is wrong with one chunk.
        pause = jobs.LONG_PAUSE if isinstance(error, Unavailable | NotComputed | CancelledError) else jobs.PAUSE
        with self._parts.database.transaction() as session:
            jobs.give_back(session, chunk, self._owner, reason, pause)

    def _renew(self, session: Session) -> None:
        for held in list(self._held.values()):
            jobs.renew(session, held.chunk, self._owner)

    def _let_go(self) -> None:
        self._backend.close()
        with suppress(sqlalchemy.exc.SQLAlchemyError, Refusal), self._parts.database.transaction() as session:
            for held in self._held.values():
                jobs.release(session, held.chunk, self._owner)


class Counter(Periodic):
    """Says in metrics how many batches have not ended."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop."""
        super().__init__(parts, host, COUNT_SECONDS)

    def look(self) -> bool:
        """Count them."""
        with self._parts.database.reading() as session:
            found = jobs.open_by_state(session)
        for state, count in found.items():
            metrics.JOBS.labels(state).set(count)
        return False
