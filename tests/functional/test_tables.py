"""Tables over HTTP: CSV in gives what JSON gives, CSV out says the same, and what is wrong is named by its place."""

from __future__ import annotations

import csv
import http.client
import io
import json
import socket
from typing import Any

import pytest
import requests

from tests.conftest import eventually
from tests.functional.server import Server

HEADER = "age,income,credit_score"
ROWS = [(18 + number % 80, 1000.5 * number, 300 + number % 550) for number in range(500)]


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """A key that may predict and run batches."""
    return server.key()


def table(rows: list[tuple[float, ...]], header: str = HEADER) -> str:
    """Write a table."""
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def send(server: Server, key: str, content: str | bytes, path: str = "/predict", **headers: str) -> requests.Response:
    """Send a table."""
    data = content.encode() if isinstance(content, str) else content
    more = {"X-API-Key": key, "Content-Type": "text/csv", **headers}
    return requests.post(server.url + path, data=data, headers=more, timeout=60)


def without_ids(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the predictions of an answer without what differs from request to request."""
    return [{name: value for name, value in row.items() if name != "prediction_id"} for row in answer["predictions"]]


def test_a_table_is_answered_as_the_same_instances_in_json(server: Server, key: str) -> None:
    names = HEADER.split(",")
    as_json = server.post("/predict", {"instances": [dict(zip(names, row, strict=True)) for row in ROWS]}, key).json()
    as_csv = send(server, key, table(ROWS))
    assert as_csv.status_code == 200
    assert without_ids(as_csv.json()) == without_ids(as_json)


def test_columns_may_come_in_any_order_and_with_ids_of_the_callers_own(server: Server, key: str) -> None:
    turned = table([(score, f"row {at}", age, income) for at, (age, income, score) in enumerate(ROWS)],
                   "credit_score,id,age,income")  # fmt: skip
    answer = send(server, key, turned).json()
    straight = send(server, key, table(ROWS)).json()
    assert [row.pop("id") for row in answer["predictions"]] == [f"row {at}" for at in range(len(ROWS))]
    assert without_ids(answer) == without_ids(straight)


def test_an_empty_cell_is_null(server: Server, key: str) -> None:
    answer = send(server, key, f"{HEADER}\n35,,700\n")
    as_json = server.post("/predict", {"instances": [{"age": 35, "income": None, "credit_score": 700}]}, key)
    assert (answer.status_code, without_ids(answer.json())) == (as_json.status_code, without_ids(as_json.json()))


def test_every_row_of_a_table_is_logged_with_its_own_id(server: Server, key: str) -> None:
    answer = send(server, key, table([(*row, f"mine-{at}") for at, row in enumerate(ROWS)], HEADER + ",id"))
    request_id = answer.headers["X-Request-ID"]
    count = "SELECT count(*), count(DISTINCT client_id) FROM predictions WHERE request_id = ?"
    eventually(lambda: server.rows(count, request_id) == [(len(ROWS), len(ROWS))])
    (logged,) = server.rows("SELECT instance FROM predictions WHERE id = ?", f"{request_id}-7")
    assert json.loads(logged[0]) == dict(zip(HEADER.split(","), ROWS[7], strict=True))


def test_a_table_can_be_answered_as_a_table(server: Server, key: str) -> None:
    many = [ROWS[at % len(ROWS)] for at in range(2500)]
    answer = send(server, key, table(many), Accept="text/csv")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    # It came piece by piece: its length was not known when it began.
    assert "Content-Length" not in answer.headers
    read = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    expected = send(server, key, table(many)).json()["predictions"]
    assert len(read) == len(expected) == len(many)
    for row, one in zip(read, expected, strict=True):
        assert row["prediction"] == str(one["prediction"])
        assert float(row["probability"]) == one["probability"]
        assert float(row["probabilities_1"]) == one["probabilities"]["1"]
    assert len({row["prediction_id"] for row in read}) == len(many)


def test_a_batch_takes_a_table(server: Server, key: str) -> None:
    accepted = send(server, key, table(ROWS), "/predict/batch")
    assert (accepted.status_code, accepted.json()["total_instances"]) == (202, len(ROWS))

    def done() -> dict[str, Any] | None:
        state: dict[str, Any] = server.get(accepted.json()["status_url"], key).json()
        return state if state["status"] == "completed" else None

    found = eventually(done, within_seconds=120)
    assert found["failed"] == 0
    expected = send(server, key, table(ROWS)).json()["predictions"]
    assert [row["probability"] for row in found["results"]] == [row["probability"] for row in expected]


@pytest.mark.parametrize(
    ("content", "status", "code", "place"),
    [
        ("", 400, "csv_empty", None),
        (HEADER + "\n", 422, "no_instances", ""),
        (HEADER + "\n1,2\n", 400, "csv_malformed", None),
        (HEADER + '\n1,2,"3\n', 400, "csv_malformed", None),
        ("age,age,income\n1,2,3\n", 400, "csv_duplicate_name", None),
        (b"age\n\xff\n", 400, "csv_not_utf8", None),
        (HEADER + "\n35,1\0,700\n", 400, "csv_nul", None),
        (HEADER + "\n35,52000,700\n35,much,700\n", 422, "invalid_instances", "/instances/1/income"),
        (HEADER + "\n35,1_000,700\n", 422, "invalid_instances", "/instances/0/income"),
        (HEADER + "\n35,٥٢,700\n", 422, "invalid_instances", "/instances/0/income"),
        (HEADER + "\n35,\u00a052000,700\n", 422, "invalid_instances", "/instances/0/income"),
        (HEADER + "\n35,0x10,700\n", 422, "invalid_instances", "/instances/0/income"),
        (HEADER + "\n35,1e400,700\n", 422, "invalid_instances", "/instances/0/income"),
        (HEADER + "\n35,infinity,700\n", 422, "invalid_instances", "/instances/0/income"),
        (HEADER + "\n35,nan,700\n", 422, "invalid_instances", "/instances/0/income"),
        (HEADER + "\n7,52000,700\n", 422, "invalid_instances", "/instances/0/age"),
        (HEADER + ",shoe\n35,52000,700,43\n", 422, "invalid_instances", "/instances/0/shoe"),
        ("age,income\n35,52000\n", 422, "invalid_instances", "/instances/0/credit_score"),
        (HEADER + ",id\n35,52000,700," + "x" * 201 + "\n", 422, "ids_unusable", "/ids"),
        ("id\n1\n", 422, "no_instances", ""),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_wrong_with_a_table_is_named(
    server: Server, key: str, content: str | bytes, status: int, code: str, place: str | None
) -> None:
    answer = send(server, key, content)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert [each["pointer"] for each in answer.json().get("errors", [])] == ([] if place is None else [place])


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_half_a_table_is_not_answered(server: Server, key: str, path: str) -> None:
    content = table(ROWS).encode()
    jobs = server.rows("SELECT count(*) FROM jobs")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"X-API-Key": key, "Content-Type": "text/csv", "Content-Length": str(len(content))}
    # It ends with a whole row: only its length says that there was more.
    connection.request("POST", path, content[: content.index(b"\n", 4000) + 1], headers)
    connection.sock.shutdown(socket.SHUT_WR)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert (answer.status, document["code"]) == (400, "body_incomplete")
    assert server.rows("SELECT count(*) FROM jobs") == jobs


@pytest.mark.parametrize("written", [" 52000 ", "+52000", "5.2e4", "52000.", "052000"])
def test_a_number_may_be_written_as_tables_write_it(server: Server, key: str, written: str) -> None:
    answer = send(server, key, f"{HEADER}\n35,{written},700\n")
    assert without_ids(answer.json()) == without_ids(send(server, key, f"{HEADER}\n35,52000,700\n").json())


@pytest.mark.parametrize("form", ["\ufeff{}", "{}\n\n\n"])
def test_a_mark_before_a_table_and_empty_lines_behind_it_are_no_part_of_it(server: Server, key: str, form: str) -> None:
    for content in (table(ROWS[:3]), table(ROWS[:3]).replace("\n", "\r\n")):
        assert len(send(server, key, form.format(content)).json()["predictions"]) == 3


def test_a_table_of_too_many_rows_is_refused(server: Server, key: str) -> None:
    answer = send(server, key, table([ROWS[0]] * 10_001))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_instances")
