"""Leases of processes that were killed: whoever comes next on their host need not wait until they run out."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from webapp.db import Base, Session, now


def free(session: Session, leased: type[Base], host: str) -> int:
    """End the leases on rows of a table whose owner, `host/pid`, is no process of this host; tell how many."""
    columns = leased.__table__.c
    owners = session.scalars(sa.select(columns.leased_by).distinct().where(columns.leased_until > now()))
    ended = [owner for owner in owners if owner and _has_ended(owner, host)]
    freed = session.execute(sa.update(leased).where(columns.leased_by.in_(ended)).values(leased_until=now()))
    count: int = freed.rowcount  # type: ignore[attr-defined] # an UPDATE's result has it
    return count


def _has_ended(owner: str, host: str) -> bool:
    of_host, _, pid = owner.rpartition("/")
    return of_host == host and not Path(f"/proc/{pid}").exists()
