"""Tests of the supervisor's order: what only takes the machine from the web starts when the web answers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from webapp import supervisor
from webapp.errors import Unavailable
from webapp.supervisor import Child

# Says that it began, then stays.
PROGRAM = "import signal, sys; open(sys.argv[1], 'a').write('begun\\n'); signal.pause()"


class Watched:
    """Two children under the supervisor's eye, of which one waits for the web."""

    def __init__(self, folder: Path) -> None:
        """Start the first, and watch both in a thread."""
        self.stop, self.answers = threading.Event(), threading.Event()
        self.begun = folder / "begun"
        self.web = Child("web", [sys.executable, "-c", PROGRAM, str(folder / "web")])
        self.later = Child("later", [sys.executable, "-c", PROGRAM, str(self.begun)], essential=False, after_web=True)
        self.web.start()
        self._thread = threading.Thread(
            target=supervisor._watch, args=([self.web, self.later], self.stop, self.answers)
        )
        self._thread.start()

    def count(self) -> int:
        """How often the one that waits has begun."""
        return self.begun.read_text().count("begun") if self.begun.exists() else 0

    def end(self) -> None:
        self.stop.set()
        self._thread.join()
        supervisor._end([self.web, self.later])


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.01)
    made = Watched(tmp_path)
    yield made
    made.end()


def test_who_waits_for_the_web_starts_when_it_answers(watched: Watched, tmp_path: Path) -> None:
    eventually((tmp_path / "web").exists)
    assert watched.later.process is None
    watched.answers.set()
    eventually(lambda: watched.count() == 1)


def test_it_is_started_again_when_it_ends_as_every_child(watched: Watched) -> None:
    watched.answers.set()
    eventually(lambda: watched.count() == 1)
    assert watched.later.process is not None
    watched.later.process.kill()
    eventually(lambda: watched.count() == 2)


def test_it_waits_no_longer_than_half_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert supervisor.UNANSWERED_SECONDS == 30
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "UNANSWERED_SECONDS", 0.0)
    made = Watched(tmp_path)
    try:
        eventually(lambda: made.count() == 1)
        assert not made.answers.is_set()
    finally:
        made.end()


def test_one_that_was_never_started_holds_up_no_stop(watched: Watched) -> None:
    watched.end()
    assert watched.later.process is None
    assert watched.web.ended()


def times_started(program: str, most: int) -> int:
    """Start a process again whenever it has ended; give how often that was until it is given up, or the most."""
    child = Child("short-lived", [sys.executable, "-c", program])
    child.start()
    for times in range(1, most):
        assert child.process is not None
        child.process.wait()
        child.pause_seconds = 0.0
        try:
            child.again()
        except Unavailable:
            return times
    supervisor._end([child])
    return most


def test_one_that_ends_by_itself_right_after_each_start_is_given_up() -> None:
    assert times_started("raise SystemExit(1)", 20) == supervisor.MOST_FIRST_STARTS


def test_one_that_is_killed_right_after_each_start_is_started_again_all_the_same() -> None:
    assert times_started("import os; os.kill(os.getpid(), 9)", 12) == 12
