"""The log writer is killed at each of its steps: every answer is in the log once, and in the counts of drift once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import requests

from scripts.processes import descendants
from tests.conftest import eventually
from tests.functional.server import Server
from tests.test_predictions import record
from webapp import faults
from webapp.predictions import spool

# Before its transaction is committed, after that, and when a segment of which all is in the log is gone.
LOG_POINTS = ("log.inserted", "log.committed", "log.removed")
GOOD = {"age": 35, "income": 52000, "credit_score": 690}
COUNTS = "SELECT hour, rows, counts FROM hourly_counts ORDER BY hour"
REFUSALS = "SELECT hour, asked, refused, fields FROM hourly_refusals ORDER BY hour"


def processes_of(server: Server, command: bytes) -> list[int]:
    """Give the processes of a server that run a command."""
    assert server.process is not None
    found = []
    for pid in descendants(server.process.pid):
        try:
            if command in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def predict(server: Server, key: str, rows: int, age: int) -> list[str]:
    """Ask for many rows at once; give the ids of the answers."""
    instances = [{**GOOD, "age": age, "income": 100 * number} for number in range(rows)]
    answer = server.post("/predict", {"instances": instances}, key)
    assert answer.status_code == 200, answer.text
    return [each["prediction_id"] for each in answer.json()["predictions"]]


def be_refused(server: Server, key: str, rows: int) -> None:
    """Ask for many rows at once, each of which is refused."""
    assert server.post("/predict", {"instances": [{**GOOD, "age": 7}] * rows}, key).status_code == 422


def refused(server: Server) -> int:
    return sum(row[2] for row in server.rows(REFUSALS))


def logged(server: Server) -> list[str]:
    return [row[0] for row in server.rows("SELECT id FROM predictions")]


def check_counts(server: Server) -> None:
    """What was counted while all this happened is what the log holds, bit for bit."""
    before = server.rows(COUNTS)
    assert sum(row[1] for row in before) == len(logged(server))
    told = server.rows(REFUSALS)
    server.cli("drift", "rebuild")
    assert server.rows(COUNTS) == before
    # What was refused is not in the log: it cannot be counted again, and stays.
    assert server.rows(REFUSALS) == told


def is_up(server: Server) -> bool:
    with suppress(requests.ConnectionError):
        return server.get("/readyz").ok
    return False


def test_whatever_step_it_is_killed_at_each_answer_is_logged_and_counted_once(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = new_server(rate_limit="100000/minute")
    server.environment[faults.VARIABLE] = ",".join(f"{point}:exit@{tmp_path / point}" for point in LOG_POINTS)
    server.demo()
    server.start()
    key = server.key()
    eventually(lambda: server.rows("SELECT version FROM drift_references"))
    answered = predict(server, key, 500, 30)
    for number, point in enumerate(LOG_POINTS):
        (tmp_path / point).touch()
        answered += predict(server, key, 2500, 40 + number)
        be_refused(server, key, 100)
        if point == "log.removed":
            # The segments of web workers that are gone are complete, and go when they are in the log.
            for pid in processes_of(server, b"gunicorn"):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda armed=tmp_path / point: not armed.exists())  # type: ignore[misc] # mypy sees no type
        eventually(lambda: is_up(server))
    eventually(lambda: len(logged(server)) >= len(answered))
    assert sorted(logged(server)) == sorted(answered)
    eventually(lambda: refused(server) >= 300)
    assert refused(server) == 300
    server.stop()
    check_counts(server)


def test_what_a_disk_has_damaged_is_counted_for_all_to_see_and_the_rest_is_logged(
    new_server: Callable[..., Server],
) -> None:
    server = new_server(workers=1).start()
    first, second, third = (spool.encode(record(number)) for number in range(3))
    segment = server.data_dir / "spool" / f"{'0' * 20}-1-0"
    segment.write_bytes(first + second.replace(b"churn", b"charm") + third + first[:-20])
    segment.rename(segment.with_suffix(spool.SUFFIX))
    eventually(lambda: logged(server) == ["r-0", "r-2"])
    eventually(lambda: passed_over(server) == {'{reason="damaged"} 1.0', '{reason="torn"} 1.0'})


def passed_over(server: Server) -> set[str]:
    lines = server.get("/metrics").text.splitlines()
    name = "modelport_log_passed_over_total"
    return {line.removeprefix(name) for line in lines if line.startswith(name)}
