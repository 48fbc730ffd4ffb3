"""Batch predictions: jobs cut into chunks, each a row that one worker at a time holds a lease on."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.db import Base, Moment, now
from webapp.errors import NotFound

CHUNK_ROWS = 500
LEASE = timedelta(seconds=30)
# A chunk that could not be computed waits so long for its next attempt, then twice, then three times.
PAUSE = timedelta(seconds=2)
# A chunk that ends its worker each time must not do so for ever.
MOST_ATTEMPTS = 5


class Job(Base):
    """One batch: the version was chosen when it was accepted, so that all rows get the same one."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    key_id: Mapped[str] = mapped_column(sa.Text)
    test: Mapped[bool]
    model: Mapped[str] = mapped_column(sa.Text)
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(Moment)
    total: Mapped[int]
    cancelled_at: Mapped[datetime | None] = mapped_column(Moment)
    failed_at: Mapped[datetime | None] = mapped_column(Moment)
    failure: Mapped[str] = mapped_column(sa.Text, default="")


class Chunk(Base):
    """Some rows of a job. Done when it has results; whoever holds the lease works on it."""

    __tablename__ = "chunks"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    first_row: Mapped[int]
    instances: Mapped[list[Any]] = mapped_column(sa.JSON, deferred=True)
    # The caller's own ids, where some were given.
    ids: Mapped[list[str | None]] = mapped_column(sa.JSON, deferred=True)
    results: Mapped[list[Any] | None] = mapped_column(sa.JSON(none_as_null=True), deferred=True)
    failed_rows: Mapped[int] = mapped_column(default=0)
    row_count: Mapped[int]
    attempts: Mapped[int] = mapped_column(default=0)
    leased_by: Mapped[str | None] = mapped_column(sa.Text)
    leased_until: Mapped[datetime | None] = mapped_column(Moment)
    done_at: Mapped[datetime | None] = mapped_column(Moment)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is."""

    status: str
    total: int
    done: int
    failed: int
    eta_seconds: float | None


def create(  # noqa: PLR0913 - the terms of a job, each by name
    session: Session,
    *,
    key_id: str,
    test: bool,
    model: str,
    version: int,
    instances: Sequence[object],
    ids: Sequence[str | None],
) -> Job:
    """Accept a batch. It is worked on as soon as the transaction is committed."""
    job = Job(
        id=secrets.token_hex(16),
        key_id=key_id,
        test=test,
        model=model,
        version=version,
        created_at=now(),
        total=len(instances),
    )
    session.add(job)
    session.flush()  # the chunks refer to it
    for number, first in enumerate(range(0, len(instances), CHUNK_ROWS)):
        rows, named = list(instances[first : first + CHUNK_ROWS]), list(ids[first : first + CHUNK_ROWS])
        session.add(
            Chunk(job_id=job.id, number=number, first_row=first, instances=rows, ids=named, row_count=len(rows))
        )
    return job


def get_job(session: Session, job_id: str, key_id: str) -> Job:
    """Give a job of a key; another key's is not there."""
    job = session.get(Job, job_id)
    if job is None or job.key_id != key_id:
        raise NotFound("unknown_job", "This key has no job with this id.")
    return job


@dataclass(frozen=True, slots=True)
class Line:
    """A job among others."""

    job: Job
    progress: Progress


def lines(session: Session, most: int = 50) -> list[Line]:
    """The newest jobs of all keys, with how far each is."""
    found = session.scalars(sa.select(Job).order_by(Job.created_at.desc(), Job.id).limit(most))
    return [Line(job, progress(session, job)) for job in found]


