"""Hostile uploads through the real path: each is refused in words or costs what it may, and the server goes on."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import pickle
import secrets
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import joblib
import numpy as np
import pytest
import requests
import skops.io
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.tree import DecisionTreeClassifier

from scripts.processes import children, descendants
from tests import attacks
from tests.admin.conftest import Page
from tests.attacks import Calls
from tests.conftest import eventually
from tests.functional.browser import worker_held
from tests.functional.server import Server
from tests.functional.switching import MODEL as SERVED
from tests.functional.switching import Stock
from webapp.child import ENVIRONMENT

MIB = 1024 * 1024
GIB = 1024 * MIB
# Children import for seconds where the machine has other work; nothing waits for it that comes sooner.
PATIENCE_SECONDS = 900
LOOK_SECONDS = 0.02


# --- Sending ------------------------------------------------------------------------------------------------


def form(content: bytes, name: str) -> tuple[bytes, str]:
    """Write a form with one file, and the type of it: libraries would tidy up the name."""
    boundary = secrets.token_hex(16)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode()
    head = b'--%s\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % (boundary.encode(), quoted)
    return head + content + b"\r\n--" + boundary.encode() + b"--\r\n", f"multipart/form-data; boundary={boundary}"


class Sender:
    """Uploads over HTTP with a key, and asks what became of it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.key = server.key("--scope", "models:write", "--scope", "models:read", "--scope", "predict")

    def send(self, content: bytes, name: str = "model.joblib", model: str = "hostile") -> requests.Response:
        """Send a file; give the answer, which comes before anybody has looked into it."""
        body, kind = form(content, name)
        headers = {"X-API-Key": self.key, "Content-Type": kind}
        url = f"{self.server.url}/models/{model}/versions"
        return requests.post(url, data=body, headers=headers, timeout=PATIENCE_SECONDS)

    def end_of(self, answer: requests.Response) -> dict[str, Any]:
        """Wait until an upload is a version or refused; give which."""
        assert answer.status_code == 202, answer.text
        return eventually(lambda: self._ended(answer.json()["status_url"]), within_seconds=PATIENCE_SECONDS)

    def _ended(self, address: str) -> dict[str, Any] | None:
        found: dict[str, Any] = self.server.get(address, self.key).json()
        return None if found["status"] == "processing" else found

    def refusal(self, content: bytes, name: str = "model.joblib") -> dict[str, Any]:
        """Send a file that has to be refused; give how it was."""
        found = self.end_of(self.send(content, name))
        assert (found["status"], found["version"]) == ("refused", None), name
        error: dict[str, Any] = found["error"]
        return error


# --- Looking at processes -----------------------------------------------------------------------------------


def command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def worker_of(server: Server) -> int:
    """Give the process that inspects uploads."""
    assert server.process is not None
    (pid,) = (pid for pid in children(server.process.pid) if command(pid)[-1:] == ["worker"])
    return pid


def status(pid: int) -> dict[str, str]:
    """Give what the kernel tells of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def peak_mib(pid: int) -> float:
    """Give the most memory that a process ever held."""
    return int(status(pid)["VmHWM"].split()[0]) / 1024


@dataclass
class Seen:
    """What was seen of a child from outside while it was behind its lock."""

    act: str
    begun: float
    locked: float = 0.0
    last: float = 0.0
    peak_mib: float = 0.0
    walls: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    open_files: set[str] = field(default_factory=set)

    def look(self, pid: int) -> None:
        """Look at all of it; once it has ended, that fails."""
        told, now = status(pid), time.monotonic()
        self.last = now
        self.peak_mib = int(told["VmHWM"].split()[0]) / 1024
        if told["Seccomp"] != "2" or self.walls:
            return
        # Numbered from the third field on, which follows the name in brackets.
        numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        given = Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1]
        self.environment = dict(each.split("=", 1) for each in given)
        self.open_files = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
        self.locked = now
        self.walls = {
            "NoNewPrivs": told["NoNewPrivs"],
            "Seccomp": told["Seccomp"],
            "Threads": told["Threads"],
            "nice": numbers[16],
        }


class Watch:
    """Looks again and again at the children of the process that inspects uploads."""

    def __init__(self, server: Server) -> None:
        self.worker = worker_of(server)
        self.seen: dict[int, Seen] = {}
        self.most_at_once = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            there = [pid for pid in children(self.worker) if self._is_seen(pid)]
            self.most_at_once = max(self.most_at_once, len(there))

    def _is_seen(self, pid: int) -> bool:
        try:
            act = command(pid)[-1:]
            # Before it has become what was asked for, it is still called like its parent; at its end, nothing.
            if act not in (["convert"], ["prove"]):
                return False
            self.seen.setdefault(pid, Seen(act[0], time.monotonic())).look(pid)
        except (OSError, KeyError):
            return False
        return True


# --- Files --------------------------------------------------------------------------------------------------


def honest() -> LogisticRegression:
    return LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))


def bomb() -> bytes:
    """Two megabytes that unpack to more than 2 GiB: one block, over and over."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(16 * MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return b"\x78\x9c" + block * 130


