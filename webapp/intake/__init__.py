"""A model file comes in: read in a locked child, converted, proven in a second one; nothing of it runs here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from webapp.errors import Invalid, TooLarge
from webapp.signature import Signature, from_dict

MOST_ANSWER_BYTES = 8 * 1024 * 1024
CHILD_SECONDS = 600
STAGES = ("reading", "proving")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """The files of one upload as they lie on the disk, and what its metadata says."""

    model: Path
    scaler: Path | None = None
    reference: Path | None = None
    target: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    # What people call the model's file, where it lies under another name.
    name: str | None = None

    def called(self, path: Path) -> str:
        """Give the name of a file as its owner knows it."""
        return self.name if path == self.model and self.name else path.name


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is left of an upload when it has been inspected: the canonical file, its signature, the report."""

    canonical: bytes
    signature: Signature
    report: dict[str, Any]


def inspect(upload: Upload, *, max_bytes: int, on_stage: Callable[[str], None] = lambda _stage: None) -> Inspected:
    """Inspect an upload; raise `Invalid` with a stable code and every finding when it is refused.

    `on_stage` is told of each of `STAGES` as it begins.
    """
    declared = declared_features(upload.metadata)
    _check_sizes(upload, max_bytes)
    with tempfile.TemporaryFile() as converted, tempfile.TemporaryFile() as canonical:
        files = {"model": upload.model, "scaler": upload.scaler}
        on_stage("reading")
        _run("convert", {name: path for name, path in files.items() if path}, converted, {})
        job = {"declared": declared, "target": upload.target}
        proven = {"reference": upload.reference} if upload.reference else {}
        on_stage("proving")
        report = _run("prove", {"model": converted, **proven}, canonical, job)
        canonical.seek(0)
        content = canonical.read()
    signature = from_dict(report.pop("signature"))
    facts = {"file": _facts(upload), "canonical_bytes": len(content)}
    return Inspected(content, signature, {**report, **facts})


def _facts(upload: Upload) -> dict[str, Any]:
    with upload.model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": upload.called(upload.model), "bytes": upload.model.stat().st_size, "sha256": digest}


def _check_sizes(upload: Upload, max_bytes: int) -> None:
    for path in filter(None, (upload.model, upload.scaler, upload.reference)):
        size = path.stat().st_size
        if size == 0:
            raise Invalid("model_format_unknown", f"{upload.called(path)} is empty.")
        if size > max_bytes:
            shown = upload.called(path)
            raise TooLarge("upload_too_large", f"{shown} has {size // MIB} MiB; at most {max_bytes // MIB} are taken.")


def declared_features(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give one mapping per feature that the metadata names; the guide names them only, ours may add rules."""
    accuracy = metadata.get("accuracy", 0)
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float):
        raise Invalid("metadata_unreadable", 'The metadata\'s "accuracy" is a number, such as 0.94.')
    listed = metadata.get("features", [])
    usable = isinstance(listed, list) and all(
        isinstance(item, str) or (isinstance(item, dict) and isinstance(item.get("name"), str)) for item in listed
    )
    if not usable:
        raise Invalid(
            "metadata_unreadable",
            'The metadata\'s "features" is a list of names, or of objects such as'
            ' {"name": "age", "type": "integer", "minimum": 18}.',
        )
    return [{"name": item} if isinstance(item, str) else item for item in listed]


def _run(act: str, files: Mapping[str, Path | IO[bytes]], out: IO[bytes], job: dict[str, Any]) -> dict[str, Any]:
    """Run one act in a child of its own that inherits nothing but the descriptors it needs."""
    with ExitStack() as stack:
        opened = {name: _reading(stack, file) for name, file in files.items()}
        inherited = [*opened.values(), out.fileno()]
        command = [sys.executable, "-I", "-m", "webapp.intake.child", act]
        child = stack.enter_context(
            subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=inherited,
                cwd="/",
                env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        )
        text = json.dumps({**job, "files": opened, "out": out.fileno()})
        return _answer(child, text.encode())


def _reading(stack: ExitStack, file: Path | IO[bytes]) -> int:
    if isinstance(file, Path):
        return stack.enter_context(file.open("rb")).fileno()
    file.seek(0)
    return file.fileno()


def _answer(child: subprocess.Popen[bytes], job: bytes) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    # Its own limit of CPU time ends a child that computes; this one ends a child that waits.
    overdue = threading.Timer(CHILD_SECONDS, child.kill)
    overdue.start()
    try:
        with suppress(BrokenPipeError), child.stdin:
            child.stdin.write(job)
        content = child.stdout.read(MOST_ANSWER_BYTES)
    finally:
        overdue.cancel()
        child.kill()
    try:
        document = json.loads(content)
    except ValueError:
        detail = "The model ended the process that tried it: it needs too much memory or time, or is damaged."
        raise Invalid("model_trial_failed", detail, more={"findings": []}) from None
    if "refused" in document:
        refused = document["refused"]
        raise Invalid(refused["code"], refused["detail"], more={"findings": refused["findings"]})
    done: dict[str, Any] = document["done"]
    return done


def _no_constant(literal: str) -> NoReturn:
    message = f"{literal} is not JSON"
    raise ValueError(message)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a `metadata.json`, the guide's form or ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError) as error:
        raise Invalid("metadata_unreadable", f"{path.name} cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise Invalid("metadata_unreadable", f"{path.name} must hold a JSON object.")
    return document


def label_of(metadata: Mapping[str, Any]) -> str | None:
    """Give the label that the guide's metadata carries as `version`."""
    version = metadata.get("version")
    return str(version) if isinstance(version, str) and version else None
