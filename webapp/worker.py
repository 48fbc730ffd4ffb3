"""The worker: what runs off the request path. It works on batch chunks as long as there are some."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

import sqlalchemy.exc

from webapp import jobs
from webapp.errors import Invalid, Refusal
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
            except sqlalchemy.exc.SQLAlchemyError as error:
                LOG.warning("worker.database_unavailable", extra={"reason": type(error).__name__})
                self._stop.wait(RETRY_SECONDS)
            else:
                if not worked:
                    self._stop.wait(IDLE_SECONDS)

    def work_once(self) -> bool:
        """Work on one chunk; tells whether there was one."""
        with self._parts.database.transaction() as session:
            claimed = jobs.claim(session, self._owner)
        if claimed is None:
            return False
        job, chunk = claimed
        try:
            loaded = self._loaded(job)
        except Refusal as refusal:
            with self._parts.database.transaction() as session:
                jobs.fail(jobs.get_job(session, job.id, job.key_id), refusal.detail)
            return True
        results, answers = _computed(job, chunk, loaded)
        self._log(job, loaded, answers)
        with self._parts.database.transaction() as session:
            failed = len(results) - len(answers)
            stored = jobs.finish(session, chunk, self._owner, results, failed)
        LOG.info("worker.chunk", extra={"job": job.id, "chunk": chunk.number, "rows": len(results), "stored": stored})
        return True

    def _loaded(self, job: Job) -> LoadedVersion:
        try:
            return self._parts.runtime.served(job.model, job.version)
        except Refusal:
            if not self._parts.follower.catch_up():
                raise
            return self._parts.runtime.served(job.model, job.version)

    def _log(self, job: Job, loaded: LoadedVersion, answers: list[Answer]) -> None:
        if self._parts.settings.prediction_log > 0:
            source = "test" if job.test else "batch"
            origin = Origin(time.time(), job.key_id, job.id, source, latency_seconds=0.0)
            self._parts.spool.append([record(origin, loaded, answer, None) for answer in answers])


def _computed(job: Job, chunk: Chunk, loaded: LoadedVersion) -> tuple[list[dict[str, Any]], list[Answer]]:
    """Give a result for every row: an answer, or the problems of a row that cannot have one."""
    numbers = range(chunk.first_row, chunk.first_row + chunk.row_count)
    pointers = [f"/instances/{number}" for number in numbers]
    try:
        answers = loaded.predict(chunk.instances, pointers, job.id, chunk.first_row)
        return [answer.document for answer in answers], answers
    except Invalid:
        # Some row is not acceptable: each for itself, so that the others get their answers.
        results, answers = [], []
        for number, pointer, instance in zip(numbers, pointers, chunk.instances, strict=True):
            try:
                answers += loaded.predict([instance], [pointer], job.id, number)
                results.append(answers[-1].document)
            except Invalid as invalid:
                problems = [
                    {"pointer": each.pointer, "code": each.code, "message": each.message} for each in invalid.problems
                ]
                results.append({"error": {"code": invalid.code, "detail": invalid.detail, "errors": problems}})
        return results, answers


def run(worker: Worker) -> None:
    """Run in the foreground until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
