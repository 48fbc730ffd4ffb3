"""Where the time of a request went: what is kept of it with each prediction, and what its stages are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

# In the order in which they come. Waiting lies before the worker, and only a trusted proxy can say how long it was;
# the others together are the latency. The log is written behind them.
STAGES: Mapping[str, str] = {
    "waiting": "Waiting for a worker",
    "reading": "Key, limit and body",
    "checking": "Checking the inputs",
    "predicting": "Predicting",
    "answering": "Making the answer",
}
PREDICTING = list(STAGES).index("predicting")


def seconds(timings: Sequence[int | None] | None) -> dict[str, float | None] | None:
    """Give the seconds of each stage by its name; None where nothing was measured."""
    if timings is None:
        return None
    return {name: None if spent is None else spent / 1e6 for name, spent in zip(STAGES, timings, strict=True)}


def predicting(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], float]]:
    """Give model, version and the seconds of predicting of each request that these records are of."""
    # What one request asked for lies together, and took the time together.
    for _, asked in groupby(records, itemgetter("request_id")):
        first = next(asked)
        if first.get("timings"):
            yield (first["model"], first["model_version"]), first["timings"][PREDICTING] / 1e6
