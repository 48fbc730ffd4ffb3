"""Waits, after a change was committed, until the live web workers serve it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from webapp import fleet, generation
from webapp.db import Database, Session

LIMIT_SECONDS = 20.0
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Convergence:
    """How many live web workers serve the committed state, and what the others say."""

    total: int
    switched: int
    failures: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Give the public form."""
        return {"total": self.total, "switched": self.switched, "failures": list(self.failures)}


def converged(database: Database, limit_seconds: float = LIMIT_SECONDS) -> Convergence:
    """Return when every live worker has followed what is committed now, or when the limit has passed."""
    with database.reading() as session:
        wanted = generation.current(session)
    until = time.monotonic() + limit_seconds
    while True:
        with database.reading() as session:
            state = look(session, wanted)
        if state.switched == state.total or time.monotonic() > until:
            return state
        time.sleep(LOOK_SECONDS)


def present(session: Session) -> Convergence:
    """Give how far the live workers are now."""
    return look(session, generation.current(session))


def look(session: Session, wanted: int) -> Convergence:
    """Give how many live workers serve a generation."""
    workers = fleet.live(session)
    failures = tuple(f"{each.host} slot {each.slot}: {each.failure}" for each in workers if each.failure)
    switched = sum(each.generation >= wanted for each in workers)
    return Convergence(len(workers), switched, failures)
