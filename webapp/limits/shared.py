"""Rate limits that all replicas count together, in a Redis; while that is away, each replica counts alone in its file.

Importing this module registers ``shared:///absolute/path`` as a storage of the ``limits`` package, and so of
Flask-Limiter; the path is that of the file.

**The same limit as in the file.** A window is cut into slices, as there. A hash holds a counter for each slice that may
count, their sum, and the newest and the oldest of them, so that nearly every request reads four fields and writes two,
whatever the limit. One script does it all: one round trip, and nobody comes in between.

**The clock** is that of the Redis: one for all replicas. Answers name a time that is left, not a time of day, so that
no replica needs to have the same.

**Away.** Whatever goes wrong (`redis.Attempts`), a request is counted in the file instead, at once. Nothing is carried
over: within one window a key may get its limit from the Redis and once more from each replica, and no more than that
however often the Redis comes and goes, since both remember.

**Names** there are keyed hashes: they tell neither addresses nor names of people, and installations that have different
secrets share nothing.
"""

from __future__ import annotations

import time
from hashlib import blake2b

from limits.storage import Storage

from webapp.limits import SLICES, MmapStorage
from webapp.redis import Attempts, Script, connect

_SCHEME = "shared://"
_DIGEST_SIZE = 16
# What is counted to find out whether anything is.
_CHECKED = ("check", 10**9, 1)

# Milliseconds and not microseconds: sixty times as many would be more than a number in Lua holds exactly.
_SCRIPT = f"""
local limit, window, amount = tonumber(ARGV[1]), tonumber(ARGV[2]) * 1000, tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local current = math.floor(now * {SLICES} / window)
local known = redis.call('HMGET', KEYS[1], 'newest', 'total', 'oldest', current)
local total, oldest, count = tonumber(known[2]) or 0, tonumber(known[3]), tonumber(known[4]) or 0
if tonumber(known[1]) ~= current then
  local all, gone = redis.call('HGETALL', KEYS[1]), {{}}
  -- When the clock stepped back, all that was counted is dated to the present.
  local back = (tonumber(known[1]) or 0) > current
  total, oldest, count = 0, current, 0
  for at = 1, #all, 2 do
    local slice, counted = tonumber(all[at]), tonumber(all[at + 1])
    if slice and back then
      count = count + counted
    elseif slice and slice >= current - {SLICES} then
      total, oldest = total + counted, math.min(oldest, slice)
    end
    if slice and (back or slice < current - {SLICES}) then gone[#gone + 1] = all[at] end
  end
  total = total + count
  if amount > 0 then
    if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
    if count > 0 then redis.call('HSET', KEYS[1], current, count) end
    redis.call('HSET', KEYS[1], 'newest', current, 'total', total, 'oldest', oldest)
    redis.call('PEXPIRE', KEYS[1], math.ceil(window * {SLICES + 2} / {SLICES}))
  end
end
local admitted = 0
if total + amount <= limit then
  admitted = 1
  if amount > 0 then
    total = total + amount
    redis.call('HSET', KEYS[1], 'total', total, current, count + amount)
  end
end
return {{admitted, total, math.ceil((oldest + {SLICES + 1}) * window / {SLICES}) - now}}
"""


class SharedStorage(MmapStorage):
    """A storage of the ``limits`` package for the moving window, in a Redis that several replicas share.

    Fixed windows, and forgetting, concern the file of this replica alone. Nothing is opened before the first call.
    """

    STORAGE_SCHEME = ["shared"]  # noqa: RUF012 # the base class does not make it a ClassVar

    def __init__(self, uri: str, *, wrap_exceptions: bool = False, redis_url: str, secret: bytes) -> None:
        """`uri` names the file of this replica; `secret` makes the names in the Redis."""
        file = f"{MmapStorage.STORAGE_SCHEME[0]}://{uri.removeprefix(_SCHEME)}"
        super().__init__(file, wrap_exceptions=wrap_exceptions)
        self._script = Script(connect(redis_url), _SCRIPT)
        self._secret = secret
        self._attempts = Attempts("limits")

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count the amount if no window of that many seconds then holds more than the limit."""
        if not 0 <= amount <= limit:
            return False
        counted = self._counted(key, limit, expiry, amount)
        return counted[0] if counted else super().acquire_entry(key, limit, expiry, amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return a time and what counts now; the first of it is free one window after the time."""
        counted = self._counted(key, limit, expiry, 0)
        return counted[1:] if counted else super().get_moving_window(key, limit, expiry)

    def spend(self, key: str, limit: int, expiry: int) -> tuple[bool, float, int]:
        """Count one as `acquire_entry` does and return what `get_moving_window` then would, in one round trip."""
        return self._counted(key, limit, expiry, 1) or super().spend(key, limit, expiry)

    def check(self) -> bool:
        """Tell whether the Redis counts now, and not only answers: one that is full does not."""
        return self._counted(*_CHECKED, amount=1) is not None

    def _counted(self, key: str, limit: int, window: int, amount: int) -> tuple[bool, float, int] | None:
        """Count in the Redis; None where it does not answer."""

        def count() -> tuple[bool, float, int]:
            return _understood(self._script(self._name(key, window), limit, window, amount), limit, window)

        counted: tuple[bool, float, int] | None = self._attempts.answer(count)
        return counted

    def _name(self, key: str, window: int) -> bytes:
        text = f"{window} {key}".encode("utf-8", "surrogatepass")
        return b"modelport:limit:" + blake2b(text, key=self._secret, digest_size=_DIGEST_SIZE).hexdigest().encode()


def _understood(answer: object, limit: int, window: int) -> tuple[bool, float, int]:
    """Give what the script says as the file would; whatever else came is an error."""
    match answer:
        case [0 | 1 as admitted, int(used), int(milliseconds)] if used >= 0 and 0 <= milliseconds <= 2000 * window:
            now = time.time()
            return admitted == 1, now + milliseconds / 1000 - window if used else now, min(used, limit)
    message = "not an answer of the script"
    raise ValueError(message)


def is_alone(storage: Storage) -> bool:
    """Tell whether this replica counts for itself although it has a Redis to share with others."""
    return isinstance(storage, SharedStorage) and not storage.check()
