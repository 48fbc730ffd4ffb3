"""Where the microseconds of one request go: by piece, by library and by room, through Gunicorn's own worker class.

It runs one process: requests enter by a pair of sockets, Gunicorn parses them, the application answers. What is left
out is the hop from Gunicorn's main loop to one of its threads, and the network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import signal
import socket
import statistics
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from webapp import supervisor

os.environ.update(supervisor.ONE_NATIVE_THREAD)

from gunicorn.app.base import Application
from gunicorn.workers.gthread import TConn, ThreadWorker

from benchmarks import bare, models
from benchmarks.installation import installed
from benchmarks.models import Case

ROUNDS, ROUND_SECONDS = 20, 0.05
WHOLE = "Modelport, through Gunicorn"
ADDED = "added around the model to a Flask route {}"
# A prime, so that it keeps no step with anything; the timer of the system may be coarser.
SAMPLE_SECONDS = 0.000_487
PATH = "/predict"
ROOT = str(Path(supervisor.__file__).parent.parent)
SITE, STANDARD = sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")


class Configured(Application):  # type: ignore[misc] # gunicorn has no types
    """Gunicorn as `modelport serve` configures it, without its arbiter."""

    def load_config(self) -> None:
        """Read the product's own configuration, and no command line."""
        self.load_config_from_module_name_or_filename("python:webapp.server")


class Line:
    """One connection to a worker that handles requests when it is told to."""

    def __init__(self, worker: ThreadWorker, wsgi: Any, headers: dict[str, str]) -> None:  # noqa: ANN401 - any application
        """`headers` come with each request to the application."""
        self._worker, self._wsgi, self._headers = worker, wsgi, headers
        self._client, server = socket.socketpair(socket.AF_UNIX)
        self._connection = TConn(worker.cfg, server, ("127.0.0.1", 40_000), ("127.0.0.1", 8000))

    def send(self, body: bytes) -> None:
        """Send a request as clients do."""
        fields = {"Host": "127.0.0.1:8000", "Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{name}: {value}" for name, value in (fields | self._headers).items()]
        self._client.sendall("\r\n".join([f"POST {PATH} HTTP/1.1", *lines, "", ""]).encode() + body)

    def handle(self, _sent: None = None) -> None:
        """Have the worker answer it."""
        self._worker.wsgi = self._wsgi
        self._worker.handle(self._connection)

    def receive(self) -> bytes:
        """Take the answer."""
        return self._client.recv(1 << 20)


@dataclass(frozen=True, slots=True)
class Call:
    """Something that is timed: what is done before with the body of a request, the call, and what is done after."""

    prepare: Callable[[bytes], Any]
    call: Callable[[Any], object]
    end: Callable[[], object] = lambda: None


def on_line(line: Line) -> Call:
    """Give the handling of a request that has arrived."""
    return Call(line.send, line.handle, line.receive)


def wsgi_call(application: Any, headers: dict[str, str]) -> Call:  # noqa: ANN401 - any application
    """Give the call of an application without any server."""
    fixed = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": PATH,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "CONTENT_TYPE": "application/json",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
    }

    def environ(body: bytes) -> dict[str, Any]:
        return {**fixed, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}

    def call(environ: dict[str, Any]) -> bytes:
        answered = application(environ, _start_response)
        try:
            return b"".join(answered)
        finally:
            if hasattr(answered, "close"):
                answered.close()

    return Call(environ, call)


def _start_response(_status: str, _headers: list[tuple[str, str]], _error: object = None) -> None:
    pass


def interleaved(calls: dict[str, Call], bodies: Iterator[bytes]) -> dict[str, list[float]]:
    """Give the microseconds of each call: the median of every round, the rounds of all by turns."""
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times, until = [], time.monotonic() + ROUND_SECONDS
            while time.monotonic() < until:
                prepared = call.prepare(next(bodies))
                # The processor's time, not the clock's: other processes of the machine do not count.
                started = time.thread_time_ns()
                call.call(prepared)
                times.append(time.thread_time_ns() - started)
                call.end()
            medians[name].append(statistics.median(times) / 1000)
    return medians


Stack = tuple[tuple[CodeType, int], ...]


def _stack(frame: FrameType | None) -> Stack:
    """Give the functions that were running, the innermost first, and their lines; none when it was this harness."""
    found = []
    while frame is not None and frame.f_code.co_filename != __file__:
        found.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(found) if frame is not None and frame.f_code is Line.handle.__code__ else ()


def _place(code: CodeType) -> str:
    name = code.co_filename
    for folder in (SITE, STANDARD, ROOT):
        name = name.removeprefix(folder + "/")
    return name


def _library(code: CodeType) -> str:
    name = code.co_filename
    if name.startswith(f"{ROOT}/webapp/"):
        return _place(code).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    first = _place(code).split("/")[0].removesuffix(".py")
    return f"python {first}" if name.startswith(STANDARD) and not name.startswith(SITE) else first


def _room(stack: Stack) -> str:
    """Who is to blame: the innermost module of the product, else the innermost library; Python's own goes to both."""
    codes = [code for code, _ in stack]
    ours = [code for code in codes if code.co_filename.startswith(f"{ROOT}/webapp/")]
    libraries = [code for code in codes if code.co_filename.startswith(SITE)]
    return _library([*ours, *libraries, *codes][0])


