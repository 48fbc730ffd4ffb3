"""Batch predictions: jobs cut into chunks, each a row that one worker at a time holds a lease on.

The rows of a chunk, and what became of them, are files: `batches` names and reads them.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.db import Base, Moment, now
from webapp.errors import Conflict, Invalid, NotFound
from webapp.webhooks import deliveries
from webapp.webhooks.deliveries import Message

LEASE = timedelta(seconds=30)
# A chunk that could not be computed waits so long for its next attempt, then twice, then three times.
PAUSE = timedelta(seconds=2)
# What its cluster or its files were away for waits longer: five minutes, all attempts together.
LONG_PAUSE = timedelta(seconds=30)
# A chunk that ends its worker each time must not do so for ever.
MOST_ATTEMPTS = 5


class Job(Base):
    """One batch: the version was chosen when it was accepted, so that all rows get the same one."""

    __tablename__ = "jobs"
    __table_args__ = (sa.UniqueConstraint("key_id", "idempotency_key"),)

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
    # How the rows of its chunks are written: see `batches.reading`.
    form: Mapped[str] = mapped_column(sa.Text, server_default="json")
    # What the caller calls the request, so that it can be sent again, and what tells whether it is the same one.
    idempotency_key: Mapped[str | None] = mapped_column(sa.Text)
    body_sha256: Mapped[str | None] = mapped_column(sa.Text)


class Chunk(Base):
    """Some rows of a job. Whoever holds the lease works on it; what the last attempt found are its results."""

    __tablename__ = "chunks"
    __table_args__ = (
        # What is still to be done, among all that ever was.
        sa.Index(
            "ix_chunks_waiting",
            "job_id",
            "number",
            sqlite_where=sa.text("done_at IS NULL"),
            postgresql_where=sa.text("done_at IS NULL"),
        ),
    )

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    first_row: Mapped[int]
    # Of chunks from before there were files: their rows, the caller's own ids, and what became of them.
    instances: Mapped[list[Any] | None] = mapped_column(sa.JSON(none_as_null=True), deferred=True)
    ids: Mapped[list[str | None] | None] = mapped_column(sa.JSON(none_as_null=True), deferred=True)
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


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be computed for whom, and how the caller may send the request again."""

    key_id: str
    test: bool
    model: str
    version: int
    form: str
    idempotency_key: str | None = None


def new_id() -> str:
    """Make the id of a job, under which its files are stored before it is accepted."""
    return secrets.token_hex(16)


def accept(session: Session, order: Order, job_id: str, chunk_rows: Sequence[int], body_sha256: str = "") -> Job:
    """Accept a batch whose chunks have so many rows. It is worked on as soon as the transaction is committed.

    Gives the earlier job where the request has been accepted before: of requests that come at once, the first to be
    committed is the one.
    """
    if earlier := find_earlier(session, order, body_sha256):
        return earlier
    job = Job(**asdict(order), id=job_id, body_sha256=body_sha256, created_at=now(), total=sum(chunk_rows))
    try:
        with session.begin_nested():
            session.add(job)
    except IntegrityError:
        return _earlier(session, order, body_sha256)
    first_row = 0
    for number, count in enumerate(chunk_rows):
        session.add(Chunk(job_id=job.id, number=number, first_row=first_row, row_count=count))
        first_row += count
    return job


def find_earlier(session: Session, order: Order, body_sha256: str | None = None) -> Job | None:
    """Give the job that was accepted for the same request, if any; with a body that is another one it is refused."""
    if order.idempotency_key is None:
        return None
    named = sa.and_(Job.key_id == order.key_id, Job.idempotency_key == order.idempotency_key)
    job = session.scalar(sa.select(Job).where(named))
    if job and body_sha256 is not None and (job.model, job.body_sha256) != (order.model, body_sha256):
        detail = "This Idempotency-Key came with another request before; each request needs one of its own."
        raise Invalid("idempotency_key_reused", detail, more={"job_id": job.id})
    return job


def _earlier(session: Session, order: Order, body_sha256: str) -> Job:
    job = find_earlier(session, order, body_sha256)
    assert job is not None, "what is in the way is there"
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


@dataclass(frozen=True, slots=True)
class Done:
    """Where the results of a chunk are: in the file of its last attempt, or of old ones here."""

    number: int
    attempt: int
    results: list[Any] | None


def done(session: Session, job: Job) -> list[Done]:
    """Give the chunks of a completed job, in the order of the request."""
    if (progress_now := progress(session, job)).status != "completed":
        detail = f"The job is {progress_now.status}: {progress_now.done} of {progress_now.total} rows are computed."
        raise Conflict("job_not_completed", f"{detail} {job.failure}".strip(), more={"job_status": progress_now.status})
    found = sa.select(Chunk.number, Chunk.attempts, Chunk.results).where(Chunk.job_id == job.id)
    return [Done(*row) for row in session.execute(found.order_by(Chunk.number))]


def known(session: Session, job_ids: Collection[str]) -> set[str]:
    """Tell which of these jobs there are."""
    return set(session.scalars(sa.select(Job.id).where(Job.id.in_(job_ids))))


def remove(session: Session, before: datetime, most: int) -> int:
    """Remove the oldest jobs that were accepted before a moment and have ended; their files are swept later."""
    open_chunk = sa.exists().where(Chunk.job_id == Job.id, Chunk.done_at.is_(None))
    ended = sa.or_(Job.cancelled_at.is_not(None), Job.failed_at.is_not(None), ~open_chunk)
    found = sa.select(Job.id).where(Job.created_at < before, ended).order_by(Job.created_at, Job.id).limit(most)
    ids = session.scalars(found).all()
    session.execute(sa.delete(Chunk).where(Chunk.job_id.in_(ids)))
    session.execute(sa.delete(Job).where(Job.id.in_(ids)))
    return len(ids)


