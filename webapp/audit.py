"""The audit trail: who changed what, when; written in the transaction of the change itself, chained by digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment, now


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something (`user:mara`, `key:b81XqZ0a`, `cli:root`), from where, in which request."""

    name: str
    address: str = ""
    request_id: str = ""


class AuditRecord(Base):
    """One change. Never updated, never deleted."""

    __tablename__ = "audit_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(Moment)
    actor: Mapped[str] = mapped_column(sa.Text)
    address: Mapped[str] = mapped_column(sa.Text)
    request_id: Mapped[str] = mapped_column(sa.Text)
    action: Mapped[str] = mapped_column(sa.Text)
    subject: Mapped[str] = mapped_column(sa.Text)
    detail: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    # Of what stands here and of the digest before: who edits, deletes or inserts a row has to change all that follow.
    # Nothing where an older release wrote the row, until the next one comes.
    digest: Mapped[str | None] = mapped_column(sa.Text)


def record(session: Session, actor: Actor, action: str, subject: str, **detail: object) -> None:
    """Note that `actor` did `action` to `subject`; `detail` holds no secrets."""
    waiting = session.info.setdefault(_WAITING, [])
    if not waiting:
        db.at_the_end(session, _append)
    waiting.append(
        AuditRecord(
            at=now(),
            actor=actor.name,
            address=actor.address,
            request_id=actor.request_id,
            action=action,
            subject=subject,
            detail=json.loads(json.dumps(detail)),
        )
    )


# --- The chain ----------------------------------------------------------------------------------------------

# Where a session keeps what it will append.
_WAITING = "audit"
# So many rows are read at a time.
PIECE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Anchor:
    """A row as it was at some time; kept elsewhere, it tells whether the chain is still the one that it was."""

    number: int
    digest: str

    def __str__(self) -> str:
        """Write it as people pass it on."""
        return f"{self.number}:{self.digest}"


@dataclass(frozen=True, slots=True)
class Trail:
    """What was found: how many rows there are, the last one, and the number of the first that is not as it was."""

    rows: int
    last: Anchor | None
    broken: int | None

    def as_dict(self) -> dict[str, Any]:
        """Give the public form."""
        return {"intact": self.broken is None, "rows": self.rows, "last": self.last and str(self.last)} | (
            {} if self.broken is None else {"first_broken": self.broken}
        )

    @property
    def sentence(self) -> str:
        """Say it."""
        if self.broken is None:
            return (
                f"The {self.rows:,} rows are as they were written. The last is {self.last}."
                if self.rows
                else "No rows."
            )
        return (
            f"Row {self.broken} is not as it was written, or rows before it are missing or new: compare with a backup."
        )


def _append(session: Session) -> None:
    """Append what was noted, with nobody between: chains of two transactions would part."""
    db.one_at_a_time(session, AuditRecord)
    digest = _end(session)
    for row in session.info.pop(_WAITING):
        row.digest = digest = _digest(digest, row)
        session.add(row)
        # One after the other: their numbers are in the order of the chain.
        session.flush()


def _end(session: Session) -> str:
    """Give the digest that the next row goes on from; rows that an older release has written are chained first."""
    end = last(session)
    digest = end.digest if end else ""
    for row in _rows(session, after=end.number if end else 0):
        row.digest = digest = _digest(digest, row)
    return digest


def _rows(session: Session, after: int = 0) -> Iterator[AuditRecord]:
    chosen = sa.select(AuditRecord).where(AuditRecord.id > after).order_by(AuditRecord.id)
    return iter(session.scalars(chosen.execution_options(yield_per=PIECE_ROWS)))


def _digest(before: str, row: AuditRecord) -> str:
    said = (row.at.isoformat(), row.actor, row.address, row.request_id, row.action, row.subject, row.detail)
    return hashlib.sha256(json.dumps([before, *said], sort_keys=True).encode()).hexdigest()


def last(session: Session) -> Anchor | None:
    """Give the last row that is chained, if there is one."""
    chained = sa.select(AuditRecord.id, AuditRecord.digest).where(AuditRecord.digest.is_not(None))
    found = session.execute(chained.order_by(AuditRecord.id.desc()).limit(1))
    return next((Anchor(number, digest or "") for number, digest in found), None)


def verify(session: Session, known: Anchor | None = None) -> Trail:
    """Work the chain out again, and see whether the row that is `known` from another time is in it."""
    digest, count, broken, found = "", 0, None, None
    for row in _rows(session):
        digest, count = _digest(digest, row), count + 1
        found = Anchor(row.id, row.digest or "")
        if broken is None and (row.digest != digest or (known and known.number == row.id and known != found)):
            broken = row.id
    if broken is None and known is not None and session.get(AuditRecord, known.number) is None:
        broken = known.number
    return Trail(count, found, broken)


# --- Looking ------------------------------------------------------------------------------------------------

PAGE_ROWS = 50


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; what is empty does not matter."""

    subject: str = ""
    actor: str = ""
    action: str = ""


def search(session: Session, wanted: Wanted, *, before: int | None = None) -> list[AuditRecord]:
    """Give a page of changes, the newest first; the next page is `before` the last one's id."""
    chosen = sa.select(AuditRecord).order_by(AuditRecord.id.desc()).limit(PAGE_ROWS)
    if before is not None:
        chosen = chosen.where(AuditRecord.id < before)
    if wanted.subject:
        chosen = chosen.where(AuditRecord.subject.icontains(wanted.subject, autoescape=True))
    if wanted.actor:
        chosen = chosen.where(AuditRecord.actor.icontains(wanted.actor, autoescape=True))
    if wanted.action:
        chosen = chosen.where(AuditRecord.action == wanted.action)
    return list(session.scalars(chosen))


def about(session: Session, subject: str) -> list[AuditRecord]:
    """Give the last page of changes of just this subject, the newest first."""
    chosen = sa.select(AuditRecord).where(AuditRecord.subject == subject)
    return list(session.scalars(chosen.order_by(AuditRecord.id.desc()).limit(PAGE_ROWS)))


def actions(session: Session) -> list[str]:
    """Give the acts that were ever noted."""
    return list(session.scalars(sa.select(AuditRecord.action).distinct().order_by(AuditRecord.action)))
