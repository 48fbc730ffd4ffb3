"""A million rows in one batch: the same bytes from threads and from a Dask cluster, and whatever worker is killed."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from scripts.processes import descendants
from tests.conftest import eventually
from tests.dask_cluster import Cluster
from tests.functional.conftest import new_server as new_server  # noqa: PLC0414 - a fixture of the functional tests
from tests.functional.server import Server
from webapp.cli import demo

ROWS = 1_000_000
PATIENCE_SECONDS = 1800
SETTINGS = {"default_model": "credit-risk", "rate_limit": "10000000/minute"}
# What the worker may take, with all its libraries, whatever the size of the job.
MOST_MIB = 600


@pytest.fixture(scope="module")
def table() -> bytes:
    people = demo.rows()[0]
    content: bytes = pd.concat([people] * (ROWS // len(people))).to_csv(index=False).encode()
    return content


def worker_of(server: Server) -> int | None:
    """Give the process of the worker that computes batches."""
    assert server.process is not None
    # Some end while they are looked at: that is what this is about.
    with suppress(FileNotFoundError, ProcessLookupError):
        for pid in descendants(server.process.pid):
            if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0worker\0"):
                return pid
    return None


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Batch:
    """One job of all rows, watched until it ends."""

    def __init__(self, server: Server, table: bytes) -> None:
        self.server, self.key = server, server.key()
        self.began = time.monotonic()
        headers = {"X-API-Key": self.key, "Content-Type": "text/csv"}
        accepted = requests.post(f"{server.url}/predict/batch", data=table, headers=headers, timeout=300)
        assert accepted.status_code == 202, accepted.text
        self.accepted_seconds = time.monotonic() - self.began
        self.job_id: str = accepted.json()["job_id"]
        self.done = 0

    def state(self) -> dict[str, Any]:
        """Look at the job; what is done is never less than before."""
        state: dict[str, Any] = self.server.get(f"/predict/batch/{self.job_id}", self.key).json()
        assert state["done"] >= self.done, "progress went back"
        self.done = state["done"]
        return state

    def ended(self) -> dict[str, Any]:
        eventually(lambda: self.state()["status"] != "processing", within_seconds=PATIENCE_SECONDS)
        self.seconds = time.monotonic() - self.began
        return self.state()

    def lines(self) -> Iterator[bytes]:
        """Give the results, in which each of the job's own predictions is called after it."""
        url = f"{self.server.url}/predict/batch/{self.job_id}/results"
        with requests.get(url, headers={"X-API-Key": self.key}, stream=True, timeout=300) as answer:
            for line in answer.iter_lines(1024 * 1024):
                yield line.replace(self.job_id.encode(), b"JOB")

    def digest(self) -> tuple[int, str]:
        """Count the results, and give their SHA-256."""
        count, sha256 = 0, hashlib.sha256()
        for count, line in enumerate(self.lines(), 1):  # noqa: B007 - counted
            sha256.update(line + b"\n")
        return count, sha256.hexdigest()

    def logged(self) -> list[tuple[Any, ...]]:
        count = "SELECT count(*), count(DISTINCT id) FROM predictions WHERE request_id = ?"
        return self.server.rows(count, self.job_id)

    def is_logged_once(self) -> None:
        eventually(lambda: self.logged() == [(ROWS, ROWS)], within_seconds=PATIENCE_SECONDS)


def serving(server: Server) -> Server:
    server.demo()
    return server.start()


def test_a_million_rows_give_the_same_bytes_on_threads_and_on_a_cluster(
    new_server: Callable[..., Server], table: bytes
) -> None:
    cluster = Cluster().start()
    found = {}
    try:
        for backend in ("threading", "dask"):
            server = serving(new_server(**SETTINGS, batch_backend=backend, dask_address=cluster.address))
            worker = eventually(lambda of=server: worker_of(of))
            batch = Batch(server, table)
            state = batch.ended()
            assert (state["status"], state["done"], state["failed"]) == ("completed", ROWS, 0)
            assert peak_mib(worker) < MOST_MIB
            found[backend] = batch.digest()
            print(
                f"\n{backend}: accepted in {batch.accepted_seconds:.1f} s, {ROWS / batch.seconds:,.0f} rows/s,"
                f" worker {peak_mib(worker):.0f} MiB at most"
            )
            batch.is_logged_once()
            server.stop()
    finally:
        cluster.kill()
    assert found["threading"] == found["dask"]
    assert found["threading"][0] == ROWS


def test_a_million_rows_are_computed_once_each_though_the_worker_is_killed_again_and_again(
    new_server: Callable[..., Server], table: bytes
) -> None:
    server = serving(new_server(**SETTINGS))
    batch = Batch(server, table)
    killed: set[int] = set()
    until = 0.0
    leased = "SELECT count(*) FROM chunks WHERE leased_by LIKE ? AND done_at IS NULL"
    while batch.state()["status"] == "processing":
        worker = worker_of(server)
        # It is killed when it works, and then three seconds later: before that it has only begun to start.
        if worker and worker not in killed and server.rows(leased, f"%/{worker}") != [(0,)]:
            until = until or time.monotonic() + 3
            if time.monotonic() > until:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
                until = 0.0
    state = batch.ended()
    assert (state["status"], state["done"], state["failed"]) == ("completed", ROWS, 0)
    count, _ = batch.digest()
    assert count == ROWS
    batch.is_logged_once()
    print(f"\nkilled {len(killed)} times, {ROWS / batch.seconds:,.0f} rows/s, {count:,} results, {ROWS:,} logged once")
    assert len(killed) > 1
