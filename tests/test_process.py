"""Tests of the parent's side of an inspection: what it hears of a child, whatever the child says."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from webapp.child import ENVIRONMENT
from webapp.errors import Invalid
from webapp.intake import process
from webapp.intake.process import MOST_ANSWER_BYTES

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPORT_SECRET_KEY", "what no child may see" * 3)


def child(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let a program stand where the child does: one that was taken over by what it read."""
    preface = "import json, os, sys, time; job = json.load(sys.stdin)\n"
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-I", "-c", preface + program))


def run(**job: Any) -> tuple[dict[str, Any], list[str]]:
    """Run an act; give the answer and the stages that were heard of."""
    stages: list[str] = []
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as out:
        file.write(b"the model")
        return process.run("convert", {"model": file}, {"estimator": out}, job, stages.append), stages


def test_an_answer_is_heard_with_the_stages_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    child(
        monkeypatch,
        """
print(json.dumps({"stage": "reading"}), flush=True)
content = os.fdopen(job["inputs"]["model"], "rb").read().decode()
print(json.dumps({"done": {"content": content, "asked": job["asked"], "act": sys.argv[1]}}))
""",
    )
    answer, stages = run(asked=7)
    assert answer == {"content": "the model", "asked": 7, "act": "convert"}
    assert stages == ["reading"]


def test_a_refusal_is_raised_with_its_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    child(
        monkeypatch,
        'print(json.dumps({"refused": {"code": "model_damaged", "detail": "No.", "findings": [{"name": "a"}, 7]}}))',
    )
    with pytest.raises(Invalid) as caught:
        run()
    assert (caught.value.code, caught.value.detail) == ("model_damaged", "No.")
    assert caught.value.more == {"findings": [{"name": "a", "meaning": "None"}]}


@pytest.mark.parametrize(
    "program",
    [
        "",
        "sys.exit(3)",
        "os.kill(os.getpid(), 9)",
        'print("not JSON")',
        "print(json.dumps([1, 2]))",
        'print(json.dumps({"done": 7}))',
        'print("[" * 100_000)',
        r'sys.stdout.buffer.write(b"\xff\xfe\n")',
        'print(json.dumps({"done": {}}), end="")',
    ],
)
def test_a_child_that_gives_no_answer_is_a_refusal(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    child(monkeypatch, program)
    with pytest.raises(Invalid) as caught:
        run()
    assert caught.value.code == "model_trial_failed"


@pytest.mark.parametrize("line", ["", r"\n", r"{\"stage\": \"reading\"}\n"])
def test_of_a_child_that_talks_without_end_no_more_than_a_megabyte_is_heard(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    child(monkeypatch, f'text = ("{line}" or "x" * 100) * 10_000\nfor _ in range(200): sys.stdout.write(text)')
    heard: list[int] = []
    real = os.read

    def read(descriptor: int, count: int) -> bytes:
        chunk = real(descriptor, count)
        heard.append(len(chunk))
        return chunk

    monkeypatch.setattr(process.os, "read", read)
    tracemalloc.start()
    with pytest.raises(Invalid) as caught:
        run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\nheard {sum(heard):,} bytes, {peak / MIB:.1f} MiB at most in memory")
    assert caught.value.code == "model_trial_failed"
    assert sum(heard) < MOST_ANSWER_BYTES + process.CHUNK_BYTES
    assert peak < 16 * MIB


class Overdue:
    """A timer whose time is up when the child has said something."""

    now: Callable[[], None]

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        Overdue.now = act

    def start(self) -> None:
        """Begin."""

    cancel = start


def test_a_child_that_waits_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("webapp.child.threading.Timer", Overdue)
    child(monkeypatch, 'print(json.dumps({"stage": str(os.getpid())}), flush=True)\nwhile True: time.sleep(1)')
    pids: list[int] = []

    def on_stage(stage: str) -> None:
        pids.append(int(stage))
        Overdue.now()

    with pytest.raises(Invalid):
        process.run("convert", {}, {}, {}, on_stage)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_child_inherits_no_secret_and_no_descriptor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child(
        monkeypatch,
        """
open_ones = sorted(int(each) for each in os.listdir("/proc/self/fd"))
print(json.dumps({"done": {"environment": dict(os.environ), "open": open_ones, "given": job}}))
""",
    )
    with (tmp_path / "secret").open("w"):
        answer, _ = run()
    assert answer["environment"].keys() - {"LC_CTYPE"} == ENVIRONMENT.keys()
    given = {*answer["given"]["inputs"].values(), *answer["given"]["outputs"].values()}
    # One more is the listing's own.
    assert len(set(answer["open"]) - {0, 1, 2, *given}) == 1
    assert "what no child may see" not in json.dumps(answer)
