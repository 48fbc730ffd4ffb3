"""Runs one act of the inspection in a child process, which inherits nothing but the descriptors it works with."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any

from webapp import child
from webapp.errors import Invalid

# A child that was taken over by what it read can say anything; more than this is not heard.
MOST_ANSWER_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024
COMMAND = child.command("webapp.intake.child")

Inputs = Mapping[str, IO[bytes]]
Outputs = Mapping[str, IO[bytes]]


def run(
    act: str, inputs: Inputs, outputs: Outputs, job: Mapping[str, Any], on_stage: Callable[[str], None]
) -> dict[str, Any]:
    """Run `act` and give what it found; raise `Invalid` when it refuses, or ends without an answer.

    `inputs` and `outputs` are files by name, which the child gets as descriptors. `on_stage` hears of its steps.
    """
    read = {name: _descriptor(file) for name, file in inputs.items()}
    written = {name: file.fileno() for name, file in outputs.items()}
    told = json.dumps({**job, "inputs": read, "outputs": written}).encode()
    with child.running([*COMMAND, act], subprocess.PIPE, [*read.values(), *written.values()]) as process:
        return _conversation(process, told, on_stage)


def _descriptor(file: IO[bytes]) -> int:
    file.seek(0)
    return file.fileno()


def _conversation(process: subprocess.Popen[bytes], job: bytes, on_stage: Callable[[str], None]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(job)
    for said in _said(process.stdout):
        if isinstance(stage := said.get("stage"), str):
            on_stage(stage)
        elif (answer := _answer(said)) is not None:
            return answer
    detail = "The model ended the process that tried it: it needs too much memory or time, or is damaged."
    raise Invalid("model_trial_failed", detail, more={"findings": []})


def _said(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Give one object per line, until the child ends, talks nonsense or talks too much."""
    heard, rest = 0, b""
    while heard < MOST_ANSWER_BYTES and (chunk := os.read(stream.fileno(), CHUNK_BYTES)):
        heard += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(document, dict):
                return
            yield document


def _answer(said: Mapping[str, Any]) -> dict[str, Any] | None:
    refused, done = said.get("refused"), said.get("done")
    if isinstance(refused, dict):
        raise Invalid(str(refused.get("code")), str(refused.get("detail")), more={"findings": _findings(refused)})
    return done if isinstance(done, dict) else None


def _findings(refused: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the findings in the form that pages and commands rely on."""
    listed = refused.get("findings")
    found = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [{**each, "name": str(each.get("name")), "meaning": str(each.get("meaning"))} for each in found]
