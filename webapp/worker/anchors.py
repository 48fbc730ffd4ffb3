"""Says once a day in the log where the audit trail ends: a chain that was made anew does not lead there."""

from __future__ import annotations

import logging

from webapp import audit
from webapp.web import Parts
from webapp.worker.loop import Periodic

LOG = logging.getLogger(__name__)
ANCHOR_SECONDS = 86_400.0


class Anchorer(Periodic):
    """Writes the last row's number and digest."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop."""
        super().__init__(parts, host, ANCHOR_SECONDS)

    def look(self) -> bool:
        """Say it, where anything was ever changed."""
        with self._parts.database.reading() as session:
            last = audit.last(session)
        if last is not None:
            LOG.info("audit.last", extra={"row": str(last)})
        return False
