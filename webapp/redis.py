"""A Redis that may be away: given up early, left alone for a while after a failure, and used again by itself."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from webapp.metrics import REDIS_AWAY

if TYPE_CHECKING:
    from redis import Redis
    from redis.connection import ConnectionInterface

LOG = logging.getLogger(__name__)

# One that takes longer is slower than most models; one that failed is left alone for a while.
TIMEOUT_SECONDS = 0.05
REST_SECONDS = 1.0
# More than a process has threads: nobody is refused a connection.
MOST_CONNECTIONS = 1024


def connect(url: str) -> Redis:
    """Give a client that gives up early and never tries twice; it opens nothing before it is used."""
    # Only for those who have one: it would make every command of the console start later.
    from redis import Redis  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    return Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        max_connections=MOST_CONNECTIONS,
        # What every Redis and Valkey speaks, and without a round trip to say who calls: each could take the whole time.
        protocol=2,
        driver_info=None,
    )


class Attempts:
    """Calls of one use of a Redis: after one that failed it is left alone for a while, and then tried by one."""

    def __init__(self, use: str) -> None:
        """`use` is for the log and the metric."""
        self._use = use
        self.failed = False
        # Whether it answers, as the metric says it; nothing is said before the first call.
        self._told: bool | None = None
        self._telling = threading.Lock()
        self._rests_until = 0.0

    def answer(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the call gives
        """Call it, unless it rests or is being tried; None where it did not answer."""
        trying = self.failed
        if trying and time.monotonic() < self._rests_until:
            return None
        # However long it takes, others go on without it: finding its address has no time limit.
        self._rests_until = math.inf
        try:
            answer = call()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, predictions go on without it
            self._tell(away=True, reason=type(error).__name__)
            return None
        finally:
            self._rests_until = time.monotonic() + REST_SECONDS
        # Not by one that was sent before it failed: many at once would say it in turns.
        if trying or self._told is None:
            self._tell(away=False)
        return answer

    def _tell(self, *, away: bool, reason: str = "") -> None:
        """Note that it went away or came back: once, however many saw it."""
        with self._telling:
            before, self._told = self._told, away
            self.failed = away
        if before == away:
            return
        # Always at first: a process that was killed has left its own value behind.
        REDIS_AWAY.labels(self._use).set(away)
        if away:
            LOG.warning("redis.away", extra={"use": self._use, "reason": reason})
        elif before:
            LOG.warning("redis.back", extra={"use": self._use})


class Script:
    """A Lua script that takes one name and some numbers, in one round trip.

    On connections of its own: what the client does around a command takes longer than the trip itself.
    """

    def __init__(self, client: Redis, text: str) -> None:
        """Opens nothing."""
        self._pool = client.connection_pool
        code = text.encode()
        self._by_digest = (b"EVALSHA", hashlib.sha1(code, usedforsecurity=False).hexdigest().encode(), b"1")
        self._by_text = (b"EVAL", code, b"1")
        # The one that was used last is taken first; a failure closes it, and its next use opens it again.
        self._idle: deque[ConnectionInterface] = deque()

    def __call__(self, name: bytes, *numbers: int) -> object:
        """Run it; what came is only what somebody sent."""
        from redis.exceptions import NoScriptError  # noqa: PLC0415 - as in `connect`

        given = (name, *(b"%d" % number for number in numbers))
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._pool.make_connection()
        try:
            return _asked(connection, _packed(*self._by_digest, *given))
        except NoScriptError:
            # It is new there, or was restarted.
            return _asked(connection, _packed(*self._by_text, *given))
        finally:
            self._idle.append(connection)


def _asked(connection: ConnectionInterface, command: bytes) -> object:
    """Send a command and give its answer; one that was closed while nobody used it is opened once more."""
    from redis.exceptions import ConnectionError as Closed  # noqa: PLC0415 - as in `connect`

    kept = connection.is_connected
    try:
        return _sent(connection, command)
    except Closed:
        if not kept:
            raise
        return _sent(connection, command)


def _sent(connection: ConnectionInterface, command: bytes) -> object:
    connection.send_packed_command((command,), check_health=False)  # type: ignore[no-untyped-call] # has no types
    return connection.read_response()


def _packed(*parts: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(parts), b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
