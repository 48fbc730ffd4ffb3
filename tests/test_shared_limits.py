"""Tests of the limits that replicas share in a real Redis, and of what happens while that is away, full or lying."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import limits
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.strategies import MovingWindowRateLimiter

from tests import databases
from tests.redis_server import Server as Redis
from webapp import app, metrics
from webapp.config import Settings
from webapp.limits import MmapStorage, spend
from webapp.limits.shared import _SCRIPT, SharedStorage, is_alone
from webapp.redis import REST_SECONDS, Script, connect
from webapp.web import Parts

SECOND = 1_000_000_000
START = 1_750_000_000 * SECOND
SECRET = b"a secret of all replicas"
MINUTE = 60
FORK = multiprocessing.get_context("fork")
# A busy machine must not make it a test of its patience.
PATIENT = "?socket_timeout=30&socket_connect_timeout=30"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    made = Redis(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


@pytest.fixture
def redis(server: Redis) -> Redis:
    server.client.flushall()
    return server


def replica(folder: Path, url: str, name: str = "one", secret: bytes = SECRET) -> SharedStorage:
    """Give the storage of a replica, with a file of its own."""
    return SharedStorage(f"shared://{folder}/{name}", redis_url=url, secret=secret)


@pytest.fixture
def storage(redis: Redis, tmp_path: Path) -> SharedStorage:
    return replica(tmp_path, redis.url + PATIENT)


def admitted(storage: MmapStorage, times: int, limit: int = 3, key: str = "k", window: int = MINUTE) -> int:
    """Return how many of the hits were admitted."""
    return sum(storage.spend(key, limit, window)[0] for _ in range(times))


def try_again(storage: SharedStorage) -> None:
    """Let the time pass for which it is left alone."""
    storage._attempts._rests_until -= REST_SECONDS


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what was logged of the Redis."""
    return [record.message for record in caplog.records if record.message.startswith("redis.")]


def away(use: str = "limits") -> float | None:
    """Give the metric."""
    return metrics.REGISTRY.get_sample_value("modelport_redis_away", {"use": use})


# --- One limit over all replicas ----------------------------------------------------------------------------


def hammer(folder: Path, url: str, name: str, limit: int, results: Any) -> None:
    """Hit one limit from four threads, and report what was admitted."""
    storage = replica(folder, url, name)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(admitted(storage, limit, limit))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((sum(counts), storage._attempts.failed))


def test_three_replicas_with_four_threads_each_admit_the_limit_and_no_more(redis: Redis, tmp_path: Path) -> None:
    limit, results = 1000, FORK.Queue()
    names = ["one", "two", "three"]
    processes = [
        FORK.Process(target=hammer, args=(tmp_path, redis.url + PATIENT, name, limit, results)) for name in names
    ]
    began = time.monotonic()
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    took = time.monotonic() - began
    print(f"\n{limit}/minute: {[count for count, _ in found]} admitted of {4 * limit} each, in {took:.1f} s")
    assert took < MINUTE, "too slow a machine to tell"
    assert sum(count for count, _ in found) == limit
    assert not any(failed for _, failed in found)


def test_each_answer_tells_what_is_left_and_until_when(storage: SharedStorage) -> None:
    item = limits.parse("3/minute")
    spent = [spend(storage, item, "k") for _ in range(4)]
    assert [(each.admitted, each.remaining) for each in spent] == [(True, 2), (True, 1), (True, 0), (False, 0)]
    for each in spent:
        # From when it was asked, a slice late at most; the seconds that asking took aside.
        assert MINUTE - 10 < each.reset - time.time() <= MINUTE + 1


def test_asking_does_not_count(storage: SharedStorage) -> None:
    limiter, item = MovingWindowRateLimiter(storage), limits.parse("2/minute")
    assert [limiter.test(item, "k") for _ in range(3)] == [True] * 3
    assert limiter.get_window_stats(item, "k").remaining == 2
    assert [limiter.hit(item, "k", cost=2), limiter.hit(item, "k")] == [True, False]
    assert not limiter.test(item, "k")
    assert limiter.get_window_stats(item, "k").remaining == 0
    assert not limiter.hit(item, "other", cost=3)


def test_what_is_counted_there_runs_out_and_names_nobody(storage: SharedStorage, redis: Redis) -> None:
    spend(storage, limits.parse("3/minute"), "refused passwords", "ada 192.0.2.7")
    [name] = redis.client.keys()
    assert name.startswith(b"modelport:limit:")
    assert not any(said in name + str(redis.client.hgetall(name)).encode() for said in (b"ada", b"192", b"password"))
    assert 0 < redis.client.ttl(name) <= MINUTE + 2


def test_who_has_another_secret_or_asks_for_another_window_counts_apart(redis: Redis, tmp_path: Path) -> None:
    storage, other = (replica(tmp_path, redis.url + PATIENT, secret=secret) for secret in (SECRET, b"another"))
    assert admitted(storage, 5) == 3
    assert admitted(other, 5) == 3
    assert admitted(storage, 5, window=2 * MINUTE) == 3
    assert admitted(storage, 5, key="l") == 3


