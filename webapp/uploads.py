"""Takes uploads the whole way: inspect, store the bytes, register the version, make it active if asked to.

The command line does it at once. What comes over HTTP waits in quarantine as a row with a lease, for a worker.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import activation, audit, faults, fleet, intake, registry
from webapp.activation import Asked, Convergence, Switched
from webapp.artifacts import INCOMING, ArtifactStore
from webapp.audit import Actor
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.db import Base, Database, Moment, now
from webapp.errors import Conflict, Invalid, NotFound, Refusal, Unavailable
from webapp.intake import Inspected, Upload
from webapp.serving.runtime import Runtime
from webapp.signature import Signature, from_dict, rules

STAGES = ("waiting", *intake.STAGES, "storing")
# The files that an upload can have, each kept under the name of its part.
PARTS = ("file", "scaler", "reference", "expect", "metadata")
LEASE = timedelta(seconds=30)
RECENT = timedelta(days=1)
# What no row names after so long belongs to nobody.
LEFT_BEHIND = timedelta(hours=1)
# What an upload leaves free, for the database and the log.
RESERVE_BYTES = 256 * 1024 * 1024
MIB = 1024 * 1024
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
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    # Why its version was not activated, though that was wished for.
    not_activated: Mapped[str | None] = mapped_column(sa.Text)
    # Why it was refused: code, detail, findings.
    refusal: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The version that an upload became."""

    version: dict[str, Any]
    report: dict[str, Any]
    workers: Convergence | None = None
    # Why it was not activated, though that was wished for.
    not_activated: str = ""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where uploads are taken in."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore

    def scratch(self) -> Path:
        """Where an inspection keeps files that live as long as it does."""
        self.settings.quarantine_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.settings.quarantine_dir

    def load(self, version: ServedVersion) -> str:
        """Load a version in this process to see whether it can be; gives why not, or nothing."""
        return Runtime(self.artifacts, self.settings.derive("versions")).prepare(version)

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
    # The file came from afar: its pickle is only opened behind the whole lock.
    over_http: bool = False


def upload(
    desk: Desk, actor: Actor, wish: Wish, files: Upload, *, on_stage: Callable[[str], None] = lambda _stage: None
) -> Uploaded:
    """Register the files as the next version of a model, and activate it if wished. Nothing is stored when refused."""
    described, report = store(desk, actor, wish, files, on_stage=on_stage)
    if not wish.activate:
        return Uploaded(described, report)
    switched, not_activated = _activate(desk, actor, wish.model, described["version"])
    state = described if switched is None else {**described, "state": "active"}
    return Uploaded(state, report, switched.workers if switched else None, not_activated)


