"""A real PostgreSQL for tests: a cluster of its own in a folder of its own, which can be made to refuse and to hang."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.processes import descendants, free_port
from tests.waiting import eventually

PASSWORD = "kept-out-of-every-message"
# Speed instead of safety, as nothing in it outlives the tests. A database that autovacuum looks at cannot be copied.
OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
}


class Server:
    """Debian's postgresql; without it tests are skipped, and where CI=true they fail."""

    def __init__(self) -> None:
        """Make the cluster and start it. Its user `modelport` may make databases, and needs a password."""
        self._programs = _programs()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        # PostgreSQL refuses to run as root.
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if self._user:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        # The order of a language, which is not that of bytes: the product must not depend on it.
        order = ("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
        ways = ("--auth-local=trust", "--auth-host=scram-sha-256", "--username=postgres", "--no-sync")
        self._run("initdb", "--pgdata", str(self._folder / "data"), *order, *ways)
        self.port = free_port()
        self.start()
        self.execute(f"CREATE ROLE modelport LOGIN CREATEDB PASSWORD '{PASSWORD}'")

    def start(self) -> None:
        """Start it with what is in it; wait until it answers."""
        options = [f"-c{name}={value}" for name, value in OPTIONS.items()]
        place = ["-D", str(self._folder / "data"), "-k", str(self._folder), "-p", str(self.port)]
        command = [*self._as_user(), str(self._programs / "postgres"), *place, *options]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._folder / "log").read_text()
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _as_user(self) -> list[str]:
        """Give what a command begins with, so that it runs as another user than root and ends with the tests."""
        ids = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"] if self._user else []
        return ["setpriv", *ids, "--pdeathsig=INT"]

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user(), str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self._folder)
        assert done.returncode == 0, done.stderr

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the one who may do everything, each statement on its own."""
        return psycopg.connect(
            host=str(self._folder), port=self.port, user="postgres", dbname=database, autocommit=True
        )

    def execute(self, statement: str) -> None:
        """Do something to the cluster."""
        with self.connect() as connection:
            connection.execute(statement.encode())

    def url(self, database: str) -> str:
        """Give the URL of a database, as an operator would set it."""
        return f"postgresql+psycopg://modelport:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template1") -> None:
        """Make a database, empty or as another one is."""
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}" OWNER modelport STRATEGY file_copy')

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Be away: who is connected is cut off, who comes is refused."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Take connections and never answer: all of its processes are stopped."""
        # Those that start others first; a process that serves one connection may end meanwhile.
        everyone = sorted(descendants(self.process.pid))
        _send(everyone, signal.SIGSTOP)
        try:
            yield
        finally:
            _send(everyone, signal.SIGCONT)

    def stop(self) -> None:
        """End it at once, as a fault does."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def close(self) -> None:
        """End it for good."""
        self.stop()
        shutil.rmtree(self._folder)


def _programs() -> Path:
    """Give the folder of the newest release's programs, which Debian keeps off the path."""
    found = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]), default=None)
    on_path = shutil.which("postgres")
    program = found or (Path(on_path) if on_path else None)
    if program is None:
        reason = "postgresql is missing; scripts/test_packages.sh installs it or says how."
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return program.parent


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
