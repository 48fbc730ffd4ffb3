"""What the tests of activation share: versions that show who answered, clients that count, figures."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import requests
import skops.io
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import LinearRegression

from tests import databases
from tests.conftest import eventually
from tests.functional.server import Server
from webapp import config, registry
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor
from webapp.db import Database
from webapp.serving import golden
from webapp.serving.predictor import Predictor, assemble
from webapp.signature import Signature
from webapp.signature.learn import learn

MODEL = "fire"
TESTER = Actor("cli:tester")
CLIENTS = 8
REGISTRY = ("models:read", "models:activate", "predict")


class Stock:
    """Puts versions into a registry: version 1 answers with 1 and a little, version 2 with 2 and a little."""

    def __init__(self, data_dir: Path) -> None:
        settings = config.prepare(config.load({"MODELPORT_DATA_DIR": str(data_dir), **databases.environment(data_dir)}))
        self.secret = settings.derive("versions")
        self.database = Database(settings.sqlalchemy_url)
        self.store = ArtifactStore(settings.artifacts_dir)
        self.folder = settings.artifacts_dir

    def add(self, estimator: Any = None, rules: Signature | None = None, **more: Any) -> int:
        """Register the next version as an upload does, with other rules where they are given."""
        with self.database.reading() as session:
            made = [model for model in registry.all_models(session) if model.name == MODEL]
            number = 1 + sum(len(model.versions) for model in made)
        estimator = estimator or small(number)
        signature = learn(estimator, assemble, reference=None, declared=()).signature
        rows = golden.record(Predictor(estimator, signature), signature, [(float(row),) for row in range(4)])
        content = skops.io.dumps(estimator)
        with self.database.transaction() as session:
            registry.add_version(
                session,
                TESTER,
                self.secret,
                MODEL,
                artifact=self.store.put(content),
                golden=self.store.put(json.dumps(rows.as_dict()).encode()),
                signature=(rules or signature).as_dict(),
                card={},
                report=report(len(content)),
                **more,
            )
        return number

    def close(self) -> None:
        self.database.engine.dispose()

    def activate(self, number: int) -> None:
        """Make a version active while the server is down, without any check."""
        with self.database.transaction() as session:
            registry.activate(session, TESTER, MODEL, number)

    def state(self) -> tuple[int | None, int]:
        """Give the active version, and how often it was changed."""
        with self.database.reading() as session:
            model = registry.get_model(session, MODEL)
            return model.active_number, len(registry.history(session, model))

    def has(self, number: int) -> bool:
        """Whether there is a version of this number."""
        with self.database.reading() as session:
            return any(version.number == number for version in registry.get_model(session, MODEL).versions)

    def path(self, number: int) -> Path:
        """Where a version's file lies."""
        with self.database.reading() as session:
            digest = registry.get_version(session, registry.get_model(session, MODEL), number).artifact
        return self.folder / digest[:2] / digest

    def damage(self, number: int, how: str) -> None:
        """Take a version's file away, cut it, or change it; with its row, as one who knows the tables would."""
        path = self.path(number)
        whole = path.read_bytes()
        path.unlink()
        if how == "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        if how == "flipped":
            path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        if how == "with its row":
            digest = self.store.put(skops.io.dumps(small(99)))
            with self.database.transaction() as session:
                registry.get_version(session, registry.get_model(session, MODEL), number).artifact = digest


def report(size: int) -> dict[str, Any]:
    """Give as much of an inspection's report as pages and limits look at."""
    return {
        "file": {"name": "model.skops", "bytes": size, "format": "skops"},
        "notes": [],
        "normalised": [],
        "versions": {},
    }


def small(number: int) -> Any:
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    return LinearRegression().fit(frame, [number, number])


def large(number: int, megabytes: int) -> Any:
    """A forest of that weight; its trees differ in every leaf."""
    random, rows = np.random.default_rng(number), 20_000
    frame = pd.DataFrame({"x": random.random(rows)})
    trees = max(1, round(megabytes / 2.85))
    return ExtraTreesRegressor(trees, bootstrap=False).fit(frame, number + 0.1 + 0.1 * random.random(rows))


