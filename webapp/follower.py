"""Follows the committed state: each process that predicts has one thread that loads what changed, then switches."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from webapp import fleet, generation, keys, metrics, registry
from webapp.catalog import Catalog
from webapp.db import Database
from webapp.generation import Signal
from webapp.keys import KeyRing
from webapp.serving.runtime import Runtime

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.05
POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 5.0
CATCH_UP_SECONDS = 2.0

HOST = socket.gethostname()


class Follower:
    """Keeps a process's runtime and key ring at the newest committed generation."""

    def __init__(self, database: Database, runtime: Runtime, ring: KeyRing, signal: Signal, default_limit: str) -> None:
        """Make it; nothing is read before `start`."""
        self._database = database
        self._runtime = runtime
        self._ring = ring
        self._signal = signal
        self._default_limit = default_limit
        self._generation = 0
        self._failure = ""
        self._slot: int | None = None
        self._stop = threading.Event()
        self._followed = threading.Condition()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, slot: int | None) -> None:
        """Load the present state, then follow in a thread. A web worker gives its slot, to be waited for."""
        self._slot = slot
        # Said before reading: an activation that is committed from now on waits for this worker.
        self._try(self._report)
        self._try(self._follow)
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a web worker is no longer waited for."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._try(self._leave)

    def catch_up(self) -> bool:
        """When something changed that this process has not seen, see it now; tells whether it was so.

        Asked only when a key, a model or a version is unknown: it may have been made a moment ago.
        """
        sent = self._signal.sent()
        with self._followed:
            if self._thread is None or self._signal.seen == sent:
                return False
            self._wake.set()
            # A pass that had begun before the change does not count.
            return self._followed.wait_for(lambda: self._signal.seen >= sent, CATCH_UP_SECONDS)

    def _run(self) -> None:
        polled = beat = time.monotonic()
        while not self._stop.is_set():
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            moment = time.monotonic()
            if self._signal.seen != self._signal.sent() or moment - polled >= POLL_SECONDS:
                polled = moment
                self._try(self._follow)
            if moment - beat >= HEARTBEAT_SECONDS:
                beat = moment
                self._try(self._report)

    def _try(self, step: Callable[[], None]) -> None:
        """Do a step that needs the database; without it the process goes on with what it has."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - nothing may end the thread
            metrics.FOLLOW_FAILURES.inc()
            LOG.warning("follow.failed", extra={"reason": type(error).__name__})

    def _follow(self) -> None:
        sent = self._signal.sent()
        try:
            with self._database.reading() as session:
                if generation.current(session) == self._generation:
                    return
                catalog = registry.catalog(session)
                live = keys.live_keys(session, self._default_limit)
            self._ring.snapshot = live
            failures = self._runtime.switch(catalog)
            self._note(catalog, failures)
        finally:
            with self._followed:
                self._signal.seen = sent
                self._followed.notify_all()
        self._report()

    def _note(self, catalog: Catalog, failures: list[str]) -> None:
        self._generation = catalog.generation
        self._failure = "; ".join(failures)
        metrics.GENERATION.set(catalog.generation)
        for version in catalog.active_versions():
            if (accuracy := catalog.models[version.model].accuracy) is not None:
                metrics.MODEL_ACCURACY.labels(version.model, version.shown).set(accuracy)
        for failure in failures:
            metrics.FOLLOW_FAILURES.inc()
            LOG.error("follow.not_loaded", extra={"reason": failure})
        LOG.info("follow.switched", extra={"generation": catalog.generation})

    def _report(self) -> None:
        if self._slot is not None:
            with self._database.transaction() as session:
                fleet.report(session, HOST, self._slot, os.getpid(), self._generation, self._failure)

    def _leave(self) -> None:
        if self._slot is not None:
            with self._database.transaction() as session:
                fleet.leave(session, HOST, self._slot)
