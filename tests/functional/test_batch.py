"""The guide's batch contract over leased rows in SQL: accepted at once, computed off the path, fetched when done."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.conftest import eventually
from tests.functional.server import Server

GOOD = {"age": 35, "income": 52000, "credit_score": 690}
ROWS = 1200


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """A key that may predict and run batches."""
    return server.key()


def finished(server: Server, key: str, status_url: str) -> dict[str, Any]:
    """Give a job's last state."""

    def look() -> dict[str, Any] | None:
        state: dict[str, Any] = server.get(status_url, key).json()
        return state if state["status"] != "processing" else None

    return eventually(look, within_seconds=120)


def test_a_batch_gives_what_single_requests_give_and_each_row_is_logged(server: Server, key: str) -> None:
    instances = [{**GOOD, "age": 18 + number % 60} for number in range(ROWS)]
    ids = [f"row {number}" for number in range(ROWS)]
    accepted = server.post("/predict/batch", {"instances": instances, "ids": ids}, key)
    assert accepted.status_code == 202
    body = accepted.json()
    assert (body["status"], body["total_instances"]) == ("processing", ROWS)

    done = finished(server, key, body["status_url"])

    assert (done["status"], done["total"], done["done"], done["failed"]) == ("completed", ROWS, ROWS, 0)
    assert [result["id"] for result in done["results"]] == ids
    for number in (0, 700, ROWS - 1):
        single = server.post("/predict", instances[number], key).json()
        same = ("prediction", "probability", "probabilities", "model", "model_version")
        assert {name: single[name] for name in same} == {name: done["results"][number][name] for name in same}
    count = "SELECT count(*), count(DISTINCT id) FROM predictions WHERE request_id = ? AND source = 'batch'"
    eventually(lambda: server.rows(count, body["job_id"]) == [(ROWS, ROWS)])
    (logged,) = server.rows("SELECT instance, client_id FROM predictions WHERE id = ?", f"{body['job_id']}-700")
    assert (json.loads(logged[0])["age"], logged[1]) == (instances[700]["age"], "row 700")


def test_rows_that_cannot_be_answered_say_why_and_the_others_are_answered(server: Server, key: str) -> None:
    instances = [GOOD, {**GOOD, "age": 7}, {**GOOD, "income": "much"}, 5, GOOD]
    body = server.post("/predict/batch", {"instances": instances}, key).json()
    done = finished(server, key, body["status_url"])
    assert (done["status"], done["done"], done["failed"]) == ("completed", 5, 3)
    problems = [result.get("error", {}).get("errors") for result in done["results"]]
    assert [found and (found[0]["pointer"], found[0]["code"]) for found in problems] == [
        None,
        ("/instances/1/age", "out_of_bounds"),
        ("/instances/2/income", "not_a_number"),
        ("/instances/3", "not_an_object"),
        None,
    ]
    assert done["results"][0]["prediction"] == done["results"][4]["prediction"]


def test_a_batch_survives_the_death_of_its_worker(server: Server, key: str) -> None:
    instances = [{**GOOD, "income": number} for number in range(6000)]
    body = server.post("/predict/batch", {"instances": instances}, key).json()
    (owner,) = eventually(
        lambda: server.rows("SELECT leased_by FROM chunks WHERE job_id = ? AND leased_by IS NOT NULL", body["job_id"])
    )[0]
    os.kill(int(owner.partition("/")[2]), signal.SIGKILL)
    done = finished(server, key, body["status_url"])
    assert (done["status"], done["done"], done["failed"], len(done["results"])) == ("completed", 6000, 0, 6000)
    count = "SELECT count(*), count(DISTINCT id) FROM predictions WHERE request_id = ?"
    eventually(lambda: server.rows(count, body["job_id"]) == [(6000, 6000)])


def test_a_cancelled_batch_ends(server: Server, key: str) -> None:
    body = server.post("/predict/batch", {"instances": [GOOD] * 9000}, key).json()
    cancelled = server.delete(body["status_url"], key)
    assert cancelled.json()["status"] == "cancelled"
    assert finished(server, key, body["status_url"])["status"] == "cancelled"
