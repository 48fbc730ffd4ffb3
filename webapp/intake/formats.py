"""Tells what an uploaded file is by its first bytes, never by its name, and unpacks it within limits."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import yaml

from webapp.errors import Invalid
from webapp.intake.reading import refused

GIB = 1024**3
UNPACKED_BYTES = 2 * GIB
CHUNK_BYTES = 1024 * 1024
# A folder of MLflow holds a dozen files, a packed model four.
MOST_MEMBERS = 1000
# What is read of a document that only describes the model.
MOST_TEXT_BYTES = 8 * 1024 * 1024
SKOPS_SCHEMA, MLFLOW, PACKED = "schema.json", "MLmodel", "modelport.json"
# MLflow's types that a signature has words for.
MLFLOW_KINDS = {
    "boolean": "boolean",
    "double": "number",
    "float": "number",
    "integer": "integer",
    "long": "integer",
    "string": "string",
}
TOO_OLD = "Written by a joblib from before 2016; dump it again with a present one."
UNKNOWN = "This is no .skops, .joblib or .pkl file (pickle protocol 2 or newer), and no zip of an MLflow model."


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a file turned out to hold: the model as a pickle or as `.skops`, and what came along with it."""

    # For people: "pickle", "pickle in gzip", "skops", ...
    form: str
    content: bytes | memoryview
    is_pickle: bool
    reference: bytes = b""
    expect: bytes = b""
    card: Mapping[str, Any] = field(default_factory=dict)
    # The reference is an example of a row or a few: it does not show what is usual.
    example: bool = False
    # What the packing says of scikit-learn, where the model itself does not.
    library: str | None = None


def unpack(content: bytes) -> Parcel:
    """Open a file of any accepted format; raise `Invalid` when it is none, or damaged."""
    if content.startswith(b"PK"):
        return _from_zip(content)
    if content.startswith(b"ZF"):
        raise refused("model_format_too_old", TOO_OLD)
    if content[:1] == b"\x80":
        return Parcel("pickle", content, is_pickle=True)
    for magic, (kind, make) in DECOMPRESSORS.items():
        if content.startswith(magic):
            return Parcel(f"pickle in {kind}", _decompressed(content, kind, make()), is_pickle=True)
    raise refused("model_format_unknown", UNKNOWN)


# --- Compression ------------------------------------------------------------------------------------------

