"""The log and the counters while processes are killed and restarted for many rounds; prints its figures."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import requests

from scripts.processes import children, descendants
from tests.conftest import eventually
from tests.functional.conftest import new_server as new_server  # noqa: PLC0414 - a fixture of the functional tests
from tests.functional.server import Server

GOOD = {"age": 35, "income": 52000, "credit_score": 690}
ROWS = 20
ROUNDS, RESTARTS = 200, 500
LOGGED_SECONDS = 120
# Between two requests of a client: what is tried is the log under way, not how much it takes.
PAUSE_SECONDS = 0.01
# Of four web workers and those who take over from them, the worker and the log writer, some kinds of each.
MOST_FILES = 60
COUNTS = "SELECT hour, rows, counts FROM hourly_counts ORDER BY hour"


class Client(threading.Thread):
    """Asks without a pause, and notes what was answered."""

    def __init__(self, server: Server, key: str) -> None:
        super().__init__(daemon=True)
        self.server, self.key = server, key
        self.answered: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.done = threading.Event()

    def run(self) -> None:
        body = {"instances": [GOOD] * ROWS}
        while not self.done.is_set():
            try:
                answer = self.server.post("/predict", body, self.key)
            except requests.RequestException:
                self.outcomes["no answer"] += 1
                continue
            self.outcomes[str(answer.status_code)] += 1
            if answer.ok:
                self.answered += [each["prediction_id"] for each in answer.json()["predictions"]]
            self.done.wait(PAUSE_SECONDS)

    def end(self) -> None:
        self.done.set()
        self.join()


def running(server: Server, command: bytes) -> list[int]:
    """Give the processes of a server whose command line ends so."""
    assert server.process is not None
    found = []
    for pid in descendants(server.process.pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").endswith(command):
                found.append(pid)
    return found


def web_workers(server: Server) -> list[int]:
    """Give Gunicorn's workers: the children of its one process that has children like itself."""
    masters = [pid for pid in running(server, b"webapp.server") if children(pid)]
    return [child for pid in masters for child in children(pid) if child not in masters]


def kill(pids: list[int], number: int) -> bool:
    with suppress(IndexError, ProcessLookupError):
        os.kill(random.choice(pids), number)
        return True
    return False


def drained(server: Server) -> None:
    """Return when every line of the spool is in the log: a place in the database behind the end of each segment."""
    spool = server.data_dir / "spool"

    def is_drained() -> bool:
        places = dict(server.rows('SELECT segment, "offset" FROM spool_positions'))
        return all(places.get(path.name, 0) >= path.stat().st_size for path in spool.glob("*.spool"))

    def look() -> bool:
        # A segment may be removed while it is looked at.
        with suppress(FileNotFoundError):
            return is_drained()
        return False

    eventually(look, within_seconds=LOGGED_SECONDS)


def started(new_server: Callable[..., Server], workers: int = 2) -> tuple[Server, str]:
    server = new_server(workers=workers, rate_limit="10000000/minute")
    server.demo()
    server.start()
    eventually(lambda: server.rows("SELECT version FROM drift_references"))
    return server, server.key()


def test_whatever_is_killed_at_whatever_moment_nothing_is_lost_and_nothing_twice(
    new_server: Callable[..., Server],
) -> None:
    random.seed(11)
    server, key = started(new_server)
    client = Client(server, key)
    client.start()
    killed: Counter[str] = Counter()
    kinds: dict[str, Callable[[], list[int]]] = {
        "log writer": lambda: running(server, b"log-writer"),
        "web worker": lambda: web_workers(server),
        "worker": lambda: running(server, b"worker"),
    }
    while killed.total() < ROUNDS:
        assert server.process is not None
        assert server.process.poll() is None, "the supervisor has ended"
        name = random.choice(list(kinds))
        killed[name] += kill(kinds[name](), signal.SIGKILL)
        time.sleep(random.uniform(0.05, 0.6))
    client.end()
    drained(server)
    found = Counter(row[0] for row in server.rows("SELECT id FROM predictions"))
    lost, twice = set(client.answered) - set(found), [each for each, times in found.items() if times > 1]
    server.stop()
    before = server.rows(COUNTS)
    server.cli("drift", "rebuild")
    same = server.rows(COUNTS) == before
    print(
        f"\nkilled {dict(killed)}; {len(client.answered):,} rows answered, {dict(client.outcomes)}; lost {len(lost)},"
    )
    print(f"twice {len(twice)}; counted {sum(row[1] for row in before):,}, counted again the same: {same}")
    assert not lost
    assert not twice
    # What was appended and not answered, because its process was killed in between, is logged, too.
    assert sum(row[1] for row in before) == len(found)
    assert same


def test_counters_never_go_back_however_often_workers_are_restarted(new_server: Callable[..., Server]) -> None:
    server, key = started(new_server, workers=4)
    client = Client(server, key)
    client.start()
    counted, seconds, restarts = [0.0], [], 0
    while restarts < RESTARTS:
        # Half of them at once: the others answer.
        ended = server.worker_pids()[:: random.choice([-2, 2])]
        restarts += sum(kill([pid], signal.SIGTERM) for pid in ended)
        began = time.monotonic()
        counted.append(successes(server))
        seconds.append(time.monotonic() - began)
        eventually(partial(all_ready, server, ended))
    client.end()
    files = list((server.data_dir / "run" / "metrics").iterdir())
    total = eventually(lambda: found if (found := successes(server)) == len(client.answered) else 0)
    print(f"\n{restarts} restarts, {dict(client.outcomes)}: counted {total:,.0f}, answered {len(client.answered):,};")
    size = sum(each.stat().st_size for each in files)
    print(f"a scrape {1000 * median(seconds):.0f} ms, the slowest {1000 * max(seconds):.0f} ms;", end=" ")
    print(f"{len(files)} files, {size:,} bytes")
    assert counted == sorted(counted)
    assert client.outcomes.keys() == {"200"}
    assert len(files) < MOST_FILES


def all_ready(server: Server, ended: list[int]) -> bool:
    """Whether all workers serve, and none of those that were to end."""
    ready = [pid for (pid,) in server.rows("SELECT pid FROM web_workers WHERE generation > 0")]
    return len(ready) == 4 and not set(ready) & set(ended)


def successes(server: Server) -> float:
    """Give how many predictions the server says that it made."""
    text = server.get("/metrics").text
    found = re.findall(r'^predictions_total\{[^}]*status="success"[^}]*\} ([0-9.e+]+)$', text, re.MULTILINE)
    return sum(map(float, found))
