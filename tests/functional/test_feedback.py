"""What turned out to be true, told over HTTP: it is seen with the prediction, and bounded as other requests are."""

from __future__ import annotations

import pytest
import requests

from tests.functional.server import Server

GOOD = {"age": 35, "income": 52000, "credit_score": 690}


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """A key that may predict and tell."""
    return server.key("--scope", "predict", "--scope", "feedback")


def test_what_was_true_is_seen_with_the_prediction(server: Server, key: str) -> None:
    made = server.post("/predict", {"instances": [GOOD, GOOD], "ids": ["order 1", "order 2"]}, key).json()
    first, second = (each["prediction_id"] for each in made["predictions"])
    for each in (first, second):
        server.logged(each)
    outcome = 1 - made["predictions"][0]["prediction"]
    items = [
        {"prediction_id": first, "outcome": outcome},
        {"id": "order 2", "outcome": 1},
        {"id": "none", "outcome": 1},
    ]
    answer = server.post("/feedback", {"items": items}, key)
    assert answer.status_code == 200
    counts = {"accepted": 2, "changed": 0, "unchanged": 0, "unknown": 1, "refused": 0}
    assert {name: answer.json()[name] for name in counts} == counts
    assert [each["status"] for each in answer.json()["items"]] == ["accepted", "accepted", "unknown"]
    shown = server.get(f"/predictions/{first}", key).json()
    assert (shown["outcome"], "observed_at" in shown) == (outcome, True)
    again = server.post("/feedback", items[0], key).json()
    assert (again["unchanged"], again["items"]) == (1, [{"status": "unchanged", "predictions": 1}])


def test_what_was_true_makes_the_quality_that_is_read(server: Server, key: str) -> None:
    reader = server.key("--scope", "models:read")

    def known() -> tuple[int, int]:
        [one] = server.get("/models/credit-risk/quality?window=7d", reader).json()["versions"]
        return one["predictions"], one["with_truth"]

    before = known()
    made = server.post("/predict", {"instances": [GOOD] * 3}, key).json()["predictions"]
    for each in made:
        server.logged(each["prediction_id"])
    server.post("/feedback", {"prediction_id": made[0]["prediction_id"], "outcome": 0}, key)
    assert known() == (before[0] + 3, before[1] + 1)
    refused = server.get("/models/credit-risk/quality", key)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


def test_a_table_of_outcomes_is_taken_as_well(server: Server, key: str) -> None:
    made = server.post("/predict", {"instances": [GOOD, GOOD]}, key).json()
    first, second = (each["prediction_id"] for each in made["predictions"])
    for each in (first, second):
        server.logged(each)
    table = f"prediction_id,outcome,observed_at\n{first},1,2026-03-03T12:00Z\n{second},0,\n,1,\n"
    headers = {"X-API-Key": key, "Content-Type": "text/csv"}
    answer = requests.post(f"{server.url}/feedback", data=table, headers=headers, timeout=60)
    assert [each["status"] for each in answer.json()["items"]] == ["accepted", "accepted", "refused"]
    assert server.get(f"/predictions/{first}", key).json()["observed_at"] == "2026-03-03T12:00:00+00:00"
    for content, status, code in (("outcome\n", 422, "no_items"), ("", 400, "csv_empty")):
        answer = requests.post(f"{server.url}/feedback", data=content, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_who_may_not_tell_is_refused_and_a_body_that_is_none_too(server: Server, key: str) -> None:
    refused = server.post("/feedback", {"items": [{}]}, server.key("--scope", "predict"))
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    for body, status, code in (
        ([], 422, "not_an_object"),
        ({"items": []}, 422, "no_items"),
        ({"items": [{}], "model": "x"}, 422, "not_a_list"),
        ({"items": [{}] * 10_001}, 413, "too_many_items"),
    ):
        answer = server.post("/feedback", body, key)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