# A decompressor for each kind that joblib writes. Not joblib's own: its zlib reader never ends on a file that
# has bytes behind the compressed data.
DECOMPRESSORS: dict[bytes, tuple[str, Callable[[], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(wbits=31)),
    b"BZh": ("bz2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMADecompressor),
    b"\x5d\x00\x00": ("lzma", lzma.LZMADecompressor),
    b"x": ("zlib", lambda: zlib.decompressobj(wbits=15)),
}


def _decompressed(content: bytes, kind: str, decompressor: Any) -> memoryview:  # noqa: ANN401 - three, alike in use
    whole, packed = io.BytesIO(), memoryview(content)
    try:
        while not decompressor.eof:
            waiting = getattr(decompressor, "unconsumed_tail", b"")
            chunk = waiting or (packed[:CHUNK_BYTES] if getattr(decompressor, "needs_input", True) else b"")
            if not waiting:
                packed = packed[len(chunk) :]
            if not chunk and getattr(decompressor, "needs_input", True):
                raise EOFError  # noqa: TRY301 - as a damaged stream
            whole.write(decompressor.decompress(chunk, CHUNK_BYTES))
            if whole.tell() > UNPACKED_BYTES:
                raise _too_large()
    except (OSError, EOFError, lzma.LZMAError, zlib.error):
        raise refused("model_truncated", f"The {kind} compression of the file is cut off or damaged.") from None
    if decompressor.unused_data or packed:
        raise refused("model_damaged", "There are bytes behind the end of the compressed model.")
    return whole.getbuffer()


def _too_large() -> Invalid:
    return refused("model_unpacks_too_large", f"The file unpacks to more than {UNPACKED_BYTES // GIB} GiB.")


# --- Archives ---------------------------------------------------------------------------------------------


def _from_zip(content: bytes) -> Parcel:
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        names = archive.namelist()
        if SKOPS_SCHEMA in names:
            return Parcel("skops", content, is_pickle=False)
        _check_members(archive)
        if PACKED in names:
            return _packed(archive)
        # A folder may stand in the archive by its content, or as a folder.
        if descriptions := sorted((name for name in names if name.rpartition("/")[2] == MLFLOW), key=len):
            return _mlflow(archive, descriptions[0])
    except Invalid:
        raise
    except Exception as error:
        detail = f"The file is a damaged zip archive ({type(error).__name__})."
        raise refused("model_damaged", detail) from error
    raise refused("model_format_unknown", f"The zip archive holds no {SKOPS_SCHEMA}, {PACKED} or {MLFLOW}.")


def _check_members(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if len(members) > MOST_MEMBERS or len({member.filename for member in members}) < len(members):
        detail = f"The zip archive has more than {MOST_MEMBERS:,} files, or one twice."
        raise refused("model_damaged", detail)
    if sum(member.file_size for member in members) > UNPACKED_BYTES:
        raise _too_large()


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int = UNPACKED_BYTES) -> bytes:
    """Read a file of an archive; no more of it than was claimed, whatever it unpacks to."""
    try:
        with archive.open(name) as file:
            content = file.read(most_bytes + 1)
    except KeyError:
        raise refused("model_damaged", f"The zip archive describes “{name}”, but does not hold it.") from None
    if len(content) > most_bytes:
        raise _too_large()
    return content


def _inner(content: bytes, form: str, **along: Any) -> Parcel:  # noqa: ANN401 - the parts of a parcel
    """Give the model inside an archive, with what came along."""
    if content.startswith(b"PK") and SKOPS_SCHEMA not in zipfile.ZipFile(io.BytesIO(content)).namelist():
        raise refused("model_format_unknown", "The model in the zip archive is an archive itself.")
    model = unpack(content)
    return Parcel(f"{form}: {model.form}", model.content, model.is_pickle, **along)


def _packed(archive: zipfile.ZipFile) -> Parcel:
    """Open what `modelport pack` wrote."""
    about = json.loads(_member(archive, PACKED, MOST_TEXT_BYTES))
    files = about["files"]
    return _inner(
        _member(archive, files["model"]),
        "packed",
        reference=_member(archive, files["reference"]) if "reference" in files else b"",
        expect=_member(archive, files["expect"]) if "expect" in files else b"",
        card=json.loads(_member(archive, files["metadata"], MOST_TEXT_BYTES)) if "metadata" in files else {},
        library=str(about["versions"]["scikit-learn"]),
    )


def _mlflow(archive: zipfile.ZipFile, description: str) -> Parcel:
    """Open an MLflow model folder: its description, the model, the signature and the example of an input."""
    folder = description.removesuffix(MLFLOW)
    about = yaml.safe_load(_member(archive, description, MOST_TEXT_BYTES))
    flavor = about["flavors"].get("sklearn")
    if flavor is None:
        listed = ", ".join(sorted(map(str, about["flavors"]))[:10])
        detail = f"The MLflow model is not one of scikit-learn; its flavors are: {listed}."
        raise refused("model_format_unknown", detail)
    example = about.get("saved_input_example_info") or {}
    rows = _mlflow_rows(archive, folder, example) if example else b""
    return _inner(
        _member(archive, folder + str(flavor["pickled_model"])),
        "MLflow",
        reference=rows,
        card=_mlflow_card(about.get("signature") or {}),
        example=bool(rows),
        library=str(flavor["sklearn_version"]) if "sklearn_version" in flavor else None,
    )


def _mlflow_card(signature: Mapping[str, Any]) -> dict[str, Any]:
    """Give the features that an MLflow signature names, in the form of our metadata."""
    columns = json.loads(signature.get("inputs") or "[]")
    named = [column for column in columns if isinstance(column, dict) and isinstance(column.get("name"), str)]
    kinds = [(column["name"], MLFLOW_KINDS.get(str(column.get("type")))) for column in named]
    features = [{"name": name, "type": kind} if kind else {"name": name} for name, kind in kinds]
    return {"features": features} if features else {}


def _mlflow_rows(archive: zipfile.ZipFile, folder: str, example: Mapping[str, Any]) -> bytes:
    """Give MLflow's example of an input (a table in pandas' split form) as CSV; nothing where it is no table."""
    document = json.loads(_member(archive, folder + str(example["artifact_path"]), MOST_TEXT_BYTES))
    if not isinstance(document, dict) or not {"columns", "data"} <= document.keys():
        return b""
    frame = pd.DataFrame(document["data"], columns=document["columns"])
    return frame.to_csv(index=False).encode()
