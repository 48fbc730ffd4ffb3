"""Writes exports of the log, and removes those that were kept long enough."""

from __future__ import annotations

import logging
import time

from webapp import exporting
from webapp.predictions import exports
from webapp.worker.loop import Loop

LOG = logging.getLogger(__name__)
SWEEP_SECONDS = 600.0


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
        export = self._claimed(exports.has_work, lambda session: exports.claim(session, self._owner))
        if export is None:
            return False
        with self._holding(lambda session: exports.renew(session, export, self._owner), exports.LEASE):
            exporting.write(made.database, made.artifacts.storage, export, self._owner, self._stop.is_set)
        return True
