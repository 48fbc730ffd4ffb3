"""Keeps answers to rows that come again: in this process, and in a Redis where there is one.

A key is made of everything that decides the answer: the model, the version with its seal, what computes it and the row
as typed JSON. What is kept is therefore never wrong, only old: nothing is ever purged, it runs out.
"""

from __future__ import annotations

import hmac
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson
from cachetools import TTLCache

from webapp import __version__
from webapp.catalog import ServedVersion
from webapp.errors import Invalid
from webapp.metrics import CACHE_REQUESTS
from webapp.redis import Attempts, connect
from webapp.serving.batching import Trial
from webapp.serving.predictor import Outcome
from webapp.signature import Row

if TYPE_CHECKING:
    from redis import Redis

Ask = Callable[[Sequence[Row], Sequence[str]], list[Outcome]]

# Requests with more rows are not looked up: they are predicted at a far lower cost per row.
MOST_ROWS = 16
# What a process keeps. An entry without its value counts as ENTRY_BYTES: there are never more than 65,536 of them.
MOST_BYTES = 32 * 1024 * 1024
ENTRY_BYTES = 512
MOST_VALUE_BYTES = 64 * 1024
# A prediction must cost so many times what a look-up in vain and keeping its answer cost: where no row ever comes again
# a tenth is lost at most, and from one hit in ten misses on there is a gain.
WORTH = 10
MEASURED_TIMES = 9
# What a miss in the Redis costs where it could not be measured, being away when the version was loaded.
ASSUMED_REDIS_SECONDS = 0.001
KEY_BYTES = 32
TAG_BYTES = 32


@dataclass(frozen=True, slots=True)
class Caching:
    """Whether a version's answers are kept, and the figures that decided it."""

    # In this process, and in the Redis that all processes share.
    local: bool = False
    shared: bool = False
    # A sentence for people.
    reason: str = "This process keeps no answers."
    # What one row costs to predict, and what not finding and then keeping it costs; None where it was not measured.
    predict_seconds: float | None = None
    local_seconds: float | None = None
    shared_seconds: float | None = None


class _Flight:
    """An answer that is being computed, for all who wait for it."""

    __slots__ = ("landed", "value")

    def __init__(self) -> None:
        # None after it landed: there is none, and whoever waited computes it alone.
        self.value: bytes | None = None
        self.landed = threading.Lock()
        self.landed.acquire()

    def wait(self) -> bytes | None:
        """Give what comes of it, when it is there."""
        with self.landed:
            return self.value


@dataclass(slots=True)
class _Found:
    """What is known of some keys at one moment."""

    kept: dict[bytes, bytes]
    # To be computed by whoever asked, and what others are computing.
    own: dict[bytes, _Flight]
    others: dict[bytes, _Flight]


