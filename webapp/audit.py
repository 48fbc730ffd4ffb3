"""The audit trail: who changed what, when; written in the transaction of the change itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

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


def record(session: Session, actor: Actor, action: str, subject: str, **detail: object) -> None:
    """Note that `actor` did `action` to `subject`; `detail` holds no secrets."""
    session.add(
        AuditRecord(
            at=now(),
            actor=actor.name,
            address=actor.address,
            request_id=actor.request_id,
            action=action,
            subject=subject,
            detail=detail,
        )
    )


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
