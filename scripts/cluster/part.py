"""One program of the cluster: started, waited for, stopped in order, killed or held."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.processes import descendants

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.05
# Which package brings each program.
PACKAGES = {"nginx": "nginx", "redis-server": "redis-server", "postgres": "postgresql"}
ADDRESS = "127.0.0.1"


class Trouble(Exception):  # noqa: N818 - it names the fact
    """The cluster cannot be started, or a part of it ended; the sentence says what to do."""


def program(name: str) -> Path | None:
    """Find a program, also where Debian keeps those that are not on everyone's path."""
    releases = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    # The newest release first: its programs must fit each other.
    places = os.pathsep.join([*map(str, reversed(releases)), os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(name, path=places)
    return Path(found) if found else None


def require(names: Iterable[str]) -> None:
    """Raise `Trouble` that names the packages which are missing."""
    missing = [PACKAGES[name] for name in names if program(name) is None]
    if missing:
        raise Trouble(f"Missing: {', '.join(missing)}. On Debian: apt-get install {' '.join(missing)}")


def await_that(happens: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Look again and again until it is so."""
    until = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > until:
            raise Trouble(otherwise)
        time.sleep(LOOK_SECONDS)


def kept(path: Path, content: str) -> str:
    """Give what a file holds; where it is missing, write it, for its owner only."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(content, encoding="ascii")
    return path.read_text(encoding="ascii")


class Part:
    """One program of the cluster. It ends with the thread that started it, however that ends."""

    # How it is asked to end in order.
    end = signal.SIGTERM

    def __init__(self, name: str, folder: Path) -> None:
        """Its log is kept in `folder`, under its name."""
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Give its command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Give its environment."""
        return {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}

    def answers(self) -> bool:
        """Whether it does what it is for."""
        raise NotImplementedError

    def begin(self, given: bytes = b"") -> None:
        """Start it; `given` is what it reads from its standard input."""
        # A session of its own: Ctrl-C reaches the one who started everything, who stops it in order.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command lines
                ["setpriv", f"--pdeathsig={self.end.name[3:]}", *self.command()],  # noqa: S607 - of every Debian
                env=self.environment(),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(given)

    def await_answer(self) -> None:
        """Wait until it answers; raise `Trouble` when it ends instead."""
        await_that(self._answers_or_ended, START_SECONDS, f"{self.name} does not answer; see {self.log}")

    def _answers_or_ended(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            raise Trouble("\n".join([f"{self.name} ended; its log ({self.log}) says:", *last]))
        return self.answers()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.begin()
        self.await_answer()

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def ask_to_end(self) -> None:
        """Have it end in order, and do not wait."""
        if self.process is not None and self.lives:
            self.process.send_signal(self.end)

    def stop(self) -> None:
        """End it in order, or at once when that takes too long."""
        self.ask_to_end()
        if self.process is not None:
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def kill(self) -> None:
        """End all of its processes at once, as a machine that loses its power does."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self.process = None

    def send(self, number: signal.Signals) -> set[int]:
        """Send a signal to each of its processes, those that start the others first; give who they are."""
        everyone = descendants(self.process.pid) if self.process is not None else set()
        for pid in sorted(everyone):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return everyone

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Take connections and never answer: none of its processes gets any time."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)
