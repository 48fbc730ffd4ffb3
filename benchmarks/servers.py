"""Starts the servers that are compared, waits until each answers, and ends it with all its processes."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

START_SECONDS, STOP_SECONDS, LOOK_SECONDS = 90.0, 40.0, 0.02


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, and the request that it is asked."""

    name: str
    port: int
    pid: int
    # From its start until it answered.
    start_seconds: float
    path: str = "/"
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def asked(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Server:
        """Give the same server with another request."""
        return replace(self, path=path, body=body, headers=headers or {})

    def answer(self) -> bytes:
        """Ask once; anything but success is an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            method = "GET" if self.body is None else "POST"
            kind = {} if self.body is None else {"Content-Type": "application/json"}
            connection.request(method, self.path, self.body, {**kind, **self.headers})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            message = f"{self.name} answers {response.status}: {content[:500]!r}"
            raise RuntimeError(message)
        return content


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    port: int,
    probe: str,
    *,
    environment: Mapping[str, str],
    folder: Path,
) -> Iterator[Server]:
    """Start a server in a folder, yield it when `probe` answers 200, and end all its processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.log").open("ab") as log:
        started = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own command lines
            command, cwd=folder, env=dict(environment), stdout=log, stderr=log, start_new_session=True
        )
        try:
            server = Server(name, port, process.pid, 0.0, probe)
            _await_answer(server, process, folder / f"{name}.log")
            yield replace(server, start_seconds=time.monotonic() - started)
        finally:
            _end(process)


def _await_answer(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError, RuntimeError, http.client.HTTPException):
            server.answer()
            return
        if process.poll() is not None or time.monotonic() > until:
            last = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            message = f"{server.name} does not answer; its log ends with:\n{last}"
            raise RuntimeError(message)
        time.sleep(LOOK_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Some leave processes behind; all of them are in the session that began with this one.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
