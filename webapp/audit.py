"""The audit trail: who changed what, when; written in the transaction of the change itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.db import Base, Moment, now


class AuditRecord(Base):
    """One change. Never updated, never deleted."""

    __tablename__ = "audit_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(Moment)
    actor: Mapped[str] = mapped_column(sa.Text)
    action: Mapped[str] = mapped_column(sa.Text)
    subject: Mapped[str] = mapped_column(sa.Text)
    detail: Mapped[dict[str, Any]] = mapped_column(sa.JSON)


def record(session: Session, actor: str, action: str, subject: str, **detail: object) -> None:
    """Note that `actor` did `action` to `subject`; `detail` holds no secrets."""
    session.add(AuditRecord(at=now(), actor=actor, action=action, subject=subject, detail=detail))
