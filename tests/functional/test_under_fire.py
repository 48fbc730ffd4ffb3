"""Traffic while versions are switched and workers are killed: no wrong answer, no answered prediction lost."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import requests
from sklearn.dummy import DummyClassifier

from tests.functional.server import Server

REQUESTS, MOST = 5000, 50_000
CLIENTS = 8
SWITCHES = 20


class Traffic:
    """Clients that send numbered instances until together they have sent enough and all switches are done.

    Never more than `MOST`, so that the test ends whatever becomes of the switches.
    """

    def __init__(self, server: Server, key: str) -> None:
        self.server, self.key = server, key
        self.numbers = itertools.count()
        self.switched = threading.Event()
        self.sent: list[int] = []
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.failures: Counter[str] = Counter()
        self.threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def going_on(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)

    def join(self) -> None:
        for thread in self.threads:
            thread.join()

    def _client(self) -> None:
        session = requests.Session()
        session.headers["X-API-Key"] = self.key
        while (number := next(self.numbers)) < (REQUESTS if self.switched.is_set() else MOST):
            self.sent.append(number)
            try:
                response = session.post(f"{self.server.url}/models/fire/predict", json={"x": number}, timeout=60)
            except requests.RequestException as error:
                # The worker that had the request was killed: no answer, no promise.
                self.failures[type(error).__name__] += 1
                continue
            if response.status_code == 200:
                self.answers.append((number, response.json()))
            else:
                self.failures[str(response.status_code)] += 1


def upload_two_versions(server: Server, folder: Path) -> None:
    """Version 1 always says 1, version 2 always says 2: an answer shows who gave it."""
    for number in (1, 2):
        estimator = DummyClassifier(strategy="constant", constant=number)
        estimator.fit(pd.DataFrame({"x": [0.0, 1.0]}), [1, 2])
        joblib.dump(estimator, folder / f"{number}.joblib")
        server.cli("models", "upload", folder / f"{number}.joblib", "--name", "fire")
    server.cli("models", "activate", "fire", 1)


def switch(server: Server, key: str, traffic: Traffic) -> int:
    """Switch back and forth as long as there is traffic, or until it was often enough; give how often it was."""
    done = 0
    session = requests.Session()
    session.headers["X-API-Key"] = key
    while done < SWITCHES and traffic.going_on():
        body = {"version": 1 + (done + 1) % 2}
        try:
            response = session.post(f"{server.url}/models/fire/activate", json=body, timeout=60)
        except requests.RequestException:
            continue  # it was killed while it waited; the next attempt says 409 when the switch was committed
        done += response.status_code in {200, 409}
    traffic.switched.set()
    return done


def kill_workers(server: Server, stop: threading.Event) -> int:
    """End a web worker with SIGKILL now and then; give how many."""
    killed, chosen = 0, random.Random(5)
    while not stop.wait(1.5):
        try:
            os.kill(chosen.choice(server.worker_pids()), signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed += 1
    return killed


def test_switching_and_killing_loses_no_answered_prediction(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server(workers=2, rate_limit="10000000/minute")
    upload_two_versions(server, tmp_path)
    server.start()
    key = server.key("--scope", "predict", "--scope", "models:activate")
    traffic, stop = Traffic(server, key), threading.Event()
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.append(kill_workers(server, stop)))

    traffic.start()
    killer.start()
    switched = switch(server, key, traffic)
    traffic.join()
    stop.set()
    killer.join()
    # Restarted, as after a crash of everything: what was answered must be there without anybody's help.
    server.stop(signal.SIGKILL)
    server.start()
    server.stop()

    rows = server.rows("SELECT id, instance, prediction, version FROM predictions WHERE model = 'fire'")
    logged = {row[0]: row[1:] for row in rows}
    print(
        f"\n{len(traffic.answers)} answered, {dict(traffic.failures)} not, {switched} switches, {killed[0]} workers"
        f" killed; {len(rows)} rows"
    )
    assert switched == SWITCHES
    assert killed[0] > 0
    assert len(traffic.answers) + sum(traffic.failures.values()) == len(traffic.sent) >= REQUESTS
    assert set(traffic.failures) <= {"ConnectionError", "ChunkedEncodingError"}
    # A worker that is killed takes the requests inside it along, no others.
    assert sum(traffic.failures.values()) <= killed[0] * CLIENTS
    assert len(logged) == len(rows)
    for number, answer in traffic.answers:
        instance, prediction, version = logged[answer["prediction_id"]]
        assert json.loads(instance) == {"x": float(number)}
        assert json.loads(str(prediction)) == answer["prediction"] == version
        assert answer["model_version"] == str(version)


def test_a_request_sent_after_activate_returned_gets_the_new_version(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = new_server(workers=4, threads=2, rate_limit="10000000/minute")
    upload_two_versions(server, tmp_path)
    server.start()
    key = server.key("--scope", "predict", "--scope", "models:activate")
    for turn in range(20):
        wanted = 2 - turn % 2
        answer = server.post("/models/fire/activate", {"version": wanted}, key).json()
        assert answer["workers"] == {"total": 4, "switched": 4, "failures": []}
        seen = {server.post("/models/fire/predict", {"x": turn}, key).json()["model_version"] for _ in range(8)}
        assert seen == {str(wanted)}