def tampered() -> bytes:
    """A tree whose first child lies far behind its last node: predicting with it ends the process."""
    tree = DecisionTreeClassifier(random_state=0).fit(*load_iris(return_X_y=True))
    tree.tree_.children_left[0] = 10**9
    return bytes(skops.io.dumps(tree))


def forest(trees: int) -> bytes:
    """An honest forest that takes a while to look at."""
    rows = np.random.default_rng(0).random((5000, 4))
    file = io.BytesIO()
    joblib.dump(RandomForestRegressor(trees, random_state=0).fit(rows, rows.sum(axis=1)), file)
    return file.getvalue()


def weighty(megabytes: float) -> bytes:
    """An honest model of just about that weight, and never more, which is made and tried in no time."""
    # Of its arrays one is a square; the others, and what is said about them, weigh less than five lines of it.
    width = int((megabytes * 10**6 / 8) ** 0.5) - 5
    with warnings.catch_warnings():
        # It has not converged, nor does it have to.
        warnings.simplefilter("ignore")
        model = MLPRegressor(hidden_layer_sizes=(width, width), max_iter=1).fit(np.eye(4), np.arange(4.0))
    file = io.BytesIO()
    # What only goes on fitting weighs three times as much.
    del model._optimizer, model._best_coefs
    joblib.dump(model, file)
    return file.getvalue()


@pytest.fixture
def sender(server: Server) -> Iterator[Sender]:
    """One who uploads to the shared server; whatever is sent, nothing of it may be left there."""
    assert server.process is not None
    processes = descendants(server.process.pid)
    yield Sender(server)
    eventually(lambda: list((server.data_dir / "quarantine").iterdir()) == [], within_seconds=PATIENCE_SECONDS)
    assert descendants(server.process.pid) == processes


def stored(server: Server) -> list[Path]:
    return sorted((server.data_dir / "artifacts").rglob("*"))


# --- What is refused ----------------------------------------------------------------------------------------


def test_a_file_that_runs_commands_is_refused_whatever_it_is_packed_in_and_called(
    sender: Sender, tmp_path: Path
) -> None:
    marker, before = tmp_path / "it-ran", stored(sender.server)
    call = Calls(os.system, f"touch {marker}")
    files = {
        "model.skops": lzma.compress(pickle.dumps(call)),
        "model.csv.gz": gzip.compress(pickle.dumps(call, protocol=2)),
        "iris.joblib": attacks.with_a_tail(honest(), call),
    }
    sent = {name: sender.send(content, name) for name, content in files.items()}
    for name, answer in sent.items():
        error = sender.end_of(answer)["error"]
        assert error["code"] == "model_unknown_names", name
        (finding,) = error["findings"]
        assert finding["name"] == "posix.system", name
        assert finding["meaning"].startswith("Can run commands"), name
        assert finding["offset"] > 0, name
        assert error["detail"].endswith("Nothing in the file was run."), name
    assert not marker.exists()
    assert stored(sender.server) == before
    assert sender.server.rows("SELECT * FROM models WHERE name = 'hostile'") == []


def test_a_tree_that_would_end_the_process_is_refused_with_its_place_and_the_server_lives(sender: Sender) -> None:
    error = sender.refusal(tampered(), "model.skops")
    assert error["code"] == "model_structure_invalid"
    assert [finding["name"] for finding in error["findings"]] == ["tree_.children_left[0]"]
    instance = {"age": 35, "income": 52000, "credit_score": 690}
    assert sender.server.post("/models/credit-risk/predict", instance, sender.key).status_code == 200


def test_what_claims_or_unpacks_to_too_much_costs_the_parent_no_memory(sender: Sender) -> None:
    # What every upload takes, and what the worker takes to start, is there before.
    sender.refusal(b"no model")
    worker, packed = worker_of(sender.server), bomb()
    before = peak_mib(worker)
    assert len(packed) < 3 * MIB
    with Watch(sender.server) as watch:
        for content in (packed, attacks.claiming(10**11)):
            assert sender.refusal(content)["code"] == "model_unpacks_too_large"
    after = peak_mib(worker)
    most = max(seen.peak_mib for seen in watch.seen.values())
    print(f"\nworker process: {before:.0f} MiB at most before, {after:.0f} after; child: {most:.0f}")
    assert after < before + 32


NAMES = {
    "../../../../etc/cron.d/evil": "evil",
    "..\\..\\evil.joblib": "evil.joblib",
    "evil\0.joblib": "evil.joblib",
    "x" * 4000 + ".joblib": "x" * 93 + ".joblib",
    "evil\u202egpj.joblib": "evilgpj.joblib",
    "<img src=x onerror=alert(1)>.joblib": "<img src=x onerror=alert(1)>.joblib",
}


