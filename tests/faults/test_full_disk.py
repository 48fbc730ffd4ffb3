"""Disks that fill up again and again under load (R12); prints its figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from tests.conftest import eventually
from tests.functional.server import Server
from tests.functional.switching import MODEL, Stock, Traffic, metric
from tests.small_disk import SmallDisk, mounted

ROUNDS, FULL_SECONDS, ROOM_SECONDS = 10, 3, 2
CLIENTS = 8
# This machine runs clients and workers on a few cores.
PAUSE_SECONDS = 0.01


@dataclass
class Noting(Traffic):
    """Traffic that also notes which prediction each answer names."""

    ids: list[str] = field(default_factory=list)

    def _note(self, sent: float, answer: requests.Response) -> None:
        super()._note(sent, answer)
        if answer.ok:
            self.ids.append(answer.json()["prediction_id"])


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, SmallDisk]]]:
    """Make a server with a model, some folder of which is on a small disk; not yet started."""
    with ExitStack() as stack:

        def make(folder: str, **settings: object) -> tuple[Server, SmallDisk]:
            disks = [mounted(tmp_path / folder)] if folder == "disk" else []
            parent = tmp_path / "disk"
            parent.mkdir(exist_ok=True)
            server = Server(parent / "data", rate_limit="10000000/minute", **settings)
            server.log = tmp_path / "server.log"
            stock = Stock(server.data_dir)
            stock.add()
            stock.activate(1)
            stock.close()
            disks = disks or [mounted(tmp_path / folder)]
            stack.callback(disks[0].close)
            stack.callback(server.stop)
            return server.start(), disks[0]

        yield make


@pytest.mark.parametrize(
    ("folder", "policy"),
    [("disk", "drop-oldest"), ("disk/data/spool", "drop-oldest"), ("disk/data/spool", "refuse")],
)
def test_r12_a_disk_fills_up_again_and_again(
    new_server: Callable[..., tuple[Server, SmallDisk]], folder: str, policy: str
) -> None:
    server, disk = new_server(folder, spool_full=policy)
    key, pids = server.key(), server.worker_pids()
    began = time.time()
    with Noting(server, key, CLIENTS, PAUSE_SECONDS) as traffic:
        for _ in range(ROUNDS):
            with disk.full():
                time.sleep(FULL_SECONDS)
            time.sleep(ROOM_SECONDS)
            if policy == "refuse":
                eventually(lambda: server.post(f"/models/{MODEL}/predict", {"x": 1}, key).ok)
        traffic.wait(100)
    logged = eventually(lambda: found if (found := rows(server)) >= set(traffic.ids[-100:]) else set())
    dropped = int(metric(server, "modelport_log_dropped_total"))
    print(
        f"\n{folder}, {policy}: full {ROUNDS} times for {FULL_SECONDS} s; {len(traffic.ids):,} answered,"
        f" {dict(traffic.failures)} refused, {dropped:,} dropped, {len(logged):,} in the log;"
        f" p99 {traffic.p99_ms(began, time.time()):.0f} ms; nobody was started again: {server.worker_pids() == pids}"
    )
    assert traffic.failures.keys() <= ({"503"} if policy == "refuse" else set())
    assert server.worker_pids() == pids
    if policy == "refuse":
        assert logged >= set(traffic.ids)
        assert dropped == 0
    else:
        assert logged <= set(traffic.ids)
        assert len(logged) + dropped == len(traffic.ids)


def rows(server: Server) -> set[str]:
    return {row[0] for row in server.rows("SELECT id FROM predictions")}
