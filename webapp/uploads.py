"""Takes an upload the whole way: inspect, store the bytes, register the version, and make it active if asked to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp import activation, intake, registry
from webapp.activation import Convergence
from webapp.artifacts import ArtifactStore
from webapp.config import Settings
from webapp.db import Database
from webapp.intake import Upload


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


def upload(
    desk: Desk, actor: str, name: str, files: Upload, *, label: str | None = None, activate: bool = False
) -> Uploaded:
    """Register the files as the next version of `name`. Nothing is stored when they are refused."""
    registry.check_name(name)
    label = label or intake.label_of(files.metadata)
    registry.check_label(label)
    inspected = intake.inspect(files, max_bytes=desk.settings.max_upload_bytes)
    # Bytes before the row: a row never names an artifact that is not there.
    artifact = desk.artifacts.put(inspected.canonical)
    reference = desk.artifacts.put(files.reference.read_bytes()) if files.reference else None
    with desk.database.transaction() as session:
        version = registry.add_version(
            session,
            actor,
            desk.settings.derive("versions"),
            name,
            artifact=artifact,
            reference=reference,
            signature=inspected.signature.as_dict(),
            report=inspected.report,
            card=dict(files.metadata),
            label=label,
        )
        session.flush()
        if activate:
            registry.activate(session, actor, name, version.number, "activated with the upload")
        described = registry.describe_version(version)
    workers = activation.converged(desk.database) if activate else None
    return Uploaded(described, inspected.report, workers)
