"""Whose database it is: that of one secret and, where it is a file, of one replica. Others are refused at the start."""

from __future__ import annotations

import hmac
import time
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db, fleet, registry
from webapp.config import Settings
from webapp.db import Base, Database
from webapp.errors import Conflict

LOOK_SECONDS = 0.2


class Installation(Base):
    """One row, written with the first command that uses the database."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(primary_key=True)
    # Tells another secret, and nothing else about it.
    fingerprint: Mapped[str] = mapped_column(sa.Text)


def fingerprint(settings: Settings) -> str:
    """Give what the database keeps of the secret."""
    return settings.derive("installation").hex()


def check_secret(session: Session, settings: Settings) -> bool:
    """Raise `Conflict` when the database belongs to another secret; tells whether it belongs to one already."""
    kept = session.scalar(sa.select(Installation.fingerprint))
    if kept is None:
        # Of before there was this row, versions tell.
        same = registry.is_sealed_with(session, settings.derive("versions"))
    else:
        same = hmac.compare_digest(kept, fingerprint(settings))
    if not same:
        detail = (
            "The database (MODELPORT_DATABASE_URL) belongs to another secret key, with which its keys and versions were"
            " made; set MODELPORT_SECRET_KEY to that one, which its first replica keeps in DATA_DIR/secret-key where"
            " none was set."
        )
        raise Conflict("secret_differs", detail)
    return kept is not None


def begin(database: Database, settings: Settings) -> None:
    """Let the database belong to this secret from now on, unless it belongs to another one already."""
    with database.reading() as session:
        known = check_secret(session, settings)
    if known:
        return
    with database.transaction() as session:
        row = db.insertion(session, Installation).values(id=1, fingerprint=fingerprint(settings))
        session.execute(row.on_conflict_do_nothing())
        # Another one may have been faster.
        check_secret(session, settings)


def check_alone(database: Database, replica: str) -> None:
    """Raise `Conflict` when another replica serves from the same SQLite file: it is for one of them.

    One that was killed is still noted for a while: only who is heard of again lives.
    """
    if not database.is_file:
        return
    first = _others(database, replica)
    until = time.monotonic() + fleet.LEASE.total_seconds()
    while others := _others(database, replica):
        if lives := sorted(host for host, seen_at in others.items() if seen_at > first.get(host, seen_at)):
            detail = (
                f"The replica {lives[0]} serves from this SQLite database (MODELPORT_DATABASE_URL), which is for one"
                " replica; stop it, or move to PostgreSQL with `modelport db copy` and name that for both."
            )
            raise Conflict("database_in_use", detail)
        if time.monotonic() > until:
            return
        time.sleep(LOOK_SECONDS)


def _others(database: Database, replica: str) -> dict[str, datetime]:
    """Give when each other replica's web workers were heard of last."""
    with database.reading() as session:
        return {each.host: each.seen_at for each in fleet.live(session) if each.host != replica}
