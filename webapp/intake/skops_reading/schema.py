"""Parses `schema.json`, strictly and within limits: what Python's JSON would take for something else is refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from webapp.intake.skops_reading import archive, refusals

MIB = 1024**2
# Enough for a million objects, and little enough to hold in memory.
MOST_BYTES = 512 * MIB
MOST_BRACKETS, MOST_COMMAS = 2_500_000, 8_000_000


def parse(content: bytes, described: archive.Member) -> Any:  # noqa: ANN401 - whatever it holds
    """Give what the schema holds."""
    if described.size > MOST_BYTES:
        raise refusals.too_large(archive.SCHEMA, f"The schema is larger than {MOST_BYTES // MIB} MiB.")
    text = archive.unpacked(content, described)
    # Counted before anything is made of them: each of these costs some 50 bytes of memory.
    if text.count(b"[") + text.count(b"{") > MOST_BRACKETS or text.count(b",") > MOST_COMMAS:
        raise refusals.too_large(archive.SCHEMA, "The schema describes more objects than are read.")
    try:
        return json.loads(text.decode("ascii"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise refusals.malformed(archive.SCHEMA, "The schema is nested too deeply.") from None
    except ValueError:
        raise refusals.damaged(archive.SCHEMA, "The schema is not JSON as skops writes it.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(_literal: str) -> NoReturn:
    raise ValueError
