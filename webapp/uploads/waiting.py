"""Uploads that came over HTTP: they wait in quarantine as rows with a lease, and a worker brings each to its end."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import audit, db, faults, intake, registry, storage
from webapp.audit import Actor
from webapp.db import Base, Moment, now
from webapp.errors import Invalid, NoRoom, NotFound, Refusal, Unavailable, having_room
from webapp.intake import Upload
from webapp.uploads import Desk, Wish, activate, quarantine, store

STAGES = ("waiting", *intake.STAGES, "storing")
# The files that an upload can have, each kept under the name of its part.
PARTS = ("file", "scaler", "reference", "expect", "metadata")
LEASE = timedelta(seconds=30)
RECENT = timedelta(days=1)
# What an upload leaves free, for the database and the log.
RESERVE_BYTES = 256 * 1024 * 1024
MIB = 1024 * 1024
# A file that ends its worker each time must not do so for ever.
MOST_ATTEMPTS = 3
# Why an attempt ended that tells nothing about the file.
PASSING = storage.AWAY | {"disk_full"}


class PendingUpload(Base):
    """An upload on its way: it waits, is inspected under a lease, and ends as a version or as a refusal."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    at: Mapped[datetime] = mapped_column(Moment)
    actor: Mapped[str] = mapped_column(sa.Text)
    address: Mapped[str] = mapped_column(sa.Text)
    request_id: Mapped[str] = mapped_column(sa.Text)
    model: Mapped[str] = mapped_column(sa.Text)
    label: Mapped[str | None] = mapped_column(sa.Text)
    target: Mapped[str | None] = mapped_column(sa.Text)
    # What each part's file was called: a label for people, never a path.
    names: Mapped[dict[str, str]] = mapped_column(sa.JSON)
    activate: Mapped[bool]
    keep_reference: Mapped[bool]
    stage: Mapped[str] = mapped_column(sa.Text)
    attempts: Mapped[int]
    leased_by: Mapped[str | None] = mapped_column(sa.Text)
    leased_until: Mapped[datetime | None] = mapped_column(Moment)
    done_at: Mapped[datetime | None] = mapped_column(Moment)
    version: Mapped[int | None]
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    # Why its version was not activated, though that was wished for.
    not_activated: Mapped[str | None] = mapped_column(sa.Text)
    # Why it was refused: code, detail, findings.
    refusal: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))


# --- Room for them -----------------------------------------------------------------------------------------


def check_room(desk: Desk, coming_bytes: int) -> None:
    """Raise `Unavailable` when so many bytes more would be too much for the quarantine, `NoRoom` for its disk."""
    with desk.database.reading() as session:
        _check_quota(desk, session, coming_bytes)
    # Twice: while it is inspected, it lies there rewritten, too.
    if shutil.disk_usage(desk.scratch()).free < 2 * coming_bytes + RESERVE_BYTES:
        raise NoRoom("The server's disk has no room for this upload; nothing was kept of it. Try again when there is.")


def _check_quota(desk: Desk, session: Session, coming_bytes: int) -> None:
    waiting = sum(pending.bytes for pending in under_way(session))
    if waiting + coming_bytes > desk.settings.max_waiting_bytes:
        detail = f"Uploads of {waiting // MIB:,} MiB wait to be inspected; try again when some of them are done."
        raise Unavailable("quarantine_full", detail)


# --- On their way -------------------------------------------------------------------------------------------


def receive(desk: Desk, actor: Actor, wish: Wish, save: Mapping[str, tuple[str, Callable[[Path], None]]]) -> str:
    """Take files into quarantine and give the upload's id; a worker goes on from there.

    `save` has, for each part that came, the name its file had and what writes it to a path.
    """
    registry.check_name(wish.model)
    registry.check_label(wish.label)
    upload_id = secrets.token_hex(16)
    folder = desk.folder(upload_id)
    folder.mkdir(mode=0o700, parents=True)
    try:
        for part, (_, write) in save.items():
            write(folder / part)
        faults.point("upload.saved")
        names = {part: name for part, (name, _) in save.items()}
        weight = sum((folder / part).stat().st_size for part in save)
        # Before the row: a row never names files that are not there.
        quarantine.hand_over(desk, upload_id)
        with desk.database.transaction() as session:
            # Once more: others may have come while the files were sent, and may come now.
            db.one_at_a_time(session, PendingUpload)
            _check_quota(desk, session, weight)
            session.add(_pending(upload_id, actor, wish, names, weight))
    except BaseException:
        quarantine.discard(desk, upload_id)
        raise
    return upload_id


def _pending(upload_id: str, actor: Actor, wish: Wish, names: dict[str, str], weight: int) -> PendingUpload:
    return PendingUpload(
        id=upload_id,
        at=now(),
        actor=actor.name,
        address=actor.address,
        request_id=actor.request_id,
        model=wish.model,
        label=wish.label,
        target=wish.target,
        names=names,
        activate=wish.activate,
        keep_reference=wish.keep_reference,
        stage=STAGES[0],
        attempts=0,
        bytes=weight,
    )


def get_upload(session: Session, upload_id: str, model: str | None = None) -> PendingUpload:
    """Give an upload by its id, of one model where that is said."""
    found = session.get(PendingUpload, upload_id)
    if found is None or model not in {None, found.model}:
        raise NotFound("unknown_upload", "There is no upload with this id.")
    return found


