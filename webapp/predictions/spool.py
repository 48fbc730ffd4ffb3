"""The spool: a durable append before the answer leaves, so that no answered prediction is missing from the log.

A process appends to a segment of its own and holds a lock on it for as long as it may append more. The kernel
gives the lock back when the process ends, however it ends: a segment without a lock is complete.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from webapp.errors import Unavailable, is_no_room
from webapp.serving.loaded import Answer, LoadedVersion
from webapp.signature.refused import Tally

LOG = logging.getLogger(__name__)
SEGMENT_BYTES = 4 * 1024 * 1024
LEAST_FREE_BYTES = 1024 * 1024
SYNC_SECONDS = 0.1
MEASURE_EVERY = 10  # synchronisations
SUFFIX = ".spool"

Record = Mapping[str, Any]


# Before a text that orjson did not write, and would not read as it is: with integers of more than 64 bits.
_BY_PYTHON = b" "


def encode(record: Record) -> bytes:
    """One line: CRC-32 of the JSON text in hex, a space, the text.

    The numbers are finite: checker and predictor let no others through, and a text could only say null of them.
    """
    try:
        text = orjson.dumps(record)
    except orjson.JSONEncodeError:
        written = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text = _BY_PYTHON + written.encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def decode(line: bytes) -> dict[str, Any] | None:
    """Read a line without its end; None when it is torn or damaged."""
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        record: dict[str, Any] = json.loads(text) if text.startswith(_BY_PYTHON) else orjson.loads(text)
    except ValueError:
        return None
    return record


def segments(folder: Path) -> list[Path]:
    """Every segment of the host, the oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where predictions come from: what their records have in common."""

    at: float
    key_id: str
    request_id: str
    # `api`, `test` (a test key) or `batch`.
    source: str
    latency_seconds: float
    # Microseconds of each of `timings.STAGES`; None where nobody measured them.
    timings: tuple[int | None, ...] | None = None
    # The trace that the caller's request belongs to.
    trace_id: str | None = None


def record(origin: Origin, loaded: LoadedVersion, answer: Answer, client_id: str | None) -> Record:
    """Give the record of one answered instance."""
    document, version, kept = answer.document, loaded.version, loaded.keeping
    made: dict[str, Any] = {
        "id": document["prediction_id"],
        "at": origin.at,
        "model": version.model,
        "version": version.number,
        "model_version": version.shown,
        "key_id": origin.key_id,
        "request_id": origin.request_id,
        "source": origin.source,
        "client_id": client_id,
        "instance": kept.instance(answer.row) if kept else dict(zip(loaded.checker.names, answer.row, strict=True)),
        "prediction": document["prediction"],
        "probability": document.get("probability"),
        "probabilities": document.get("probabilities"),
        "warnings": document.get("warnings", ()),
        "latency_seconds": origin.latency_seconds,
        "cached": answer.cached,
    }
    if origin.timings is not None:
        made["timings"] = origin.timings
    if origin.trace_id is not None:
        made["trace_id"] = origin.trace_id
    if kept is not None:
        made["subject"] = kept.subject_of(answer.row, client_id)
    return made


def refusal(at: float, loaded: LoadedVersion, tally: Tally) -> Record:
    """Give the line of one request that was refused for some of its instances; nothing of them stands in it."""
    facts = {"asked": tally.asked, "refused": tally.refused, "fields": tally.fields}
    return {"at": at, "model": loaded.version.model, "version": loaded.version.number, **facts}


def failure(at: float, loaded: LoadedVersion, request_id: str, rows: int) -> Record:
    """Give the line of one request that could not be answered, through no fault of its own."""
    named = {"at": at, "model": loaded.version.model, "version": loaded.version.number}
    return {**named, "request_id": request_id, "failed": rows}


def is_prediction(line: Record) -> bool:
    """Tell a prediction from what says why there is none."""
    return "id" in line


def is_refusal(line: Record) -> bool:
    """Tell what `refusal` made."""
    return "refused" in line


def is_failure(line: Record) -> bool:
    """Tell what `failure` made."""
    return "failed" in line


class Spool:
    """The appending side, one per process."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        refuse_when_full: bool,
        on_drop: Callable[[int], None],
        on_measure: Callable[[float], None] = lambda _filled: None,
    ) -> None:
        """`on_drop` is told how many records were lost, when some are; `on_measure` how full the host's spool is."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._refuse_when_full = refuse_when_full
        self._on_drop = on_drop
        self._on_measure = on_measure
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._written = 0
        self._dirty = False
        self._full = False
        self._half_full = False
        self._disk_full = False
        self._stop = threading.Event()
        self._syncing: threading.Thread | None = None

    def start(self) -> None:
        """Begin to append and to synchronise; once, after the fork."""
        # Without a segment a process serves all the same: the next append opens one, or counts what is lost.
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open_segment()
        self._syncing = threading.Thread(target=self._synchronise, name="spool", daemon=True)
        self._syncing.start()

    def stop(self) -> None:
        """Put everything on the disk and leave the segment to the log writer."""
        self._stop.set()
        if self._syncing is not None:
            self._syncing.join()
        with self._lock:
            self._close_segment()

    @property
    def full(self) -> bool:
        """Whether predictions are refused because their records have no room."""
        return (self._full or self._disk_full) and self._refuse_when_full

    @property
    def half_full(self) -> bool:
        """Whether what can wait should: the log writer does not keep up, the database is away, or the disk is full."""
        return self._half_full or self._disk_full

    def append(self, records: Sequence[Record]) -> None:
        """Append records in one write. When this returns they survive the death of the process."""
        self.append_lines(b"".join(map(encode, records)))

    def append_lines(self, lines: bytes) -> None:
        """Append what `encode` has made of records, here or elsewhere."""
        if self.full:
            raise Unavailable("spool_full", "The prediction log has no room; predictions are refused until it has.")
        with self._lock:
            if lost := self._write(lines):
                self._lost(lost)

    def _write(self, lines: bytes) -> int:
        """Give how many lines are not in the segment, or not whole."""
        try:
            if self._descriptor is None:
                self._open_segment()
            assert self._descriptor is not None
            written = os.write(self._descriptor, lines)
        except OSError as error:
            if is_no_room(error):
                # Nothing was begun: the segment takes the next ones when there is room.
                self._disk_full = True
                return lines.count(b"\n")
            written = 0
        self._written += written
        self._dirty = True
        if written < len(lines) or self._written >= SEGMENT_BYTES:
            # After a torn line nothing may follow in the same segment: it would be read as part of it.
            self._close_segment()
        return lines.count(b"\n", written)

    def _lost(self, count: int) -> None:
        if self._refuse_when_full:
            self._disk_full = True
            raise Unavailable("spool_full", "The prediction could not be logged; nothing is answered unlogged.")
        self._on_drop(count)

    def _open_segment(self) -> None:
        # It gets its final name when it is locked: found without a lock, it would count as complete.
        path = self._folder / f"{time.time_ns():020d}-{os.getpid()}-{next(self._numbers)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            path.rename(path.with_suffix(SUFFIX))
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        self._descriptor, self._written = descriptor, 0

    def _close_segment(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _synchronise(self) -> None:
        """Every tenth of a second what was appended reaches the disk: the most that a power cut can take."""
        for count in itertools.count(1):
            if self._stop.wait(SYNC_SECONDS):
                return
            try:
                self._sync()
                if count % MEASURE_EVERY == 0:
                    self._measure()
            except OSError as error:
                # A disk that fails now may work again, and only this thread finds out.
                LOG.warning("spool.disk", extra={"reason": error.strerror})

    def _sync(self) -> None:
        with self._lock:
            descriptor = os.dup(self._descriptor) if self._dirty and self._descriptor is not None else None
            self._dirty = False
        if descriptor is not None:
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

    def _measure(self) -> None:
        found = segments(self._folder)
        held = sum(map(_size, found))
        self._on_measure(held / self._max_bytes)
        self._full, self._half_full = held >= self._max_bytes, held >= self._max_bytes / 2
        if self._disk_full:
            # Room for more than a few lines: it would be full again at once.
            self._disk_full = shutil.disk_usage(self._folder).free < LEAST_FREE_BYTES
        if self._full:
            with self._lock:
                # Complete, it goes when it is in the log; else it could keep the spool full for ever.
                self._close_segment()
        if self._full and not self._refuse_when_full:
            # Not one that is still written: what its process appends from now on would be lost, and not counted.
            oldest = next(filter(is_complete, found), None)
            if oldest is not None:
                self._drop(oldest)

    def _drop(self, segment: Path) -> None:
        lost = sum(1 for _ in lines_from(segment, 0))
        # The process that removes it counts what is lost; the log writer may have been faster, too.
        with suppress(FileNotFoundError):
            segment.unlink()
            self._on_drop(lost)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def lines_from(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """Give each complete line from `offset` on, with the offset behind it. Nothing for a file that is gone."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield line[:-1], offset


def is_complete(path: Path) -> bool:
    """Whether no process can append to the segment any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
