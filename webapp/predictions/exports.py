"""Exports that take a while: each a row that one worker at a time holds a lease on, and a file that is kept for a week.

What leaves the log this way may be personal data: who asked for it, and when, stands in the audit trail.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import audit
from webapp.audit import Actor
from webapp.db import Base, Database, Moment, now
from webapp.errors import Conflict, NotFound, Refusal
from webapp.predictions import files
from webapp.predictions.log import Prediction
from webapp.predictions.search import Wanted
from webapp.storage import Storage

FOLDER = "exports"
KEPT = timedelta(days=7)
LEASE = timedelta(seconds=30)
# What could not be written waits so long for its next attempt, then twice, then three times.
PAUSE = timedelta(seconds=10)
MOST_ATTEMPTS = 5
# Each may be as large as the log.
MOST_WAITING = 10
# What is on its way to its name is none of those that are left behind.
LEFT_BEHIND = timedelta(days=1)


class Export(Base):
    """What somebody wants as a file: it waits, is written under a lease, and is kept until it is removed."""

    __tablename__ = "exports"

    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    asked_at: Mapped[datetime] = mapped_column(Moment)
    asked_by: Mapped[str] = mapped_column(sa.Text)
    form: Mapped[str] = mapped_column(sa.Text)
    # The conditions that are set, moments as texts.
    wanted: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    # How far it is: the oldest prediction that it could have, and the one that was written last.
    begins_at: Mapped[datetime | None] = mapped_column(Moment)
    reached_at: Mapped[datetime | None] = mapped_column(Moment)
    rows: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    bytes: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    leased_by: Mapped[str | None] = mapped_column(sa.Text)
    leased_until: Mapped[datetime | None] = mapped_column(Moment)
    done_at: Mapped[datetime | None] = mapped_column(Moment)
    failed_at: Mapped[datetime | None] = mapped_column(Moment)
    failure: Mapped[str] = mapped_column(sa.Text, default="")

    @property
    def status(self) -> str:
        """What has become of it."""
        if self.failed_at is not None:
            return "failed"
        return "completed" if self.done_at is not None else "processing"

    @property
    def share(self) -> float:
        """How much of its time was gone through, from 0 to 1."""
        if self.done_at is not None:
            return 1.0
        if self.begins_at is None or self.reached_at is None:
            return 0.0
        end = wanted_of(self).until or self.asked_at
        span = (end - self.begins_at).total_seconds()
        return min(1.0, max(0.0, (end - self.reached_at).total_seconds() / span)) if span > 0 else 1.0

    @property
    def file_name(self) -> str:
        """Name its file. Each attempt has its own: an earlier one may still be written somewhere."""
        return f"{FOLDER}/{self.id}/{self.attempts}.{self.form}"


# --- Asking for one -----------------------------------------------------------------------------------------


def ask(session: Session, actor: Actor, form: str, wanted: Wanted) -> Export:
    """Ask for a file of what is in the log now; a worker writes it."""
    files.require(form)
    note(session, actor, form, wanted, export_id := secrets.token_hex(16))
    if len(_open(session)) >= MOST_WAITING:
        raise Conflict("exports_waiting", f"{MOST_WAITING} exports are not done yet; wait for one, or remove it.")
    moment = now()
    made = Export(
        id=export_id,
        asked_at=moment,
        asked_by=actor.name,
        form=form,
        wanted=_as_json(replace(wanted, until=min(wanted.until or moment, moment))),
        rows=0,
        bytes=0,
        attempts=0,
        failure="",
    )
    session.add(made)
    return made


def note(session: Session, actor: Actor, form: str, wanted: Wanted, subject: str) -> None:
    """Note that somebody takes predictions out of the log; of what they looked for, only what names nobody."""
    said = _as_json(replace(wanted, client_id=None, value=None))
    audit.record(session, actor, "predictions.export", subject, form=form, wanted=said)


def _as_json(wanted: Wanted) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(wanted).items()
        if value is not None and value is not False
    }


def wanted_of(export: Export) -> Wanted:
    """Give what an export is of."""
    given: dict[str, Any] = dict(export.wanted)
    for name in ("since", "until"):
        if name in given:
            given[name] = datetime.fromisoformat(given[name])
    return Wanted(**given)


def remove(session: Session, actor: Actor, export_id: str) -> Export:
    """Remove an export, also one that is being written; who calls this removes its file."""
    found = get_export(session, export_id)
    audit.record(session, actor, "predictions.remove_export", export_id)
    session.delete(found)
    return found


# --- Looking ------------------------------------------------------------------------------------------------


def newest(session: Session, most: int = 50) -> list[Export]:
    """Give the newest exports."""
    return list(session.scalars(sa.select(Export).order_by(Export.asked_at.desc(), Export.id).limit(most)))


def get_export(session: Session, export_id: str) -> Export:
    """Give an export."""
    found = session.get(Export, export_id)
    if found is None:
        raise NotFound("unknown_export", "There is no such export; it may have been removed.")
    return found


def get_done(session: Session, export_id: str) -> Export:
    """Give an export whose file is there."""
    found = get_export(session, export_id)
    if found.done_at is None:
        raise Conflict("export_not_done", "This export is not done yet; its page says how far it is.")
    return found


def _open(session: Session) -> list[str]:
    chosen = sa.select(Export.id).where(Export.done_at.is_(None), Export.failed_at.is_(None))
    return list(session.scalars(chosen))


# --- Writing one --------------------------------------------------------------------------------------------


def _waits() -> list[sa.ColumnElement[bool]]:
    free = sa.or_(Export.leased_until.is_(None), Export.leased_until < now())
    return [Export.done_at.is_(None), Export.failed_at.is_(None), free]


def has_work(session: Session) -> bool:
    """Whether there is an export that nobody works on."""
    return session.execute(sa.select(Export.id).where(*_waits()).limit(1)).first() is not None


def claim(session: Session, owner: str) -> Export | None:
    """Take the lease on the oldest export that nobody works on."""
    oldest = sa.select(Export).where(*_waits()).order_by(Export.asked_at, Export.id).limit(1)
    found = session.scalar(oldest.with_for_update(skip_locked=True))
    if found is None:
        return None
    if found.attempts >= MOST_ATTEMPTS:
        found.failed_at = now()
        found.failure = found.failure or f"It could not be written in {MOST_ATTEMPTS} attempts."
        return None
    found.attempts += 1
    found.leased_by, found.leased_until = owner, now() + LEASE
    found.rows, found.reached_at = 0, None
    found.begins_at = wanted_of(found).since or session.scalar(sa.select(sa.func.min(Prediction.at)))
    return found


def _held(export: Export, owner: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        Export.id == export.id,
        Export.leased_by == owner,
        Export.attempts == export.attempts,
        Export.done_at.is_(None),
    )


def _update(session: Session, export: Export, owner: str, **values: object) -> bool:
    done = session.execute(sa.update(Export).where(_held(export, owner)).values(values))
    count: int = done.rowcount  # type: ignore[attr-defined] # an UPDATE's result has it
    return count == 1


def renew(session: Session, export: Export, owner: str) -> None:
    """Keep the lease of an export that is still worked on."""
    _update(session, export, owner, leased_until=now() + LEASE)


def progress(session: Session, export: Export, owner: str, rows: int, reached_at: datetime) -> bool:
    """Say how far it is; tells whether it is still wanted from here."""
    return _update(session, export, owner, rows=rows, reached_at=reached_at)


def finish(session: Session, export: Export, owner: str, rows: int, size: int) -> bool:
    """Make the file of this attempt that of the export; tells whether it is still wanted."""
    return _update(session, export, owner, rows=rows, bytes=size, done_at=now(), leased_until=None)


def give_back(session: Session, export: Export, owner: str, reason: str) -> None:
    """Leave an export that could not be written to a later attempt."""
    later = now() + PAUSE * export.attempts
    _update(session, export, owner, failure=reason, leased_by=None, leased_until=later)


# --- Removing -----------------------------------------------------------------------------------------------


def expire(database: Database, storage: Storage) -> int:
    """Remove exports that were kept long enough, and files that belong to none; tell how many there were."""
    with database.transaction() as session:
        old = session.scalars(sa.select(Export).where(Export.asked_at < now() - KEPT)).all()
        for each in old:
            session.delete(each)
    remove_files(storage, [each.id for each in old])
    left = {name.split("/")[1] for name in storage.names(FOLDER, older_than=LEFT_BEHIND)}
    with database.reading() as session:
        left -= set(session.scalars(sa.select(Export.id)))
    remove_files(storage, left)
    return len(old) + len(left)


def remove_of(session: Session, model: str | None) -> list[str]:
    """Remove every export that may have predictions of a model, or of any; give their ids."""
    found = [each for each in session.scalars(sa.select(Export)) if model in {None, each.wanted.get("model", model)}]
    for each in found:
        session.delete(each)
    return [each.id for each in found]


def remove_files(storage: Storage, export_ids: Collection[str]) -> None:
    """Remove whatever was written for these exports."""
    for export_id in export_ids:
        # What cannot be removed now is found later.
        with suppress(Refusal, OSError):
            for name in list(storage.names(f"{FOLDER}/{export_id}")):
                storage.delete(name)
