"""Files that are no model, or more than one: each is refused in words, nothing is stored, nothing of them runs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.functional.server import Refused, Server


class Runs:
    """Pickles as a call: whoever loads it runs the command."""

    def __init__(self, command: str, function: Any) -> None:
        self.command, self.function = command, function

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.function, (self.command,)


class OfMyOwn(LogisticRegression):
    """An estimator that only this file knows."""


def fitted() -> LogisticRegression:
    """A small honest model."""
    return LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))


def dumped(model: object) -> bytes:
    """Give what joblib writes."""
    stream = io.BytesIO()
    joblib.dump(model, stream)
    return stream.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """Give a zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def hostile(marker: Path) -> dict[str, bytes]:
    """Files that try to leave a mark."""
    import os  # noqa: PLC0415 - the attack, close to its use
    import subprocess  # noqa: PLC0415

    command = f"touch {marker}"
    call = Runs(command, os.system)
    with_tail = fitted()
    with_tail.coef_ = np.array([[1.0, call]], dtype=object)
    plain = pickle.dumps(call)
    return {
        "os.system": plain,
        "os.system, protocol 2": pickle.dumps(call, protocol=2),
        "subprocess": pickle.dumps(Runs(command, subprocess.getoutput)),
        "eval": pickle.dumps(Runs(f"__import__('os').system('{command}')", eval)),
        "behind an honest model": dumped({"model": fitted(), "more": call}),
        "inside an object array": dumped(with_tail),
        "zlib": zlib.compress(plain),
        "gzip": gzip.compress(plain),
        "bz2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "lzma": lzma.compress(plain, format=lzma.FORMAT_ALONE),
    }


@cache
def useless() -> dict[str, tuple[str, bytes]]:
    """Files that are no model that can be served, each with the code of its refusal."""
    model, skops_file = dumped(fitted()), skops.io.dumps(fitted())
    return {
        "empty": ("model_format_unknown", b""),
        "text": ("model_format_unknown", b"age,income\n1,2\n"),
        "png": ("model_format_unknown", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        "joblib of 2015": ("model_format_too_old", b"ZF0x1234" + bytes(30)),
        "cut joblib": ("model_truncated", model[: len(model) // 2]),
        "cut gzip": ("model_truncated", gzip.compress(model)[:200]),
        "cut skops": ("model_damaged", skops_file[: len(skops_file) // 2]),
        "bytes behind zlib": ("model_damaged", zlib.compress(model) + b"more"),
        "zip of something": ("model_damaged", zipped({"a.txt": b"a"})),
        "a dict": ("model_no_predict", pickle.dumps({"a": 1})),
        "a scaler": ("model_no_predict", dumped(StandardScaler().fit([[1.0], [2.0]]))),
        "not fitted": ("model_not_fitted", dumped(LogisticRegression())),
        "class of a package": ("model_unknown_names", dumped(OfMyOwn())),
        "function of my own": ("model_custom_code", b"\x80\x04\x8c\x08__main__\x94\x8c\nclean_text\x94\x93\x94."),
        "unpacks to more than 2 GiB": ("model_unpacks_too_large", _bomb()),
    }


def _bomb() -> bytes:
    compressor = zlib.compressobj(level=1)
    return b"".join([*(compressor.compress(bytes(2**24)) for _ in range(129)), compressor.flush()])


@pytest.fixture
def refused(server: Server, tmp_path: Path) -> Callable[[bytes], Refused]:
    """Upload some bytes as a model; give how they were refused."""

    def upload(content: bytes) -> Refused:
        file = tmp_path / "model.pkl"
        file.write_bytes(content)
        with pytest.raises(Refused) as caught:
            server.cli("models", "upload", file, "--name", "refused")
        return caught.value

    return upload


def test_a_file_that_runs_commands_is_refused_by_name_and_runs_nothing(
    server: Server, refused: Callable[[bytes], Refused], tmp_path: Path
) -> None:
    marker = tmp_path / "it-ran"
    artifacts = sorted((server.data_dir / "artifacts").rglob("*"))
    for name, content in hostile(marker).items():
        error = refused(content)
        assert error.exit_code == 1, name
        assert error.answer["error"]["code"] == "model_unknown_names", name
        (finding,) = error.answer["error"]["findings"]
        assert finding["name"] in {"posix.system", "subprocess.getoutput", "builtins.eval", "__builtin__.eval"}, name
        assert "Runs commands or code" in finding["meaning"], name
        assert "Traceback" not in error.said, name
        assert not marker.exists(), name
    assert sorted((server.data_dir / "artifacts").rglob("*")) == artifacts
    assert server.rows("SELECT * FROM models WHERE name = 'refused'") == []


@pytest.mark.parametrize("name", list(useless()))
def test_a_file_that_is_no_fitted_model_is_refused_in_words(
    server: Server, refused: Callable[[bytes], Refused], name: str
) -> None:
    code, content = useless()[name]
    error = refused(content)
    assert (error.exit_code, error.answer["error"]["code"]) == (1, code)
    assert error.answer["error"]["detail"].endswith(".")
    assert "Traceback" not in error.said
    assert server.rows("SELECT * FROM models WHERE name = 'refused'") == []
