"""What an operator relies on: starts that explain themselves, clean stops, metrics that add up, logs that parse."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.processes import descendants
from tests import databases
from tests.conftest import eventually
from tests.functional.server import Server

INSTANCE = {"age": 35, "income": 52000, "credit_score": 690}


def start_refused(server: Server) -> tuple[int, str]:
    """Try to serve; give the exit code and what was said."""
    command = [sys.executable, "-m", "webapp.cli", "serve"]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def connections(pid: int, port: int) -> int:
    """Count the connections to a port of ours that a process holds."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = {line[9] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "01"}
    held = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    return len(held & {f"socket:[{inode}]" for inode in ours})


def listening(pids: set[int]) -> set[str]:
    """Give the addresses, in the kernel's hexadecimal, on which processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            # A descriptor may be closed while it is looked at.
            with contextlib.suppress(FileNotFoundError):
                inodes.update(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and line[9] in inodes}


def metric(server: Server, name: str) -> float:
    """Sum the samples of a metric."""
    lines = requests.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def events(server: Server) -> list[dict[str, Any]]:
    """Read the log: every line of it is JSON."""
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def test_nothing_listens_beyond_loopback_by_default(server: Server) -> None:
    assert server.process is not None
    assert listening(descendants(server.process.pid)) == {"0100007F"}


def test_everything_that_is_kept_belongs_to_its_user_alone(server: Server) -> None:
    for path in server.data_dir.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_start_with_wrong_settings_lists_all_of_them(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.environment |= {"MODELPORT_WORKERS": "many", "MODELPORT_BIND": "here", "MODELPORT_COLOUR": "blue"}
    code, said = start_refused(server)
    assert code == 2
    assert all(name in said for name in ("MODELPORT_WORKERS", "MODELPORT_BIND", "MODELPORT_COLOUR"))
    assert "Traceback" not in said


def test_a_start_without_tables_names_the_command_that_makes_them(new_server: Callable[..., Server]) -> None:
    server = new_server()
    databases.drop(server.data_dir)
    databases.make(server.data_dir)
    code, said = start_refused(server)
    assert (code, "modelport db upgrade" in said, "Traceback" in said) == (1, True, False)


def test_a_start_on_a_taken_port_names_the_setting(new_server: Callable[..., Server]) -> None:
    server = new_server()
    with socket.create_server(("127.0.0.1", server.port)):
        code, said = start_refused(server)
    assert (code, "MODELPORT_BIND" in said, "Traceback" in said) == (1, True, False)


def test_a_data_directory_that_cannot_be_one_is_named(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server()
    (tmp_path / "file").touch()
    server.environment["MODELPORT_DATA_DIR"] = str(tmp_path / "file")
    code, said = start_refused(server)
    assert (code, "MODELPORT_DATA_DIR" in said, "Traceback" in said) == (2, True, False)


def test_a_second_server_on_the_same_data_is_refused(server: Server) -> None:
    code, said = start_refused(server)
    assert (code, "already_served" in said) == (1, True)


def test_metrics_add_up_over_all_workers_and_their_successors(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.demo()
    server.start()
    key = server.key()
    for turn in range(2):
        for _ in range(30):
            assert server.post("/predict", INSTANCE, key).status_code == 200
        assert server.post("/predict", {**INSTANCE, "age": 7}, key).status_code == 422
        assert metric(server, "predictions_total") == 31 * (turn + 1)
        assert metric(server, "prediction_latency_seconds_count") == 30 * (turn + 1)
        before = server.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda gone=before: len(set(server.worker_pids()) - set(gone)) == 2)  # type: ignore[misc]
    assert 0 < metric(server, "model_accuracy") <= 1
    assert len(list((server.data_dir / "run" / "metrics").glob("counter_*.db"))) <= 5


def test_a_stop_drains_the_log_and_a_killed_supervisor_takes_everyone_along(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.demo()
    server.start()
    key = server.key()
    ids = {server.post("/predict", INSTANCE, key).json()["prediction_id"] for _ in range(50)}
    server.stop()
    assert ids <= {row[0] for row in server.rows("SELECT id FROM predictions")}
    assert not list((server.data_dir / "spool").glob("*.spool"))

    server.start()
    # It fails when a process of theirs lives on.
    server.stop(signal.SIGKILL)


def test_the_log_is_one_json_object_per_event_without_values(server: Server) -> None:
    key = server.key()
    request_id = server.post("/predict", {**INSTANCE, "income": 98765.43219876}, key).headers["X-Request-ID"]
    (event,) = eventually(lambda: [each for each in events(server) if each.get("request_id") == request_id])
    assert event["event"] == "request"
    assert (event["route"], event["status"], event["rows"]) == ("/predict", 200, 1)
    assert (event["model"], event["version"], event["key_id"]) == ("credit-risk", 1, key.split("_")[2])
    # Longer than what a time or an id could hold by chance.
    assert "43219876" not in server.log.read_text()
    assert key not in server.log.read_text()


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_probes_are_open_and_true(server: Server, path: str) -> None:
    response = server.get(path)
    assert response.status_code == 200
    if path == "/health":
        body = response.json()
        assert (body["status"], body["model_loaded"]) == ("healthy", True)


def test_the_history_says_who_when_from_to_and_why(server: Server, tmp_path: Path) -> None:
    key = server.key("--scope", "models:read", "--scope", "models:activate")
    shown = server.get("/models/credit-risk", key).json()
    first = shown["history"][-1]
    assert (first["act"], first["from_version"], first["version"]) == ("activate", None, 1)
    assert first["actor"].startswith("cli:")
    again = server.post("/models/credit-risk/activate", {"version": 1}, key)
    assert (again.status_code, again.json()["code"]) == (409, "already_active")
    nothing = server.post("/models/credit-risk/rollback", {}, key)
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_to_roll_back_to")


def test_made_up_methods_make_no_metrics_of_their_own(server: Server) -> None:
    for number in range(20):
        requests.request(f"MADEUP{number}", f"{server.url}/health", timeout=30)
    text = requests.get(f"{server.url}/metrics", timeout=30).text
    assert 'method="UNKNOWN"' in text
    assert "MADEUP" not in text


def test_a_header_of_a_proxy_that_is_not_trusted_changes_nothing(server: Server) -> None:
    headers = {"SCRIPT_NAME": "/foo", "X-Forwarded-For": "unknown", "X-Request-ID": "chosen-by-the-caller"}
    response = requests.get(f"{server.url}/health", headers=headers, timeout=30)
    assert response.status_code == 200
    assert response.headers["X-Request-ID"] != "chosen-by-the-caller"
    assert requests.get(f"{server.url}/metrics", headers=headers, timeout=30).status_code == 200


def test_processes_whose_supervisor_dies_at_their_start_end_too(new_server: Callable[..., Server]) -> None:
    server = new_server()
    with server.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "webapp.cli", "serve"], env=server.environment, stdout=log, stderr=log
        )
    everyone = eventually(lambda: found if len(found := descendants(process.pid)) > 2 else None)
    process.kill()
    process.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in everyone), within_seconds=60)


def test_a_worker_that_starts_while_the_database_is_away_does_not_call_good_keys_bad(
    new_server: Callable[..., Server],
) -> None:
    server = new_server(workers=1)
    server.demo()
    server.start()
    key = server.key()
    (pid,) = server.worker_pids()
    with server.locked_database():
        os.kill(pid, signal.SIGKILL)
        seen = {server.post("/predict", INSTANCE, key).status_code for _ in range(3)}
    assert seen == {503}
    eventually(lambda: server.post("/predict", INSTANCE, key).status_code == 200)


def started(pid: int) -> int:
    """Give when a process was started, in the kernel's ticks."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_the_worker_starts_when_the_web_answers(server: Server) -> None:
    assert server.process is not None
    supervisor = server.process.pid

    def named(name: str) -> list[int]:
        return [pid for pid in descendants(supervisor) if name in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]

    (worker,) = eventually(lambda: named("worker"))
    (writer,) = named("log-writer")
    assert started(writer) <= min(map(started, named("gunicorn"))) < started(worker)


def shares(server: Server, count: int) -> list[int]:
    """Connect so many clients that are answered and stay; give how many of them each worker holds."""
    with contextlib.ExitStack() as stack:
        connect = partial(socket.create_connection, ("127.0.0.1", server.port), timeout=30)
        clients = [stack.enter_context(connect()) for _ in range(count)]
        for client in clients:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for client in clients:
            assert client.recv(20).startswith(b"HTTP/1.1 200")
        return [connections(pid, server.port) for pid in server.worker_pids()]


def test_clients_that_connect_at_once_and_stay_are_shared_by_the_workers(server: Server) -> None:
    # A worker that is still loading takes none.
    held = eventually(lambda: min(found := shares(server, 32)) >= 8 and found)
    print(f"\n32 connections are held by {held}")
