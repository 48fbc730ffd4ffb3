"""Rate limits that every worker of a host counts together, exactly.

Gunicorn forks several workers and each of them runs several threads, so a counter in the memory of one process would
let every worker admit the whole limit. The counters live in one memory-mapped file instead. Importing this module
registers ``mmap:///absolute/path`` as a storage of the ``limits`` package, and so of Flask-Limiter.

**Never more than N in any window.** A window is cut into 60 slices with a counter each. What counts is the sum of the
slice that is still running and the 60 before it: every slice that can overlap the last window. Memory per key is
therefore fixed, whatever the limit. The price is that a slice is given back as a whole: capacity returns up to 1/60 of
a window late, a second for a limit per minute, and never early.

**The clock.** Slices are numbered from the wall clock, so counts survive a restart. When that clock steps back, what
was counted is dated again to the present: it costs callers up to one window of waiting. A clock that leaps forward
makes windows end early; nothing here can tell.

**The lock.** One POSIX record lock guards the file, and a mutex guards it between the threads of one process, which a
record lock does not tell apart. The kernel takes a record lock away from a process that dies, even by ``kill -9``, and
a forked child does not inherit it. It is one lock and not one per range of keys, because the kernel looks for
deadlocks by process: two processes whose *threads* wait for each other's ranges are reported as a deadlock
(``EDEADLK``) although none exists. For the same reason nothing else in a worker should wait for a record lock, and
nothing else may open the file: closing any descriptor of it would release the lock.

**Dying halfway.** Writes are ordered so that a process killed between two of them leaves counts that are right or too
high, never too low. Only a power cut can lose the last counts, because the file is not flushed for every request.

**A full table.** A key may stand in one of 32 neighbouring entries. When it is new and none of them is free, it takes
the entry that expired first; an expired entry holds nothing that still counts. When none has expired, the call is
refused and an error is logged: evicting a live entry would lift the limit of another key, and letting the call pass
would skip its own. With 65,536 entries that happens above some 30,000 keys that are active within one window.

**The file.** It must be on a local disk: memory is not shared over NFS. All of it is reserved when it is opened, 19 MB,
so that a disk that fills up later changes nothing. Where there was no room for that, the space around an entry is
reserved before a process first looks there: then a full disk is an ``OSError`` for new keys and nothing for the others.
Without that the kernel would end the process by ``SIGBUS`` where it touches a hole; on a tmpfs, to read one is enough.
That the file was deleted is noticed within a second, and counting starts again in a new one; truncating it under a
running server kills the workers that use it. A file that is none of this version is kept aside as ``….replaced``.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast

from limits import RateLimitItem
from limits.errors import ConfigurationError
from limits.storage import MovingWindowSupport, Storage

SLICES = 60
"""Into how many slices a window is cut; capacity returns at most one of them late."""

ENTRIES = 65_536
"""How many entries the table of a file has, unless told otherwise."""

PROBES = 32
"""In how many neighbouring entries a key may stand."""

_SCHEME = "mmap://"
_MAGIC = b"modelport limits"
# Stop the server to change it: running workers of two layouts would not count together.
_LAYOUT = 1
_HEADER_SIZE = 64
_SALT_SIZE = 16

# An entry: the name (digest, length of the window), the sum of the counters, the newest slice, the time at which
# everything in it has expired, then a counter for each slice that may count, in the order of their numbers modulo 61.
_SLOTS = SLICES + 1
_DIGEST_SIZE = 16
_NAME_SIZE = _DIGEST_SIZE + 4
_TOTAL = 20
_NEWEST = 24
_EXPIRES = 32
_COUNTERS = 40
_ENTRY_SIZE = 288

_NO_NAME = bytes(_NAME_SIZE)
_FIXED = 0  # The length of window that names the entry of a fixed window.
_MOST = 2**32 - 1
_SECOND = 1_000_000_000
# What is reserved at once where not all is; more than the places of a key take.
_PIECE = 65_536
_SECONDS_BETWEEN_CHECKS = 1
_SECONDS_BETWEEN_ERRORS = 60

_log = logging.getLogger(__name__)


class _Table:
    """The mapped file; offsets are in bytes, and the caller holds the lock."""

    def __init__(self, descriptor: int, entries: int) -> None:
        self.descriptor = descriptor
        self.size = _size(entries)
        self.map = mmap.mmap(descriptor, self.size)
        # Assigning to a cast view stores a whole number at once, which struct does not promise.
        self.words = memoryview(self.map).cast("I")
        self.longs = memoryview(self.map).cast("Q")
        self._entries = entries
        self._reserved = set(range(self.size // _PIECE + 1)) if self._has_room() else set()
        self._salt = self.map[_HEADER_SIZE - _SALT_SIZE : _HEADER_SIZE]

    def _has_room(self) -> bool:
        """Reserve all of it, where there is room."""
        try:
            os.posix_fallocate(self.descriptor, 0, self.size)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.words.release()
        self.longs.release()
        self.map.close()
        os.close(self.descriptor)

    def is_current(self) -> bool:
        """Tell whether the file is still the one on disk, whole."""
        status = os.fstat(self.descriptor)
        return status.st_nlink > 0 and status.st_size == self.size

    def name(self, key: str, window: int) -> bytes:
        # The salt keeps callers from choosing keys that crowd out the key of somebody else.
        text = key.encode("utf-8", "surrogatepass")
        digest = blake2b(text, digest_size=_DIGEST_SIZE, salt=self._salt).digest()
        return digest + window.to_bytes(4, "little")

    def places(self, name: bytes) -> range:
        home = _HEADER_SIZE + int.from_bytes(name[:8], "little") % self._entries * _ENTRY_SIZE
        if home // _PIECE not in self._reserved:
            self._reserve(home // _PIECE)
        return range(home, home + PROBES * _ENTRY_SIZE, _ENTRY_SIZE)

    def _reserve(self, piece: int) -> None:
        """Reserve a piece, and the next one: what begins in the one may end in the other."""
        begin = piece * _PIECE
        os.posix_fallocate(self.descriptor, begin, min(2 * _PIECE, self.size - begin))
        self._reserved.add(piece)

    def find(self, name: bytes) -> int | None:
        for at in self.places(name):
            if self.map[at : at + _NAME_SIZE] == name:
                return at
        return None

    def claim(self, name: bytes, now: int) -> int | None:
        """Return the entry of that name, a new one if need be, or None if there is no room."""
        at = self.find(name)
        return self._take(name, now) if at is None else at

    def _take(self, name: bytes, now: int) -> int | None:
        at = self.first_to_expire(name)
        if self.expires(at) > now:
            return None
        self.longs[at + _NEWEST >> 3] = 0
        self.map[at : at + _NAME_SIZE] = name
        return at

    def first_to_expire(self, name: bytes) -> int:
        return min(self.places(name), key=self.expires)

    def expires(self, at: int) -> int:
        return self.longs[at + _EXPIRES >> 3]

    def admit(self, at: int, window: int, now: int, limit: int, amount: int) -> bool:
        total = self.total(at, window, now) + amount
        if total > limit:
            return False
        # The total first: a process that dies in between has counted too much, until the next turn.
        self.words[at + _TOTAL >> 2] = total
        self.words[(at + _COUNTERS >> 2) + self.longs[at + _NEWEST >> 3] % _SLOTS] += amount
        return True

    def total(self, at: int, window: int, now: int) -> int:
        """Return what counts in the window that ends now, having forgotten what came before."""
        current = now * SLICES // (window * _SECOND)
        if current != self.longs[at + _NEWEST >> 3]:
            self._turn(at, window, current)
        return self.words[at + _TOTAL >> 2]

    def _turn(self, at: int, window: int, current: int) -> None:
        """Make a slice the newest: its counter is cleared before it counts."""
        newest = self.longs[at + _NEWEST >> 3]
        first = at + _COUNTERS >> 2
        if current < newest:
            self._redate(first, current)
        for index in range(max(newest + 1, current - SLICES), current + 1):
            self.words[first + index % _SLOTS] = 0
        self.words[at + _TOTAL >> 2] = self._sum(first)
        # Before the turn is done: an entry that counts must never look as if it had expired.
        self.longs[at + _EXPIRES >> 3] = _end(current + SLICES, window)
        self.longs[at + _NEWEST >> 3] = current

    def _redate(self, first: int, current: int) -> None:
        """Date all that was counted to one slice: the clock says that it is still to come."""
        kept = first + current % _SLOTS
        self.words[kept] = self._sum(first)
        for counter in range(first, first + _SLOTS):
            if counter != kept:
                self.words[counter] = 0

    def _sum(self, first: int) -> int:
        return min(sum(self.words[first : first + _SLOTS].tolist()), _MOST)

    def frees_at(self, at: int, window: int) -> int:
        """Return when the oldest slice that holds a count leaves the window."""
        newest = self.longs[at + _NEWEST >> 3]
        counters = self.map[at + _COUNTERS : at + _COUNTERS + 4 * _SLOTS]
        cut = (newest + 1) % _SLOTS * 4
        by_age = counters[cut:] + counters[:cut]
        empty = (len(by_age) - len(by_age.lstrip(b"\0"))) // 4
        return _end(newest + empty, window)

    def fixed(self, at: int, now: int) -> int:
        """Return the count of a fixed window, which has only the first counter."""
        return self.words[at + _COUNTERS >> 2] if self.expires(at) > now else 0

    def add_fixed(self, at: int, now: int, ends: int, amount: int) -> int:
        counter = at + _COUNTERS >> 2
        if self.expires(at) <= now:
            self.words[counter] = 0
            self.longs[at + _EXPIRES >> 3] = ends
        self.words[counter] = count = min(self.words[counter] + amount, _MOST)
        return count

    def forget(self, at: int) -> None:
        self.map[at : at + _NAME_SIZE] = _NO_NAME
        self.longs[at + _EXPIRES >> 3] = 0

    def forget_key(self, key: str) -> None:
        name = self.name(key, _FIXED)
        for at in self.places(name):
            if self.map[at : at + _DIGEST_SIZE] == name[:_DIGEST_SIZE]:
                self.forget(at)

    def forget_all(self) -> int:
        used = [at for at in range(_HEADER_SIZE, self.size, _ENTRY_SIZE) if self.expires(at)]
        for at in used:
            self.forget(at)
        return len(used)


class _File:
    """A path and what this process has open there; ``with`` locks it and gives the table.

    There is one for each path and process, whatever the number of storages, and it is never
    closed for good: a second descriptor of the file could not be closed without losing the lock.
    """

    def __init__(self, path: Path, entries: int) -> None:
        self.path = path
        self.entries = entries
        self.mutex = threading.Lock()
        self.table: _Table | None = None
        self._check_at = 0.0

    def __enter__(self) -> _Table:
        self.mutex.acquire()
        try:
            return self._lock()
        except BaseException:
            self.mutex.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.table is not None:
                fcntl.lockf(self.table.descriptor, fcntl.LOCK_UN)
        finally:
            self.mutex.release()

    def _lock(self) -> _Table:
        if self.table is not None:
            fcntl.lockf(self.table.descriptor, fcntl.LOCK_EX)
            if self._is_current(self.table):
                return self.table
            gone, self.table = self.table, None
            gone.close()
        self.table = self._open()
        return self.table

    def _is_current(self, table: _Table) -> bool:
        if time.monotonic() < self._check_at:
            return True
        self._check_at = time.monotonic() + _SECONDS_BETWEEN_CHECKS
        return table.is_current()

    def _open(self) -> _Table:
        while True:
            with contextlib.ExitStack() as undo:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
                undo.callback(os.close, descriptor)
                fcntl.lockf(descriptor, fcntl.LOCK_EX)
                if not _is_at(self.path, descriptor):
                    continue
                if _has_layout(descriptor, self.entries):
                    table = _Table(descriptor, self.entries)
                    undo.pop_all()
                    return table
                self._replace(os.fstat(descriptor).st_size)

    def _replace(self, size: int) -> None:
        """Put a fresh file there: never in place, a process that maps the old one would crash."""
        if size:
            self._keep_aside()
        # The path never stands empty, so whoever opens it meanwhile waits for our lock.
        _create(self.path.parent, self.entries).replace(self.path)

    def _keep_aside(self) -> None:
        # A mistyped path could name a file that somebody needs.
        aside = self.path.with_name(f"{self.path.name}.replaced")
        aside.unlink(missing_ok=True)
        aside.hardlink_to(self.path)
        _log.warning("not a file of rate limits of this version, kept as %s", aside)


_FILES: dict[Path, _File] = {}


def _renew_mutexes() -> None:
    for file in list(_FILES.values()):
        file.mutex = threading.Lock()


# Another thread may hold a mutex while this one forks, and would never release it in the child.
os.register_at_fork(after_in_child=_renew_mutexes)


def _size(entries: int) -> int:
    # The last entry has neighbours as well, so that places() need not wrap around.
    return _HEADER_SIZE + (entries + PROBES - 1) * _ENTRY_SIZE


def _layout(entries: int) -> bytes:
    numbers = (_LAYOUT, entries, PROBES, SLICES)
    return _MAGIC + b"".join(number.to_bytes(4, "little") for number in numbers)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _has_layout(descriptor: int, entries: int) -> bool:
    expected = _layout(entries)
    whole = os.fstat(descriptor).st_size == _size(entries)
    return whole and os.pread(descriptor, len(expected), 0) == expected


def _create(folder: Path, entries: int) -> Path:
    descriptor, path = tempfile.mkstemp(prefix=".limits-", dir=folder)
    try:
        head = _layout(entries).ljust(_HEADER_SIZE - _SALT_SIZE, b"\0")
        os.write(descriptor, head + os.urandom(_SALT_SIZE))
        os.ftruncate(descriptor, _size(entries))
    finally:
        os.close(descriptor)
    return Path(path)


def _end(index: int, window: int) -> int:
    """Return the first nanosecond after a slice."""
    return -((index + 1) * window * _SECOND // -SLICES)


def _path(uri: str | None) -> Path:
    # Taken as it stands, without escapes: any path that follows the scheme is a path.
    path = (uri or "").removeprefix(_SCHEME)
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigurationError(f"expected mmap:///absolute/path/of/a/file, not {uri!r}")
    return Path(path)


def _window(table: _Table, name: bytes, at: int | None, limit: int, expiry: int, now: int) -> tuple[float, int]:
    if at is not None:
        used = min(table.total(at, expiry, now), limit)
        free = table.frees_at(at, expiry)
    else:
        free = table.expires(table.first_to_expire(name))
        used = limit if free > now else 0
    return (free if used else now) / _SECOND - expiry * bool(used), used


class Spent(NamedTuple):
    """What came of counting one request against a limit."""

    admitted: bool
    # When the limit has room again, or more of it, in seconds since the epoch.
    reset: float
    remaining: int


def spend(storage: Storage, item: RateLimitItem, *identifiers: str) -> Spent:
    """Count one request against a limit, by the moving window of a storage of any kind."""
    key, limit, window = item.key_for(*identifiers), item.amount, item.get_expiry()
    if isinstance(storage, MmapStorage):
        admitted, start, used = storage.spend(key, limit, window)
    else:
        counting = cast("MovingWindowSupport", storage)
        admitted = counting.acquire_entry(key, limit, window)
        start, used = counting.get_moving_window(key, limit, window)
    return Spent(admitted, start + window, limit - used)


class MmapStorage(Storage, MovingWindowSupport):
    """A storage of the ``limits`` package in one file that all processes of a host share.

    It is meant for the moving window; the fixed window of ``limits`` works as well and counts
    apart from it. Nothing is opened before the first call.
    """

    STORAGE_SCHEME = ["mmap"]  # noqa: RUF012 # the base class does not make it a ClassVar

    def __init__(
        self,
        uri: str | None = None,
        *,
        wrap_exceptions: bool = False,
        entries: int = ENTRIES,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Remember the path of ``mmap:///absolute/path``; the clock counts nanoseconds."""
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        path = _path(uri)
        self._file = _FILES.setdefault(path, _File(path, entries))
        self._clock = clock
        self._silent_until = 0.0
        if self._file.entries != entries:
            raise ConfigurationError(f"{path} is in use with {self._file.entries} entries")

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """The errors that mean that the storage failed."""
        return OSError

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count the amount if no window of that many seconds then holds more than the limit."""
        if not 0 <= amount <= limit:
            return False
        with self._file as table:
            # Read under the lock, so that no thread comes with a time before that of another.
            now = self._clock()
            at = table.claim(table.name(key, expiry), now)
            if at is not None:
                return table.admit(at, expiry, now, limit, amount)
        self._report_full()
        return False

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return a time and what counts now; the first of it is free one window after the time."""
        with self._file as table:
            now = self._clock()
            name = table.name(key, expiry)
            return _window(table, name, table.find(name), limit, expiry, now)

    def spend(self, key: str, limit: int, expiry: int) -> tuple[bool, float, int]:
        """Count one as `acquire_entry` does and return what `get_moving_window` then would, under one lock."""
        with self._file as table:
            now = self._clock()
            name = table.name(key, expiry)
            at = table.claim(name, now)
            admitted = at is not None and table.admit(at, expiry, now, limit, 1)
            window = _window(table, name, at, limit, expiry, now)
        if at is None:
            self._report_full()
        return admitted, *window

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to the fixed window of the key and return its count."""
        with self._file as table:
            now = self._clock()
            at = table.claim(table.name(key, _FIXED), now)
            if at is not None:
                return table.add_fixed(at, now, now + expiry * _SECOND, amount)
        self._report_full()
        return _MOST

    def get(self, key: str) -> int:
        """Return the count of the fixed window of the key."""
        with self._file as table:
            now = self._clock()
            name = table.name(key, _FIXED)
            at = table.find(name)
            if at is not None:
                return table.fixed(at, now)
            return _MOST if table.expires(table.first_to_expire(name)) > now else 0

    def get_expiry(self, key: str) -> float:
        """Return when the fixed window of the key ends, in seconds since the epoch."""
        with self._file as table:
            at = table.find(table.name(key, _FIXED))
            return max(self._clock(), 0 if at is None else table.expires(at)) / _SECOND

    def check(self) -> bool:
        """Tell whether the file can be opened and locked."""
        try:
            with self._file:
                return True
        except OSError:
            return False

    def reset(self) -> int | None:
        """Forget every count, for all processes, and return how many keys had one."""
        with self._file as table:
            return table.forget_all()

    def clear(self, key: str) -> None:
        """Forget the counts of a key, whatever the length of the window."""
        with self._file as table:
            table.forget_key(key)

    def _report_full(self) -> None:
        """Log that calls are refused for want of room, without a line for each of them."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SECONDS_BETWEEN_ERRORS
            _log.error("the table of rate limits is full, new keys are refused")