def sampled(call: Call, bodies: Iterator[bytes], seconds: float) -> list[Stack]:
    """Call for some seconds and look, by a timer, at what is running: calls cost nothing more for being watched."""
    seen: list[Stack] = []
    before = signal.signal(signal.SIGALRM, lambda _signal, frame: seen.append(_stack(frame)))
    signal.setitimer(signal.ITIMER_REAL, SAMPLE_SECONDS, SAMPLE_SECONDS)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            call.call(call.prepare(next(bodies)))
            call.end()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return [stack for stack in seen if stack]


def _table(title: str, counted: Iterable[str], share: float, most: int) -> None:
    """Print the most frequent names; one look is worth `share` microseconds."""
    print(f"\n{title}")
    for name, count in Counter(counted).most_common(most):
        print(f"{count * share:8.1f} µs  {name}")


@contextlib.contextmanager
def product(folder: Path, case: Case) -> Iterator[tuple[ThreadWorker, str]]:
    """Give a worker as it is after Gunicorn's fork, which has loaded the model, and a key."""
    made = installed(folder)
    made.upload(case)
    key = made.make_key()
    os.environ.update({name: value for name, value in made.environment().items() if name.startswith("MODELPORT_")})
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "data" / "run" / "metrics")
    # The product logs each request; a file takes it, as a service manager would.
    with (folder / "stdout").open("w", encoding="utf-8") as log:
        with contextlib.redirect_stdout(log):
            gunicorn = Configured()
            settings = gunicorn.cfg
            worker = settings.worker_class(1, os.getppid(), [], gunicorn, 30, settings, settings.logger_class(settings))
        from webapp import server  # noqa: PLC0415 - it reads the environment when it is imported

        application = worker.wsgi = server.application()
        server.post_worker_init(worker)
        try:
            yield worker, key
        finally:
            worker.wsgi = application
            server.worker_exit(None, worker)


def _profile(worker: ThreadWorker, headers: dict[str, str], bodies: Iterator[bytes], asked: argparse.Namespace) -> None:
    modelport = worker.wsgi
    applications = {
        "bare WSGI function": bare.function,
        "Flask route {}": bare.route,
        "Flask route that reads JSON": bare.reader,
        "Modelport": modelport,
    }
    lines = {name: Line(worker, application, headers) for name, application in applications.items()}
    first = _first(lines["Modelport"], next(bodies))
    calls = {f"{name}, WSGI call": wsgi_call(application, headers) for name, application in applications.items()}
    calls |= {f"{name}, through Gunicorn": on_line(line) for name, line in lines.items()}
    calls["the model alone"] = _model(modelport)
    figures = interleaved(calls, bodies)
    figures[ADDED] = _added(figures)
    stacks = sampled(calls[WHOLE], bodies, asked.seconds)
    share = statistics.median(figures[WHOLE]) / len(stacks)
    if asked.json:
        rooms = {room: [count * share] for room, count in Counter(map(_room, stacks)).most_common()}
        print(json.dumps({"pieces": figures, "rooms": rooms}))
        return
    print(
        f"{first}\n\nProcessor time: medians of {ROUNDS} interleaved rounds of {ROUND_SECONDS} s, smallest and largest:"
    )
    for name, found in figures.items():
        print(f"{statistics.median(found):8.1f} µs  ({min(found):.1f} to {max(found):.1f})  {name}")
    print(f"\n“{WHOLE}” is shared out by {len(stacks)} looks.")
    _table("By room (all that a room calls in libraries counts for it):", map(_room, stacks), share, 40)
    innermost = [stack[0] for stack in stacks]
    _table("By library (its own code, with C):", (_library(code) for code, _ in innermost), share, 40)
    running = ({f"{_place(code)} {code.co_qualname}" for code, _ in stack} for stack in stacks)
    _table("By function, with all that it calls:", itertools.chain.from_iterable(running), share, 100)
    _table("By line, with C:", (f"{_place(code)}:{line}" for code, line in innermost), share, 40)


def _first(line: Line, body: bytes) -> str:
    line.send(body)
    line.handle()
    answered = line.receive()
    assert answered.startswith(b"HTTP/1.1 200"), answered
    return f"{body.decode()[:200]}\n{answered.decode()[:800]}"


def _model(application: Any) -> Call:  # noqa: ANN401 - the application
    runtime = application.extensions["modelport"].runtime
    [version] = runtime.active_versions()
    loaded = runtime.served(version.model)

    def rows(body: bytes) -> list[Any]:
        document = json.loads(body)
        instances = document.get("instances", [document])
        found: list[Any] = loaded.checker.rows(instances, [""] * len(instances))
        return found

    return Call(rows, lambda found: loaded.predictor.predict(found, [""] * len(found)))


def _added(figures: dict[str, list[float]]) -> list[float]:
    names = ("Modelport, WSGI call", "Flask route {}, WSGI call", "the model alone")
    return [ours - route - model for ours, route, model in zip(*(figures[name] for name in names), strict=True)]


def main() -> None:
    """Install, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(models.ALL), default=models.GUIDE.name)
    parser.add_argument("--rows", type=int, default=1, help="rows in one request")
    parser.add_argument("--seconds", type=float, default=10, help="how long the timer looks")
    parser.add_argument("--json", action="store_true", help="only the times of each piece and room, as JSON")
    asked = parser.parse_args()
    case = models.ALL[asked.model]
    with tempfile.TemporaryDirectory() as folder, product(Path(folder), case) as (worker, key):
        _profile(worker, {"X-API-Key": key}, case.bodies(asked.rows), asked)


if __name__ == "__main__":
    main()
