"""A cluster under load while its parts are stopped, killed, cut off and switched; prints its figures."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import requests
from redis import Redis

from scripts.cluster.replicas import Replica
from tests.conftest import eventually
from tests.functional.replicas import KEPT_SECONDS, SHORT, Machines, Noting, events, gunicorn, machines
from tests.functional.switching import MODEL, large, small
from tests.slow_database import SlowWay

CLIENTS = 8
# Between two requests of a client: this machine runs clients, replicas and all they need on a few cores.
PAUSE_SECONDS = 0.01
LOAD_SECONDS = 60
RELOADS = 10
AWAY_SECONDS = 60
# How long the database is refused, hangs and is slow, each; and how much of that time to wait for the backlog.
FAULT_SECONDS = float(os.environ.get("DATABASE_FAULT_SECONDS", "20"))
BACKLOG_SECONDS = 30 + FAULT_SECONDS / 2
# What each statement is held back while it is slow.
SLOW_SECONDS = 0.2
MOST_TIMES_SLOWER = 1.2
MEGABYTES = 100
GAPS = 5000
PREDICT = f"/models/{MODEL}/predict"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    """Three replicas with two web workers each, as they are shipped."""
    with machines(workers=2, threads=8) as made:
        made.fill(small(1), small(2))
        made.serve()
        yield made


@pytest.fixture
def slow_way() -> Iterator[tuple[Machines, SlowWay]]:
    """Three replicas whose way to the database can be made slow."""
    with machines(workers=2, threads=8) as made:
        way = SlowWay(made.postgresql.port)
        url = Path(made.shared["DATABASE_URL_FILE"])
        url.write_text(url.read_text().replace(f":{made.postgresql.port}/", f":{way.port}/"))
        made.fill(small(1), small(2))
        made.serve()
        yield made, way
        way.close()


@contextmanager
def load(cluster: Machines, clients: int = CLIENTS, within_seconds: float = 30) -> Iterator[Noting]:
    """Load from the beginning to the end of a fault; then all of it must be answered and logged once."""
    with Noting(cluster, cluster.key_for_all, clients, PAUSE_SECONDS) as traffic:  # type: ignore[arg-type] # it has a url
        traffic.wait(100)
        yield traffic
        traffic.wait(100)
    print("\n" + traffic.check(cluster, within_seconds))


def switch(cluster: Machines, number: int) -> None:
    """Have a version active, whatever is now; the large ones take what the small ones refuse."""
    turn = cluster.post(f"/models/{MODEL}/activate", {"version": number, "confirm": MODEL})
    assert turn.status_code == 200 or turn.json()["code"] == "already_active", turn.text


def restart(replica: Replica) -> None:
    replica.stop()
    replica.start()


def test_replicas_are_restarted_one_by_one_and_versions_switched(cluster: Machines) -> None:
    until, restarts, switches = time.monotonic() + LOAD_SECONDS, 0, 0
    stop = threading.Event()

    def switching() -> None:
        nonlocal switches
        while not stop.wait(1):
            switch(cluster, 1 + (switches + 1) % 2)
            switches += 1

    with load(cluster) as traffic:
        began, switcher = time.time(), threading.Thread(target=switching)
        switcher.start()
        while time.monotonic() < until or restarts < len(cluster.replicas):
            restart(cluster.replicas[restarts % len(cluster.replicas)])
            restarts += 1
        stop.set()
        switcher.join()
        p99 = traffic.p99_ms(began, time.time())
    print(f"{restarts} restarts, {switches} switches; p99 {p99:.0f} ms")
    assert switches >= 3


def test_r3_reloads_and_a_rolling_stop(cluster: Machines) -> None:
    with load(cluster) as traffic:
        for number in range(RELOADS):
            each = cluster.replicas[number % len(cluster.replicas)]
            os.kill(gunicorn(each), signal.SIGHUP)
            traffic.wait(100)
        for each in cluster.replicas[:2]:
            restart(each)
    print(f"{RELOADS} reloads, 2 replicas stopped and started")


def test_r6_a_large_model_is_switched_on_three_replicas(cluster: Machines) -> None:
    numbers = [cluster.stock.add(large(number, MEGABYTES)) for number in (3, 4)]
    taken, skews = [], []
    with load(cluster, 4) as traffic:
        began = time.time()
        traffic.wait(200)
        idle = traffic.p99_ms(began, time.time())
        spans = []
        for number in [*numbers, numbers[0]]:
            asked = time.time()
            turn = cluster.post(f"/models/{MODEL}/activate", {"version": number})
            answered = time.time()
            assert turn.status_code == 200, turn.text
            assert turn.json()["workers"]["failures"] == []
            traffic.wait(50)
            after = {version for sent, _, version in list(traffic.answers) if sent > answered}
            assert after == {str(number)}
            taken.append(answered - asked)
            skews.append(skew_seconds(cluster))
            spans.append(traffic.p99_ms(asked, answered))
    print(
        f"{len(taken)} switches of {MEGABYTES} MB, the longest {max(taken):.1f} s; skew at most {max(skews):.2f} s;"
        f" p99 {idle:.0f} ms idle, {max(spans):.0f} ms while it loads"
    )
    assert max(skews) <= 2
    switch(cluster, 1)


def skew_seconds(cluster: Machines) -> float:
    """Give the time from the first to the last worker of all replicas that switched to the newest generation."""
    found: dict[int, list[float]] = {}
    for replica in cluster.replicas:
        for each in events(replica):
            if each["event"] == "follow.switched":
                moment = datetime.fromisoformat(each["ts"]).timestamp()
                found.setdefault(each["generation"], []).append(moment)
    moments = found[max(found)]
    return max(moments) - min(moments)


def away(seconds: float) -> None:
    threading.Event().wait(seconds)


@contextmanager
def refused(cluster: Machines, _way: SlowWay) -> Iterator[None]:
    cluster.postgresql.stop()
    yield
    cluster.postgresql.start()


DATABASE_FAULTS: dict[str, Callable[[Machines, SlowWay], AbstractContextManager[None]]] = {
    "refused": refused,
    "hanging": lambda cluster, _way: cluster.postgresql.hanging(),
    "slow": lambda _cluster, way: way.slow(SLOW_SECONDS),
}


def test_r10_the_database_refuses_hangs_and_is_slow(slow_way: tuple[Machines, SlowWay]) -> None:
    cluster, way = slow_way
    figures, normal = {}, []
    with load(cluster, within_seconds=BACKLOG_SECONDS) as traffic:
        for name, fault in DATABASE_FAULTS.items():
            # Beside each fault what it is compared with: the machine has other things to do, too.
            began = time.time()
            away(FAULT_SECONDS / 2)
            normal.append(traffic.p99_ms(began, time.time()))
            began = time.time()
            with fault(cluster, way):
                away(FAULT_SECONDS)
                figures[name] = traffic.p99_ms(began, time.time())
            # What has piled up goes in beside the traffic; that is no part of the fault.
            away(3)
        began = time.time()
        away(FAULT_SECONDS / 2)
        normal.append(traffic.p99_ms(began, time.time()))
    beside = dict(zip(figures, map(max, pairwise(normal)), strict=True))
    shown = ", ".join(f"{name} {ms:.0f} ms (before or after it {beside[name]:.0f})" for name, ms in figures.items())
    print(f"{FAULT_SECONDS:.0f} s each: p99 {shown}")
    assert {name: ms for name, ms in figures.items() if ms > MOST_TIMES_SLOWER * beside[name]} == {}


@contextmanager
def killed(cluster: Machines) -> Iterator[None]:
    cluster.redis.kill()
    yield
    cluster.redis.start()


@contextmanager
def flushed(cluster: Machines) -> Iterator[None]:
    with Redis.from_url(cluster.redis.url) as client:
        client.flushall()
        yield


REDIS_FAULTS: dict[str, Callable[[Machines], AbstractContextManager[None]]] = {
    "killed": killed,
    "hanging": lambda cluster: cluster.redis.hanging(),
    "flushed": flushed,
}


def refuses(cluster: Machines, replica: Replica, key: str) -> bool:
    return cluster.ask(replica, key).status_code == 401


def test_r14_redis_is_gone_hangs_and_is_flushed(cluster: Machines) -> None:
    key_id, key = cluster.make_key(rate_limit="100000/minute")
    with load(cluster) as traffic:
        began = time.time()
        away(5)
        normal = traffic.p99_ms(began, time.time())
        figures = {}
        for name, fault in REDIS_FAULTS.items():
            began = time.time()
            with fault(cluster):
                away(5)
            figures[name] = traffic.p99_ms(began, time.time())
    switch(cluster, 1)
    with killed(cluster):
        cluster.stock.revoke(key_id)
        began = time.monotonic()
        for each in cluster.replicas:
            eventually(partial(refuses, cluster, each, key))
        seconds = time.monotonic() - began
        asked = time.monotonic()
        turn = cluster.post(f"/models/{MODEL}/activate", {"version": 2})
        switched = time.monotonic() - asked
        assert (turn.status_code, turn.json().get("workers", {}).get("failures")) == (200, []), turn.text
    print(
        f"p99 {normal:.0f} ms; {', '.join(f'{name} {ms:.0f} ms' for name, ms in figures.items())};"
        f" without Redis a key was revoked in {seconds:.2f} s and a version switched in {switched:.2f} s"
    )
    assert max(seconds, switched) <= 2
    switch(cluster, 1)


def test_r14_a_limit_holds_over_three_replicas(cluster: Machines) -> None:
    _, key = cluster.make_key(rate_limit="1000/minute")
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        statuses = Counter(pool.map(lambda _: cluster.post(PREDICT, {"x": 1}, key).status_code, range(1500)))
    seconds = time.monotonic() - began
    print(f"\n{dict(statuses)} in {seconds:.1f} s")
    assert set(statuses) == {200, 429}
    assert statuses[200] <= 1020 + 1000 * (seconds // 60)


def test_r23_replicas_go_while_the_database_is_away(cluster: Machines) -> None:
    with Noting(cluster, cluster.key_for_all, CLIENTS, PAUSE_SECONDS) as traffic:  # type: ignore[arg-type] # it has a url
        traffic.wait(100)
        cluster.postgresql.stop()
        began = time.monotonic()
        traffic.wait(200)
        for each in cluster.replicas[1:]:
            each.stop()
            traffic.wait(100)
        away(max(0.0, AWAY_SECONDS - (time.monotonic() - began)))
        cluster.postgresql.start()
        traffic.wait(100)
    held = {
        each.name: len(list((each.data_dir / "spool").glob("*.spool")) if (each.data_dir / "spool").exists() else [])
        for each in cluster.replicas
    }
    # What the two could not hand over lies on their disks, and goes into the log when they, or others, start there.
    for each in cluster.replicas[1:]:
        each.start()
    print("\n" + traffic.check(cluster))
    print(f"segments left behind: {held}")


def test_r20_one_hangs_and_gaps_between_kept_connections() -> None:
    with pytest.MonkeyPatch.context() as patch, machines(SHORT, workers=1, threads=8) as cluster:
        patch.setenv("GUNICORN_CMD_ARGS", f"--keep-alive {KEPT_SECONDS}")
        cluster.fill(small(1))
        cluster.serve()
        statuses: Counter[int] = Counter()
        numbers = iter(range(GAPS))

        def client(number: int) -> None:
            chosen, session = random.Random(number), requests.Session()
            session.headers["X-API-Key"] = cluster.key_for_all
            for _ in iter(lambda: next(numbers, None), None):
                statuses[session.post(cluster.url + PREDICT, json={"x": 1}, timeout=60).status_code] += 1
                away(chosen.uniform(0.5, KEPT_SECONDS + 1))

        with ThreadPoolExecutor(100) as pool:
            list(pool.map(client, range(100)))
        again = [entry for entry in cluster.nginx.entries() if ", " in entry["replicas"]]
        print(f"\n{dict(statuses)}, {len(again)} asked again")
        assert (set(statuses), again) == ({200}, [])
        before = len(cluster.nginx.entries())
        with cluster.replicas[0].hanging():
            for _ in range(100):
                assert cluster.post(PREDICT, {"x": 1}).status_code == 200
        entries = eventually(lambda: found if len(found := cluster.nginx.entries()[before:]) >= 100 else [])
        slow = [entry for entry in entries if entry["duration_s"] > 0.9]
        print(f"{len(slow)} slow answers of 100 while one replica hangs")
        assert len(slow) <= 2
