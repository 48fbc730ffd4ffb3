"""Keeps this host's processes running, and stops them in an order that loses nothing."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from webapp.config import Settings
from webapp.errors import Conflict, Unavailable
from webapp.signals import when_asked_to_end

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.2
STOP_SECONDS = 40.0
ADDRESS_SECONDS = 4.0
# A process that dies at once is started again later and later.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, STEADY_SECONDS = 0.2, 10.0, 30.0
# One that never ran for long will not begin to: the start has failed.
MOST_FIRST_STARTS = 5
# What waits for the web to answer waits no longer than this.
UNANSWERED_SECONDS = 30.0
PR_SET_PDEATHSIG = 1
# Names the supervisor to the processes it starts; who starts them by hand is not followed into death.
SUPERVISOR = "SUPERVISED_BY"

# Native libraries would each start a thread per core in every worker, and all wait for one another.
ONE_NATIVE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def is_supervised() -> bool:
    """Whether a supervisor started this process."""
    return SUPERVISOR in os.environ


def die_with_parent() -> None:
    """Have the kernel send SIGTERM to a supervised process when its supervisor ends, however that happens."""
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(supervisor):
        # It ended while this process was starting.
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass(slots=True)
class Child:
    """One supervised process."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    # Without it nothing is served; the others are started again for ever.
    essential: bool = True
    # Started when the web answers: before that, it would only take the machine away from it.
    after_web: bool = False
    failed_starts: int = 0
    was_steady: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the process in a group of its own: Ctrl-C reaches the supervisor, which stops the others in order."""
        self.process = subprocess.Popen(  # noqa: S603 - our own command lines
            self.command,
            env={**os.environ, **self.environment, SUPERVISOR: str(os.getpid())},
            start_new_session=True,
        )
        self.started = time.monotonic()

    def ended(self) -> bool:
        """Whether it runs no more."""
        return self.process is None or self.process.poll() is not None

    def ask_to_end(self) -> None:
        """Send SIGTERM, if it runs."""
        if self.process is not None and not self.ended():
            self.process.terminate()

    def await_end(self) -> None:
        """Wait until it has ended; kill it when it does not."""
        if self.process is None:
            return
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            LOG.warning("serve.killed", extra={"child": self.name})
            self.process.kill()
            self.process.wait()

    def again(self) -> bool:
        """Start it again once its pause is over; tells whether it did."""
        alive_seconds = time.monotonic() - self.started
        if alive_seconds < self.pause_seconds:
            return False
        steady = alive_seconds > STEADY_SECONDS
        self.was_steady |= steady
        # One that was killed says nothing of what it would have done.
        self.failed_starts += self.process is not None and self.process.returncode != -signal.SIGKILL
        if self.essential and self.failed_starts >= MOST_FIRST_STARTS and not self.was_steady:
            times = self.failed_starts
            detail = f"The {self.name} process ended {times} times right after its start; its log says why."
            raise Unavailable("process_does_not_start", detail)
        self.pause_seconds = FIRST_PAUSE_SECONDS if steady else min(self.pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        self.start()
        return True


def _log_writer() -> Child:
    return Child("log-writer", [sys.executable, "-m", "webapp.cli", "log-writer"])


def _worker() -> Child:
    return Child("worker", [sys.executable, "-m", "webapp.cli", "worker"], environment={**ONE_NATIVE_THREAD})


def _web() -> Child:
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:webapp.server"]
    return Child("web", gunicorn, environment={**ONE_NATIVE_THREAD})


def _lock(settings: Settings) -> int:
    """Hold the data directory for this host's one supervisor."""
    descriptor = os.open(settings.run_dir / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        detail = f"Another `modelport serve` runs on {settings.data_dir}; stop it or choose another MODELPORT_DATA_DIR."
        raise Conflict("already_served", detail) from None
    return descriptor


def _await_address(bind: str) -> None:
    """Wait a moment for the address: after a crash, the processes of the last run are still ending."""
    until = time.monotonic() + ADDRESS_SECONDS
    while (reason := _unusable(bind)) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    if reason:
        detail = f"MODELPORT_BIND: {bind} cannot be used ({reason}); free it or choose another."
        raise Unavailable("address_unusable", detail)


def _unusable(bind: str) -> str | None:
    host, _, port = bind.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            return error.strerror
    return None


def serve(settings: Settings, *, with_worker: bool, on_ready: Callable[[], None]) -> None:
    """Run until SIGTERM or SIGINT. `on_ready` is called once, when the server answers."""
    lock = _lock(settings)
    _await_address(settings.bind)
    # Counters begin anew with the host's processes; within their life, files stay with their slots.
    shutil.rmtree(settings.run_dir / "metrics", ignore_errors=True)
    (settings.run_dir / "metrics").mkdir(mode=0o700, exist_ok=True)
    web, worker, stop, answers = _web(), _worker(), _asked_to_stop(), threading.Event()
    worker.essential, worker.after_web = False, True
    threading.Thread(target=_announce, args=(settings.bind, stop, answers, on_ready), daemon=True).start()
    counting = {"PROMETHEUS_MULTIPROC_DIR": str(settings.run_dir / "metrics")}
    try:
        _keep([web, worker] if with_worker else [web], stop, answers, counting)
    finally:
        os.close(lock)


def work() -> None:
    """Run the worker without a web until SIGTERM or SIGINT."""
    _keep([_worker()], _asked_to_stop(), threading.Event(), {})


def _asked_to_stop() -> threading.Event:
    stop = threading.Event()
    when_asked_to_end(stop.set)
    return stop


def _keep(children: list[Child], stop: threading.Event, answers: threading.Event, environment: dict[str, str]) -> None:
    """Keep them and the log writer running; end that last: what the others have answered is in the spool then."""
    log_writer = _log_writer()
    for child in (log_writer, *children):
        child.environment |= environment
    try:
        for child in (log_writer, *children):
            if not child.after_web:
                child.start()
        _watch([log_writer, *children], stop, answers)
    finally:
        _end(children)
        _end([log_writer])
        LOG.info("serve.stopped")


def _end(children: list[Child]) -> None:
    for child in children:
        child.ask_to_end()
    for child in children:
        child.await_end()


def _watch(children: list[Child], stop: threading.Event, answers: threading.Event) -> None:
    reported: set[str] = set()
    until = time.monotonic() + UNANSWERED_SECONDS
    while not stop.wait(LOOK_SECONDS):
        for child in children:
            if child.process is None:
                if answers.is_set() or time.monotonic() > until:
                    child.start()
                continue
            if not child.ended():
                reported.discard(child.name)
                continue
            if child.name not in reported:
                reported.add(child.name)
                LOG.error("serve.ended", extra={"child": child.name, "exit_code": child.process.returncode})
            child.again()


def _announce(bind: str, stop: threading.Event, answers: threading.Event, on_ready: Callable[[], None]) -> None:
    # Not through a proxy, whatever the environment says: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not stop.wait(LOOK_SECONDS):
        with suppress(OSError), opener.open(f"http://{bind}/livez", timeout=5):
            answers.set()
            on_ready()
            return