def store(
    desk: Desk,
    actor: Actor,
    wish: Wish,
    files: Upload,
    *,
    on_stage: Callable[[str], None] = lambda _stage: None,
    on_version: Callable[[Session, int], None] = lambda _session, _number: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inspect the files and register them as the next version; give its public form and the inspection report.

    `on_version` is told of its number in the transaction that makes it.
    """
    registry.check_name(wish.model)
    label = wish.label or intake.label_of(files.metadata)
    registry.check_label(label)
    with ExitStack() as stack:
        scratch = desk.scratch()
        files = _with_reference_before(desk, wish, files, scratch, stack)
        fingerprint = _check_new(desk, wish.model, label, files)
        inspected = stack.enter_context(
            intake.inspected(
                files,
                scratch=scratch,
                max_bytes=desk.settings.max_upload_bytes,
                over_http=wish.over_http,
                on_stage=on_stage,
            )
        )
        on_stage("storing")
        faults.point("upload.inspected")
        stored = _stored(desk, inspected)
    faults.point("upload.stored")
    signature, report = _with_rules_before(desk, wish.model, inspected)
    with desk.database.transaction() as session:
        version = registry.add_version(
            session,
            actor,
            desk.settings.derive("versions"),
            wish.model,
            **stored,
            trained_with=inspected.trained_with,
            signature=signature.as_dict(),
            report={**report, "inputs_sha256": fingerprint},
            card=inspected.card,
            label=label,
        )
        session.flush()
        faults.point("upload.registering")
        on_version(session, version.number)
        return registry.describe_version(version), version.report


def _activate(desk: Desk, actor: Actor, name: str, number: int) -> tuple[Switched | None, str]:
    """Make a stored version the active one; give why not, where something stands against it: the version stays."""
    asked = Asked(name, number, "activated with the upload")
    try:
        return activation.activate(desk.database, desk.load, actor, asked), ""
    except Conflict as conflict:
        return None, "" if conflict.code == "already_active" else conflict.detail


def _with_reference_before(desk: Desk, wish: Wish, files: Upload, scratch: Path, stack: ExitStack) -> Upload:
    """Take the reference of the version before, where that is wished and none comes."""
    if not wish.keep_reference or files.reference is not None:
        return files
    with desk.database.reading() as session:
        before = registry.newest_reference(session, wish.model)
    if before is None:
        return files
    kept = stack.enter_context(tempfile.NamedTemporaryFile(dir=scratch, suffix=".csv"))  # noqa: SIM115 - by the stack
    kept.write(desk.artifacts.get(before))
    kept.flush()
    return replace(files, reference=Path(kept.name))


def _check_new(desk: Desk, name: str, label: str | None, files: Upload) -> str:
    """Refuse what is a version already, file for file; give the digest that tells."""
    fingerprint = intake.fingerprint(files, label)
    with desk.database.reading() as session:
        number = registry.version_made_of(session, name, fingerprint)
    if number is not None:
        detail = f"These very files are version {number} of “{name}”; activate that one, or upload others."
        raise Invalid("model_duplicate", detail, more={"version": number, "findings": []})
    return fingerprint


def _stored(desk: Desk, inspected: Inspected) -> dict[str, Any]:
    """Store the bytes of a version, before its row: a row never names an artifact that is not there."""
    return {
        "artifact": desk.artifacts.put(inspected.canonical),
        "reference": desk.artifacts.put(inspected.reference) if inspected.reference else None,
        "golden": desk.artifacts.put(inspected.golden) if inspected.golden else None,
    }


def _with_rules_before(desk: Desk, name: str, inspected: Inspected) -> tuple[Signature, dict[str, Any]]:
    """Take over the rules that people stated of the version before: the next one must not lose them unseen."""
    with desk.database.reading() as session:
        before = registry.version_before(session, name)
    if before is None:
        return inspected.signature, inspected.report
    signature, names = rules.inherit(from_dict(before.signature), inspected.signature)
    taken = {"rules_from": {"version": before.number, "features": names}} if names else {}
    return signature, {**inspected.report, **taken}


# --- Room for them -----------------------------------------------------------------------------------------


def check_room(desk: Desk, coming_bytes: int) -> None:
    """Raise `Unavailable` when so many bytes more would be too much for the quarantine, or for its disk."""
    with desk.database.reading() as session:
        _check_quota(desk, session, coming_bytes)
    # Twice: while it is inspected, it lies there rewritten, too.
    if shutil.disk_usage(desk.scratch()).free < 2 * coming_bytes + RESERVE_BYTES:
        raise Unavailable("disk_full", "The server's disk has no room for this upload.")


def _check_quota(desk: Desk, session: Session, coming_bytes: int) -> None:
    waiting = sum(pending.bytes for pending in under_way(session))
    if waiting + coming_bytes > desk.settings.max_waiting_bytes:
        detail = f"Uploads of {waiting // MIB:,} MiB wait to be inspected; try again when some of them are done."
        raise Unavailable("quarantine_full", detail)


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
        faults.point("upload.saved")
        names = {part: name for part, (name, _) in save.items()}
        weight = sum((folder / part).stat().st_size for part in save)
        with desk.database.transaction() as session:
            # Once more: others may have come while the files were sent.
            _check_quota(desk, session, weight)
            session.add(_pending(upload_id, actor, wish, names, weight))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
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
        number = pending.version or _stored_of(desk, actor, pending)
        if pending.activate:
            _, not_activated = _activate(desk, actor, pending.model, number)
    except Unavailable:
        # Not the file's fault: the lease runs out, and another attempt is made.
        raise
    except Refusal as refused:
        refusal = {"code": refused.code, "detail": refused.detail, "findings": [], **refused.more}
    with desk.database.transaction() as session:
        row = _held(session, pending)
        row.done_at, row.refusal, row.not_activated = now(), refusal, not_activated or None
        if refusal:
            audit.record(session, actor, "models.upload_refused", pending.model, code=refusal["code"])
    faults.point("upload.ended")
    shutil.rmtree(desk.folder(pending.id), ignore_errors=True)


def _stored_of(desk: Desk, actor: Actor, pending: PendingUpload) -> int:
    """Make a version of a claimed upload's files; its row knows the version as soon as there is one."""

    def note(stage: str) -> None:
        with desk.database.transaction() as session:
            _held(session, pending).stage = stage

    def note_version(session: Session, number: int) -> None:
        _held(session, pending).version = number

    _check_attempts(pending)
    wish = Wish(pending.model, pending.label, pending.target, keep_reference=pending.keep_reference, over_http=True)
    described, _ = store(desk, actor, wish, _files(desk, pending), on_stage=note, on_version=note_version)
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


def _files(desk: Desk, pending: PendingUpload) -> Upload:
    folder = desk.folder(pending.id)
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


# --- What nobody needs any more -----------------------------------------------------------------------------


def sweep(desk: Desk) -> list[str]:
    """Remove what a process left behind that ended in the middle; give the names of what was removed.

    Only what is old: what is young may belong to an upload whose row is about to be written.
    """
    with desk.database.transaction() as session:
        fleet.forget(session)
    with desk.database.reading() as session:
        kept = {pending.id for pending in under_way(session)} | registry.every_artifact(session)
    store = desk.settings.artifact_store
    found = [*desk.settings.quarantine_dir.glob("*"), *store.glob(f"{INCOMING}*"), *store.glob("??/*")]
    left = [path for path in found if path.name not in kept and _is_old(path)]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return [path.name for path in left]


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - LEFT_BEHIND.total_seconds()
    except FileNotFoundError:
        return False
