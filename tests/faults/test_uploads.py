"""Uploads in such numbers and sizes that the machine must bear: fifty at once, 200 MB, a hundred trees."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.conftest import eventually
from tests.functional.conftest import new_server as new_server  # noqa: PLC0414 - a fixture of the functional tests
from tests.functional.server import Server
from tests.functional.test_hostile_uploads import (
    MIB,
    PATIENCE_SECONDS,
    Seen,
    Sender,
    Steady,
    Watch,
    all_ended,
    compared,
    forest,
    peak_mib,
    serving,
    weighty,
    worker_of,
)

UPLOADS = 50
MOST_BYTES = 20 * MIB
# A fixed part for what a process needs to pass files on, whatever their size.
PASSING_MIB = 64


def phases(seen: Seen) -> str:
    """Say how long a child took to start, and to do its work."""
    started, worked = seen.locked - seen.begun, seen.last - seen.locked
    return f"{seen.act}: {started:.1f} s of imports, {worked:.1f} s of work, {seen.peak_mib:.0f} MiB"


def test_fifty_uploads_of_the_most_bytes_are_inspected_one_at_a_time(new_server: Callable[..., Server]) -> None:
    # As much as may come, but for what the form itself takes.
    content = weighty(MOST_BYTES / 10**6)
    assert MOST_BYTES * 0.99 < len(content) <= MOST_BYTES
    sender = serving(new_server(max_upload_bytes=MOST_BYTES, rate_limit="10000000/minute"))
    server, steady = sender.server, Steady(sender.server, sender.key)
    idle = steady.ask(500)
    with Watch(server) as watch, ThreadPoolExecutor(UPLOADS) as pool:
        sending = [pool.submit(sender.send, content, model=f"weighty-{number}") for number in range(UPLOADS)]
        busy = steady.ask_until(lambda: all(each.done() for each in sending) and all_ended(server))
    assert [sender.end_of(each.result())["status"] for each in sending] == ["stored"] * UPLOADS
    assert [seen.act for seen in watch.seen.values()] == ["convert", "prove"] * UPLOADS
    assert watch.most_at_once == 1
    eventually(lambda: list((server.data_dir / "quarantine").iterdir()) == [])
    print(f"\n{UPLOADS} uploads of {len(content) / MIB:.1f} MiB: {compared(idle, busy)}")
    print(f"worker process: {peak_mib(worker_of(server)):.0f} MiB at most")


def test_a_model_of_200_megabytes_passes_through_without_filling_the_parents(new_server: Callable[..., Server]) -> None:
    sender = serving(new_server(rate_limit="10000000/minute"))
    server = sender.server
    # The first upload of all brings what every one needs.
    assert sender.end_of(sender.send(forest(1), model="small"))["status"] == "stored"
    parents = {"worker": worker_of(server)} | {f"web {pid}": pid for pid in server.worker_pids()}
    before = {name: peak_mib(pid) for name, pid in parents.items()}
    content = weighty(200)
    with Watch(server) as watch:
        assert sender.end_of(sender.send(content, model="large"))["status"] == "stored"
    after = {name: peak_mib(pid) for name, pid in parents.items()}
    print(f"\n{len(content) / MIB:.0f} MiB; " + "; ".join(phases(seen) for seen in watch.seen.values()))
    print("; ".join(f"{name}: {before[name]:.0f} MiB at most before, {after[name]:.0f} after" for name in parents))
    assert all(after[name] < 2 * before[name] + PASSING_MIB for name in parents)


def test_a_forest_of_a_hundred_trees_is_timed_beside_the_imports(new_server: Callable[..., Server]) -> None:
    sender = Sender(new_server().start())
    content = forest(100)
    with Watch(sender.server) as watch:
        assert sender.end_of(sender.send(content, model="forest"))["status"] == "stored"
    assert watch.most_at_once == 1
    print(f"\n{len(content) / MIB:.0f} MiB; " + "; ".join(phases(seen) for seen in watch.seen.values()))
    assert max(seen.last - seen.begun for seen in watch.seen.values()) < PATIENCE_SECONDS
