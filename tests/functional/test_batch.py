"""The guide's batch contract over leased rows in SQL: accepted at once, computed off the path, fetched when done."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import eventually
from tests.functional.browser import worker_held
from tests.functional.server import Server
from webapp import faults

GOOD = {"age": 35, "income": 52000, "credit_score": 690}
ROWS = 1200
# Where the web worker that takes a batch in is killed, and the worker that computes it.
BATCH_POINTS = ("batch.stored", "batch.computed")


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


def table(rows: int) -> bytes:
    """Write a table with ids of its own, in which some rows are not acceptable."""
    lines = [f"row {number},{17 + number % 60},{number},690\n" for number in range(rows)]
    return ("id,age,income,credit_score\n" + "".join(lines)).encode()


def lines(content: bytes) -> bytes:
    """Give a table as JSON lines."""
    rows = csv.DictReader(io.StringIO(content.decode()))
    numbers = ("age", "income", "credit_score")
    return b"".join(json.dumps(row | {name: int(row[name]) for name in numbers}).encode() + b"\n" for row in rows)


def bring(server: Server, key: str, content: bytes, mimetype: str, **headers: str) -> requests.Response:
    given = {"X-API-Key": key, "Content-Type": mimetype, **headers}
    return requests.post(f"{server.url}/predict/batch", data=content, headers=given, timeout=120)


def results_of(server: Server, key: str, accepted: requests.Response, form: str = "jsonl") -> bytes:
    """Wait for a job; give its results, in which each of its predictions is called after it."""
    assert accepted.status_code == 202, accepted.text
    job_id = accepted.json()["job_id"]
    done = finished(server, key, accepted.json()["status_url"])
    assert done["status"] == "completed"
    found = server.get(f"{done['results_url']}?format={form}", key)
    assert found.status_code == 200
    return found.content.replace(job_id.encode(), b"JOB")


def test_more_rows_than_one_request_may_have_come_as_a_table_as_lines_or_as_a_file(server: Server, key: str) -> None:
    content = table(12_000)
    accepted = bring(server, key, content, "text/csv")
    assert accepted.json()["total_instances"] == 12_000
    expected = results_of(server, key, accepted)
    done = server.get(accepted.json()["status_url"], key).json()
    assert (done["results"], done["done"], done["failed"]) == (None, 12_000, 200)
    assert results_of(server, key, bring(server, key, lines(content), "application/jsonl")) == expected
    for name, file in (("rows.csv", content), ("rows.jsonl", lines(content))):
        url, headers = f"{server.url}/models/credit-risk/predict/batch", {"X-API-Key": key}
        accepted = requests.post(url, files={"file": (name, file)}, headers=headers, timeout=120)
        assert results_of(server, key, accepted) == expected

    rows = [json.loads(line) for line in expected.splitlines()]
    assert [row["id"] for row in rows] == [f"row {number}" for number in range(12_000)]
    assert rows[60]["error"]["errors"][0]["pointer"] == "/instances/60/age"
    alone = server.post("/predict", {"age": 18, "income": 11_041, "credit_score": 690}, key).json()
    assert rows[11_041]["probabilities"] == alone["probabilities"]


def test_results_are_given_as_a_table_as_well(server: Server, key: str) -> None:
    accepted = bring(server, key, table(100), "text/csv")
    rows = list(csv.DictReader(io.StringIO(results_of(server, key, accepted, "csv").decode())))
    assert [row["id"] for row in rows] == [f"row {number}" for number in range(100)]
    assert rows[0]["error"] == "/instances/0/age: Must be from 18 to 100."
    assert (rows[1]["error"], rows[1]["prediction_id"], rows[1]["prediction"] in "01") == ("", "JOB-1", True)
    assert float(rows[1]["probabilities_0"]) + float(rows[1]["probabilities_1"]) == pytest.approx(1)


def test_results_are_there_when_the_job_is_completed_and_not_before(server: Server, key: str) -> None:
    with worker_held(server):
        body = server.post("/predict/batch", {"instances": [GOOD] * 9000}, key).json()
        server.delete(body["status_url"], key)
    early = server.get(f"{body['status_url']}/results", key)
    assert (early.status_code, early.json()["code"]) == (409, "job_not_completed")
    assert "cancelled" in early.json()["detail"]
    unknown = server.get(f"{body['status_url']}/results?format=xlsx", key)
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_format")
    assert server.get(f"{body['status_url']}/results", server.key()).json()["code"] == "unknown_job"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"age,income\n1,2\n", 422, "columns_not_the_models"),
        (b"age,income,credit_score\n", 422, "no_instances"),
        (b"age,income,credit_score\n" + b"30,4,600\n" * 30_000 + b'30,"4\n', 400, "csv_malformed"),
        (b"age,income,credit_score\n" + b"30,4,600\n" * 30_000 + b"30,\xff,600\n", 400, "batch_not_utf8"),
        (b"", 400, "csv_empty"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_table_of_the_models_leaves_no_job(
    server: Server, key: str, content: bytes, status: int, code: str
) -> None:
    before = server.rows("SELECT count(*) FROM jobs")
    answer = bring(server, key, content, "text/csv")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert server.rows("SELECT count(*) FROM jobs") == before


def test_the_same_request_is_one_job_however_often_it_comes(new_server: Callable[..., Server]) -> None:
    server = new_server(rate_limit="100000/minute")
    server.demo()
    server.start()
    key, content = server.key(), table(6000)
    headers = {"Idempotency-Key": "nightly 2026-03-03"}
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: bring(server, key, content, "text/csv", **headers), range(100)))
    assert {answer.status_code for answer in answers} == {202}
    first = answers[0].json()
    assert all(answer.json() == first for answer in answers)
    assert server.rows("SELECT count(*) FROM jobs") == [(1,)]
    finished(server, key, first["status_url"])
    server.stop()
    server.start()
    assert bring(server, key, content, "text/csv", **headers).json() == first
    other = bring(server, key, content + b"x,30,4,600\n", "text/csv", **headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    unusable = bring(server, key, content, "text/csv", **{"Idempotency-Key": "x" * 256})
    assert (unusable.status_code, unusable.json()["code"]) == (400, "idempotency_key_unusable")
    # Of the others nothing is left: rows are removed when they are computed, and each chunk has one file of results.
    assert len(list((server.data_dir / "artifacts" / "batches").rglob("*-*"))) == 2


def test_a_table_may_be_larger_than_other_bodies_and_has_its_own_limit(new_server: Callable[..., Server]) -> None:
    server = new_server(max_body_bytes=2000, max_upload_bytes=6 * 1024 * 1024)
    server.demo()
    server.start()
    key = server.key()
    accepted = bring(server, key, table(1000), "text/csv")
    assert results_of(server, key, accepted).count(b"\n") == 1000
    before = server.rows("SELECT count(*) FROM jobs")
    large = table(400_000)
    assert len(large) > 6 * 1024 * 1024
    sent = bring(server, key, large, "text/csv")
    chunked = requests.post(
        f"{server.url}/predict/batch",
        data=(large[first : first + 100_000] for first in range(0, len(large), 100_000)),
        headers={"X-API-Key": key, "Content-Type": "text/csv"},
        timeout=60,
    )
    for answer in (sent, chunked):
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert server.rows("SELECT count(*) FROM jobs") == before


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


def test_a_process_that_is_killed_in_the_middle_leaves_no_job_or_a_job_that_is_done_once(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = new_server(rate_limit="100000/minute")
    server.environment[faults.VARIABLE] = ",".join(f"{point}:exit@{tmp_path / point}" for point in BATCH_POINTS)
    server.demo()
    server.start()
    key, content = server.key(), table(6000)
    (tmp_path / "batch.stored").touch()
    with pytest.raises(requests.ConnectionError):
        bring(server, key, content, "text/csv")
    assert server.rows("SELECT id FROM jobs") == []
    (tmp_path / "batch.computed").touch()
    results = results_of(server, key, bring(server, key, content, "text/csv"))
    assert not (tmp_path / "batch.computed").exists()
    assert results.count(b"\n") == 6000
    good = 6000 - results.count(b'"error"')
    count = "SELECT count(*), count(DISTINCT id) FROM predictions WHERE source = 'batch'"
    eventually(lambda: server.rows(count) == [(good, good)])


def test_a_cancelled_batch_ends(server: Server, key: str) -> None:
    with worker_held(server):
        body = server.post("/predict/batch", {"instances": [GOOD] * 9000}, key).json()
        cancelled = server.delete(body["status_url"], key)
    assert cancelled.json()["status"] == "cancelled"
    assert finished(server, key, body["status_url"])["status"] == "cancelled"
