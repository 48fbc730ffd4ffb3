"""A real `modelport serve` on loopback, with a data directory of its own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from scripts.processes import children, descendants, free_port
from tests import databases
from tests.conftest import eventually

START_SECONDS = 120
STOP_SECONDS = 60


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists()


class Refused(Exception):  # noqa: N818 - it names the fact
    """A command was refused; its answer and what it said on stderr."""

    def __init__(self, exit_code: int, answer: Any, said: str) -> None:
        """Keep all three."""
        super().__init__(f"{exit_code}: {said}")
        self.exit_code, self.answer, self.said = exit_code, answer, said


class Server:
    """One installation: commands work whether it runs or not."""

    # Whose packages it runs on.
    python = sys.executable

    def __init__(self, data_dir: Path, **settings: object) -> None:
        """`settings` are given without their prefix, in lower case."""
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"data_dir": data_dir, "bind": f"127.0.0.1:{self.port}", "workers": 2, **settings}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
        given = {f"MODELPORT_{name.upper()}": str(value) for name, value in own.items()}
        self.environment = clean | databases.environment(data_dir) | given
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data_dir.with_suffix(".log")
        self._has_own_database = "MODELPORT_DATABASE_URL" in given
        if self._has_own_database:
            self.cli("db", "upgrade")
        else:
            data_dir.mkdir(mode=0o700)
            databases.make_migrated(data_dir)

    def cli(self, *arguments: object) -> Any:
        """Run a command with --json; give its answer."""
        command = [self.python, "-m", "webapp.cli", *map(str, arguments), "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        answer = json.loads(done.stdout) if done.stdout.strip() else None
        if done.returncode:
            raise Refused(done.returncode, answer, done.stderr)
        return answer

    def demo(self) -> None:
        """Bring the demo model: by command, or as a copy of what the command once made."""
        if self._has_own_database or databases.ON_POSTGRESQL:
            self.cli("demo")
        else:
            shutil.copytree(_demonstrated(), self.data_dir, dirs_exist_ok=True)

    def start(self) -> Server:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "webapp.cli", "serve"], env=self.environment, stdout=log, stderr=log
            )
        try:
            eventually(self._answers, within_seconds=START_SECONDS)
            # Beside the web and the log writer, the worker: it starts when the web answers.
            eventually(lambda: self.process is None or len(children(self.process.pid)) == 3)
        except BaseException:
            self.stop()
            raise
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it in order (or by another signal), and wait for all its processes."""
        if self.process is not None:
            everyone = descendants(self.process.pid) if self.process.poll() is None else set()
            self.process.send_signal(number)
            self.process.wait(STOP_SECONDS)
            # Those that are killed with their supervisor answer a moment longer, as if the next one had started.
            eventually(lambda: not any(map(_lives, everyone)), within_seconds=STOP_SECONDS)
            self.process = None

    def key(self, *options: object) -> str:
        """Make a key."""
        made: str = self.cli("keys", "create", "test", *options)["key"]
        return made

    def post(self, path: str, body: object, key: str | None, **more: Any) -> requests.Response:
        """Send JSON with a key."""
        headers = {"X-API-Key": key} if key else {}
        return requests.post(self.url + path, json=body, headers=headers, timeout=60, **more)

    def get(self, path: str, key: str | None = None) -> requests.Response:
        """Fetch with a key."""
        headers = {"X-API-Key": key} if key else {}
        return requests.get(self.url + path, headers=headers, timeout=60)

    def delete(self, path: str, key: str) -> requests.Response:
        """Delete with a key."""
        return requests.delete(self.url + path, headers={"X-API-Key": key}, timeout=60)

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database past the product."""
        return databases.execute(self.data_dir, statement, *values)

    @contextmanager
    def locked_database(self) -> Iterator[None]:
        """Hold the database so that nobody else can read or write it."""
        with databases.locked(self.data_dir):
            yield

    def logged(self, prediction_id: str) -> tuple[Any, ...]:
        """Give a prediction's row once the log writer has inserted it."""
        return eventually(lambda: self.rows("SELECT * FROM predictions WHERE id = ?", prediction_id))[0]

    def worker_pids(self) -> list[int]:
        """Give the process ids of the live web workers."""
        return [pid for (pid,) in self.rows("SELECT pid FROM web_workers ORDER BY slot")]


@functools.cache
def _demonstrated() -> Path:
    """Give a data directory that has the demo model: training and inspecting it for each test would take minutes."""
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    atexit.register(shutil.rmtree, folder)
    made = Server(folder / "data")
    made.cli("demo")
    return made.data_dir
