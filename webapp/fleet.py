"""The fleet: which web workers live, what each of them serves, and what each is asked to prepare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment, now

# A worker that has not been heard of for so long is not waited for.
LEASE = timedelta(seconds=15)
FORGOTTEN = timedelta(days=1)
# What the processes that serve no requests call themselves.
WORKER, LOG_WRITER = "worker", "log writer"
# So long one worker of a host has for a load before the next one may begin.
PREPARATION_LEASE = timedelta(seconds=10)
# Nobody waits any more for what was asked for so long ago.
PREPARATION_LIFE = timedelta(minutes=10)


class WebWorker(Base):
    """One slot of one host. The worker that takes the slot takes over the row."""

    __tablename__ = "web_workers"

    host: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True)
    pid: Mapped[int]
    seen_at: Mapped[datetime] = mapped_column(Moment)
    # 0 until the worker has loaded for the first time.
    generation: Mapped[int]
    failure: Mapped[str] = mapped_column(sa.Text)
    # The versions in its memory, each as `Runtime.held` describes it.
    held: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON, server_default="[]")


def _note(session: Session, table: type[Base], key: dict[str, Any], values: dict[str, Any]) -> None:
    """Say something in a row of one's own, which may be there; who had the slot before may just be taking it away."""
    insertion = db.insertion(session, table).values(**key, **values)
    session.execute(insertion.on_conflict_do_update(index_elements=list(key), set_=values))


def report(session: Session, host: str, slot: int, pid: int, generation: int, failure: str = "") -> None:
    """Say that a worker lives, what it serves, and what it could not load."""
    said = {"pid": pid, "seen_at": now(), "generation": generation, "failure": failure}
    _note(session, WebWorker, {"host": host, "slot": slot}, said)


def hold(session: Session, host: str, slot: int, held: list[dict[str, Any]]) -> None:
    """Say what a worker that has reported has in memory."""
    own = sa.update(WebWorker).where(WebWorker.host == host, WebWorker.slot == slot)
    session.execute(own.values(held=held))


def leave(session: Session, host: str, slot: int) -> None:
    """Say that a worker ends."""
    session.execute(sa.delete(WebWorker).where(WebWorker.host == host, WebWorker.slot == slot))


def live(session: Session) -> list[WebWorker]:
    """Every worker whose lease holds."""
    recent = WebWorker.seen_at > now() - LEASE
    return list(session.scalars(sa.select(WebWorker).where(recent).order_by(WebWorker.host, WebWorker.slot)))


@dataclass(frozen=True, slots=True)
class Holding:
    """A version in the memory of a web worker, as `Runtime.held` describes it."""

    worker: WebWorker
    version: dict[str, Any]


def holding(session: Session, model: str, number: int) -> list[Holding]:
    """Give who has a version in memory."""
    return [
        Holding(worker, each)
        for worker in live(session)
        for each in worker.held
        if (each["model"], each["version"]) == (model, number)
    ]


def computed_by(session: Session, model: str, number: int) -> str | None:
    """Give what computes a version where it is in memory: its plan's name, or scikit-learn."""
    plans = [each.version["plan"] for each in holding(session, model, number)]
    return next(filter(None, plans), "scikit-learn") if plans else None


class Heartbeat(Base):
    """When a process that serves no requests was heard of last: the worker or the log writer of a host."""

    __tablename__ = "heartbeats"

    host: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    process: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(Moment)


def beat(session: Session, host: str, process: str) -> None:
    """Say that a process lives."""
    _note(session, Heartbeat, {"host": host, "process": process}, {"seen_at": now()})


def heartbeats(session: Session) -> list[Heartbeat]:
    """Every process that was heard of in the last day, by host; one that is silent for longer was taken away."""
    lately = Heartbeat.seen_at > now() - FORGOTTEN
    return list(session.scalars(sa.select(Heartbeat).where(lately).order_by(Heartbeat.host, Heartbeat.process)))


