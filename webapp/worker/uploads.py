"""Inspects uploads, and removes what they left behind."""

from __future__ import annotations

import logging
import time

from webapp.uploads import sweeping, waiting
from webapp.worker.loop import Loop

LOG = logging.getLogger(__name__)
SWEEP_SECONDS = 600.0


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
        pending = self._claimed(waiting.under_way, lambda session: waiting.claim(session, self._owner))
        if pending is None:
            return False
        with self._holding(lambda session: waiting.renew(session, pending.id, self._owner), waiting.LEASE):
            waiting.work(self._parts.desk, pending)
        LOG.info("worker.upload", extra={"upload": pending.id, "model": pending.model})
        return True
