"""Tests of telling what an uploaded file is, and of unpacking it within limits."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping

import pytest

from webapp.errors import Invalid
from webapp.intake import formats

PICKLE = pickle.dumps({"a": list(range(1000))})
MLMODEL = """
artifact_path: model
flavors:
  python_function: {loader_module: mlflow.sklearn, model_path: model.pkl}
  sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle, sklearn_version: 1.9.1}
saved_input_example_info: {artifact_path: input_example.json, pandas_orient: split, type: dataframe}
signature:
  inputs: '[{"type": "long", "name": "age", "required": true}, {"type": "double", "name": "income"},
    {"type": "datetime", "name": "since"}]'
  outputs: '[{"type": "long"}]'
"""
EXAMPLE = {"columns": ["age", "income", "since"], "data": [[42, 1.5, "2026-01-01"], [43, None, "2026-01-02"]]}
PACKED = {
    "format": 1,
    "versions": {"scikit-learn": "1.5.2"},
    "files": {
        "model": "model.joblib",
        "reference": "reference.csv",
        "expect": "expect.csv",
        "metadata": "metadata.json",
    },
}


def zipped(members: Mapping[str, bytes | str]) -> bytes:
    """Give a zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def refusal(content: bytes) -> Invalid:
    """Give how a file is refused."""
    with pytest.raises(Invalid) as caught:
        formats.unpack(content)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "compress"),
    [
        ("zlib", zlib.compress),
        ("gzip", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
        ("lzma", lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE)),
    ],
)
def test_a_pickle_is_found_behind_every_compression(kind: str, compress: Callable[[bytes], bytes]) -> None:
    parcel = formats.unpack(compress(PICKLE))
    assert (parcel.form, bytes(parcel.content), parcel.is_pickle) == (f"pickle in {kind}", PICKLE, True)
    whole = compress(PICKLE)
    assert refusal(whole[: len(whole) // 2]).code == "model_truncated"
    assert refusal(whole + b"more").code == "model_damaged"


def test_what_is_no_model_is_told_by_its_bytes() -> None:
    assert refusal(b"age,income\n").code == "model_format_unknown"
    assert refusal(b"").code == "model_format_unknown"
    assert refusal(b"ZF0x12").code == "model_format_too_old"
    assert refusal(zipped({"notes.txt": b"a"})).code == "model_format_unknown"
    assert refusal(b"PK\x03\x04 and no more").code == "model_damaged"


def test_what_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "UNPACKED_BYTES", 2**20)
    zeros = bytes(2**21)
    assert refusal(zlib.compress(zeros)).code == "model_unpacks_too_large"
    assert refusal(zipped({"MLmodel": MLMODEL, "model.pkl": zeros})).code == "model_unpacks_too_large"


def test_an_archive_of_too_many_files_is_refused() -> None:
    assert refusal(zipped({f"{number}": b"" for number in range(1001)})).code == "model_damaged"


@pytest.mark.parametrize("folder", ["", "model/", "artifacts/model/"])
def test_an_mlflow_folder_brings_model_signature_and_example(folder: str) -> None:
    members = {"MLmodel": MLMODEL, "model.pkl": PICKLE, "input_example.json": json.dumps(EXAMPLE)}
    parcel = formats.unpack(zipped({folder + name: content for name, content in members.items()}))
    assert (parcel.form, bytes(parcel.content), parcel.library) == ("MLflow: pickle", PICKLE, "1.9.1")
    assert parcel.card == {
        "features": [
            {"name": "age", "type": "integer"},
            {"name": "income", "type": "number"},
            {"name": "since"},
        ]
    }
    assert parcel.example
    assert parcel.reference == b"age,income,since\n42,1.5,2026-01-01\n43,,2026-01-02\n"


def test_an_mlflow_folder_needs_neither_signature_nor_example() -> None:
    plain = "flavors:\n  sklearn: {pickled_model: model.pkl}\n"
    parcel = formats.unpack(zipped({"MLmodel": plain, "model.pkl": PICKLE}))
    assert (parcel.card, parcel.reference, parcel.example, parcel.library) == ({}, b"", False, None)


@pytest.mark.parametrize(
    ("members", "code", "said"),
    [
        ({"MLmodel": "flavors: {pytorch: {}}"}, "model_format_unknown", "flavors are: pytorch"),
        ({"MLmodel": MLMODEL}, "model_damaged", "input_example.json"),
        ({"MLmodel": MLMODEL, "input_example.json": "{}"}, "model_damaged", "model.pkl"),
        ({"MLmodel": "flavors: ["}, "model_damaged", "damaged"),
        ({"MLmodel": "!!python/object/apply:os.system [id]"}, "model_damaged", "ConstructorError"),
        (
            {"MLmodel": "flavors:\n  sklearn: {pickled_model: m}", "m": zipped({"MLmodel": ""})},
            "model_format_unknown",
            "archive itself",
        ),
    ],
)
def test_a_damaged_mlflow_folder_is_refused(members: dict[str, bytes | str], code: str, said: str) -> None:
    refused = refusal(zipped(members))
    assert refused.code == code
    assert said in refused.detail


def test_a_packed_model_brings_reference_expected_outputs_and_metadata() -> None:
    members = {
        "modelport.json": json.dumps(PACKED),
        "model.joblib": zlib.compress(PICKLE),
        "reference.csv": "a\n1\n",
        "expect.csv": "a,expected\n1,2\n",
        "metadata.json": '{"accuracy": 0.9}',
    }
    parcel = formats.unpack(zipped(members))
    assert (parcel.form, bytes(parcel.content)) == ("packed: pickle in zlib", PICKLE)
    assert (parcel.reference, parcel.expect) == (b"a\n1\n", b"a,expected\n1,2\n")
    assert (parcel.card, parcel.library, parcel.example) == ({"accuracy": 0.9}, "1.5.2", False)
    del members["expect.csv"]
    assert refusal(zipped(members)).code == "model_damaged"