class Preparation(Base):
    """One web worker's part of making a version ready before it is activated."""

    __tablename__ = "preparations"
    __table_args__ = (sa.Index(None, "host", "done_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    asked_at: Mapped[datetime] = mapped_column(Moment)
    model: Mapped[str] = mapped_column(sa.Text)
    number: Mapped[int]
    host: Mapped[str] = mapped_column(sa.Text)
    slot: Mapped[int | None]
    # A worker of the host loads under it, the others wait: a host's workers load one after another.
    leased_until: Mapped[datetime | None] = mapped_column(Moment)
    done_at: Mapped[datetime | None] = mapped_column(Moment)
    # Why it failed, in words; nothing when the worker is ready.
    failure: Mapped[str] = mapped_column(sa.Text)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the web workers are that were asked to prepare a version."""

    ready: int
    waiting: tuple[Preparation, ...]
    failed: tuple[Preparation, ...]


def ask(session: Session, model: str, number: int) -> list[int]:
    """Ask every live web worker to prepare a version; give the ids of what was asked."""
    asked = [
        Preparation(asked_at=now(), model=model, number=number, host=each.host, slot=each.slot, failure="")
        for each in live(session)
    ]
    session.add_all(asked)
    session.flush()
    _wake(session)
    return [each.id for each in asked]


def asked_of(session: Session, host: str, slot: int) -> Preparation | None:
    """Give what a worker is asked to prepare next."""
    return next((each for each in _unfinished(session, host) if each.slot == slot), None)


def _unfinished(session: Session, host: str) -> list[Preparation]:
    lately = Preparation.asked_at > now() - PREPARATION_LIFE
    open_here = sa.select(Preparation).where(Preparation.host == host, Preparation.done_at.is_(None), lately)
    return list(session.scalars(open_here.order_by(Preparation.id)))


def is_turn(session: Session, host: str, slot: int | None) -> bool:
    """Whether no other worker of the host loads at the moment."""
    return not any(
        each.leased_until and each.leased_until > now() for each in _unfinished(session, host) if each.slot != slot
    )


def take(session: Session, preparation_id: int) -> bool:
    """Take the lease on one's own preparation; tells whether the load may be tried.

    Whoever held the slot before and took it died over it. That may have had other reasons, once; twice, the version
    ends its workers, and the others are spared.
    """
    asked = session.get_one(Preparation, preparation_id)
    # Looked at again while nobody else can: two workers may have seen at once that it is their turn.
    here = sa.select(Preparation.id).where(Preparation.host == asked.host, Preparation.done_at.is_(None))
    session.execute(here.order_by(Preparation.id).with_for_update())
    session.expire_all()
    if asked.done_at is not None or not is_turn(session, asked.host, asked.slot):
        return False
    if asked.failure:
        asked.done_at = now()
        _wake(session)
        return False
    if asked.leased_until is not None:
        asked.failure = "The web worker ended while it loaded the version, twice."
    asked.leased_until = now() + PREPARATION_LEASE
    return True


def finish(session: Session, preparation_id: int, failure: str) -> None:
    """Note that a worker is ready, or why it is not; after a load, the next one of the host may begin."""
    asked = session.get_one(Preparation, preparation_id)
    if asked.done_at is None:
        asked.done_at, asked.failure = now(), failure
    if asked.leased_until:
        _wake(session)


def progress(session: Session, ids: Sequence[int]) -> Progress:
    """Give how far those that were asked are. Who lives no more is not waited for."""
    lives = {(each.host, each.slot) for each in live(session)}
    asked = session.scalars(sa.select(Preparation).where(Preparation.id.in_(ids)).order_by(Preparation.id)).all()
    done = [each for each in asked if each.done_at]
    return Progress(
        sum(not each.failure for each in done),
        tuple(each for each in asked if not each.done_at and (each.host, each.slot) in lives),
        tuple(each for each in done if each.failure),
    )


def give_up(session: Session, ids: Sequence[int]) -> None:
    """End what was asked and is not done: nobody needs it any more."""
    left = sa.update(Preparation).where(Preparation.id.in_(ids), Preparation.done_at.is_(None))
    session.execute(left.values(done_at=now(), failure="No longer needed."))


def forget(session: Session) -> None:
    """Delete what was asked more than a day ago."""
    session.execute(sa.delete(Preparation).where(Preparation.asked_at < now() - FORGOTTEN))


def _wake(session: Session) -> None:
    # The workers of this host look at once when the transaction has been committed, though it changes no generation.
    session.info["advanced"] = True
