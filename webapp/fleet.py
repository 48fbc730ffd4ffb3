"""The fleet: which web workers live, and which committed state each of them serves."""

from __future__ import annotations

import socket
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.db import Base, Moment, now

# A worker that has not been heard of for so long is not waited for.
LEASE = timedelta(seconds=15)
FORGOTTEN = timedelta(days=1)
HOST = socket.gethostname()


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


def report(session: Session, host: str, slot: int, pid: int, generation: int, failure: str = "") -> None:
    """Say that a worker lives, what it serves, and what it could not load."""
    session.merge(WebWorker(host=host, slot=slot, pid=pid, seen_at=now(), generation=generation, failure=failure))


def leave(session: Session, host: str, slot: int) -> None:
    """Say that a worker ends."""
    session.execute(sa.delete(WebWorker).where(WebWorker.host == host, WebWorker.slot == slot))


def live(session: Session) -> list[WebWorker]:
    """Every worker whose lease holds."""
    recent = WebWorker.seen_at > now() - LEASE
    return list(session.scalars(sa.select(WebWorker).where(recent).order_by(WebWorker.host, WebWorker.slot)))


class Heartbeat(Base):
    """When a process that serves no requests was heard of last: the worker or the log writer of a host."""

    __tablename__ = "heartbeats"

    host: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    process: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(Moment)


def beat(session: Session, host: str, process: str) -> None:
    """Say that a process lives."""
    session.merge(Heartbeat(host=host, process=process, seen_at=now()))


def heartbeats(session: Session) -> list[Heartbeat]:
    """Every process that was heard of in the last day, by host; one that is silent for longer was taken away."""
    lately = Heartbeat.seen_at > now() - FORGOTTEN
    return list(session.scalars(sa.select(Heartbeat).where(lately).order_by(Heartbeat.host, Heartbeat.process)))
