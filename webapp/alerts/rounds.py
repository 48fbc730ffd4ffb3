"""Rounds: the lease under which one worker of the fleet looks around, every minute, for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db, generation
from webapp.db import Base, Moment, now

EVERY = timedelta(minutes=1)
# Longer than a look takes; whoever comes after a worker that was killed waits no longer than this.
LEASE = timedelta(minutes=2)
ONLY = 1


class Round(Base):
    """One row."""

    __tablename__ = "rounds"

    id: Mapped[int] = mapped_column(primary_key=True)
    looked_at: Mapped[datetime | None] = mapped_column(Moment)
    # The committed state at the last look: who does not serve it at the next one has had a minute.
    generation: Mapped[int]
    leased_by: Mapped[str | None] = mapped_column(sa.Text)
    leased_until: Mapped[datetime | None] = mapped_column(Moment)


@dataclass(frozen=True, slots=True)
class Last:
    """The last look that came to its end."""

    at: datetime | None
    generation: int


def last(session: Session) -> Last:
    """Give the last look; of generation 0, which everybody serves, where there was none."""
    row = session.get(Round, ONLY)
    return Last(row.looked_at, row.generation) if row else Last(None, 0)


def is_due(session: Session) -> bool:
    """Whether somebody should look, and nobody does."""
    row = session.get(Round, ONLY)
    return row is None or _is_due(row)


def _is_due(row: Round) -> bool:
    rested = row.looked_at is None or row.looked_at + EVERY <= now()
    return rested and (row.leased_until is None or row.leased_until < now())


def claim(session: Session, owner: str) -> bool:
    """Take the lease on the next look, when it is due."""
    first = db.insertion(session, Round).values(id=ONLY, generation=0).on_conflict_do_nothing()
    session.execute(first)
    row = session.get_one(Round, ONLY, with_for_update=True)
    if not _is_due(row):
        return False
    row.leased_by, row.leased_until = owner, now() + LEASE
    return True


def finish(session: Session, owner: str) -> bool:
    """Note that a look has come to its end, unless another worker took it over; tells whether it did not."""
    row = session.get_one(Round, ONLY, with_for_update=True)
    if row.leased_by != owner:
        return False
    row.looked_at, row.generation = now(), generation.current(session)
    row.leased_by = row.leased_until = None
    return True
