"""Takes an upload the whole way: inspect, store the bytes, register the version, and make it active if asked to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp import activation, intake, registry
from webapp.activation import Convergence
from webapp.intake import Upload
from webapp.web import Parts


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The version that an upload became."""

    version: dict[str, Any]
    report: dict[str, Any]
    workers: Convergence | None


def upload(  # noqa: PLR0913 - the terms of an upload, each by name
    parts: Parts, actor: str, name: str, files: Upload, *, label: str | None = None, activate: bool = False
) -> Uploaded:
    """Register the files as the next version of `name`. Nothing is stored when they are refused."""
    registry.check_name(name)
    label = label or intake.label_of(files.metadata)
    registry.check_label(label)
    inspected = intake.inspect(files, max_bytes=parts.settings.max_upload_bytes)
    # Bytes before the row: a row never names an artifact that is not there.
    artifact = parts.artifacts.put(inspected.canonical)
    reference = parts.artifacts.put(files.reference.read_bytes()) if files.reference else None
    with parts.database.transaction() as session:
        version = registry.add_version(
            session,
            actor,
            parts.settings.derive("versions"),
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
    workers = activation.converged(parts.database) if activate else None
    return Uploaded(described, inspected.report, workers)
