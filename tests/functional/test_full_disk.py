"""A server whose disk fills up: predictions go on, changes are refused in words, and all goes on when there is room."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pytest
import requests

from tests import databases
from tests.conftest import eventually
from tests.functional.server import Refused, Server
from tests.functional.switching import MODEL, REGISTRY, Stock, metric, small
from tests.small_disk import SmallDisk, mounted
from webapp import faults

PREDICT = f"/models/{MODEL}/predict"
FULL = "The disk of the database is full, so nothing was changed; try again when there is room on it."
GOOD = {"age": 35, "income": 52000, "credit_score": 690}
pytestmark = pytest.mark.sqlite("the disk of the data directory is the database's")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    made = mounted(tmp_path / "disk")
    yield made
    made.close()


@pytest.fixture
def fire(disk: SmallDisk, tmp_path: Path) -> Iterator[Server]:
    """A server on that disk, not yet started, with two versions, the first of them active."""
    server = Server(disk.folder / "data", workers=1, rate_limit="10000000/minute")
    server.log = tmp_path / "server.log"
    stock = Stock(server.data_dir)
    stock.add()
    stock.add()
    stock.activate(1)
    stock.close()
    yield server
    server.stop()


def check_problem(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    """It is a problem document of that kind; give it."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
    document: dict[str, Any] = answer.json()
    assert document["code"] == code
    return document


def key_for_all(server: Server) -> str:
    return server.key(*(part for scope in (*REGISTRY, "models:write") for part in ("--scope", scope)))


def ids_of(answers: list[requests.Response]) -> list[str]:
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers][:1]
    return [answer.json()["prediction_id"] for answer in answers]


def model_file() -> bytes:
    file = io.BytesIO()
    joblib.dump(small(3), file)
    return file.getvalue()


def upload(server: Server, key: str) -> requests.Response:
    headers, url = {"X-API-Key": key}, f"{server.url}/models/{MODEL}/versions"
    return requests.post(url, files={"file": ("m.joblib", model_file())}, headers=headers, timeout=60)


def everything_made(server: Server) -> dict[str, Any]:
    tables = ("api_keys", "activations", "versions", "uploads", "audit_records")
    return {table: server.rows(f"SELECT count(*) FROM {table}") for table in tables}


def test_predictions_go_on_and_each_change_is_refused_in_words(disk: SmallDisk, fire: Server) -> None:
    server = fire.start()
    key, unused = key_for_all(server), key_for_all(server)
    answered = ids_of([server.post(PREDICT, {"x": 1}, key)])
    pids, before = server.worker_pids(), everything_made(server)
    with disk.full():
        asked = [(PREDICT, key), (PREDICT, unused), (f"/models/{MODEL}/versions/2/predict", key)] * 20
        answered += ids_of([server.post(path, {"x": 1}, each) for path, each in asked])
        assert server.get("/readyz").ok
        turn = server.post(f"/models/{MODEL}/activate", {"version": 2}, key)
        assert check_problem(turn, 507, "disk_full")["detail"] == FULL
        check_problem(upload(server, key), 507, "disk_full")
        with pytest.raises(Refused) as caught:
            server.cli("keys", "create", "one")
        assert (caught.value.exit_code, caught.value.said.strip()) == (1, f"modelport: {FULL} [disk_full]")
        assert caught.value.answer["error"]["code"] == "disk_full"
        assert everything_made(server) == before
        assert server.worker_pids() == pids
    # By itself: nobody was started again.
    assert server.post(f"/models/{MODEL}/activate", {"version": 2}, key).status_code == 200
    answered += ids_of([server.post(PREDICT, {"x": 1}, each) for each in (key, unused)])
    server.logged(answered[-1])
    dropped = metric(server, "modelport_log_dropped_total")
    logged = {row[0] for row in server.rows("SELECT id FROM predictions")}
    assert logged <= set(answered)
    assert len(logged) + dropped == len(answered) == 63
    assert dropped > 0
    assert server.worker_pids() == pids
    server.cli("keys", "create", "one")


def test_a_server_can_be_started_on_a_full_disk(disk: SmallDisk, fire: Server) -> None:
    server = fire.start()
    key = key_for_all(server)
    ids_of([server.post(PREDICT, {"x": 1}, key)])
    server.stop()
    with disk.full():
        server.start()
        ids_of([server.post(PREDICT, {"x": 1}, key)])
    eventually(server.worker_pids)


