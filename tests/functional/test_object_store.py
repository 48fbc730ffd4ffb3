"""Tests of a server whose files are in an object store: uploads, predictions, and a restart while the store is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest
import requests
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests import object_store
from tests.conftest import eventually
from tests.functional.server import Server
from tests.object_store import BUCKET

INSTANCE = {"x0": 5.1, "x1": 3.5, "x2": 1.4, "x3": 0.2}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[object_store.Server]:
    """S3 of this machine; the processes that are started know their way there."""
    made = object_store.Server()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.end()


@pytest.fixture
def server(store: object_store.Server, tmp_path: Path) -> Iterator[Server]:
    """A server that keeps its files there."""
    made = Server(tmp_path / "data", artifact_store=f"s3://{BUCKET}/production").start()
    yield made
    made.stop()


def predict(server: Server, key: str) -> object:
    """Give the answer's class, which is always the same."""
    answer = server.post("/models/iris/predict", INSTANCE, key)
    assert answer.ok, answer.text
    return answer.json()["prediction"]


def test_models_are_uploaded_served_and_survive_a_restart_without_the_store(
    server: Server, store: object_store.Server, tmp_path: Path
) -> None:
    file = tmp_path / "iris.joblib"
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), file)
    key = server.key(
        "--scope", "predict", "--scope", "models:write", "--scope", "models:activate", "--scope", "models:read"
    )
    with file.open("rb") as opened:
        sent = requests.post(
            f"{server.url}/models/iris/versions", files={"file": opened}, headers={"X-API-Key": key}, timeout=60
        )
    assert sent.status_code == 202, sent.text
    done = eventually(lambda: _ended(server, sent.json()["status_url"], key), within_seconds=120)
    assert done["status"] == "stored", done
    assert server.post("/models/iris/activate", {"version": 1}, key).ok
    before = predict(server, key)
    assert all(name.startswith("production/") for name in store.names())
    assert len(store.names("production/quarantine/")) == 0

    with store.way.hanging():
        assert predict(server, key) == before
    server.stop()
    with store.way.closed():
        server.start()
        assert predict(server, key) == before
        with file.open("rb") as opened:
            refused = requests.post(
                f"{server.url}/models/iris/versions", files={"file": opened}, headers={"X-API-Key": key}, timeout=60
            )
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert object_store.SECRET not in refused.text + server.log.read_text()


def _ended(server: Server, status_url: str, key: str) -> dict[str, object] | None:
    path = status_url.removeprefix(server.url)
    found: dict[str, object] = server.get(path, key).json()
    return found if found["status"] != "processing" else None