class Local:
    """Answers in this process's memory; those that were not asked for the longest go first."""

    def __init__(self, ttl_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep each answer for `ttl_seconds` at most."""
        self._entries: TTLCache[bytes, bytes] = TTLCache(MOST_BYTES, ttl_seconds, clock, _entry_bytes)
        self._flights: dict[bytes, _Flight] = {}
        # Held to look something up or to put it down, never while it is computed.
        self._lock = threading.Lock()

    def look(self, keys: Iterable[bytes]) -> _Found:
        """Look up keys; what nobody knows or computes is from now on computed by the caller, who says when it lands."""
        found = _Found({}, {}, {})
        try:
            with self._lock:
                for key in dict.fromkeys(keys):
                    self._look_at(key, found)
        except BaseException:
            # The memory may have run out in between: nobody may wait for what is never computed.
            self.land(found.own, {})
            raise
        return found

    def _look_at(self, key: bytes, found: _Found) -> None:
        # Not by `get`: between its two looks at the clock an entry can run out.
        with suppress(KeyError):
            found.kept[key] = self._entries[key]
            return
        if flight := self._flights.get(key):
            found.others[key] = flight
        else:
            found.own[key] = self._flights[key] = _Flight()

    def land(self, flights: Mapping[bytes, _Flight], values: Mapping[bytes, bytes]) -> None:
        """Keep what was computed, and let those who wait have it; flights without a value failed."""
        try:
            with self._lock:
                for key in flights:
                    self._flights.pop(key, None)
                self._entries.update(values)
        finally:
            for key, flight in flights.items():
                flight.value = values.get(key)
                flight.landed.release()


def _entry_bytes(value: bytes) -> int:
    return ENTRY_BYTES + len(value)


class Remote:
    """Answers in a Redis that several processes share. It may fail or lie: then it has none."""

    def __init__(self, client: Redis, secret: bytes, ttl_seconds: int) -> None:
        """`secret` signs what is kept there."""
        self._client = client
        self._secret = secret
        self._ttl_seconds = ttl_seconds
        # Apart: one that is full, or a replica, can still be read.
        self._reads = Attempts("cache reads")
        self._writes = Attempts("cache writes")

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Give what it has of ours."""

        def receive() -> dict[bytes, bytes]:
            stored: Any = self._client.mget([_name(key) for key in keys])
            values = {key: self._checked(key, each) for key, each in zip(keys, stored, strict=True)}
            return {key: value for key, value in values.items() if value is not None}

        return (self._reads.answer(receive) or {}) if keys else {}

    def put(self, values: Mapping[bytes, bytes]) -> bool:
        """Keep some answers, if it can."""

        def send() -> bool:
            pipeline = self._client.pipeline(transaction=False)
            for key, value in values.items():
                pipeline.set(_name(key), self._tag(key, value) + value, ex=self._ttl_seconds)
            return bool(pipeline.execute())

        # One that cannot be read is not waited for a second time.
        return bool(values) and not self._reads.failed and bool(self._writes.answer(send))

    def _checked(self, key: bytes, stored: object) -> bytes | None:
        """Give a value that was kept under this key by one who has the secret."""
        if not isinstance(stored, bytes):
            return None
        tag, value = stored[:TAG_BYTES], stored[TAG_BYTES:]
        return value if hmac.compare_digest(tag, self._tag(key, value)) else None

    def _tag(self, key: bytes, value: bytes) -> bytes:
        # Keys are all of one length: no other key and value make the same bytes.
        return hmac.digest(self._secret, key + value, "sha256")


def _name(key: bytes) -> str:
    return f"modelport:{key.hex()}"


class Lookup:
    """The answers of one version, computed by one means."""

    def __init__(self, key: bytes, ask: Ask, local: Local, remote: Remote | None) -> None:
        """`key` is this version's alone; `ask` computes what nobody knows."""
        self._key = key
        self._ask = ask
        self._local = local
        self._remote = remote

    def keys(self, rows: Sequence[Row]) -> list[bytes] | None:
        """Give a key for each row; None where a row is more than JSON can hold."""
        try:
            texts = [orjson.dumps(row) for row in rows]
        except TypeError:
            return None
        return [blake2b(text, key=self._key, digest_size=KEY_BYTES).digest() for text in texts]

    def answered(
        self, keys: Sequence[bytes], rows: Sequence[Row], pointers: Sequence[str]
    ) -> tuple[list[Outcome], list[bool]]:
        """Answer from what is kept, computed or being computed by others."""
        found = self._local.look(keys)
        try:
            fresh = self._computed(found, keys, rows, pointers) if found.own else {}
        except Invalid:
            # Once more, all of it: a refusal names every row that it concerns.
            return self.past(rows, pointers)
        # After what is computed here: two who wait for each other have both done their part.
        for key, flight in found.others.items():
            value = flight.wait()
            if value is None:
                return self.past(rows, pointers)
            found.kept[key] = value
        outcomes = [fresh.get(key) or _decoded(found.kept[key]) for key in keys]
        return outcomes, [key not in fresh for key in keys]

    def past(self, rows: Sequence[Row], pointers: Sequence[str]) -> tuple[list[Outcome], list[bool]]:
        """Compute them whatever is kept."""
        return self._ask(rows, pointers), [False] * len(rows)

    def _computed(
        self, found: _Found, keys: Sequence[bytes], rows: Sequence[Row], pointers: Sequence[str]
    ) -> dict[bytes, Outcome]:
        """Compute what is ours to compute, in one call, unless other processes did; let all others have it."""
        values: dict[bytes, bytes] = {}
        try:
            if self._remote:
                values |= self._remote.get(list(found.own))
                found.kept |= values
            at = [position for position, key in enumerate(keys) if key in found.own and key not in values]
            outcomes = self._ask([rows[each] for each in at], [pointers[each] for each in at]) if at else []
            fresh = {keys[position]: outcome for position, outcome in zip(at, outcomes, strict=True)}
            made = {key: value for key, outcome in fresh.items() if (value := _encoded(outcome)) is not None}
            values |= made
        finally:
            self._local.land(found.own, values)
        if self._remote and made:
            self._remote.put(made)
        return fresh


def _encoded(outcome: Outcome) -> bytes | None:
    """Give an outcome as JSON; None where it is too large, or JSON does not give it back as it is."""
    try:
        value = orjson.dumps((outcome.prediction, outcome.probability, outcome.probabilities))
    except TypeError:
        return None
    if len(value) > MOST_VALUE_BYTES or _decoded(value) != outcome:
        return None
    # A copy: what orjson gives keeps the 4 KiB that it was written into.
    return bytes(memoryview(value))


def _decoded(value: bytes) -> Outcome:
    return Outcome(*orjson.loads(value))


class VersionCache:
    """A version's part of the cache: looks up small requests, and counts."""

    def __init__(self, model: str, lookup: Lookup) -> None:
        """`model` is for the counters."""
        self._lookup = lookup
        # Looked up by their labels once: that costs as much as a look-up here.
        self._hits, self._misses, self._skipped = (
            CACHE_REQUESTS.labels(model, result) for result in ("hit", "miss", "skipped")
        )

    def predict(self, rows: Sequence[Row], pointers: Sequence[str]) -> tuple[list[Outcome], list[bool]]:
        """Give one outcome per row, as `Predictor.predict` does, and which of them were there already."""
        keys = self._lookup.keys(rows) if len(rows) <= MOST_ROWS else None
        if keys is None:
            self._skipped.inc(len(rows))
            return self._lookup.past(rows, pointers)
        outcomes, cached = self._lookup.answered(keys, rows, pointers)
        hits = sum(cached)
        if hits:
            self._hits.inc(hits)
        if hits < len(rows):
            self._misses.inc(len(rows) - hits)
        return outcomes, cached


class PredictionCache:
    """What one process keeps of the answers of all its versions."""

    def __init__(
        self,
        secret: bytes,
        ttl_seconds: int,
        mode: str = "auto",
        redis_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing.

        `secret` makes keys and signatures that nobody else can make. `mode` is auto (what pays is measured), on or off.
        """
        self._secret = hmac.digest(secret, b"keys", "sha256")
        self._mode = mode if ttl_seconds else "off"
        self._ttl_seconds = ttl_seconds
        self._local = Local(ttl_seconds, clock)
        self._remote = (
            Remote(connect(redis_url), hmac.digest(secret, b"values", "sha256"), ttl_seconds) if redis_url else None
        )

    def of(
        self, version: ServedVersion, computed_by: str, ask: Ask, rows: Sequence[Row], trial: Trial
    ) -> tuple[VersionCache | None, Caching]:
        """Give a version's part of it, or None where its answers are not kept; and why.

        `computed_by` is what answers: another plan of the same version is asked itself. `rows` are usual ones,
        none where the version's answers may vary.
        """
        if self._mode == "off":
            return None, Caching(reason="Keeping answers is off, by MODELPORT_CACHE or MODELPORT_CACHE_TTL_SECONDS.")
        if not rows or trial.single_seconds is None or not trial.independent:
            reason = "Its answers may differ from one call to the next, or with the rows that are asked beside them."
            return None, Caching(reason=reason)
        identity = [__version__, version.model, version.number, version.seal, computed_by, "predict"]
        key = hmac.digest(self._secret, orjson.dumps(identity), "sha256")
        caching = self._decided(key, ask, rows[0], trial.single_seconds)
        if not caching.local:
            return None, caching
        remote = self._remote if caching.shared else None
        return VersionCache(version.model, Lookup(key, ask, self._local, remote)), caching

    def _decided(self, key: bytes, ask: Ask, row: Row, predict_seconds: float) -> Caching:
        """Keep what costs much more to predict than to look up in vain and keep; in the Redis, too, if that pays."""
        [outcome] = ask([row], [""])
        value = _encoded(outcome)
        if value is None:
            return Caching(reason="Its answers are too large to be kept.", predict_seconds=predict_seconds)
        local_seconds = self._local_seconds(key, row, outcome)
        shared_seconds = self._shared_seconds(key, value)
        on = self._mode == "on"
        predicting, missing = _shown(predict_seconds), _shown(local_seconds)
        said = f"A row takes {predicting} to predict; to look it up in vain and keep it {missing}"
        said += f" here and {_shown(shared_seconds)} more in the Redis." if shared_seconds else "."
        return Caching(
            local=on or predict_seconds >= WORTH * local_seconds,
            shared=shared_seconds is not None and (on or predict_seconds >= WORTH * (local_seconds + shared_seconds)),
            reason=f"{said} MODELPORT_CACHE is on." if on else f"{said} It pays from {WORTH} times as much on.",
            predict_seconds=predict_seconds,
            local_seconds=local_seconds,
            shared_seconds=shared_seconds,
        )

    def _local_seconds(self, key: bytes, row: Row, outcome: Outcome) -> float:
        """Measure a whole miss: make the key, look it up, keep what came of it."""
        seconds = []
        for _ in range(MEASURED_TIMES):
            scratch = Lookup(key, lambda _rows, _pointers: [outcome], Local(self._ttl_seconds), None)
            started = time.perf_counter()
            scratch.answered(scratch.keys([row]) or [], [row], [""])
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    def _shared_seconds(self, key: bytes, value: bytes) -> float | None:
        """Measure a look-up and keeping in the Redis; None where there is none."""
        if self._remote is None:
            return None
        # Under a name that gives nothing away: with the version's own key, instances could be guessed from names.
        scratch = blake2b(key=key, digest_size=KEY_BYTES).digest()
        seconds = []
        for _ in range(MEASURED_TIMES):
            started = time.perf_counter()
            self._remote.get([scratch])
            if not self._remote.put({scratch: value}):
                return ASSUMED_REDIS_SECONDS
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)


def _shown(seconds: float) -> str:
    microseconds = seconds * 1e6
    return f"{microseconds:,.3g} µs" if microseconds < 1000 else f"{seconds * 1000:,.0f} ms"  # noqa: PLR2004 - a unit