@dataclass
class Traffic:
    """Clients that ask one after another, each on a connection of its own, until they are stopped."""

    server: Server
    key: str
    clients: int = CLIENTS
    # Between two requests of a client: where the machine is too small for the workers, it would only measure that.
    pause_seconds: float = 0.0
    # When each was sent, when its answer came, and the version that it names; only answers that agree with it.
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    wrong: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._client) for _ in range(self.clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> None:
        session = requests.Session()
        session.headers["X-API-Key"] = self.key
        while not self._stop.is_set():
            number = next(self._numbers)
            # New connections now and then, so that every worker is asked.
            if number % 20 == 0:
                session.close()
            sent = time.time()
            try:
                answer = session.post(f"{self.server.url}/models/{MODEL}/predict", json={"x": number % 97}, timeout=60)
            except requests.RequestException as error:
                self.failures[type(error).__name__] += 1
                continue
            self._note(sent, answer)
            self._stop.wait(self.pause_seconds)

    def _note(self, sent: float, answer: requests.Response) -> None:
        if answer.status_code != 200:
            self.failures[str(answer.status_code)] += 1
            return
        document = answer.json()
        version = document["model_version"]
        if str(int(document["prediction"] + 1e-6)) != version:
            self.wrong += 1
        self.answers.append((sent, time.time(), version))

    def wait(self, count: int, within_seconds: float = 60) -> None:
        """Return when so many more were answered."""
        until, wanted = time.monotonic() + within_seconds, len(self.answers) + count
        while len(self.answers) < wanted:
            assert time.monotonic() < until, f"{len(self.answers)} answers, {dict(self.failures)}"
            threading.Event().wait(0.005)

    def p99_ms(self, since: float, until: float) -> float:
        """Give the time within which 99 of 100 requests of a span were answered."""
        taken = [(done - sent) * 1000 for sent, done, _ in self.answers if since <= sent <= until]
        return float(np.percentile(taken, 99)) if taken else 0.0


@dataclass(frozen=True)
class Turn:
    """One activation by a client: what it answered, and when it was asked and answered."""

    status: int
    body: dict[str, Any]
    asked: float
    answered: float


def activate(server: Server, key: str, number: int, **more: Any) -> Turn:
    return _turn(server, key, "activate", {"version": number, **more})


def rollback(server: Server, key: str) -> Turn:
    return _turn(server, key, "rollback", {})


def _turn(server: Server, key: str, act: str, body: dict[str, Any]) -> Turn:
    asked = time.time()
    answer = requests.post(f"{server.url}/models/{MODEL}/{act}", json=body, headers={"X-API-Key": key}, timeout=300)
    return Turn(answer.status_code, answer.json(), asked, time.time())


def skew_seconds(server: Server) -> float:
    """Give the time from the first worker's last switch to the last one's, as the log says."""
    found: dict[int, list[float]] = {}
    for line in server.log.read_text().splitlines():
        if '"follow.switched"' in line:
            entry = json.loads(line)
            found.setdefault(entry["generation"], []).append(datetime.fromisoformat(entry["ts"]).timestamp())
    moments = found[max(found)]
    return max(moments) - min(moments)


def resident_mb(pids: list[int]) -> list[float]:
    """Give how much memory each process holds now."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) for pid in pids]
    return [each * 4096 / 1e6 for each in pages]


# --- What is tried, in a quick form and in a long one ---------------------------------------------------------


def key_of(server: Server) -> str:
    """Make a key that may ask, look and switch."""
    return server.key(*(option for scope in REGISTRY for option in ("--scope", scope)))


def switched_under_load(server: Server, key: str, turns: list[int], pause_seconds: float = 0.0) -> str:
    """Switch while clients ask; nobody may notice but by the version that answers. Gives the figures."""
    skews, spans = [], []
    with Traffic(server, key, pause_seconds=pause_seconds) as traffic:
        traffic.wait(100)
        began = time.time()
        traffic.wait(200)
        idle = traffic.p99_ms(began, time.time())
        for number in turns:
            turn = activate(server, key, number)
            assert turn.status == 200, turn.body
            workers = turn.body["workers"]
            assert workers["switched"] == workers["total"], workers
            traffic.wait(100)
            after = {version for sent, _, version in list(traffic.answers) if sent > turn.answered}
            assert after == {str(number)}
            skews.append(skew_seconds(server))
            spans.append((turn.answered - turn.asked, traffic.p99_ms(turn.asked, turn.answered)))
    assert (dict(traffic.failures), traffic.wrong) == ({}, 0)
    seconds, p99 = max(spans)
    return (
        f"{len(traffic.answers)} answers, 0 failed, 0 wrong; {len(turns)} switches, the longest {seconds:.2f} s;"
        f" skew at most {max(skews) * 1000:.0f} ms; p99 {idle:.0f} ms without a switch, {p99:.0f} ms in the longest one"
    )


def flipped(server: Server, key: str, pairs: int) -> str:
    """Activate and roll back again and again; the last word counts, and no memory is lost."""
    for act in (activate(server, key, 2), rollback(server, key)):
        assert act.status == 200, act.body
    before, began = resident_mb(server.worker_pids()), time.monotonic()
    for _ in range(pairs):
        assert activate(server, key, 2).status == 200
        assert rollback(server, key).status == 200
    seconds, after = time.monotonic() - began, resident_mb(server.worker_pids())
    answer = server.post(f"/models/{MODEL}/predict", {"x": 1}, key).json()
    assert answer["model_version"] == "1"
    growth = max(now / then for now, then in zip(after, before, strict=True))
    assert growth < 1.1, (before, after)
    return f"{2 * pairs} switches in {seconds:.1f} s; memory of a worker x {growth:.3f} at most"


def raced(server: Server, key: str, rounds: int) -> str:
    """Two admins at once, again and again: one is obeyed, the other is told."""
    codes: Counter[str] = Counter()
    for _ in range(rounds):
        active = server.get(f"/models/{MODEL}", key).json()["active_version"]
        others = [number for number in (1, 2, 3) if number != active]
        with ThreadPoolExecutor(2) as pool:
            turns = list(pool.map(partial(activate, server, key), others))
        last = server.get(f"/models/{MODEL}", key).json()
        accepted = [
            turn.body["version"] for turn in sorted(turns, key=lambda each: each.answered) if turn.status == 200
        ]
        assert last["active_version"] in accepted
        codes.update(str(turn.body.get("code", turn.status)) for turn in turns)
    assert set(codes) <= {"200", "activation_lost_race"}, codes
    return f"{rounds} races: {dict(codes)}"


def metric(server: Server, name: str) -> float:
    """Give a metric's value."""
    for line in requests.get(f"{server.url}/metrics", timeout=30).text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    return 0.0


def refused_under_load(server: Server, key: str, stock: Stock, numbers: dict[str, int]) -> str:
    """Try to activate what cannot be loaded, while clients ask: they get the old version without a single error."""
    reasons = {}
    with Traffic(server, key, clients=4) as traffic:
        for how, number in numbers.items():
            before = metric(server, "modelport_version_load_failures_total")
            stock.damage(number, how)
            turn = activate(server, key, number, confirm=MODEL)
            assert (turn.status, turn.body["code"]) == (409, "activation_failed"), turn.body
            assert turn.body["failures"]
            reasons[how] = turn.body["failures"][0]["reason"].partition(":")[0]
            eventually(partial(_is_more, server, before))
            traffic.wait(20)
    assert (dict(traffic.failures), traffic.wrong) == ({}, 0)
    assert {version for _, _, version in traffic.answers} == {"1"}
    return f"{len(traffic.answers)} answers by the old version, 0 failed; refused: {reasons}"


def _is_more(server: Server, before: float) -> bool:
    return metric(server, "modelport_version_load_failures_total") > before