def test_an_upload_that_fills_the_disk_leaves_nothing_and_one_that_was_taken_is_brought_to_its_end(
    disk: SmallDisk, fire: Server, tmp_path: Path
) -> None:
    points = [f"{point}:wait@{tmp_path / point}" for point in ("upload.saved", "upload.inspected")]
    fire.environment[faults.VARIABLE] = ",".join(points)
    server, quarantine = fire.start(), fire.data_dir / "quarantine"
    key = key_for_all(server)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(upload, server, key)
        eventually(lambda: list(quarantine.glob("*/file")))
        with disk.full():
            (tmp_path / "upload.saved").touch()
            assert check_problem(sending.result(), 507, "disk_full")["detail"] == FULL
    assert (server.rows("SELECT id FROM uploads"), list(quarantine.iterdir())) == ([], [])
    assert upload(server, key).status_code == 202
    eventually(lambda: server.rows("SELECT id FROM uploads WHERE stage = 'storing'"), within_seconds=120)
    artifacts = set((server.data_dir / "artifacts").rglob("*"))
    with disk.full():
        (tmp_path / "upload.inspected").touch()
        eventually(lambda: '"loop":"inspector","reason":"NoRoom"' in server.log.read_text())
    assert {path for path in (server.data_dir / "artifacts").rglob("*") if path.is_file()} <= artifacts
    # As if the lease of the attempt had run out.
    databases.execute(server.data_dir, "UPDATE uploads SET leased_until = '2026-01-01 00:00:00.000000'")
    done = partial(server.rows, "SELECT version, refusal FROM uploads WHERE done_at IS NOT NULL")
    ended = eventually(done, within_seconds=120)
    assert ended == [(3, None)]


def test_what_is_being_received_when_the_disk_fills_up_is_let_go(disk: SmallDisk, fire: Server) -> None:
    server = fire.start()
    key = key_for_all(server)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="m.skops"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield head + b"1" * 2_000_000
        disk.fill()
        yield b"2" * 4_000_000 + b"\r\n--x--\r\n"

    headers = {"X-API-Key": key, "Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.post(f"{server.url}/models/{MODEL}/versions", data=body(), headers=headers, timeout=60)
    check_problem(answer, 507, "disk_full")
    used = disk.used_bytes
    disk.make_room()
    assert list((server.data_dir / "quarantine").iterdir()) == []
    assert disk.used_bytes <= used
    assert upload(server, key).status_code == 202


# --- A disk of the spool's own ------------------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, SmallDisk]]]:
    """Make a server whose spool is on a small disk of its own, not yet started."""
    with ExitStack() as stack:

        def make(**settings: object) -> tuple[Server, SmallDisk]:
            server = Server(tmp_path / "data", workers=1, rate_limit="10000000/minute", **settings)
            disk = mounted(server.data_dir / "spool")
            stack.callback(disk.close)
            stack.callback(server.stop)
            server.demo()
            return server, disk

        yield make


def test_what_a_full_disk_of_the_spool_takes_away_is_counted(apart: Callable[..., tuple[Server, SmallDisk]]) -> None:
    server, disk = apart(spool_full="drop-oldest")
    key = server.start().key()
    with disk.full():
        answered = ids_of([server.post("/predict", GOOD, key) for _ in range(60)])
        assert server.get("/readyz").ok
    answered += ids_of([server.post("/predict", GOOD, key)])
    server.logged(answered[-1])
    logged = {row[0] for row in server.rows("SELECT id FROM predictions")}
    assert logged <= set(answered)
    assert 0 < metric(server, "modelport_log_dropped_total") == len(answered) - len(logged)


def test_where_nothing_may_be_lost_a_full_disk_of_the_spool_refuses(
    apart: Callable[..., tuple[Server, SmallDisk]],
) -> None:
    server, disk = apart(spool_full="refuse")
    key = server.start().key()
    with disk.full():
        answers = [server.post("/predict", GOOD, key) for _ in range(60)]
        check_problem(answers[-1], 503, "spool_full")
        check_problem(server.get("/readyz"), 503, "not_ready")
    eventually(lambda: server.get("/readyz").ok)
    answers.append(server.post("/predict", GOOD, key))
    answered = ids_of([answer for answer in answers if answer.status_code != 503])
    server.logged(answered[-1])
    assert {row[0] for row in server.rows("SELECT id FROM predictions")} == set(answered)
    assert metric(server, "modelport_log_dropped_total") == 0