def find_job(session: Session, job_id: str) -> Job:
    """Give a job, whoever submitted it."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound("unknown_job", "There is no job with this id.")
    return job


def cancel(session: Session, job: Job) -> bool:
    """End a job that is not finished; what is done stays. Tells whether there was something to end."""
    running = progress(session, job).status == "processing"
    if running:
        job.cancelled_at = now()
    return running


def progress(session: Session, job: Job) -> Progress:
    """Count what is done."""
    done, failed, first_done = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(Chunk.row_count), 0),
            sa.func.coalesce(sa.func.sum(Chunk.failed_rows), 0),
            sa.func.min(Chunk.done_at),
        ).where(Chunk.job_id == job.id, Chunk.done_at.is_not(None))
    ).one()
    eta = None
    if first_done is not None and job.total > done:
        eta = round((now() - job.created_at).total_seconds() / done * (job.total - done), 1)
    return Progress(_status(job, done), job.total, done, failed, eta if _status(job, done) == "processing" else None)


def _status(job: Job, done: int) -> str:
    if job.cancelled_at is not None:
        return "cancelled"
    if job.failed_at is not None:
        return "failed"
    return "completed" if done == job.total else "processing"


def results(session: Session, job: Job) -> list[Any]:
    """Give the results of all rows that are done, in the order of the request."""
    found = session.scalars(sa.select(Chunk.results).where(Chunk.job_id == job.id).order_by(Chunk.number))
    return [result for chunk in found if chunk is not None for result in chunk]


def claim(session: Session, owner: str) -> tuple[Job, Chunk] | None:
    """Take the lease on the next chunk that nobody works on. The oldest job goes first."""
    free = sa.or_(Chunk.leased_until.is_(None), Chunk.leased_until < now())
    found = session.execute(
        sa.select(Job, Chunk)
        .join(Chunk, Chunk.job_id == Job.id)
        .where(Chunk.done_at.is_(None), free, Job.cancelled_at.is_(None), Job.failed_at.is_(None))
        .order_by(Job.created_at, Job.id, Chunk.number)
        .limit(1)
        .options(sa.orm.undefer(Chunk.instances), sa.orm.undefer(Chunk.ids))
        .with_for_update(skip_locked=True, of=Chunk)
    ).first()
    if found is None:
        return None
    job, chunk = found
    chunk.attempts += 1
    if chunk.attempts > MOST_ATTEMPTS:
        fail(job, f"Rows from {chunk.first_row} on could not be computed in {MOST_ATTEMPTS} attempts.")
        return None
    chunk.leased_by, chunk.leased_until = owner, now() + LEASE
    return job, chunk


def renew(session: Session, chunk: Chunk, owner: str) -> None:
    """Keep the lease of a chunk that is still worked on."""
    session.execute(
        sa.update(Chunk)
        .where(Chunk.job_id == chunk.job_id, Chunk.number == chunk.number, Chunk.leased_by == owner)
        .values(leased_until=now() + LEASE)
    )


def give_back(session: Session, chunk: Chunk, owner: str, reason: str) -> None:
    """Leave a chunk that could not be computed to a later attempt; after the last one its job ends with the reason."""
    if chunk.attempts >= MOST_ATTEMPTS:
        fail(session.get_one(Job, chunk.job_id), reason)
        return
    session.execute(
        sa.update(Chunk)
        .where(Chunk.job_id == chunk.job_id, Chunk.number == chunk.number, Chunk.leased_by == owner)
        .values(leased_until=now() + PAUSE * chunk.attempts)
    )


def finish(session: Session, chunk: Chunk, owner: str, found: list[Any], failed_rows: int) -> bool:
    """Store a chunk's results, unless another worker took it over; tells whether they were stored."""
    held = session.execute(
        sa.update(Chunk)
        .where(
            Chunk.job_id == chunk.job_id,
            Chunk.number == chunk.number,
            Chunk.leased_by == owner,
            Chunk.done_at.is_(None),
        )
        .values(results=found, failed_rows=failed_rows, done_at=now(), leased_until=None)
    )
    stored: int = held.rowcount  # type: ignore[attr-defined] # an UPDATE's result has it
    return stored == 1


def fail(job: Job, failure: str) -> None:
    """End a job that cannot go on."""
    job.failed_at, job.failure = now(), failure
