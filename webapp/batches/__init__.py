"""Batches of any size: cut into files as they come, computed chunk by chunk, wherever that is, into files."""

from __future__ import annotations

from typing import Literal

# A table as it came with its line of names, a JSON document per line as it came, or what a JSON body held.
Form = Literal["csv", "jsonl", "json"]
FOLDER = "batches"


def rows_name(job_id: str, number: int) -> str:
    """Name the file of a chunk's rows."""
    return f"{FOLDER}/{job_id}/{number:06d}-rows"


def results_name(job_id: str, number: int, attempt: int) -> str:
    """Name the file of a chunk's results. Each attempt has its own: which one counts, the chunk's row decides."""
    return f"{FOLDER}/{job_id}/{number:06d}-results-{attempt}.jsonl"
