"""The inspection's children in this process: warm, without the lock, for tests that inspect hundreds of files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import IO, Any

from webapp.intake import child


def run(
    act: str,
    inputs: Mapping[str, IO[bytes]],
    outputs: Mapping[str, IO[bytes]],
    job: Mapping[str, Any],
    on_stage: Callable[[str], None],
) -> dict[str, Any]:
    """Do what `webapp.intake.process.run` does, here."""

    def tell(said: dict[str, Any]) -> None:
        on_stage(said["stage"])

    for file in inputs.values():
        file.seek(0)
    descriptors = {
        side: {name: os.dup(file.fileno()) for name, file in files.items()}
        for side, files in (("inputs", inputs), ("outputs", outputs))
    }
    acts = {"convert": child.convert, "prove": child.prove}
    with warnings.catch_warnings():
        # Of the child nobody hears them.
        warnings.simplefilter("ignore")
        return acts[act]({**job, **descriptors}, tell)