def test_no_window_holds_more_than_the_limit_and_its_room_comes_back(storage: SharedStorage) -> None:
    times: list[tuple[float, float]] = []
    until = time.monotonic() + 2.5
    while (before := time.monotonic()) < until:
        if storage.spend("k", 5, 1)[0]:
            times.append((before, time.monotonic()))
    # Any six lie in more than a window; each happened between the two times that were noted.
    assert all(last - first >= 1 for (first, _), (_, last) in zip(times, times[5:], strict=False))
    assert len(times) >= 10


class Clock:
    """Nanoseconds that pass when the test says so."""

    now = START

    def __call__(self) -> int:
        return self.now


STEPS = [0, 0, 1, 400, 7000, 59_000, 61_000, -400, -3000, -70_000]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 3))), st.sampled_from([1, 7, MINUTE, 3600]))
@settings(max_examples=60, deadline=None)
def test_the_script_tells_what_the_file_tells(
    tmp_path_factory: pytest.TempPathFactory, server: Redis, events: list[tuple[int, int]], window: int
) -> None:
    """On a clock of its own, in milliseconds, which also steps back; steps are given for a minute."""
    server.client.flushall()
    clock = Clock()
    file = MmapStorage(f"mmap://{tmp_path_factory.mktemp('limits')}/limits", clock=clock)
    script = Script(connect(server.url + PATIENT), _SCRIPT.replace("redis.call('TIME')", "{ARGV[4], ARGV[5]}"))
    limit = 5
    for milliseconds, amount in events:
        clock.now += milliseconds * window // MINUTE * 1_000_000
        time_there = clock.now // SECOND, clock.now % SECOND // 1000
        counted = script(b"k", limit, window, amount, *time_there)
        expected = file.acquire_entry("k", limit, window, amount)
        start, used = file.get_moving_window("k", limit, window)
        assert isinstance(counted, list)
        assert counted[:2] == [expected, used]
        # As soon as the milliseconds that the one counts in tell.
        assert counted[2] / 1000 == pytest.approx(start + window - clock.now / SECOND, abs=0.0011)
        assert script(b"k", limit, window, 0, *time_there) == [1, *counted[1:]]


# --- Away, and back -----------------------------------------------------------------------------------------


def test_when_redis_dies_each_replica_counts_alone_and_when_it_is_back_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    redis = Redis(tmp_path)
    try:
        one, other = (replica(tmp_path, redis.url + PATIENT, name) for name in ("one", "other"))
        assert admitted(one, 2) + admitted(other, 2) == 3
        assert (away(), is_alone(one)) == (0, False)
        redis.kill()
        assert [admitted(one, 5), admitted(other, 5)] == [3, 3]
        assert (away(), is_alone(one)) == (1, True)
        redis.start()
        # It is left alone for a while, and then tried again; what was counted alone stays counted.
        one._attempts._rests_until = other._attempts._rests_until = time.monotonic() + MINUTE
        assert admitted(one, 1) == 0
        one._attempts._rests_until = other._attempts._rests_until = 0
        assert admitted(one, 2) + admitted(other, 2) == 3
        assert (away(), is_alone(one)) == (0, False)
    finally:
        redis.close()
    assert sorted(told(caplog)) == ["redis.away", "redis.away", "redis.back", "redis.back"]


