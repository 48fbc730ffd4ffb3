"""Writes exports of the log into files, and says how far each is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from webapp.db import Database
from webapp.errors import Conflict, Refusal, Unavailable
from webapp.predictions import exports, files
from webapp.predictions.exports import Export
from webapp.predictions.files import Line
from webapp.storage import Storage

LOG = logging.getLogger(__name__)
TELL_SECONDS = 2.0


def write(database: Database, storage: Storage, export: Export, owner: str, is_stopped: Callable[[], bool]) -> None:
    """Write the file of an export that `owner` has claimed; what goes wrong is left to a later attempt."""
    told = _Told(database, export, owner, is_stopped)
    try:
        found = files.lines(database, exports.wanted_of(export))
        source = _Source(files.written(told.through(found), export.form))
        storage.put(export.file_name, source)
        with database.transaction() as session:
            kept = exports.finish(session, export, owner, told.rows, source.bytes)
    except Exception as error:  # noqa: BLE001 - no export may end the worker; its attempts end the export
        _give_back(database, export, owner, error)
        return
    if not kept:
        # Another attempt may have written one meanwhile.
        storage.delete(export.file_name)
    LOG.info("worker.export", extra={"export": export.id, "rows": told.rows, "kept": kept})


def _give_back(database: Database, export: Export, owner: str, error: Exception) -> None:
    LOG.warning("worker.export_failed", extra={"export": export.id, "reason": type(error).__name__})
    reason = error.detail if isinstance(error, Refusal) else f"It could not be written ({type(error).__name__})."
    with database.transaction() as session:
        exports.give_back(session, export, owner, reason)


class _Told:
    """The lines of an export on their way into its file, counted and told of."""

    def __init__(self, database: Database, export: Export, owner: str, is_stopped: Callable[[], bool]) -> None:
        self._database = database
        self._export = export
        self._owner = owner
        self._is_stopped = is_stopped
        self.rows = 0

    def through(self, found: Iterable[Line]) -> Iterator[Line]:
        told = time.monotonic()
        for line in found:
            if time.monotonic() - told >= TELL_SECONDS:
                self._tell(datetime.fromisoformat(line["at"]))
                told = time.monotonic()
            self.rows += 1
            yield line

    def _tell(self, reached_at: datetime) -> None:
        if self._is_stopped():
            raise Unavailable("worker_stops", "The worker was stopped; it goes on from the beginning.")
        with self._database.transaction() as session:
            if not exports.progress(session, self._export, self._owner, self.rows, reached_at):
                raise Conflict("export_removed", "It was removed, or another worker has taken it over.")


class _Source:
    """Pieces as something that is read from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = bytearray()
        self.bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        while (size < 0 or len(self._left) < size) and (piece := next(self._pieces, b"")):
            self._left += piece
        given = bytes(self._left if size < 0 else self._left[:size])
        del self._left[: len(given)]
        self.bytes += len(given)
        return given
