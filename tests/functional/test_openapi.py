"""The running server does what its description says: asked by schemathesis, and compared with real answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

from tests.conftest import eventually
from tests.functional.browser import worker_held
from tests.functional.server import Server
from webapp.keys import SCOPES

# `make conformance` asks for made-up requests, so many of each kind; always asked is what lies at the rules' edges.
EXAMPLES = int(os.environ.get("MODELPORT_CONFORMANCE_EXAMPLES", "0"))
PHASES = "examples,coverage,fuzzing" if EXAMPLES else "examples,coverage"
ROOT = Path(__file__).parents[2]
INSTANCE = {"age": 35, "income": 52_000, "credit_score": 690}
# What a request may say that its schema allows is refused by these all the same; why is said beside each.
CONFIG = """
[generation]
deterministic = true
max-examples = {examples}
with-security-parameters = false
# Refused as what it is, wherever it stands; tests/functional/test_bad_json.py.
allow-x00 = false

[phases.stateful]
enabled = false

# So many instances are too many (413).
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, 500]

[parameters]
"path.job_id" = "{job_id}"
"path.upload_id" = "{upload_id}"
"path.prediction_id" = "{prediction_id}"

# Of any model: which features it has, its own paths say.
[[operations]]
include-path = ["/predict", "/models/{{model}}/predict", "/models/{{model}}/versions/{{version}}/predict"]
checks.positive_data_acceptance.expected-statuses = ["2xx", 403, 404, 409, 422]

# The same Idempotency-Key comes with another body. A row that is not acceptable is refused in its place.
[[operations]]
include-path-regex = "/predict/batch$"
checks.positive_data_acceptance.expected-statuses = ["2xx", 403, 404, 409, 422]
checks.negative_data_rejection.enabled = false

# Whether its files are what they should be, the worker says later.
[[operations]]
include-name = "POST /models/{{model}}/versions"
checks.negative_data_rejection.enabled = false

# An item is refused in its place, and the others are taken.
[[operations]]
include-name = "POST /feedback"
checks.negative_data_rejection.enabled = false

# Which day comes before which.
[[operations]]
include-name = "GET /models/{{model}}/drift"
checks.positive_data_acceptance.expected-statuses = ["2xx", 403, 404, 409, 422]

