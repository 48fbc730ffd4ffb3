"""Kept answers and shared calls on a real server with several workers, while its Redis comes and goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.neighbors import KNeighborsClassifier

from tests.conftest import eventually
from tests.functional.server import Server
from tests.redis_server import Server as Redis

THREADS = 8
ROWS, LABELS = load_iris(return_X_y=True)
MODEL = KNeighborsClassifier().fit(ROWS, LABELS)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    made = Redis(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis: Redis) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("kept")
    made = Server(folder / "data", redis_url=redis.url, cache="on", rate_limit="1000000/minute")
    joblib.dump(MODEL, folder / "iris.joblib")
    made.cli("models", "upload", folder / "iris.joblib", "--name", "iris", "--activate")
    made.start()
    yield made
    made.stop()


def ask(server: Server, key: str, rows: list[list[float]]) -> Counter[str]:
    """Ask for rows from many threads at once, each twice; each answer is the estimator's. Count hits and misses."""
    expected = MODEL.predict(rows).tolist()

    def one(number: int) -> str:
        row, label = rows[number % len(rows)], expected[number % len(rows)]
        response = server.post("/models/iris/predict", {f"x{at}": value for at, value in enumerate(row)}, key)
        assert response.status_code == 200, response.text
        assert response.json()["prediction"] == label
        return response.headers["X-Cache"]

    with ThreadPoolExecutor(THREADS) as pool:
        return Counter(pool.map(one, range(2 * len(rows))))


def fresh(number: int) -> list[list[float]]:
    """Give rows that nobody has asked for."""
    return [[value + number / 1000 for value in row] for row in ROWS[::5].tolist()]


def test_answers_are_kept_over_workers_and_logged_while_redis_comes_and_goes(server: Server, redis: Redis) -> None:
    key = server.key()
    found = ask(server, key, fresh(1))
    assert found["hit"]
    redis.kill()
    # Each worker has what it computed; nobody is refused, and nobody gets another answer.
    found += ask(server, key, fresh(1)) + ask(server, key, fresh(2))
    redis.start()
    number = iter(range(3, 1000))

    def is_used_again() -> bool:
        nonlocal found
        found += ask(server, key, fresh(next(number)))
        return bool(redis.client.dbsize())

    began = time.monotonic()
    eventually(is_used_again)
    print(f"\nUsed again {time.monotonic() - began:.1f} s after it was back; {dict(found)}")
    counted = "SELECT cached, count(*) FROM predictions GROUP BY cached"
    eventually(lambda: dict(server.rows(counted)) == {0: found["miss"], 1: found["hit"]})
