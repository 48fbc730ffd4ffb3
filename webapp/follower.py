"""Follows the committed state: each process that predicts learns of changes at once, and loads what they need.

Two threads: one reads, so that keys are fresh and others hear of this process however long a load takes; one
loads versions, before they are activated where it is asked to, and switches to them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from webapp import faults, fleet, generation, keys, metrics, registry
from webapp.catalog import Catalog, ServedVersion
from webapp.db import Database
from webapp.errors import Refusal
from webapp.fleet import Preparation
from webapp.generation import Signal
from webapp.keys import KeyRing
from webapp.serving.loaded import LoadedVersion
from webapp.serving.runtime import Runtime

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.05
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
CATCH_UP_SECONDS = 2.0
# What could not be loaded may be loadable a little later.
RETRY_LOAD_SECONDS = 10.0
# The database is asked twice a second; after so many without an answer it counts as away.
DATABASE_AWAY_SECONDS = 5.0


class Follower:
    """Keeps a process's key ring and runtime at the newest committed generation."""

    def __init__(
        self, database: Database, runtime: Runtime, ring: KeyRing, signal: Signal, default_limit: str, host: str
    ) -> None:
        """Make it, for the replica `host`; nothing is read before `start`."""
        self._database = database
        self._runtime = runtime
        self._ring = ring
        self._signal = signal
        self._default_limit = default_limit
        self._host = host
        self._slot: int | None = None
        self._read = Catalog()
        self._loaded = 0
        self._failure = ""
        self._tried = 0.0
        self._asked = False
        self._heard = 0.0
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._to_load = threading.Event()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    @property
    def informed(self) -> bool:
        """Whether the committed state was ever read: before that, nothing is known of keys and models."""
        return self._read.generation > 0

    @property
    def database_answers(self) -> bool:
        """Whether the database was heard of lately."""
        return time.monotonic() - self._heard < DATABASE_AWAY_SECONDS

    def start(self, slot: int | None) -> None:
        """Load the present state, then follow in threads. A web worker gives its slot, to be waited for."""
        self._slot = slot
        # Said before reading: an activation that is committed from now on waits for this worker.
        self._try(self._report)
        self._try(self._look)
        self._try(self._load)
        for name, work in (("follower", self._reading), ("loader", self._loading)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads; a web worker is no longer waited for."""
        self._stop.set()
        self._wake.set()
        self._to_load.set()
        for thread in self._threads:
            thread.join()
        self._try(self._note_uses)
        self._try(self._leave)

    def catch_up(self, *, loaded: bool) -> bool:
        """When something changed that this process has not seen, see it now; tells whether it was so.

        Asked only when a key, a model or a version is unknown: it may have been made a moment ago. `loaded`
        waits for the switch too, which a version needs and a key does not.
        """
        sent = self._signal.sent()
        with self._changed:
            if not self._threads or (self._signal.seen == sent and not (loaded and self._behind())):
                return False
            self._wake.set()
            # A look that had begun before the change does not count.
            return self._changed.wait_for(
                lambda: self._signal.seen >= sent and not (loaded and self._behind()), CATCH_UP_SECONDS
            )

    def served(self, model: str, number: int | None) -> LoadedVersion:
        """Give the version that answers; one that is not known here may have been made a moment ago."""
        try:
            return self._runtime.served(model, number)
        except Refusal:
            if not self.catch_up(loaded=True):
                raise
            return self._runtime.served(model, number)

    def _behind(self) -> bool:
        return self._loaded < self._read.generation

    def _reading(self) -> None:
        polled = beat = time.monotonic()
        while not self._stop.is_set():
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            moment = time.monotonic()
            if self._signal.seen != self._signal.sent() or moment - polled >= POLL_SECONDS:
                polled = moment
                self._try(self._look)
            if moment - beat >= HEARTBEAT_SECONDS:
                beat = moment
                self._try(self._report)
                self._try(self._note_uses)

    def _loading(self) -> None:
        while not self._stop.is_set():
            self._to_load.wait(RETRY_LOAD_SECONDS)
            self._to_load.clear()
            if not self._stop.is_set():
                self._runtime.forget_prepared()
                self._try(self._load)
                self._try(self._prepare)

    def _try(self, step: Callable[[], None]) -> None:
        """Do a step that needs the database; without it the process goes on with what it has."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - nothing may end the thread
            metrics.FOLLOW_FAILURES.inc()
            LOG.warning("follow.failed", extra={"reason": type(error).__name__})

    def _look(self) -> None:
        """Read what is committed: keys serve at once, versions when they are loaded."""
        sent = self._signal.sent()
        try:
            with self._database.reading() as session:
                number = generation.current(session)
                self._heard = time.monotonic()
                self._asked = self._slot is not None and fleet.asked_of(session, self._host, self._slot) is not None
                if self._asked:
                    self._to_load.set()
                if number == self._read.generation:
                    return
                catalog = registry.catalog(session)
                self._ring.snapshot = keys.live_keys(session, self._default_limit)
            self._read = catalog
            self._to_load.set()
        finally:
            self._tell(lambda: setattr(self._signal, "seen", sent))

    def _load(self) -> None:
        catalog = self._read
        is_early = not self._failure or time.monotonic() - self._tried < RETRY_LOAD_SECONDS
        if catalog.generation == self._loaded and is_early:
            return
        self._tried = time.monotonic()
        failures = self._runtime.switch(catalog)
        self._failure = "; ".join(failures)
        metrics.VERSIONS_NOT_LOADED.set(len(failures))
        for failure in failures:
            metrics.FOLLOW_FAILURES.inc()
            metrics.LOAD_FAILURES.inc()
            LOG.error("follow.not_loaded", extra={"reason": failure})
        metrics.GENERATION.set(catalog.generation)
        for version in catalog.active_versions():
            if (accuracy := catalog.models[version.model].accuracy) is not None:
                metrics.MODEL_ACCURACY.labels(version.model, version.shown).set(accuracy)
        self._tell(lambda: setattr(self, "_loaded", catalog.generation))
        LOG.info("follow.switched", extra={"generation": catalog.generation})
        self._report()

    def _prepare(self) -> None:
        """Make ready what is about to be activated, one worker of the host after the other, and say how it went."""
        if self._slot is None or not self._asked:
            return
        with self._database.reading() as session:
            asked = fleet.asked_of(session, self._host, self._slot)
            if asked is None:
                return
            version = registry.catalog(session).resolve(asked.model, asked.number)
            is_turn = fleet.is_turn(session, self._host, self._slot)
        if self._runtime.holds(version) or (is_turn and self._take(asked)):
            self._finish(asked, self._attempt(version))

    def _take(self, asked: Preparation) -> bool:
        with self._database.transaction() as session:
            taken = fleet.take(session, asked.id)
        faults.point("preparation.taken")
        return taken

    def _attempt(self, version: ServedVersion) -> str:
        """Load a version beside the traffic; give why it failed, or nothing."""
        failure = self._runtime.prepare(version)
        faults.point("preparation.loaded")
        if failure:
            metrics.LOAD_FAILURES.inc()
            LOG.error("follow.not_prepared", extra={"model": version.model, "reason": failure})
        return failure

    def _finish(self, asked: Preparation, failure: str) -> None:
        with self._database.transaction() as session:
            fleet.finish(session, asked.id, failure)
        # What else is asked of this worker.
        self._to_load.set()

    def _tell(self, change: Callable[[], None]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def _report(self) -> None:
        if self._slot is not None:
            with self._database.transaction() as session:
                fleet.report(session, self._host, self._slot, os.getpid(), self._loaded, self._failure)
                fleet.hold(session, self._host, self._slot, self._runtime.held())

    def _note_uses(self) -> None:
        if uses := self._ring.take_uses():
            with self._database.transaction() as session:
                keys.note_uses(session, uses)

    def _leave(self) -> None:
        if self._slot is not None:
            with self._database.transaction() as session:
                fleet.leave(session, self._host, self._slot)
