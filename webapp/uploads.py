"""Takes uploads the whole way: inspect, store the bytes, register the version, make it active if asked to.

The command line does it at once. What comes over HTTP waits in quarantine as a row with a lease, for a worker.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import activation, audit, intake, registry
from webapp.activation import Convergence
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Base, Database, Moment, now
from webapp.errors import Invalid, NotFound, Refusal, Unavailable
from webapp.intake import Inspected, Upload
from webapp.signature import Signature, from_dict, rules

STAGES = ("waiting", *intake.STAGES, "storing")
# The files that an upload can have, each kept under the name of its part.
PARTS = ("file", "scaler", "reference", "metadata")
LEASE = timedelta(seconds=30)
RECENT = timedelta(days=1)
# A file that ends its worker each time must not do so for ever.
MOST_ATTEMPTS = 3


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
    # Why it was refused: code, detail, findings.
    refusal: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The version that an upload became."""

    version: dict[str, Any]
    report: dict[str, Any]
    workers: Convergence | None


@dataclass(frozen=True, slots=True)
class Desk:
    """Where uploads are taken in."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore

    def folder(self, upload_id: str) -> Path:
        """Where the files of an upload wait."""
        return self.settings.quarantine_dir / upload_id


@dataclass(frozen=True, slots=True)
class Wish:
    """What an uploaded file is to become."""

    model: str
    label: str | None = None
    target: str | None = None
    activate: bool = False
    # Take the reference of the newest version that has one, where none comes.
    keep_reference: bool = False


def upload(
    desk: Desk, actor: Actor, wish: Wish, files: Upload, *, on_stage: Callable[[str], None] = lambda _stage: None
) -> Uploaded:
    """Register the files as the next version of a model. Nothing is stored when they are refused."""
    registry.check_name(wish.model)
    label = wish.label or intake.label_of(files.metadata)
    registry.check_label(label)
    with tempfile.NamedTemporaryFile(suffix=".csv") as kept:
        if wish.keep_reference and files.reference is None and (before := _reference_before(desk, wish.model)):
            kept.write(desk.artifacts.get(before))
            kept.flush()
            files = replace(files, reference=Path(kept.name))
        inspected = intake.inspect(files, max_bytes=desk.settings.max_upload_bytes, on_stage=on_stage)
        on_stage("storing")
        # Bytes before the row: a row never names an artifact that is not there.
        artifact = desk.artifacts.put(inspected.canonical)
        reference = desk.artifacts.put(files.reference.read_bytes()) if files.reference else None
    signature, report = _with_rules_before(desk, wish.model, inspected)
    with desk.database.transaction() as session:
        version = registry.add_version(
            session,
            actor,
            desk.settings.derive("versions"),
            wish.model,
            artifact=artifact,
            reference=reference,
            signature=signature.as_dict(),
            report=report,
            card=dict(files.metadata),
            label=label,
        )
        session.flush()
        if wish.activate:
            registry.activate(session, actor, wish.model, version.number, "activated with the upload")
        described = registry.describe_version(version)
    workers = activation.converged(desk.database) if wish.activate else None
    return Uploaded(described, report, workers)


def _with_rules_before(desk: Desk, name: str, inspected: Inspected) -> tuple[Signature, dict[str, Any]]:
    """Take over the rules that people stated of the version before: the next one must not lose them unseen."""
    with desk.database.reading() as session:
        before = registry.version_before(session, name)
    if before is None:
        return inspected.signature, inspected.report
    signature, names = rules.inherit(from_dict(before.signature), inspected.signature)
    taken = {"rules_from": {"version": before.number, "features": names}} if names else {}
    return signature, {**inspected.report, **taken}


def _reference_before(desk: Desk, name: str) -> str | None:
    with desk.database.reading() as session:
        return registry.newest_reference(session, name)


# --- Uploads that wait for a worker -------------------------------------------------------------------------


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
        with desk.database.transaction() as session:
            session.add(_pending(upload_id, actor, wish, {part: name for part, (name, _) in save.items()}))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return upload_id


def _pending(upload_id: str, actor: Actor, wish: Wish, names: dict[str, str]) -> PendingUpload:
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


def _end(pending: PendingUpload, *, version: int | None = None, refusal: dict[str, Any] | None = None) -> None:
    pending.done_at, pending.version, pending.refusal = now(), version, refusal


def work(desk: Desk, pending: PendingUpload) -> None:
    """Bring a claimed upload to its end: a version, or a refusal that says why. The files leave quarantine."""

    def note(stage: str) -> None:
        with desk.database.transaction() as session:
            _held(session, pending).stage = stage

    version, refusal = None, None
    actor = Actor(pending.actor, pending.address, pending.request_id)
    wish = Wish(pending.model, pending.label, pending.target, pending.activate, pending.keep_reference)
    try:
        _check_attempts(pending)
        done = upload(desk, actor, wish, _files(desk, pending), on_stage=note)
        version = done.version["version"]
    except Unavailable:
        # Not the file's fault: the lease runs out, and another attempt is made.
        raise
    except Refusal as refused:
        refusal = {"code": refused.code, "detail": refused.detail, "findings": [], **refused.more}
    with desk.database.transaction() as session:
        _end(_held(session, pending), version=version, refusal=refusal)
        if refusal:
            audit.record(session, actor, "models.upload_refused", pending.model, code=refusal["code"])
    shutil.rmtree(desk.folder(pending.id), ignore_errors=True)


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


def _files(desk: Desk, pending: PendingUpload) -> Upload:
    folder = desk.folder(pending.id)
    paths = {part: folder / part for part in pending.names}
    if missing := [pending.names[part] for part, path in paths.items() if not path.exists()]:
        raise Invalid(
            "upload_files_missing", f"What was uploaded is no longer here: {', '.join(missing)}. Upload again."
        )
    metadata = intake.read_metadata(paths["metadata"]) if "metadata" in paths else {}
    return Upload(
        paths["file"], paths.get("scaler"), paths.get("reference"), pending.target, metadata, pending.names["file"]
    )


def describe(pending: PendingUpload) -> dict[str, Any]:
    """Give the public form of an upload."""
    state = "refused" if pending.refusal else "stored" if pending.version else "processing"
    return {
        "id": pending.id,
        "model": pending.model,
        "status": state,
        "stage": pending.stage if state == "processing" else None,
        "version": pending.version,
        "error": pending.refusal,
    }
