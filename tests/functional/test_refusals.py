"""Files that are no model, or more than one: each is refused in words, nothing is stored, nothing of them runs.

The slow way, by the command that people type: a few files of each kind. What the reader refuses is proven beside it.
"""

from __future__ import annotations

import gzip
import io
import secrets
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests import attacks
from tests.functional.server import Refused, Server

OLD_FILE = Path(__file__).parents[1] / "files" / "versions" / "1.5.2" / "logistic_regression.joblib"


class OfMyOwn(LogisticRegression):
    """An estimator that only this file knows."""


def fitted() -> LogisticRegression:
    """A small honest model."""
    return LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))


def opening_files() -> Any:
    """A model that takes each text of a request for the name of a file."""
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(["one two", "three"], [0, 1])
    model[0].input = "filename"
    return model


def zipped(members: dict[str, bytes]) -> bytes:
    """Give a zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def hostile(marker: Path) -> dict[str, tuple[bytes, list[str]]]:
    """Files that try to leave a mark, each with the names to be found in it."""
    command = f"touch {marker}"
    evaluated = f"__import__('os').system('{command}')"
    several = attacks.reduced("subprocess.getoutput", command) + attacks.reduced("builtins.eval", evaluated) + b"\x86"
    return {
        "two calls": (attacks.pickled(several), ["subprocess.getoutput", "builtins.eval"]),
        "in an array, zlib": (zlib.compress(attacks.in_an_array(attacks.Calls(eval, evaluated))), ["builtins.eval"]),
        "protocol 2": (attacks.pickled(attacks.reduced("posix.system", command), protocol=2), ["posix.system"]),
    }


@cache
def useless() -> dict[str, tuple[bytes, str, list[str]]]:
    """Files that are no model that can be served, each with the code of its refusal and the names of its findings."""
    model, skops_file = attacks.dumped(fitted()), skops.io.dumps(fitted())
    own_function = attacks.pickled(attacks.stacked("__main__", "clean_text"))
    own_class = f"{OfMyOwn.__module__}.{OfMyOwn.__qualname__}"
    return {
        "empty": (b"", "model_format_unknown", []),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "model_format_unknown", []),
        "joblib of 2015": (b"ZF0x1234" + bytes(30), "model_format_too_old", []),
        "cut gzip": (gzip.compress(model)[:200], "model_truncated", []),
        "bytes behind zlib": (zlib.compress(model) + b"more", "model_damaged", []),
        "cut skops": (skops_file[: len(skops_file) // 2], "model_damaged", []),
        "zip of something": (zipped({"a.txt": b"a"}), "model_format_unknown", []),
        "a scaler": (attacks.dumped(StandardScaler().fit([[1.0], [2.0]])), "model_no_predict", []),
        "not fitted": (attacks.dumped(LogisticRegression()), "model_not_fitted", []),
        "class of a package": (attacks.dumped(OfMyOwn()), "model_unknown_names", [own_class]),
        "function of my own": (own_function, "model_custom_code", ["__main__.clean_text"]),
        "files as inputs": (attacks.dumped(opening_files()), "model_option_refused", ["steps[0][1].input"]),
        "scikit-learn of long ago": (OLD_FILE.read_bytes(), "model_version_mismatch", []),
    }


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


def test_a_file_that_runs_commands_is_refused_by_name_and_place_and_runs_nothing(
    server: Server, refused: Callable[[bytes], Refused], tmp_path: Path
) -> None:
    marker = tmp_path / "it-ran"
    artifacts = sorted((server.data_dir / "artifacts").rglob("*"))
    for name, (content, found) in hostile(marker).items():
        error = refused(content)
        assert error.exit_code == 1, name
        told = error.answer["error"]
        assert told["code"] == "model_unknown_names", name
        assert [finding["name"] for finding in told["findings"]] == found, name
        assert {finding["meaning"][:25] for finding in told["findings"]} == {"Can run commands or code,"}, name
        # The opcode that looks the name up.
        unpacked = zlib.decompress(content) if content[:1] == b"x" else content
        assert all(unpacked[finding["offset"] :][:1] in b"ci\x93" for finding in told["findings"]), name
        assert told["detail"].endswith("Nothing in the file was run."), name
        assert all(each in error.said for each in found), name
        assert "Traceback" not in error.said, name
        assert not marker.exists(), name
    assert sorted((server.data_dir / "artifacts").rglob("*")) == artifacts
    assert server.rows("SELECT * FROM models WHERE name = 'refused'") == []


@pytest.mark.parametrize("name", list(useless()))
def test_a_file_that_is_no_fitted_model_is_refused_in_words(
    server: Server, refused: Callable[[bytes], Refused], name: str
) -> None:
    content, code, found = useless()[name]
    error = refused(content)
    assert (error.exit_code, error.answer["error"]["code"]) == (1, code)
    findings = error.answer["error"].get("findings", [])
    assert [finding["name"] for finding in findings] == found
    assert all(finding["meaning"].endswith(".") for finding in findings)
    assert error.answer["error"]["detail"].endswith(".")
    assert "Traceback" not in error.said
    assert server.rows("SELECT * FROM models WHERE name = 'refused'") == []


def test_the_same_file_is_refused_the_second_time_and_named_as_what_it_became(server: Server, tmp_path: Path) -> None:
    file, name = tmp_path / "iris.joblib", f"twice-{secrets.token_hex(4)}"
    joblib.dump(fitted(), file)
    assert server.cli("models", "upload", file, "--name", name)["version"] == 1
    with pytest.raises(Refused) as caught:
        server.cli("models", "upload", file, "--name", name)
    told = caught.value.answer["error"]
    assert (caught.value.exit_code, told["code"]) == (1, "model_duplicate")
    assert "version 1" in told["detail"]
