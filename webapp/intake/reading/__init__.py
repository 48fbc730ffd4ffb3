"""Reads a pickle without running it: the names in it, the version that wrote it, and everything that is wrong.

Stands before the unpickler, which then opens only what was read to its end here and found to be as honest files are.
Nothing is imported, called or built; the bytes of arrays are passed over and not copied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from webapp.intake.reading.findings import Finding, meaning, refused, unknown_names
from webapp.intake.reading.machine import Machine, Tally
from webapp.intake.reading.opcodes import READERS
from webapp.intake.reading.stream import DAMAGED, Broken

__all__ = ["Finding", "Reading", "meaning", "read", "refused", "unknown_names"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a pickle holds, as far as that shows without opening it."""

    # Every class and function that the file names, as `module.name`.
    names: frozenset[str]
    # The version of scikit-learn that wrote it; the oldest if its parts differ.
    library: str | None
    # How many values it builds.
    objects: int
    # How much memory its arrays take.
    claimed_bytes: int


def read(content: bytes | memoryview, allowed: frozenset[str]) -> Reading:
    """Read a pickle to its end; `allowed` are the names that may stand in it.

    Raises `Invalid` with everything that is wrong with it.
    """
    view = memoryview(content).toreadonly().cast("B")
    tally = Tally(allowed)
    machine = Machine(view, 0, tally, READERS)
    try:
        machine.run()
        _check_end(view, machine.position)
    except Broken as broken:
        tally.findings.note(broken.code, "file", broken.said, machine.offset)
    library = min(tally.versions, key=_order, default=None)
    if tally.findings:
        refusal = tally.findings.refusal()
        # What is refused may only be of another time.
        refusal.more["library"] = library
        raise refusal
    return Reading(frozenset(tally.names), library, tally.objects, tally.claimed_bytes)


def _check_end(content: memoryview, end: int) -> None:
    rest = content[end : end + 2].tobytes()
    if rest.startswith(b"\x80") and rest[1:] in {b"\2", b"\3", b"\4", b"\5"}:
        raise Broken(DAMAGED, f"A second pickle follows at byte {end:,}: a file holds one model.")
    if rest:
        raise Broken(DAMAGED, f"{len(content) - end:,} bytes lie behind the end of the model.")


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)[:3]]
