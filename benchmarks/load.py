"""Load on a server: as fast as it answers (by wrk), or at a fixed rate whatever it answers (by a client of our own)."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.models import COPRIME, DIFFERENT, Case
from benchmarks.others import Other
from benchmarks.servers import Server

# So many bodies are prepared; each time one is sent, one of its numbers is another.
PREPARED, PREPARED_BYTES = 500, 2_000_000
# Stands where that number is put.
MARK = 0.123456789012345
OPEN_CONNECTIONS = 32
FAILED_AFTER_SECONDS = 5.0

_SCRIPT = """
local parts = dofile("%(parts)s")
local number = %(start)d
wrk.method = "POST"
for name, value in pairs(%(headers)s) do wrk.headers[name] = value end
function request()
  number = number + 1
  local part = parts[number %% #parts + 1]
  local place = number * %(coprime)d %% %(different)d / %(different)d
  return wrk.format(nil, nil, nil, part[1] .. string.format("%%.7f", %(low)r + (%(high)r - %(low)r) * place) .. part[2])
end
function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format('\\n{"requests":%%d,"microseconds":%%d,"failed":%%d,"p50":%%d,"p99":%%d}\\n',
    summary.requests, summary.duration,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one round of load found."""

    per_second: float
    p50_ms: float
    p99_ms: float
    # Of the requests, those that were refused or not answered.
    failed: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What a server is asked: a request of one model, in its own form, never the same twice."""

    case: Case
    other: Other
    headers: dict[str, str]
    rows: int = 1

    @property
    def path(self) -> str:
        """Where the requests go."""
        return self.other.path

    def documents(self) -> Iterator[Any]:
        """Give documents for ever."""
        instances = self.case.instances()
        while True:
            if self.rows == 1:
                yield self.other.form(self.case, next(instances))
            else:
                yield {"instances": list(islice(instances, self.rows))}

    def bodies(self) -> Iterator[bytes]:
        """Give bodies for ever."""
        return (json.dumps(document).encode() for document in self.documents())

    def parts(self) -> list[tuple[str, str]]:
        """Give prepared bodies, each cut where the number stands that makes it differ from all others."""
        count = max(1, min(PREPARED, PREPARED_BYTES // (self.rows * 500)))
        found = []
        for instances in islice(self._rows(), count):
            marked = [{**instances[0], self.case.varied: MARK}, *instances[1:]]
            document = self.other.form(self.case, marked[0]) if self.rows == 1 else {"instances": marked}
            before, after = json.dumps(document).split(str(MARK))
            found.append((before, after))
        return found

    def _rows(self) -> Iterator[list[dict[str, Any]]]:
        instances = self.case.instances()
        while True:
            yield list(islice(instances, self.rows))


def wrk_or_how() -> str:
    """Give the path of wrk, or end with how to install it."""
    found = shutil.which("wrk")
    if found is None:
        message = "wrk is missing; install it: apt-get install wrk"
        raise SystemExit(message)
    return found


def closed_loop(server: Server, asked: Asked, connections: int, seconds: int) -> Load:
    """Ask as fast as the server answers, with so many requests under way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "parts.lua").write_text(_lua(asked.parts()), encoding="utf-8")
        script = _SCRIPT % {
            "parts": folder / "parts.lua",
            "headers": _table({"Content-Type": "application/json", **asked.headers}),
            "start": time.monotonic_ns() // 1000 % DIFFERENT,
            "coprime": COPRIME,
            "different": DIFFERENT,
            "low": asked.case.low,
            "high": asked.case.high,
        }
        (folder / "wrk.lua").write_text(script, encoding="utf-8")
        command = [wrk_or_how(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
        command += ["-s", str(folder / "wrk.lua"), f"http://127.0.0.1:{server.port}{asked.path}"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own
    found = json.loads(printed.splitlines()[-1])
    answered = found["requests"] - found["failed"]
    return Load(
        answered / found["microseconds"] * 1e6,
        found["p50"] / 1000,
        found["p99"] / 1000,
        found["failed"] / max(1, found["requests"]),
    )


def _lua(parts: list[tuple[str, str]]) -> str:
    # Two pairs of square brackets with this mark hold any text of JSON as it is.
    return "return {" + ",".join(f"{{[==[{before}]==],[==[{after}]==]}}" for before, after in parts) + "}"


def _table(values: dict[str, str]) -> str:
    return "{" + ",".join(f'["{name}"]="{value}"' for name, value in values.items()) + "}"


# --- At a fixed rate --------------------------------------------------------------------------------------


# When a request was due, and the seconds from then to its answer.
Timed = tuple[float, float]


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._received = bytearray()
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._client.ready(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._received) >= end + 4 + length:
            self._received.clear()
            self._client.answered(self, ok=head.startswith(b"http/1.1 200"))


class _Client:
    """Sends each request when it is due, or as soon as a connection is free; its wait counts as the server's."""

    def __init__(self, head: bytes, bodies: Iterator[bytes]) -> None:
        self._head, self._bodies = head, bodies
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[float] = deque()
        self._under_way = 0
        self.answers: list[Timed] = []
        self.done = asyncio.Event()

    def send(self, due: float) -> None:
        self.done.clear()
        self._waiting.append(due)
        if self._idle:
            self._next(self._idle.popleft())

    def ready(self, connection: _Connection) -> None:
        """Use a connection that has nothing to do."""
        if self._waiting:
            self._next(connection)
        else:
            self._idle.append(connection)
            if not self._under_way:
                self.done.set()

    def _next(self, connection: _Connection) -> None:
        connection.due = self._waiting.popleft()
        self._under_way += 1
        body = next(self._bodies)
        connection.transport.write(self._head % len(body) + body)

    def answered(self, connection: _Connection, *, ok: bool) -> None:
        """Note an answer; one that refuses is none."""
        self._under_way -= 1
        if ok:
            self.answers.append((connection.due, time.perf_counter() - connection.due))
        self.ready(connection)


async def _at_rate(server: Server, asked: Asked, rate: float, seconds: float) -> list[Timed]:
    lines = [f"POST {asked.path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in asked.headers.items()]
    head = "\r\n".join([*lines, "Content-Length: %d", "", ""]).encode()
    count = int(rate * seconds)
    client = _Client(head, iter(list(islice(asked.bodies(), count))))
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: _Connection(client), "127.0.0.1", server.port))[0]
        for _ in range(OPEN_CONNECTIONS)
    ]
    began = time.perf_counter()
    for number in range(count):
        due = began + number / rate
        # Also when it is late, so that answers are read.
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        client.send(due)
    with suppress(TimeoutError):
        await asyncio.wait_for(client.done.wait(), FAILED_AFTER_SECONDS)
    for connection in connections:
        connection.close()
    # What is not answered by now, or was refused, counts as this late.
    missing = [(began, FAILED_AFTER_SECONDS)] * (count - len(client.answers))
    return [*client.answers, *missing]


def at_rate(server: Server, asked: Asked, rate: float, seconds: float) -> list[Timed]:
    """Ask at a fixed rate; give when each request was due, and its seconds from then on: slowness hides nothing."""
    return asyncio.run(_at_rate(server, asked, rate, seconds))


def open_loop(server: Server, asked: Asked, rate: float, seconds: float) -> Load:
    """Ask at a fixed rate, and sum up."""
    latencies = [latency for _, latency in at_rate(server, asked, rate, seconds)]
    failed = latencies.count(FAILED_AFTER_SECONDS)
    cut = statistics.quantiles(latencies, n=100)
    return Load((len(latencies) - failed) / seconds, cut[49] * 1000, cut[98] * 1000, failed / len(latencies))
