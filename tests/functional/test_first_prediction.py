"""The main job, through the real parts: upload, activate, call with a key, find the row in SQL."""

from __future__ import annotations

import json
from pathlib import Path

import skops.io

from tests.functional.server import Server
from webapp.cli import demo


def test_an_uploaded_model_answers_a_keyed_request_and_the_prediction_is_in_sql(server: Server, tmp_path: Path) -> None:
    people, paid = demo.rows()
    estimator = demo.train(people[:500], paid[:500])
    skops.io.dump(estimator, tmp_path / "model.skops")
    uploaded = server.cli("models", "upload", tmp_path / "model.skops", "--name", "first")
    assert (uploaded["model"], uploaded["version"], uploaded["state"]) == ("first", 1, "inactive")
    activated = server.cli("models", "activate", "first", 1, "--reason", "the first one")
    assert activated["workers"] == {"total": 2, "switched": 2, "failures": []}
    key = server.key()

    response = server.post("/models/first/predict", {"age": 35, "income": 52000, "credit_score": 690}, key)

    assert response.status_code == 200
    answer = response.json()
    instance = {"age": [35.0], "income": [52000.0], "credit_score": [690.0]}
    expected = estimator.predict_proba(type(people)(instance))[0]
    assert answer["probabilities"] == {"0": expected[0], "1": expected[1]}
    assert answer["prediction"] == expected.argmax()
    assert answer["probability"] == max(expected)
    assert (answer["model"], answer["model_version"]) == ("first", "1")
    row = server.logged(answer["prediction_id"])
    assert json.loads(row[9]) == {"age": 35.0, "income": 52000.0, "credit_score": 690.0}
    assert json.loads(row[12]) == answer["probabilities"]