# Two versions that are one.
[[operations]]
include-name = "GET /models/{{model}}/compare"
checks.positive_data_acceptance.expected-statuses = ["2xx", 403, 404, 409, 422]
"""


@dataclass(frozen=True, slots=True)
class Stock:
    """A server with something behind each path, a key for all of it, and its own description."""

    server: Server
    key: str
    ids: dict[str, str]
    described: dict[str, Any]

    def get(self, path: str) -> requests.Response:
        """Fetch with the key."""
        answer = self.server.get(path, self.key)
        assert answer.ok, answer.text
        return answer


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """The demo, with a prediction whose truth was told, a job with a bad row, and an upload that was refused."""
    server = Server(tmp_path_factory.mktemp("described") / "data", workers=1, rate_limit="1000000/minute")
    server.demo()
    try:
        server.start()
        key = server.key(*(part for scope in SCOPES for part in ("--scope", scope)))
        yield Stock(server, key, _filled(server, key), server.get("/openapi.json", key).json())
    finally:
        server.stop()


def _filled(server: Server, key: str) -> dict[str, str]:
    instances = [INSTANCE, {**INSTANCE, "age": 99}, {**INSTANCE, "credit_score": 301}]
    predictions = server.post("/predict", {"instances": instances, "ids": ["a", "b", "c"]}, key).json()["predictions"]
    job = server.post("/predict/batch", {"instances": [INSTANCE, {"age": 1}]}, key).json()["job_id"]
    sent = requests.post(
        f"{server.url}/models/credit-risk/versions",
        files={"file": ("model.pkl", b"no model")},
        headers={"X-API-Key": key},
        timeout=60,
    )
    upload = sent.json()["id"]
    told = [{"prediction_id": each["prediction_id"], "outcome": 1} for each in predictions]
    eventually(lambda: server.post("/feedback", {"items": told}, key).json()["unknown"] == 0)
    eventually(lambda: server.get(f"/predict/batch/{job}", key).json()["status"] == "completed")
    eventually(lambda: server.get(f"/models/credit-risk/uploads/{upload}", key).json()["status"] == "refused")
    return {"prediction_id": predictions[0]["prediction_id"], "job_id": job, "upload_id": upload}


# --- Real answers -----------------------------------------------------------------------------------------------


def strict(form: Any) -> Any:
    """Have every object refuse what its schema does not name: a real answer holds nothing that is not described."""
    if isinstance(form, list):
        return [strict(each) for each in form]
    if not isinstance(form, dict):
        return form
    made = {name: strict(each) for name, each in form.items()}
    if isinstance(form.get("properties"), dict) and "type" in form:
        made.setdefault("additionalProperties", False)
    return made


def wrong_with(stock: Stock, path: str, method: str, answer: requests.Response) -> list[str]:
    """Say what an answer has that the description of its operation has not, or the other way round."""
    responses = stock.described["paths"][path][method]["responses"]
    kind = answer.headers["Content-Type"].partition(";")[0]
    form = {**strict(responses[str(answer.status_code)]["content"][kind]["schema"])}
    whole = {**form, "components": {"schemas": strict(stock.described["components"]["schemas"])}}
    found = jsonschema.Draft202012Validator(whole).iter_errors(answer.json())
    return [f"{path} {list(error.absolute_path)}: {error.message[:300]}" for error in found]


READ = {
    "/": "/",
    "/health": "/health",
    "/livez": "/livez",
    "/readyz": "/readyz",
    "/alerts": "/alerts?state=open",
    "/models": "/models",
    "/models/{model}": "/models/credit-risk?as_of=2100-01-01",
    "/models/{model}/drift": "/models/credit-risk/drift",
    "/models/{model}/quality": "/models/credit-risk/quality?window=7d",
    "/models/{model}/versions": "/models/credit-risk/versions",
    "/models/{model}/versions/{version}": "/models/credit-risk/versions/1",
    "/models/{model}/uploads/{upload_id}": "/models/credit-risk/uploads/{upload_id}",
    "/predict/batch/{job_id}": "/predict/batch/{job_id}",
    "/predictions/{prediction_id}": "/predictions/{prediction_id}",
}


@pytest.mark.parametrize("path", READ)
def test_a_real_answer_holds_what_is_described_and_nothing_else(stock: Stock, path: str) -> None:
    answer = stock.get(READ[path].format(**stock.ids))
    assert wrong_with(stock, path, "get", answer) == []


def test_the_answers_to_what_changes_something_are_described(stock: Stock) -> None:
    server, key = stock.server, stock.key
    first = stock.get("/models/credit-risk/versions/1").json()
    edited = Path(server.data_dir / "second.skops")
    edited.write_bytes(stock.get("/models/credit-risk/versions/1/artifact").content)
    card = json.dumps(first["card"] | {"accuracy": 0.5})
    (edited.parent / "card.json").write_text(card)
    made = server.cli("models", "upload", edited, "--name", "second", "--metadata", edited.parent / "card.json")
    assert made["version"] == 1
    activated = server.post("/models/second/activate", {"version": 1}, key)
    assert wrong_with(stock, "/models/{model}/activate", "post", activated) == []
    told = server.post("/feedback", {"items": [{"id": "a", "outcome": 0}, {"id": "b"}]}, key)
    assert wrong_with(stock, "/feedback", "post", told) == []


def test_the_example_of_a_model_really_predicts(stock: Stock) -> None:
    path = "/models/credit-risk/predict"
    content = stock.described["paths"][path]["post"]["requestBody"]["content"]
    for example in content["application/json"]["examples"].values():
        answer = stock.server.post(path, example["value"], stock.key)
        assert answer.status_code == 200, answer.text
        assert wrong_with(stock, path, "post", answer) == []
    headers = {"X-API-Key": stock.key, "Content-Type": "text/csv"}
    table = content["text/csv"]["examples"]["one"]["value"]
    assert requests.post(stock.server.url + path, table, headers=headers, timeout=60).status_code == 200


# --- Anything that the description allows, and what it does not ---------------------------------------------------


def test_whatever_is_asked_the_server_answers_as_described(stock: Stock, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.format(examples=EXAMPLES or 1, **stock.ids))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{stock.server.url}/openapi.json", "--header", f"X-API-Key: {stock.key}", "--no-color"]
    command += ["--phases", PHASES, "--continue-on-failure", "--warnings", "off"]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.functional.conformance_hooks", "PYTHONPATH": str(ROOT)}
    # What was uploaded waits meanwhile: that each is inspected is no part of this.
    with worker_held(stock.server):
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **hooks}, capture_output=True, text=True, check=False
        )
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout + done.stderr
