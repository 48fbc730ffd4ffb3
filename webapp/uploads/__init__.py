"""Takes an upload the whole way: inspect, store the bytes, register the version, make it active if asked to.

The command line does it at once. What comes over HTTP waits for a worker (`waiting`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from webapp import activation, faults, intake, registry
from webapp.activation import Asked, Convergence, Switched
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Conflict, Invalid
from webapp.intake import Inspected, Upload
from webapp.serving.runtime import Runtime
from webapp.signature import Signature, from_dict, keeping, rules


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

    @property
    def shares_files(self) -> bool:
        """Whether replicas have one store of files, so that what one receives another may inspect."""
        return self.settings.artifact_store is not None

    def scratch(self) -> Path:
        """Where an inspection keeps files that live as long as it does."""
        self.settings.quarantine_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.settings.quarantine_dir

    def load(self, version: ServedVersion) -> str:
        """Load a version in this process to see whether it can be; gives why not, or nothing."""
        return Runtime(self.artifacts, self.settings.derive("versions")).prepare(version)

    def folder(self, upload_id: str) -> Path:
        """Where the files of an upload are received, and wait where no store is shared."""
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
    switched, not_activated = activate(desk, actor, wish.model, described["version"])
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


def activate(desk: Desk, actor: Actor, name: str, number: int) -> tuple[Switched | None, str]:
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
    old = from_dict(before.signature)
    signature, names = rules.inherit(old, inspected.signature)
    signature = keeping.inherit(old, signature)
    taken = {"rules_from": {"version": before.number, "features": names}} if names else {}
    return signature, {**inspected.report, **taken}
