"""Takes in a batch: its rows become files while they come, and then it is a job, all of it or nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import timedelta

from webapp import faults, jobs
from webapp.batches import FOLDER, rows_name
from webapp.batches.cutting import Piece
from webapp.db import Database
from webapp.errors import Refusal
from webapp.jobs import Job, Order
from webapp.storage import Storage

# What no job names after so long belongs to nobody: taking a batch in takes no longer.
LEFT_BEHIND = timedelta(hours=6)


def receive(
    database: Database, storage: Storage, order: Order, pieces: Iterator[Piece], digest: Callable[[], str]
) -> Job:
    """Store the rows and accept the job; give the earlier one where the same request has been accepted before.

    `digest` is asked for the body's SHA-256 when all pieces were taken. Of requests that come at once, each stores its
    rows; the first that is committed is the job, and the others remove theirs.
    """
    with database.reading() as session:
        is_again = jobs.find_earlier(session, order) is not None
    if is_again:
        pieces = (Piece(piece.row_count, b"") for piece in pieces)
    job_id = jobs.new_id()
    counts: list[int] = []
    accepted = None
    try:
        for number, piece in enumerate(pieces):
            storage.put(rows_name(job_id, number), io.BytesIO(piece.content))
            counts.append(piece.row_count)
            faults.point("batch.stored")
        with database.transaction() as session:
            accepted = jobs.accept(session, order, job_id, counts, digest())
    finally:
        if accepted is None or accepted.id != job_id:
            _remove(storage, (rows_name(job_id, number) for number in range(len(counts) + 1)))
    return accepted


def sweep(database: Database, storage: Storage) -> int:
    """Remove files that belong to no job: of requests whose process ended in the middle; tell how many there were."""
    found = list(storage.names(FOLDER, older_than=LEFT_BEHIND))
    with database.reading() as session:
        known = _known(lambda some: jobs.known(session, some), {_job_of(name) for name in found})
    left = [name for name in found if _job_of(name) not in known]
    _remove(storage, iter(left))
    return len(left)


def _known(ask: Callable[[Collection[str]], set[str]], job_ids: set[str]) -> set[str]:
    every = sorted(job_ids)
    return {each for first in range(0, len(every), 500) for each in ask(every[first : first + 500])}


def _job_of(name: str) -> str:
    return name.split("/")[1]


def _remove(storage: Storage, names: Iterator[str]) -> None:
    for name in names:
        # What cannot be removed now is swept later.
        with suppress(Refusal, OSError):
            storage.delete(name)
