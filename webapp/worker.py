"""The worker: what runs off the request path, a thread each: batches, uploads, drift, scores, exports, what is old."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import sqlalchemy.exc

from webapp import __version__, alerts, exporting, faults, fleet, jobs, leases, metrics, registry, watching
from webapp.alerts.rounds import Round
from webapp.batches import Form, backends, receiving, results_name, rows_name
from webapp.batches.backends import NotComputed
from webapp.batches.computing import Computed, Task
from webapp.db import Session, now
from webapp.errors import Refusal, Unavailable
from webapp.jobs import Chunk, Job
from webapp.monitoring import drift_watch, quality_report
from webapp.monitoring.drift_report import Terms
from webapp.monitoring.references import References
from webapp.predictions import exports, log, subjects
from webapp.predictions.exports import Export
from webapp.recomputation import Recomputation
from webapp.uploads import Desk, sweeping, waiting
from webapp.web import Parts
from webapp.webhooks import deliveries, sending, signing
from webapp.webhooks.deliveries import Delivery, Post

LOG = logging.getLogger(__name__)
IDLE_SECONDS = 0.25
RETRY_SECONDS = 1.0
BEAT_SECONDS = 10.0
RECOMPUTE_SECONDS = 5.0
SWEEP_SECONDS = 600.0
# How often scores for Prometheus are worked out, and of which time.
SCORE_SECONDS = 600.0
SCORE_WINDOW = "7d"
# How often it is looked whether anything has become too old; of that, so much is removed in one transaction.
REMOVE_SECONDS = 600.0
REMOVED_WITHIN = timedelta(hours=1)
MOST_PREDICTIONS = 1000
MOST_JOBS = 10
WATCH_SECONDS = 60.0
MOST_DELIVERIES = 1000
# How often it is looked whether it is time for a round, and whether a webhook is to be told something.
ROUND_SECONDS = 10.0
TELL_SECONDS = 1.0
# While chunks are under way: how long until what computes them is looked at.
LOOK_SECONDS = 1.0


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
                fleet.beat(session, self._host, fleet.WORKER)
            self._beat = time.monotonic()
            metrics.WORKER_SEEN.set_to_current_time()

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


class Exporter(Loop):
    """Writes exports, one at a time, and removes those that were kept long enough."""

    def beat(self) -> None:
        """Remove now and then what is kept no longer; the loop beside this one says that the process lives."""
        if time.monotonic() - self._beat > SWEEP_SECONDS:
            self._beat = time.monotonic()
            if gone := exports.expire(self._parts.database, self._parts.artifacts.storage):
                LOG.info("worker.expired_exports", extra={"exports": gone})

    def work_once(self) -> bool:
        """Write one export; tells whether there was one."""
        made = self._parts
        # Looked at first: asking for a lease takes the write lock, and mostly there is nothing to lease.
        with made.database.reading() as session:
            if not exports.has_work(session):
                return False
        with made.database.transaction() as session:
            export = exports.claim(session, self._owner)
        if export is None:
            return False
        with self._holding(lambda session: exports.renew(session, export, self._owner), exports.LEASE):
            exporting.write(made.database, made.artifacts.storage, export, self._owner, self._stop.is_set)
        return True


class Remover(Loop):
    """Removes what is older than it has to be kept; between two steps others get the database."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; the first look is soon."""
        super().__init__(parts, host)
        self._looked = -math.inf
        self._removed: Counter[str] = Counter()

    def beat(self) -> None:
        """Leave it to the loop beside this one to say that the process lives."""

    def work_once(self) -> bool:
        """Remove a few of the oldest when it is time to, and rest in any case."""
        days = self._parts.settings.retention_days
        if days == 0 or time.monotonic() - self._looked < REMOVE_SECONDS:
            return False
        before = now() - timedelta(days=days)
        with self._parts.database.transaction() as session:
            step = Counter(
                predictions=log.remove(session, before, MOST_PREDICTIONS),
                batches=jobs.remove(session, before, MOST_JOBS),
                deliveries=deliveries.remove(session, before, MOST_DELIVERIES),
                alerts=alerts.remove(session, before, MOST_DELIVERIES),
            )
            # What comes late from a spool and is older than this goes here, at the latest an hour after it came.
            subjects.forget(session, before - REMOVED_WITHIN)
        for kind, count in step.items():
            metrics.EXPIRED.labels(kind).inc(count)
        self._removed += step
        if not step.total():
            self._looked = time.monotonic()
            if self._removed:
                LOG.info("worker.expired", extra=dict(self._removed))
                self._removed.clear()
        return False


class DriftWatcher(Loop):
    """Has versions counted that can be, and decides about each day of theirs when it is over."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; the first look is soon."""
        super().__init__(parts, host)
        self._looked = -math.inf
        self._references = References(parts.database, parts.artifacts, parts.follower)
        settings = parts.settings
        self._terms = Terms(settings.drift_tolerance, settings.drift_alarms_per_year)

    def beat(self) -> None:
        """Leave it to the loop beside this one to say that the process lives."""

    def work_once(self) -> bool:
        """Look at every version when it is time to; tells whether there was anything to do."""
        if time.monotonic() - self._looked < WATCH_SECONDS:
            return False
        self._looked = time.monotonic()
        catalog = self._parts.runtime.catalog
        begun = self._references.make(catalog)
        decided = drift_watch.decide_all(self._parts.database, self._terms)
        drift_watch.show(self._parts.database, catalog)
        if begun or decided:
            LOG.info("worker.drift", extra={"begun": begun, "decided": decided})
        return False


