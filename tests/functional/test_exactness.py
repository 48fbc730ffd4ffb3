"""Real data through upload, activation and HTTP: every number is the one the estimator itself gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import requests
import skops.io
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from tests.functional.cases import CASES, Case
from tests.functional.server import Server


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """A key that may predict with every model."""
    return server.key()


def expected(estimator: Any, rows: Any) -> list[dict[str, Any]]:
    """Ask the estimator once for the same rows, on one native thread as served; in the form of answers."""
    with threadpool_limits(1):
        return _expected(estimator, rows)


def _expected(estimator: Any, rows: Any) -> list[dict[str, Any]]:
    predicted = np.asarray(estimator.predict(rows))
    if predicted.ndim == 2:
        return _expected_by_output(estimator, rows, predicted)
    answers: list[dict[str, Any]] = [{"prediction": value} for value in predicted.tolist()]
    if hasattr(estimator, "predict_proba"):
        for answer, row in zip(answers, estimator.predict_proba(rows).tolist(), strict=True):
            answer["probabilities"] = dict(zip(map(str, estimator.classes_.tolist()), row, strict=True))
            answer["probability"] = answer["probabilities"][str(answer["prediction"])]
    return answers


def _expected_by_output(estimator: Any, rows: Any, predicted: Any) -> list[dict[str, Any]]:
    names = [f"y{position}" for position in range(predicted.shape[1])]
    answers: list[dict[str, Any]] = [{"prediction": dict(zip(names, row, strict=True))} for row in predicted.tolist()]
    if hasattr(estimator, "predict_proba"):
        tables = [table.tolist() for table in estimator.predict_proba(rows)]
        for position, answer in enumerate(answers):
            answer["probabilities"] = {
                name: dict(zip(map(str, classes.tolist()), table[position], strict=True))
                for name, classes, table in zip(names, estimator.classes_, tables, strict=True)
            }
            answer["probability"] = {
                name: answer["probabilities"][name][str(answer["prediction"][name])] for name in names
            }
    return answers


def given(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep what the estimator said of the answers."""
    said = ("prediction", "probability", "probabilities")
    return [{name: answer[name] for name in said if name in answer} for answer in answers]


def upload(server: Server, folder: Path, name: str, case: Case) -> None:
    """Save the estimator and its reference as people do, upload them, activate."""
    model, reference = folder / "model.joblib", folder / "reference.csv"
    joblib.dump(case.estimator, model)
    case.reference().to_csv(reference, index=False)
    server.cli("models", "upload", model, "--name", name, "--reference", reference, "--activate")


def answered(response: requests.Response) -> Any:
    """Give the body of a success."""
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("name", CASES)
def test_every_answer_is_the_estimators_own(server: Server, key: str, tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    upload(server, tmp_path, name, case)
    instances = case.instances()
    case.estimator.set_params(**{each: None for each in case.estimator.get_params() if each.endswith("n_jobs")})

    many = answered(server.post(f"/models/{name}/predict", {"instances": instances}, key))["predictions"]
    assert given(many) == expected(case.estimator, case.rows(*range(len(instances))))

    for position in range(0, len(instances), max(1, len(instances) // 25)):
        single = answered(server.post(f"/models/{name}/predict", instances[position], key))
        assert given([single]) == expected(case.estimator, case.rows(position))


def test_the_guides_pair_and_folder_are_served_unchanged(server: Server, key: str, tmp_path: Path) -> None:
    inputs, targets = load_iris(return_X_y=True)
    scaler = StandardScaler()
    model = RandomForestClassifier(n_estimators=100, random_state=42).fit(scaler.fit_transform(inputs), targets)
    folder = tmp_path / "models" / "20240101_120000"
    folder.mkdir(parents=True)
    joblib.dump(model, folder / "model.pkl")
    joblib.dump(scaler, folder / "scaler.pkl")
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    metadata = {"accuracy": 0.94, "features": names, "training_samples": 150, "version": "20240101_120000"}
    (folder / "metadata.json").write_text(json.dumps(metadata))

    server.cli("models", "import-folder", tmp_path / "models", "--name", "iris")
    server.cli("models", "activate", "iris", 1)

    for row in inputs[::10]:
        answer = answered(server.post("/models/iris/predict", dict(zip(names, row, strict=True)), key))
        scaled = scaler.transform(row.reshape(1, -1))
        assert answer["prediction"] == int(model.predict(scaled)[0])
        assert answer["probability"] == float(model.predict_proba(scaled)[0].max())
        assert answer["model_version"] == "20240101_120000"


def test_a_skops_file_is_served_too(server: Server, key: str, tmp_path: Path) -> None:
    case = CASES["wine"]()
    skops.io.dump(case.estimator, tmp_path / "wine.skops")
    server.cli("models", "upload", tmp_path / "wine.skops", "--name", "wine-skops", "--activate")
    instances = case.instances()
    many = answered(server.post("/models/wine-skops/predict", {"instances": instances}, key))["predictions"]
    case.estimator.set_params(n_jobs=None)
    assert given(many) == expected(case.estimator, case.asked)


def test_a_version_is_asked_by_its_number_while_another_is_active(server: Server, key: str, tmp_path: Path) -> None:
    inputs, targets = load_iris(return_X_y=True)
    for trees in (1, 2):
        estimator = RandomForestClassifier(n_estimators=trees, random_state=trees).fit(inputs, targets)
        joblib.dump(estimator, tmp_path / f"{trees}.joblib")
        server.cli("models", "upload", tmp_path / f"{trees}.joblib", "--name", "two-versions", "--activate")
    instance = {f"x{position}": 6.0 for position in range(4)}
    assert answered(server.post("/models/two-versions/predict", instance, key))["model_version"] == "2"
    by_number = answered(server.post("/models/two-versions/versions/1/predict", instance, key))
    assert by_number["model_version"] == "1"