def test_one_that_was_restarted_while_nobody_asked_is_used_at_once(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    try:
        storage = replica(tmp_path, redis.url + PATIENT)
        assert admitted(storage, 5) == 3
        redis.kill()
        redis.start()
        # It has forgotten the counts and the script.
        assert admitted(storage, 5) == 3
        assert not storage._attempts.failed
        assert len(redis.client.keys()) == 1
    finally:
        redis.close()


def test_a_redis_that_was_flushed_counts_from_the_beginning(storage: SharedStorage, redis: Redis) -> None:
    assert admitted(storage, 5) == 3
    redis.client.flushall()
    redis.client.script_flush()
    assert admitted(storage, 5) == 3
    assert not storage._attempts.failed


def test_a_redis_that_is_full_or_only_reads_is_away(storage: SharedStorage, redis: Redis) -> None:
    for name, value in {"maxmemory": 1, "min-replicas-to-write": 1}.items():
        before = redis.client.config_get(name)[name]
        assert not is_alone(storage)
        redis.client.config_set(name, value)
        try:
            assert admitted(storage, 5, key=name) == 3
            try_again(storage)
            assert is_alone(storage)
        finally:
            redis.client.config_set(name, before)
        try_again(storage)
        assert not is_alone(storage)


def test_what_somebody_else_put_under_the_name_is_no_count(storage: SharedStorage, redis: Redis) -> None:
    assert admitted(storage, 1) == 1
    [name] = redis.client.keys()
    redis.client.set(name, "hello")
    assert admitted(storage, 5) == 3


def test_a_redis_that_hangs_costs_one_timeout_and_is_not_asked_again(redis: Redis, tmp_path: Path) -> None:
    storage = replica(tmp_path, redis.url)
    admitted(storage, 1, key="warm")
    redis.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert admitted(storage, 1) == 1
        took = time.monotonic() - began
        rests_until = storage._attempts._rests_until = time.monotonic() + MINUTE
        began = time.monotonic()
        assert admitted(storage, 100) == 2
        print(f"\nThe first took {took * 1000:.0f} ms, 100 others {(time.monotonic() - began) * 1000:.0f} ms")
        # Nobody tried it.
        assert storage._attempts._rests_until == rests_until
    finally:
        redis.process.send_signal(signal.SIGCONT)
    storage._attempts._rests_until = 0
    assert not is_alone(replica(tmp_path, redis.url + PATIENT))


def test_many_who_see_it_fail_say_it_once(redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = replica(tmp_path, redis.url)
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        admitted(storage, 5)

    redis.process.send_signal(signal.SIGSTOP)
    try:
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        redis.process.send_signal(signal.SIGCONT)
    assert told(caplog) == ["redis.away"]


@contextmanager
def liar(reply: bytes, *, closes: bool) -> Iterator[tuple[str, list[bytes]]]:
    """Serve one reply to whatever is asked; give the address, and what was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            asked.append(connection.recv(65536))
            connection.sendall(reply)
            if closes:
                connection.close()

    connections: list[socket.socket] = []
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0", asked
    finally:
        # Closing alone does not wake who waits there.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            connection.close()


LIES = {
    "nothing": b"",
    "half an answer": b"*3\r\n:1\r\n:1",
    "half a number": b"*3\r\n:1\r\n:1\r\n:60",
    "too short": b"*2\r\n:1\r\n:1\r\n",
    "too long": b"*4\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
    "a text": b"$5\r\nhello\r\n",
    "texts": b"*3\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n1\r\n",
    "no such number": b"*3\r\n:2\r\n:1\r\n:1\r\n",
    "less than none": b"*3\r\n:1\r\n:-1\r\n:1\r\n",
    "in the past": b"*3\r\n:1\r\n:1\r\n:-1\r\n",
    "in a year": b"*3\r\n:1\r\n:1\r\n:31536000000\r\n",
    "null": b"$-1\r\n",
    "nulls": b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
    "an error": b"-ERR something is wrong\r\n",
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "no script, ever": b"-NOSCRIPT No matching script.\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "not a number": b"*three\r\n",
    "bytes": bytes(range(256)),
    "far too much": b"$99999999999\r\nhello",
    "far too deep": b"*1\r\n" * 5000,
}


@pytest.mark.parametrize("closes", [True, False], ids=["and closes", "and waits"])
@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_answer_lets_the_replica_count_alone(lie: str, closes: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    with liar(LIES[lie], closes=closes) as (url, asked):
        storage = replica(tmp_path, url)
        assert admitted(storage, 1) == 1
        seen = len(asked)
        storage._attempts._rests_until = time.monotonic() + MINUTE
        assert admitted(storage, 5) == 2
        assert storage._attempts.failed
        # Once, and where the script was missing or the connection closed once more; the others did not ask.
        assert len(asked) == seen <= 2
        for connection in storage._script._idle:
            connection.disconnect()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0?no_such_option=1", "unix:///dev/null", "redis://no.invalid/0"])
def test_an_address_that_is_wrong_refuses_nobody_who_has_room(url: str, tmp_path: Path) -> None:
    assert admitted(replica(tmp_path, url), 5) == 3


# --- In the application -------------------------------------------------------------------------------------


def test_readiness_tells_that_limits_are_counted_alone_and_does_not_fail(settings: Settings, tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    databases.make_migrated(settings.data_dir)
    made = app.create_app(replace(settings, redis_url=redis.url + PATIENT))
    parts: Parts = made.extensions["modelport"]
    client = made.test_client()
    try:
        parts.follower.start(slot=None)

        def degraded() -> Any:
            response = client.get("/readyz")
            assert response.status_code == 200, response.text
            return response.get_json()["degraded"]

        assert degraded() == []
        # What is limited by address, and those who sign in, count there as well.
        assert client.get("/").status_code == 200
        parts.strategy.hit(limits.parse("1/minute"), "refused passwords", "ada")
        assert len(redis.client.keys("modelport:limit:*")) == 3
        redis.kill()
        assert degraded() == ["redis"]
        assert client.get("/").status_code == 200
        assert not parts.strategy.test(limits.parse("0/minute"), "ada")
        redis.start()
        storage = parts.strategy.storage
        assert isinstance(storage, SharedStorage)
        try_again(storage)
        assert degraded() == []
    finally:
        parts.follower.stop()
        parts.database.engine.dispose()
        redis.close()


def test_without_a_redis_nothing_is_missing(settings: Settings) -> None:
    made = app.create_app(settings)
    parts: Parts = made.extensions["modelport"]
    assert type(parts.strategy.storage) is MmapStorage
    assert not is_alone(parts.strategy.storage)
