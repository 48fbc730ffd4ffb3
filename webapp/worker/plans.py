"""Looks every few seconds whether what plans have answered is what scikit-learn says."""

from __future__ import annotations

from webapp.recomputation import Recomputation
from webapp.web import Parts
from webapp.worker.loop import Periodic

RECOMPUTE_SECONDS = 5.0


class Recomputer(Periodic):
    """Computes some of what plans have answered once more."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; what is committed before the first look is not looked at."""
        super().__init__(parts, host, RECOMPUTE_SECONDS)
        self._recomputation = Recomputation(parts.database, parts.runtime)

    def look(self) -> bool:
        """Look at each version that has a plan."""
        self._recomputation.look()
        return False
