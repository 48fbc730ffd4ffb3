"""The generation: one number that grows with every committed change that web workers must follow.

The number lives in the database, in the same transaction as the change. A file beside it only wakes the
workers of this host at once; a worker that misses it, or lives on another host, sees the number half a second later.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.db import Base


class Generation(Base):
    """One row."""

    __tablename__ = "generation"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


def current(session: Session) -> int:
    """The number of the last committed change."""
    return session.scalars(sa.select(Generation.number)).one()


def advance(session: Session) -> int:
    """Count one more change; the host's workers are woken when the transaction has been committed."""
    session.execute(sa.update(Generation).values(number=Generation.number + 1))
    session.info["advanced"] = True
    return current(session)


class Signal:
    """The file that wakes this host's workers. Its modification time is the message."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist yet."""
        self._path = path
        # Everything sent until then has been followed.
        self.seen = 0

    def send(self) -> None:
        """Wake everyone who watches. What they are woken for is committed: where that fails, they see it later."""
        with suppress(OSError):
            self._path.touch()
            # The exact time: the kernel's own stamps are milliseconds coarse, and two changes could share one.
            os.utime(self._path, ns=(stamp := time.time_ns(), stamp))

    def sent(self) -> int:
        """When it was last sent. About a microsecond."""
        try:
            return self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0
