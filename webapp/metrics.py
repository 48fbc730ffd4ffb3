"""Every Prometheus metric, with its help text, and how the processes of a host count together.

Each process writes to files named after its slot, not its process id: files are reused by the next process
in the slot, so their number is bounded and a restart loses no count.
"""

from __future__ import annotations

import logging
import mmap
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from webapp import __version__

LOG = logging.getLogger(__name__)

# Gunicorn's master declares metrics before it forks; it counts nothing, and its zeros are not read.
UNSLOTTED = "unslotted"
_process = [UNSLOTTED]
# What a file is as long as at first, how it begins, and what stands beside each name in it, as the library lays it out.
FIRST_BYTES, HEAD_BYTES, MOST_BESIDE_KEY_BYTES = 65_536, 8, 32
# So often room is looked for where there was none.
LOOK_SECONDS = 1.0


def enter(process: str) -> None:
    """Name the files of this process from now on; unique among the processes that live."""
    _process[0] = process


def leave(process: str) -> None:
    """Forget the gauges of a process that ends."""
    if values.ValueClass._multiprocess:  # noqa: SLF001 - the library's own test of the mode
        mark_process_dead(process)


class _Reserved(MmapedDict):
    """A mapped file whose room is reserved before it is touched: on a full disk the kernel would end the process.

    Where there is no room, this process counts in its own memory, and the file has it all as soon as there is.
    """

    def __init__(self, filename: str) -> None:
        """Open the file, and go on with what it holds."""
        self._f = Path(filename).open("a+b")  # noqa: SIM115 - it stays open
        self._fname = filename
        self._positions: dict[str, int] = {}
        self._used = self._capacity = 0
        self._look_again = 0.0
        self._map(max(os.fstat(self._f.fileno()).st_size, FIRST_BYTES))
        self._used = int.from_bytes(self._m[:4], sys.byteorder) or HEAD_BYTES
        self._m[:4] = self._used.to_bytes(4, sys.byteorder)
        self._positions |= {key: at for key, _, _, at in self._read_all_values()}  # type: ignore[no-untyped-call]

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Keep a value; the caller holds the lock."""
        if self._look_again and time.monotonic() > self._look_again:
            self._map(self._capacity)
        super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        needed = self._used + len(key.encode()) + MOST_BESIDE_KEY_BYTES
        if needed > self._capacity:
            self._map(max(needed, 2 * self._capacity))
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _map(self, capacity: int) -> None:
        """Map so many bytes of the file, or of memory, and take along what was counted."""
        counted = self._m[: self._used] if self._used else b""
        try:
            os.posix_fallocate(self._f.fileno(), 0, capacity)
            self._m, self._look_again = mmap.mmap(self._f.fileno(), capacity), 0.0
        except OSError:
            self._m, self._look_again = mmap.mmap(-1, capacity), time.monotonic() + LOOK_SECONDS
        # How much counts comes last: the file may be read at any time.
        self._m[HEAD_BYTES : len(counted)] = counted[HEAD_BYTES:]
        self._m[: len(counted[:HEAD_BYTES])] = counted[:HEAD_BYTES]
        self._capacity = capacity


if values.ValueClass._multiprocess:  # noqa: SLF001 - the library's own test of the mode
    values.MmapedDict = _Reserved  # type: ignore[attr-defined, assignment] # it is called where files are opened
    # Asked at every count: in C, so that counting does not run a function of ours.
    values.ValueClass = values.MultiProcessValue(partial(itemgetter(0), _process))

REGISTRY = CollectorRegistry()

PREDICTIONS = Counter(
    "predictions",
    "Predictions by outcome: success, invalid or error. One per instance.",
    ["model", "model_version", "status"],
    registry=REGISTRY,
)
PREDICTION_LATENCY = Histogram(
    "prediction_latency_seconds",
    "Time from the request's arrival in the worker to its answer, for requests that were predicted.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=REGISTRY,
)
VALIDATION_ERRORS = Counter(
    "modelport_validation_errors",
    "Problems of instances that were refused, by the code that answers give, such as required or not_a_number.",
    ["model", "reason"],
    registry=REGISTRY,
)
INFERENCE_DURATION = Histogram(
    "modelport_inference_duration_seconds",
    "Time that predicting took, or finding an answer that was kept, per request; counted by the log writer.",
    ["model", "model_version"],
    buckets=(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)
MODEL_ACCURACY = Gauge(
    "model_accuracy",
    "Accuracy that the model card of the active version states.",
    ["model", "model_version"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
MODEL_LOAD = Histogram(
    "modelport_model_load_duration_seconds",
    "Time to verify and load one version.",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
    registry=REGISTRY,
)
PLAN_CHECKS = Counter(
    "modelport_plan_checks",
    "Logged predictions that were computed again by scikit-learn itself, to be compared with what a plan had answered.",
    ["model", "model_version"],
    registry=REGISTRY,
)
PLAN_DISAGREEMENTS = Counter(
    "modelport_plan_disagreements",
    "Those of them that scikit-learn answers otherwise: the plan was switched off.",
    ["model", "model_version"],
    registry=REGISTRY,
)
LOG_DROPPED = Counter(
    "modelport_log_dropped", "Predictions that were answered but could not be logged.", registry=REGISTRY
)
LOG_PASSED_OVER = Counter(
    "modelport_log_passed_over",
    "Lines of the spool that could not go into the log: torn, damaged, or refused by the database and set aside.",
    ["reason"],
    registry=REGISTRY,
)
SPOOL_FILLED = Gauge(
    "modelport_spool_filled_ratio",
    "How much of MODELPORT_SPOOL_MAX_BYTES is taken: by predictions that wait for the database or are being written.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
LOG_CAUGHT_UP = Gauge(
    "modelport_log_caught_up_timestamp_seconds",
    "When the log writer of this host last had everything in the database that was answered until then.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
JOBS = Gauge(
    "modelport_jobs",
    "Batches that have not ended: waiting or running; the same from every host.",
    ["state"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
ALERTS = Gauge(
    "modelport_alerts",
    "Alerts by kind that are neither resolved nor snoozed; the same from every host.",
    ["kind", "severity"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
WORKER_SEEN = Gauge(
    "modelport_worker_seen_timestamp_seconds",
    "When the worker of this host last told the database that it lives.",
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
BATCH_ROWS = Counter(
    "modelport_batch_rows",
    "Rows of batches that the worker has brought to their end: answered or refused.",
    ["result"],
    registry=REGISTRY,
)
WEBHOOKS_SENT = Counter(
    "modelport_webhooks_sent",
    "Attempts to tell a webhook of something by what came of them: delivered or failed.",
    ["result"],
    registry=REGISTRY,
)
FEEDBACK = Counter(
    "modelport_feedback",
    "Items of ground truth by what became of them: accepted, changed, unchanged, unknown, refused.",
    ["status"],
    registry=REGISTRY,
)
FEEDBACK_COVERAGE = Gauge(
    "modelport_feedback_coverage_ratio",
    "Share of the active version's predictions of the last 7 days of which the truth is known.",
    ["model"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
MODEL_QUALITY = Gauge(
    "modelport_model_quality_ratio",
    "Score of the active version over the last 7 days; errors are in the unit of what is predicted. NaN: not known.",
    ["model", "metric"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
EXPIRED = Counter(
    "modelport_expired",
    "What was removed because it was older than MODELPORT_RETENTION_DAYS: predictions, batches, deliveries, alerts.",
    ["kind"],
    registry=REGISTRY,
)
DRIFTED = Gauge(
    "modelport_drift_features_alarming",
    "What of the active version had drifted on the last day that was decided about: inputs, outputs, refused rows.",
    ["model"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
DRIFT_DECIDED = Gauge(
    "modelport_drift_last_run_timestamp_seconds",
    "When drift of the active version was last looked at.",
    ["model"],
    multiprocess_mode="mostrecent",
    registry=REGISTRY,
)
CACHE_REQUESTS = Counter(
    "modelport_cache_requests",
    "Instances that were looked up among kept answers: hit, miss, or skipped with a large request.",
    ["model", "result"],
    registry=REGISTRY,
)
REDIS_AWAY = Gauge(
    "modelport_redis_away",
    "1 while a process of this host does without Redis: limits are counted by this replica alone, answers kept here.",
    ["use"],
    multiprocess_mode="livemax",
    registry=REGISTRY,
)
RATE_LIMITED = Counter("modelport_rate_limited", "Requests refused by a rate limit.", ["scope"], registry=REGISTRY)
GENERATION = Gauge(
    "modelport_generation",
    "The committed state that a web worker serves; the least of all workers.",
    multiprocess_mode="livemin",
    registry=REGISTRY,
)
FOLLOW_FAILURES = Counter(
    "modelport_follow_failures",
    "Times that a web worker could not follow the committed state, or a part of it.",
    registry=REGISTRY,
)
VERSIONS_NOT_LOADED = Gauge(
    "modelport_versions_not_loaded",
    "Active versions that a web worker could not load, summed over the workers: it goes on with those before.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
LOAD_FAILURES = Counter(
    "modelport_version_load_failures",
    "Times that a web worker could not load a version, to follow an activation or to prepare one.",
    registry=REGISTRY,
)


def _is_readable(path: Path) -> bool:
    try:
        for _ in MmapedDict.read_all_values_from_file(str(path)):
            pass
    except Exception as error:  # noqa: BLE001 - a damaged file raises whatever its bytes lead to
        LOG.warning("metrics.unreadable_file", extra={"file": path.name, "reason": type(error).__name__})
        return False
    return True


class _SlotFiles(MultiProcessCollector):
    """Reads the files of all slots, passing over those that cannot be read: one must not end all scrapes."""

    def collect(self) -> Any:  # noqa: ANN401 - the library has no types
        """Merge what can be read."""
        found = sorted(path for path in Path(self._path).glob("*.db") if not path.stem.endswith(f"_{UNSLOTTED}"))
        files = [str(path) for path in found if _is_readable(path)]
        return self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]


def _info(name: str, help_text: str, facts: Iterable[Mapping[str, str]]) -> Metric:
    """Give what is so and is not counted, as the labels of a constant 1."""
    made = GaugeMetricFamily(f"{name}_info", help_text)
    for labels in facts:
        made.add_sample(made.name, dict(labels), 1)
    return made


@cache
def _build() -> dict[str, str]:
    return {"version": __version__, "python": platform.python_version(), "sklearn": version("scikit-learn")}


class _Stated(Collector):
    """What every process says alike, so that none keeps it in a file: a version that serves no more is gone at once."""

    def __init__(self, served: Iterable[Mapping[str, str]]) -> None:
        """`served` are the labels of each version that answers for its model."""
        self._served = served

    def collect(self) -> Iterator[Metric]:
        """Give it."""
        yield _info("modelport_build", "What this server is made of.", [_build()])
        yield _info("modelport_model", "The version that answers for each model.", self._served)


def exposition(folder: Path, served: Iterable[Mapping[str, str]]) -> bytes:
    """Give the text of what all processes count together, and of what is served."""
    stated = CollectorRegistry()
    stated.register(_Stated(served))
    return _counted(folder) + generate_latest(stated)


def _counted(folder: Path) -> bytes:
    """Give what all processes have counted; this process alone where it counts in memory."""
    if not values.ValueClass._multiprocess:  # noqa: SLF001 - the library's own test of the mode
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    _SlotFiles(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