def accepted_at(session: Session, job_ids: Collection[str]) -> dict[str, datetime]:
    """Give when those of these jobs that there are were accepted."""
    found = session.execute(sa.select(Job.id, Job.created_at).where(Job.id.in_(job_ids)))
    return dict(found.all())


def forget(session: Session, job_ids: Collection[str]) -> set[str]:
    """Remove those of these jobs that there are, also under way, and give their ids; their files are the caller's."""
    there = known(session, job_ids)
    session.execute(sa.delete(Chunk).where(Chunk.job_id.in_(there)))
    session.execute(sa.delete(Job).where(Job.id.in_(there)))
    return there


def has_work(session: Session) -> bool:
    """Whether there is a chunk that nobody works on."""
    waiting = sa.select(Chunk.number).join(Job, Chunk.job_id == Job.id).where(*_waits()).limit(1)
    return session.execute(waiting).first() is not None


def open_by_state(session: Session) -> dict[str, int]:
    """Count the jobs that have not ended: those that wait, and those of which a chunk was taken up."""
    is_open = sa.exists().where(Chunk.job_id == Job.id, Chunk.done_at.is_(None))
    begun = sa.exists().where(Chunk.job_id == Job.id, Chunk.attempts > 0)
    found = sa.select(begun).where(Job.cancelled_at.is_(None), Job.failed_at.is_(None), is_open)
    running = [bool(each) for each in session.scalars(found)]
    return {"waiting": running.count(False), "running": running.count(True)}


def _waits() -> list[sa.ColumnElement[bool]]:
    """Tell which chunks of which jobs somebody could work on."""
    free = sa.or_(Chunk.leased_until.is_(None), Chunk.leased_until < now())
    return [Chunk.done_at.is_(None), free, Job.cancelled_at.is_(None), Job.failed_at.is_(None)]


def claim(session: Session, owner: str) -> tuple[Job, Chunk] | None:
    """Take the lease on the next chunk that nobody works on. The oldest job goes first."""
    found = session.execute(
        sa.select(Job, Chunk)
        .join(Chunk, Chunk.job_id == Job.id)
        .where(*_waits())
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
        fail(session, job, f"Rows from {chunk.first_row} on could not be computed in {MOST_ATTEMPTS} attempts.")
        return None
    chunk.leased_by, chunk.leased_until = owner, now() + LEASE
    return job, chunk


def _held(chunk: Chunk, owner: str) -> sa.ColumnElement[bool]:
    """Whether the attempt that `chunk` is still is the last one; its owner may have begun another."""
    return sa.and_(
        Chunk.job_id == chunk.job_id,
        Chunk.number == chunk.number,
        Chunk.leased_by == owner,
        Chunk.attempts == chunk.attempts,
        Chunk.done_at.is_(None),
    )


def renew(session: Session, chunk: Chunk, owner: str) -> None:
    """Keep the lease of a chunk that is still worked on."""
    session.execute(sa.update(Chunk).where(_held(chunk, owner)).values(leased_until=now() + LEASE))


def give_back(session: Session, chunk: Chunk, owner: str, reason: str, pause: timedelta = PAUSE) -> None:
    """Leave a chunk that could not be computed to a later attempt; after the last one its job ends with the reason.

    The first attempt is followed by a `pause`, the second by two, and so on.
    """
    if chunk.attempts >= MOST_ATTEMPTS:
        fail(session, session.get_one(Job, chunk.job_id), reason)
        return
    later = now() + pause * chunk.attempts
    session.execute(sa.update(Chunk).where(_held(chunk, owner)).values(leased_by=None, leased_until=later))


def release(session: Session, chunk: Chunk, owner: str) -> None:
    """Leave a chunk that was not worked on to whoever comes next, as if it had not been claimed."""
    unclaimed = {"leased_by": None, "leased_until": None, "attempts": chunk.attempts - 1}
    session.execute(sa.update(Chunk).where(_held(chunk, owner)).values(unclaimed))


def finish(session: Session, chunk: Chunk, owner: str, failed_rows: int) -> bool:
    """Make the results of this attempt those of the chunk, unless another took it over; tells whether it did not."""
    done_now = {"failed_rows": failed_rows, "done_at": now(), "leased_until": None}
    held = session.execute(sa.update(Chunk).where(_held(chunk, owner)).values(done_now))
    stored: int = held.rowcount  # type: ignore[attr-defined] # an UPDATE's result has it
    return stored == 1


def fail(session: Session, job: Job, failure: str) -> None:
    """End a job that cannot go on, and have those told who want to know."""
    job.failed_at, job.failure = now(), failure
    sentence = f"A batch of {job.total} rows for {job.model} v{job.version} failed. {failure}"
    facts = {"job_id": job.id, "model": job.model, "version": job.version, "rows": job.total, "failure": failure}
    deliveries.tell(session, Message("job.failed", sentence, "/admin/jobs", facts))


def failed(session: Session, since: datetime) -> list[Job]:
    """Give the jobs that have failed since a moment."""
    return list(session.scalars(sa.select(Job).where(Job.failed_at >= since).order_by(Job.failed_at, Job.id)))