def under_way(session: Session) -> list[PendingUpload]:
    """Uploads that are neither a version nor refused yet, the oldest first."""
    waiting = sa.select(PendingUpload).where(PendingUpload.done_at.is_(None))
    return list(session.scalars(waiting.order_by(PendingUpload.at)))


def lately_refused(session: Session) -> list[PendingUpload]:
    """Uploads of the last day that were refused, the newest first."""
    refused = sa.and_(PendingUpload.done_at > now() - RECENT, PendingUpload.version.is_(None))
    return list(session.scalars(sa.select(PendingUpload).where(refused).order_by(PendingUpload.at.desc()).limit(10)))


def claim(session: Session, owner: str) -> PendingUpload | None:
    """Take the lease on the next upload that nobody works on."""
    free = sa.or_(PendingUpload.leased_until.is_(None), PendingUpload.leased_until < now())
    pending = session.scalars(
        sa.select(PendingUpload)
        .where(PendingUpload.done_at.is_(None), free)
        .order_by(PendingUpload.at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).first()
    if pending is None:
        return None
    pending.attempts += 1
    pending.leased_by, pending.leased_until = owner, now() + LEASE
    return pending


def renew(session: Session, upload_id: str, owner: str) -> None:
    """Keep the lease of an upload that is still worked on."""
    held = sa.update(PendingUpload).where(PendingUpload.id == upload_id, PendingUpload.leased_by == owner)
    session.execute(held.values(leased_until=now() + LEASE))


def work(desk: Desk, pending: PendingUpload) -> None:
    """Bring a claimed upload to its end: a version, or a refusal that says why. The files leave quarantine."""
    actor = Actor(pending.actor, pending.address, pending.request_id)
    refusal, not_activated = None, ""
    try:
        # Where a worker ended between storing and activating, another goes on from there.
        with having_room():
            number = pending.version or _stored_of(desk, actor, pending)
        if pending.activate:
            _, not_activated = activate(desk, actor, pending.model, number)
    except Unavailable as unavailable:
        # Not the file's fault: the lease runs out, and another attempt is made.
        if unavailable.code in PASSING:
            _uncount(desk, pending)
        raise
    except Refusal as refused:
        refusal = {"code": refused.code, "detail": refused.detail, "findings": [], **refused.more}
    with desk.database.transaction() as session:
        row = _held(session, pending)
        row.done_at, row.refusal, row.not_activated = now(), refusal, not_activated or None
        if refusal:
            audit.record(session, actor, "models.upload_refused", pending.model, code=refusal["code"])
    faults.point("upload.ended")
    quarantine.discard(desk, pending.id)


def _stored_of(desk: Desk, actor: Actor, pending: PendingUpload) -> int:
    """Make a version of a claimed upload's files; its row knows the version as soon as there is one."""

    def note(stage: str) -> None:
        with desk.database.transaction() as session:
            _held(session, pending).stage = stage

    def note_version(session: Session, number: int) -> None:
        _held(session, pending).version = number

    _check_attempts(pending)
    wish = Wish(pending.model, pending.label, pending.target, keep_reference=pending.keep_reference, over_http=True)
    with quarantine.files(desk, pending.id, pending.bytes) as folder:
        described, _ = store(desk, actor, wish, _files(folder, pending), on_stage=note, on_version=note_version)
    number: int = described["version"]
    return number


def _held(session: Session, pending: PendingUpload) -> PendingUpload:
    """Give the row, if the lease on it is still ours."""
    row = session.get_one(PendingUpload, pending.id)
    if row.leased_by != pending.leased_by or row.attempts != pending.attempts or row.done_at is not None:
        raise Unavailable("lease_lost", "Another worker has taken this upload over.")
    return row


def _check_attempts(pending: PendingUpload) -> None:
    if pending.attempts > MOST_ATTEMPTS:
        detail = f"Inspecting the file ended its worker {MOST_ATTEMPTS} times."
        raise Invalid("model_trial_failed", detail)


def _uncount(desk: Desk, pending: PendingUpload) -> None:
    """Take back an attempt that ended because of what passes: it must not use up those that the file has."""
    with suppress(Unavailable), desk.database.transaction() as session:
        _held(session, pending).attempts -= 1


def _files(folder: Path, pending: PendingUpload) -> Upload:
    paths = {part: folder / part for part in pending.names}
    if missing := [pending.names[part] for part, path in paths.items() if not path.exists()]:
        raise Invalid(
            "upload_files_missing", f"What was uploaded is no longer here: {', '.join(missing)}. Upload again."
        )
    metadata = intake.read_metadata(paths["metadata"]) if "metadata" in paths else {}
    return Upload(
        paths["file"],
        paths.get("scaler"),
        paths.get("reference"),
        pending.target,
        metadata,
        pending.names["file"],
        paths.get("expect"),
    )


def describe(pending: PendingUpload) -> dict[str, Any]:
    """Give the public form of an upload."""
    state = "refused" if pending.refusal else "stored" if pending.done_at else "processing"
    return {
        "id": pending.id,
        "model": pending.model,
        "status": state,
        "stage": pending.stage if state == "processing" else None,
        "version": pending.version if pending.done_at else None,
        "not_activated": pending.not_activated,
        "error": pending.refusal,
    }
