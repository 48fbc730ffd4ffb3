"""A model file comes in: read in a locked child, converted, proven in a second one; nothing of it runs here."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from webapp.errors import Invalid, NoRoom, TooLarge
from webapp.intake import process
from webapp.lock import support
from webapp.signature import Signature, from_dict, keeping

# What the children say they do; the doors have words for each.
STAGES = ("reading", "converting", "checking", "trying")
MIB = 1024 * 1024
# A signature of a hundred thousand features.
MOST_PROOF_BYTES = 64 * MIB
# A disk with less is full to whoever writes a file.
LEAST_FREE_BYTES = MIB


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
    # Rows with the outputs that they must give, made where the model was trained.
    expect: Path | None = None

    def called(self, path: Path) -> str:
        """Give the name of a file as its owner knows it."""
        return self.name if path == self.model and self.name else path.name


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is left of an upload when it has been inspected; the files are there as long as the inspection is open."""

    canonical: IO[bytes]
    reference: IO[bytes] | None
    golden: bytes | None
    signature: Signature
    card: dict[str, Any]
    # The scikit-learn version that the file was written with, where it is of another minor version than ours.
    trained_with: str | None
    report: dict[str, Any]


def fingerprint(upload: Upload, label: str | None) -> str:
    """Give one digest of everything that an upload brings: the same digest is the same upload once more."""
    whole = hashlib.sha256()
    for path in (upload.model, upload.scaler, upload.reference, upload.expect):
        whole.update(_digest(path) if path else b"none")
    whole.update(json.dumps([upload.target, upload.metadata, label], sort_keys=True).encode())
    return whole.hexdigest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def inspected(
    upload: Upload,
    *,
    scratch: Path,
    max_bytes: int,
    over_http: bool = False,
    on_stage: Callable[[str], None] = lambda _stage: None,
) -> Iterator[Inspected]:
    """Inspect an upload; raise `Invalid` with a stable code and every finding when it is refused.

    `scratch` is a folder for files that live as long as the inspection. What came `over_http` is inspected when the
    machine has nothing else to do, and a pickle only where the kernel has all walls of the lock. `on_stage` is told
    of each of `STAGES` as it begins.
    """
    # What takes no child to see is said first.
    declared_features(upload.metadata)
    _check_sizes(upload, max_bytes)
    with ExitStack() as stack:
        bench = _Bench(stack, scratch, _listener(on_stage), over_http=over_http)
        yield _proven(upload, _converted(upload, bench), bench)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where one inspection is done: its files, its ear, and how it is done."""

    stack: ExitStack
    scratch: Path
    on_stage: Callable[[str], None]
    over_http: bool

    def file(self) -> IO[bytes]:
        """Give an empty file without a name, which goes with the inspection."""
        return self.stack.enter_context(tempfile.TemporaryFile(dir=self.scratch))

    def opened(self, path: Path) -> IO[bytes]:
        """Open a file for as long as the inspection lasts."""
        return self.stack.enter_context(path.open("rb"))

    def run(self, act: str, inputs: process.Inputs, outputs: process.Outputs, **job: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """Have an act done in a child."""
        try:
            return process.run(act, inputs, outputs, {**job, "idle": self.over_http}, self.on_stage)
        except Invalid as refused:
            # Looked at here: on a full disk every file is refused, and a child could say anything.
            if shutil.disk_usage(self.scratch).free < LEAST_FREE_BYTES:
                raise NoRoom from refused
            raise


@dataclass(frozen=True, slots=True)
class _Converted:
    """What the first child made of an upload; it has seen hostile bytes."""

    estimator: IO[bytes]
    # What goes into the trial beside it: given by hand, or brought along by the file.
    beside: dict[str, IO[bytes]]
    facts: dict[str, Any]


def _converted(upload: Upload, bench: _Bench) -> _Converted:
    parts = {name: bench.opened(path) for name, path in (("model", upload.model), ("scaler", upload.scaler)) if path}
    out = {"estimator": bench.file(), "reference": bench.file(), "expect": bench.file()}
    pickles = support().complete or not bench.over_http
    facts = bench.run("convert", parts, out, expects=upload.expect is not None, pickles=pickles)
    given = {"reference": upload.reference, "expect": upload.expect}
    beside = {
        name: bench.opened(path) if path else out[name] for name, path in given.items() if path or _size(out[name])
    }
    return _Converted(out["estimator"], beside, facts)


def _proven(upload: Upload, converted: _Converted, bench: _Bench) -> Inspected:
    read = converted.facts
    card = {**read["card"], **upload.metadata}
    out = {"canonical": bench.file(), "proof": bench.file()}
    report = bench.run(
        "prove",
        {"estimator": converted.estimator, **converted.beside},
        out,
        declared=declared_features(card),
        target=upload.target if upload.reference else None,
        example=read["example"] and not upload.reference,
        library=read["library"],
    )
    proof = _proof(out["proof"])
    facts = {
        "file": _facts(upload, read["format"]),
        "canonical_bytes": _size(out["canonical"]),
        "read": {"names": read["names"], "objects": read["objects"], "library": read["library"]},
        "lock": {"landlock": support().landlock, "seccomp": support().seccomp},
    }
    return Inspected(
        canonical=_from_start(out["canonical"]),
        reference=_from_start(converted.beside["reference"]) if "reference" in converted.beside else None,
        golden=json.dumps(proof["golden"]).encode() if proof["golden"] else None,
        # What the log may keep is not left to a child that may have been taken over.
        signature=keeping.declare(from_dict(proof["signature"]), declared_features(card), card.get("subject")),
        card=card,
        trained_with=read["library"] if read["other_minor"] else None,
        report={**report, **facts},
    )


def _listener(on_stage: Callable[[str], None]) -> Callable[[str], None]:
    """Pass on what is a stage: a child that was taken over could say anything."""
    return lambda stage: on_stage(stage) if stage in STAGES else None


def _size(file: IO[bytes]) -> int:
    return file.seek(0, 2)


def _from_start(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file


def _proof(file: IO[bytes]) -> dict[str, Any]:
    file.seek(0)
    proof: dict[str, Any] = json.loads(file.read(MOST_PROOF_BYTES))
    return proof


def _facts(upload: Upload, form: str) -> dict[str, Any]:
    name, size = upload.called(upload.model), upload.model.stat().st_size
    return {"name": name, "bytes": size, "sha256": _digest(upload.model).hex(), "format": form}


def _check_sizes(upload: Upload, max_bytes: int) -> None:
    for path in filter(None, (upload.model, upload.scaler, upload.reference, upload.expect)):
        size = path.stat().st_size
        if size == 0:
            raise Invalid("model_format_unknown", f"{upload.called(path)} is empty.", more={"findings": []})
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
    declared = [{"name": item} if isinstance(item, str) else item for item in listed]
    keeping.check(declared, metadata.get("subject"))
    return declared


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