class Scorer(Loop):
    """Says now and then, in metrics, how good the active version of each model turned out to be."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; the first look is soon."""
        super().__init__(parts, host)
        self._looked = -math.inf
        # What was said of each model, by metric: where nothing is known any more, that is said.
        self._said: dict[str, set[str]] = {}

    def beat(self) -> None:
        """Leave it to the loop beside this one to say that the process lives."""

    def work_once(self) -> bool:
        """Score one model after the other when it is time to, and rest in any case."""
        if time.monotonic() - self._looked < SCORE_SECONDS:
            return False
        with self._parts.database.reading() as session:
            names = [line.name for line in registry.model_lines(session) if line.active_number is not None]
        for name in names:
            if self._stop.is_set():
                break
            self._score(name)
        # Looked at again soon where the database was away.
        self._looked = time.monotonic()
        return False

    def _score(self, name: str) -> None:
        try:
            self._say(name)
        except (sqlalchemy.exc.SQLAlchemyError, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model's truth does, the others are scored
            LOG.warning("worker.not_scored", extra={"model": name, "reason": type(error).__name__})

    def _say(self, name: str) -> None:
        within = quality_report.window(SCORE_WINDOW, self._parts.settings.retention_days)
        with self._parts.database.reading() as session:
            found = quality_report.active(session, name, within)
        coverage = math.nan if found is None or found.period.coverage is None else found.period.coverage
        metrics.FEEDBACK_COVERAGE.labels(name).set(coverage)
        scores = {} if found is None else quality_report.values(found)
        for metric in self._said.get(name, set()) | set(scores):
            metrics.MODEL_QUALITY.labels(name, metric).set(scores.get(metric, math.nan))
        self._said[name] = set(scores)


class Watcher(Loop):
    """Looks every minute at what would need a person; one worker of the fleet does it for all of them."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; the first look is soon."""
        super().__init__(parts, host)
        self._looked = -math.inf

    def beat(self) -> None:
        """Leave it to the loop beside this one to say that the process lives."""

    def work_once(self) -> bool:
        """Look when it is time to, and rest in any case."""
        if time.monotonic() - self._looked < ROUND_SECONDS:
            return False
        self._looked = time.monotonic()
        if watching.look(self._parts.database, self._owner):
            LOG.debug("worker.round")
        with self._parts.database.reading() as session:
            telling = alerts.telling(session)
        # Those that there are none of, too: else the last number would stand for ever.
        none = {(kind, severity): 0 for kind in watching.BY_NAME for severity in alerts.SEVERITIES}
        for labels, count in (none | telling).items():
            metrics.ALERTS.labels(*labels).set(count)
        return False


class Teller(Loop):
    """Tells webhooks what they want to know, one after the other."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; the first look is soon."""
        super().__init__(parts, host)
        self._looked = -math.inf
        self._pepper = parts.settings.derive(signing.PEPPER)

    def beat(self) -> None:
        """Leave it to the loop beside this one to say that the process lives."""

    def work_once(self) -> bool:
        """Send one message, if there is one to send; tells whether there was."""
        if time.monotonic() - self._looked < TELL_SECONDS:
            return False
        made = self._parts
        # Looked at first: asking for a lease takes the write lock, and mostly there is nothing to lease.
        with made.database.reading() as session:
            waiting_there = deliveries.is_waiting(session)
        if not waiting_there:
            self._looked = time.monotonic()
            return False
        with made.database.transaction() as session:
            post = deliveries.claim(session, self._owner, made.settings.url)
        if post is not None:
            self._send(post)
        return True

    def _send(self, post: Post) -> None:
        shared = [signing.secret_of(self._pepper, nonce) for nonce in post.nonces]
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"Modelport/{__version__}",
            **signing.headers(shared, post.message_id, int(time.time()), post.body),
        }
        faults.point("webhook.claimed")
        answer = sending.post(post.url, headers, post.body, private=self._parts.settings.webhook_private)
        faults.point("webhook.sent")
        with self._parts.database.transaction() as session:
            deliveries.finish(session, post, self._owner, answer)
        metrics.WEBHOOKS_SENT.labels("delivered" if answer.taken else "failed").inc()
        # Neither where to nor what: of both, some is secret.
        told = {"delivery": post.delivery_id, "attempt": post.attempt, "status": answer.status}
        LOG.info("worker.webhook", extra=told)


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
            self._store(held.chunk, computed)
        except Exception as error:  # noqa: BLE001 - as above
            self._give_back(held.chunk, error)

    def _store(self, chunk: Chunk, computed: Computed) -> None:
        name = results_name(chunk.job_id, chunk.number, chunk.attempts)
        self._storage.put(name, io.BytesIO(computed.results))
        faults.point("batch.computed")
        with self._parts.database.transaction() as session:
            stored = jobs.finish(session, chunk, self._owner, computed.failed_rows)
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
