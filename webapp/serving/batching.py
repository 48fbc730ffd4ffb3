"""Shares calls of an estimator: callers that come while it is busy are answered together, by one call."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from webapp.errors import Invalid
from webapp.serving.golden import agree
from webapp.serving.predictor import Outcome, Predictor
from webapp.signature import Row

# A shared call is never larger, so that nobody waits long for the rows of others.
MOST_ROWS = 64
# What brings more rows than this has little to gain from company, and much to cost it.
MOST_OWN_ROWS = 16
# Rows that are tried when a version is loaded, and for how long at most; two are tried however slow they are.
TRIED_ROWS = 8
LEAST_ROWS = 2
MOST_TRYING_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Trial:
    """How a predictor takes rows: what others make of them, and how long one takes."""

    # Whether rows that are asked together get the answers that each gets alone.
    independent: bool = False
    # The median of a few; None where none was taken.
    single_seconds: float | None = None


def tried(predictor: Predictor, rows: Sequence[Row]) -> Trial:
    """Ask a few rows one by one and then together, and compare."""
    rows = rows[:: max(1, len(rows) // TRIED_ROWS)][:TRIED_ROWS]
    try:
        alone, seconds = _alone(predictor, rows)
        together = predictor.predict(rows[: len(alone)], [""] * len(alone)) if alone else []
    except Invalid:
        return Trial()
    # Linear algebra rounds the same row differently in tables of other sizes.
    alike = all(agree(one, other, 0.0) for one, other in zip(alone, together, strict=True))
    independent = len(alone) >= LEAST_ROWS and alike
    return Trial(independent, statistics.median(seconds) if seconds else None)


def _alone(predictor: Predictor, rows: Sequence[Row]) -> tuple[list[Outcome], list[float]]:
    outcomes: list[Outcome] = []
    seconds: list[float] = []
    for row in rows:
        if len(outcomes) >= LEAST_ROWS and sum(seconds) > MOST_TRYING_SECONDS:
            break
        started = time.perf_counter()
        outcomes += predictor.predict([row], [""])
        seconds.append(time.perf_counter() - started)
    return outcomes, seconds


class _Asked:
    """What one caller asks, and what became of it."""

    __slots__ = ("leads", "outcomes", "rows", "turn")

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        # None after its turn: it was not answered, and asks alone.
        self.outcomes: list[Outcome] | None = None
        self.leads = False
        # Given back by whoever answers it or passes the lead on to it.
        self.turn = threading.Lock()
        self.turn.acquire()


class Shared:
    """A predictor whose calls are shared; for those whose rows are independent.

    Whoever comes while nobody asks is the leader and asks at once. Those who come meanwhile wait; when the leader has
    its answer, the one who has waited longest leads, and asks for all who wait with it. Nobody waits for company.
    """

    def __init__(self, predictor: Predictor) -> None:
        """Make it; nobody asks yet."""
        self._predictor = predictor
        # Held to look at the two below, never while somebody asks.
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[_Asked] = deque()

    def predict(self, rows: Sequence[Row], pointers: Sequence[str]) -> list[Outcome]:
        """Give one outcome per row, as `Predictor.predict` does."""
        if len(rows) > MOST_OWN_ROWS:
            return self._predictor.predict(rows, pointers)
        asked = _Asked(rows)
        self._come(asked)
        if asked.leads:
            self._lead(asked)
        if asked.outcomes is None:
            # Something was refused or failed: whoever caused it is the one to hear of it.
            return self._predictor.predict(rows, pointers)
        return asked.outcomes

    def _come(self, asked: _Asked) -> None:
        """Take the lead, or wait until one is answered or is given the lead."""
        with self._lock:
            if not self._busy:
                self._busy = asked.leads = True
                return
            self._waiting.append(asked)
        asked.turn.acquire()

    def _lead(self, leader: _Asked) -> None:
        together = [leader]
        try:
            self._gather(together)
            # Each finds out alone which of its rows are at fault.
            with suppress(Exception):
                self._answer(together)
        finally:
            # Whatever happens to the leader: the lead goes on, and nobody waits for ever.
            self._pass_on()
            for each in together:
                if each is not leader:
                    each.turn.release()

    def _gather(self, together: list[_Asked]) -> None:
        """Take along those who have waited longest, in their order, as far as there is room."""
        count = len(together[0].rows)
        with self._lock:
            while self._waiting and (count := count + len(self._waiting[0].rows)) <= MOST_ROWS:
                together.append(self._waiting[0])
                self._waiting.popleft()

    def _answer(self, together: Sequence[_Asked]) -> None:
        rows = [row for each in together for row in each.rows]
        outcomes = self._predictor.outcomes(rows)  # without the search for rows at fault
        first = 0
        for each in together:
            each.outcomes = outcomes[first : first + len(each.rows)]
            first += len(each.rows)

    def _pass_on(self) -> None:
        with self._lock:
            self._busy = bool(self._waiting)
            if self._waiting:
                following = self._waiting.popleft()
                following.leads = True
                following.turn.release()
