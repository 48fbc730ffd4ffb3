"""Reads a `.skops` file without running it: the zip, the headers of its arrays, and each node of its tree.

skops trusts a name wherever it stands, and does with it what the node's loader does: mentions it, calls it with what
the file gives, or makes an object and hands it a state. So each node is held against the server's table of pairs
(loader, name), and against the form in which skops writes honest objects; whatever deviates is refused, also where it
might be harmless. Python's zipfile and NumPy read the same bytes later: the forms are so narrow that they cannot
see another file than this package did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from webapp.intake.skops_reading import archive, refusals, schema
from webapp.intake.skops_reading.tree import Tree


@dataclass(frozen=True, slots=True)
class SkopsReading:
    """What a `.skops` file holds, found without loading it."""

    names: frozenset[str]
    # The scikit-learn that wrote it; the oldest, when its parts come from several.
    library: str | None
    # What its members and the arrays in them unpack to.
    claimed_bytes: int
    objects: int


def read(content: bytes, allowed: frozenset[tuple[str, str]]) -> SkopsReading:
    """Read a file whose nodes may be the `allowed` pairs of loader and name; raise `Invalid` with every finding."""
    members = archive.members(content, archive.MEMBER)
    described = members.pop(archive.SCHEMA, None)
    if described is None:
        raise refusals.damaged(archive.SCHEMA, "The zip holds no schema.json: this is no .skops file.")
    tree = Tree(content, members, allowed)
    tree.read(schema.parse(content, described))
    claimed = described.size + sum(packed.size for packed in members.values()) + tree.sparse_bytes
    library = min(tree.libraries, key=_release, default=None)
    return SkopsReading(frozenset(tree.names), library, claimed, tree.objects)


def _release(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
