"""Erasure: removes what is kept about a subject, wherever that is, and keeps the rest of it from coming in."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from webapp import audit, jobs
from webapp.audit import Actor
from webapp.batches import FOLDER
from webapp.db import Database, Session
from webapp.errors import Refusal
from webapp.predictions import exports, subjects
from webapp.signature import keeping
from webapp.storage import Storage

MOST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was removed."""

    predictions: int
    batches: int
    exports: int


def erase(database: Database, storage: Storage, actor: Actor, digests: Collection[str], model: str | None) -> Erased:
    """Remove a subject's predictions, the batches that they came in, and exports that may hold them.

    What still waits in a spool is dropped when its log writer comes to it. A batch's results and an export have rows
    of others, too; they are removed as a whole, and can be asked for again: to rewrite them would change files that
    somebody may be reading. Safe to repeat: what a process that was killed has left, the next one removes.
    """
    with database.transaction() as session:
        subjects.mark(session, digests, model)
        # Never the value itself.
        shown = sorted(digest[: keeping.HASH_CHARACTERS] for digest in digests)
        audit.record(session, actor, "predictions.delete_subject", shown[0], digests=shown, model=model)
    count, batches = 0, set[str]()
    while True:
        # In steps: others get the database between them.
        with database.transaction() as session:
            step = subjects.remove(session, digests, model, MOST_ROWS)
            batches |= jobs.forget(session, step.request_ids)
        count += step.count
        if step.count < MOST_ROWS:
            break
    with database.transaction() as session:
        # Last: one that began meanwhile may have some of them, too.
        gone = exports.remove_of(session, model)
    exports.remove_files(storage, gone)
    _remove_batches(storage, batches)
    return Erased(count, len(batches), len(gone))


def _remove_batches(storage: Storage, job_ids: Collection[str]) -> None:
    for job_id in job_ids:
        # What cannot be removed now is swept later: no job has it any more.
        with suppress(Refusal, OSError):
            for name in list(storage.names(f"{FOLDER}/{job_id}")):
                storage.delete(name)


def screened(session: Session, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the records that may come into the log; a batch with others is removed, and its files are swept later."""
    marked = subjects.marks_of(session, records)
    if not marked:
        return records
    # A batch that was accepted before the deletion has the subject from then, whenever it is computed.
    accepted = jobs.accepted_at(session, {record["request_id"] for record, _ in marked})
    dropped = [
        record for record, moment in marked if accepted.get(record["request_id"], subjects.made_at(record)) <= moment
    ]
    jobs.forget(session, {record["request_id"] for record in dropped})
    gone = {id(record) for record in dropped}
    return [record for record in records if id(record) not in gone]
