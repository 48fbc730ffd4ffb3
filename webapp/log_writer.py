"""The log writer: one process per host that moves the spool into SQL."""

from __future__ import annotations

import logging
import math
import threading
import time
from itertools import islice
from pathlib import Path

import sqlalchemy.exc

from webapp import erasure, faults, fleet, metrics
from webapp.db import Database
from webapp.errors import Unavailable
from webapp.predictions import log, spool, timings
from webapp.signals import when_asked_to_end

LOG = logging.getLogger(__name__)
IDLE_SECONDS = 0.1
# Also after a pass that found something: on SQLite others wait for their turn to write.
BREATH_SECONDS = 0.25
RETRY_SECONDS = 1.0
# So long a stop waits for a database that is away: a replica may leave for good, and its disk with it. Less than the
# supervisor waits for this process.
LAST_SECONDS = 25.0
PIECE_RECORDS = 2000
BEAT_SECONDS = 10.0
# What a database says of a value that it will not take later either; what it says of itself is none of these.
REFUSED = (sqlalchemy.exc.DataError, sqlalchemy.exc.IntegrityError, UnicodeError, LookupError, TypeError)
REFUSED_NAME = "refused.lines"


class LogWriter:
    """Inserts complete lines of every segment, and deletes segments that are complete and inserted."""

    def __init__(self, database: Database, folder: Path, host: str) -> None:
        """`folder` is the spool of `host`; nobody else drains it."""
        self._database = database
        self._folder = folder
        self._host = host
        self._stop = threading.Event()
        # How far each segment is inserted, as the database has it; None until it was read.
        self._places: dict[str, int] | None = None
        self._beaten = -BEAT_SECONDS

    def stop(self) -> None:
        """Ask `run` to drain what is there and return."""
        self._stop.set()

    def run(self) -> None:
        """Work until stopped; what was appended before that is inserted first, if the database answers in time."""
        until = math.inf
        while True:
            # Looked at before draining: what was appended until the stop must still be found.
            if stopping := self._stop.is_set():
                until = min(until, time.monotonic() + LAST_SECONDS)
            inserted = self._attempt()
            if stopping and (inserted is not None or time.monotonic() > until):
                return
            pause = {None: RETRY_SECONDS, 0: IDLE_SECONDS}.get(inserted, BREATH_SECONDS)
            if stopping:
                time.sleep(pause)
            else:
                self._stop.wait(pause)

    def _attempt(self) -> int | None:
        """Drain; None where the database does not answer, or a disk is full."""
        try:
            self._beat()
            inserted = self.drain()
        except (sqlalchemy.exc.SQLAlchemyError, Unavailable, OSError) as error:
            LOG.warning("log.unavailable", extra={"reason": type(error).__name__})
            self._places = None
            return None
        metrics.LOG_CAUGHT_UP.set_to_current_time()
        return inserted

    def _beat(self) -> None:
        """Say now and then that this process lives."""
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            with self._database.transaction() as session:
                fleet.beat(session, self._host, fleet.LOG_WRITER)
            self._beaten = time.monotonic()

    def drain(self) -> int:
        """Insert everything that is complete now; give the number of records."""
        found = spool.segments(self._folder)
        places = self._places = self._known_places()
        inserted = sum(self._drain_segment(path, places) for path in found)
        if gone := set(places) - {path.name for path in found}:
            with self._database.transaction() as session:
                log.forget(session, self._host, gone)
            for segment in gone:
                del places[segment]
        return inserted

    def _known_places(self) -> dict[str, int]:
        if self._places is not None:
            return self._places
        with self._database.reading() as session:
            return log.positions(session, self._host)

    def _drain_segment(self, path: Path, places: dict[str, int]) -> int:
        # Asked before reading: a segment that is complete now cannot have grown when it has been read to its end.
        complete = spool.is_complete(path)
        offset = places.get(path.name, 0)
        lines = spool.lines_from(path, offset)
        inserted = 0
        while taken := list(islice(lines, PIECE_RECORDS)):
            inserted += self._insert(path, taken)
            places[path.name] = offset = taken[-1][1]
        if complete:
            self._finish(path, offset)
        return inserted

    def _insert(self, path: Path, taken: list[tuple[bytes, int]]) -> int:
        """Insert these lines, each with the offset behind it; give how many are predictions."""
        try:
            return self._insert_at_once(path, [line for line, _ in taken], taken[-1][1])
        except REFUSED as error:
            if len(taken) > 1:
                half = len(taken) // 2
                return self._insert(path, taken[:half]) + self._insert(path, taken[half:])
            ((line, offset),) = taken
            self._set_aside(path, line, error)
            return self._insert_at_once(path, [], offset)

    def _insert_at_once(self, path: Path, lines: list[bytes], offset: int) -> int:
        decoded = [spool.decode(line) for line in lines]
        records = [record for record in decoded if record is not None]
        with self._database.transaction() as session:
            kept = erasure.screened(session, records)
            log.insert(session, log.Piece(self._host, path.name, kept, offset))
            faults.point("log.inserted")
        faults.point("log.committed")
        if damaged := len(lines) - len(records):
            metrics.LOG_PASSED_OVER.labels("damaged").inc(damaged)
            LOG.error("log.damaged_lines", extra={"segment": path.name, "count": damaged})
        # Here and not where it is answered: counting costs a request more than all that the counted ones are made of.
        for labels, seconds in timings.predicting(filter(spool.is_prediction, records)):
            metrics.INFERENCE_DURATION.labels(*labels).observe(seconds)
        return len(records)

    def _set_aside(self, path: Path, line: bytes, error: Exception) -> None:
        """Keep what the database will never take where somebody can look at it: the others need not wait behind it."""
        refused = self._folder / REFUSED_NAME
        refused.touch(mode=0o600)
        with refused.open("ab") as file:
            file.write(line + b"\n")
        kind = type(error).__name__
        metrics.LOG_PASSED_OVER.labels("refused").inc()
        LOG.error("log.refused_line", extra={"segment": path.name, "kept": str(refused), "reason": kind})

    def _finish(self, path: Path, offset: int) -> None:
        # The file goes first: a place without a file is forgotten at the next pass, a file without its place
        # would be inserted again.
        try:
            torn = path.stat().st_size - offset
            path.unlink()
        except FileNotFoundError:
            return
        faults.point("log.removed")
        if torn:
            metrics.LOG_PASSED_OVER.labels("torn").inc()
            LOG.error("log.torn_line", extra={"segment": path.name, "bytes": torn})


def run(database: Database, folder: Path, host: str) -> None:
    """Run in the foreground until SIGTERM or SIGINT."""
    writer = LogWriter(database, folder, host)
    when_asked_to_end(writer.stop)
    writer.run()
