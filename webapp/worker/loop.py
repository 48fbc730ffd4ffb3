"""Loops: what each thread of the worker does over and over, and what is done now and then."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import sqlalchemy.exc

from webapp import fleet, metrics
from webapp.db import Session
from webapp.errors import Refusal, Unavailable
from webapp.web import Parts

T = TypeVar("T")
LOG = logging.getLogger(__name__)
IDLE_SECONDS = 0.25
RETRY_SECONDS = 1.0
BEAT_SECONDS = 10.0


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
            except (sqlalchemy.exc.SQLAlchemyError, Unavailable, OSError) as error:
                # Also a disk that is full: it may have room again, and nobody else would go on with this work.
                facts = {"loop": type(self).__name__.lower(), "reason": type(error).__name__}
                LOG.warning("worker.unavailable", extra=facts)
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

    def _claimed(self, is_work: Callable[[Session], object], claim: Callable[[Session], T | None]) -> T | None:
        """Claim something to do, where there is anything.

        Looked at first: asking for a lease takes the write lock, and mostly there is nothing to lease.
        """
        with self._parts.database.reading() as session:
            if not is_work(session):
                return None
        with self._parts.database.transaction() as session:
            return claim(session)

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


class Periodic(Loop):
    """Looks every so often; the first look is soon."""

    def __init__(self, parts: Parts, host: str, seconds: float) -> None:
        """`seconds` lie between two looks."""
        super().__init__(parts, host)
        self._seconds = seconds
        self._looked = -math.inf

    def beat(self) -> None:
        """Leave it to the loop beside this one to say that the process lives."""

    def work_once(self) -> bool:
        """Look when it is time to, and rest in any case: between two looks others get the database."""
        if time.monotonic() - self._looked < self._seconds:
            return False
        try:
            again = self.look()
        except (sqlalchemy.exc.SQLAlchemyError, Unavailable):
            # It is away for all; looked at again soon.
            raise
        except Exception as error:  # noqa: BLE001 - whatever one look comes upon, the next one is made
            facts = {"look": type(self).__name__.lower(), "reason": type(error).__name__}
            LOG.warning("worker.look_failed", extra=facts)
            again = False
        if not again:
            self._looked = time.monotonic()
        return False

    def look(self) -> bool:
        """Look once; tells whether to go on at once."""
        raise NotImplementedError