def test_the_name_of_a_file_is_a_label_that_is_shown_as_text(sender: Sender, operator: requests.Session) -> None:
    for name, label in NAMES.items():
        answer = sender.send(b"", name)
        assert label in sender.end_of(answer)["error"]["detail"]
        page = Page(operator.get(f"{sender.server.url}/admin/uploads/{answer.json()['id']}", timeout=60).text)
        assert f"{label} is empty." in page.text, name
        assert "img" not in {element for element, _ in page.elements}
        assert not [each for _, attributes in page.elements for each in attributes if each.startswith("on")]
    assert not list(sender.server.data_dir.parent.rglob("*evil*"))


@pytest.fixture
def operator(server: Server) -> Iterator[requests.Session]:
    """A browser of somebody who may upload."""
    link = str(server.cli("users", "create", f"olga-{secrets.token_hex(4)}", "--role", "operator")["link"])
    with requests.Session() as browser:
        fields = Page(browser.get(link, timeout=60).text).fields(urlsplit(link).path)
        assert browser.post(link, fields, timeout=60, allow_redirects=False).status_code == 303
        yield browser


# --- What it costs ------------------------------------------------------------------------------------------


def test_a_child_that_inspects_a_file_is_locked_idle_and_knows_no_secret(sender: Sender) -> None:
    with Watch(sender.server) as watch:
        answer = sender.send(forest(100), "<b>forest</b>.joblib", f"forest-{secrets.token_hex(4)}")
        assert sender.end_of(answer)["status"] == "stored"
    assert [seen.act for seen in watch.seen.values()] == ["convert", "prove"]
    assert watch.most_at_once == 1
    for seen in watch.seen.values():
        print(f"\n{seen.act}: imports {seen.locked - seen.begun:.1f} s, work {seen.last - seen.locked:.1f} s")
        assert seen.walls == {"NoNewPrivs": "1", "Seccomp": "2", "Threads": "1", "nice": "19"}
        assert seen.environment == ENVIRONMENT
        # Pipes to its parent, nowhere for what it prints, and the files of this inspection: no socket, no database.
        own = ("pipe:", f"{sender.server.data_dir / 'quarantine'}/", "/dev/null")
        assert [each for each in seen.open_files if not each.startswith(own)] == []


class Steady:
    """A client that asks for one prediction after the other, and notes how long each took."""

    def __init__(self, server: Server, key: str) -> None:
        self.server, self.key = server, key
        self._session = requests.Session()

    def ask(self, count: int) -> list[float]:
        """Ask so often."""
        return [self._once() for _ in range(count)]

    def ask_until(self, done: Callable[[], bool]) -> list[float]:
        """Ask as long as something lasts."""
        taken = []
        while not done():
            taken.append(self._once())
        return taken

    def _once(self) -> float:
        headers, begun = {"X-API-Key": self.key}, time.perf_counter()
        url = f"{self.server.url}/models/{SERVED}/predict"
        answer = self._session.post(url, json={"x": 1}, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return time.perf_counter() - begun


def compared(idle: list[float], busy: list[float]) -> str:
    """Say how long predictions took beside uploads, and without any."""
    rows = []
    for percent in (50, 99):
        alone, beside = (float(np.percentile(each, percent)) * 1000 for each in (idle, busy))
        rows.append(f"p{percent} {alone:.1f} ms idle, {beside:.1f} ms beside uploads: {beside / alone:.2f} x")
    return "; ".join(rows)


def serving(server: Server) -> Sender:
    """Start a server that has something to predict with."""
    stock = Stock(server.data_dir)
    stock.add()
    stock.activate(1)
    stock.close()
    return Sender(server.start())


def all_ended(server: Server) -> bool:
    return server.rows("SELECT count(*) FROM uploads WHERE done_at IS NULL") == [(0,)]


def test_of_many_large_uploads_at_once_one_is_inspected_at_a_time_and_no_more_wait_than_have_room(
    new_server: Callable[..., Server],
) -> None:
    content = weighty(20)
    room = 6
    sender = serving(new_server(max_waiting_bytes=int((room + 0.5) * len(content)), rate_limit="10000000/minute"))
    server = sender.server
    steady = Steady(server, sender.key)
    idle = steady.ask(300)
    with Watch(server) as watch:
        with worker_held(server), ThreadPoolExecutor(room + 4) as pool:
            sent = list(pool.map(lambda number: sender.send(content, model=f"weighty-{number}"), range(room + 4)))
        busy = steady.ask_until(lambda: all_ended(server))
    taken = [answer for answer in sent if answer.status_code == 202]
    refused = [answer for answer in sent if answer.status_code == 503]
    assert (len(taken), len(refused)) == (room, 4)
    assert {answer.json()["code"] for answer in refused} == {"quarantine_full"}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    assert [sender.end_of(answer)["status"] for answer in taken] == ["stored"] * room
    assert [seen.act for seen in watch.seen.values()] == ["convert", "prove"] * room
    assert watch.most_at_once == 1
    print(f"\n{room} uploads of {len(content) / MIB:.0f} MiB: {compared(idle, busy)}")
    eventually(lambda: list((server.data_dir / "quarantine").iterdir()) == [])
