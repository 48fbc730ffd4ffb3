"""Connections to PostgreSQL that lose patience: a server that hangs or cannot be reached holds up nobody for long."""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from sqlalchemy import event

T = TypeVar("T")
CONNECT_SECONDS = 3
# The server ends a statement itself before its client gives up: that leaves the connection usable.
STATEMENT_SECONDS, ANSWER_SECONDS = 8, 10
# Outside of a transaction, only whether the server answers at all is asked.
PING_SECONDS = 2
# So long a process that does not go on may keep others from what its transaction has locked.
IDLE_SECONDS = 30

# What the URL does not say otherwise. Packets that nobody acknowledges end the connection within ten seconds.
TERMS = {
    "connect_timeout": str(CONNECT_SECONDS),
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "tcp_user_timeout": "8000",
    "application_name": "modelport",
    "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout={IDLE_SECONDS}s",
}


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is given up when a statement has no answer: the network's own limits see only dead networks."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server, but not for ever."""
        longest = PING_SECONDS if self.autocommit else ANSWER_SECONDS
        try:
            return super().wait(gen, interval, longest if timeout is None else timeout)
        except psycopg.OperationalError:
            if timeout is None and self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                # Or what comes after all would be taken for the answer to the next statement.
                self.pgconn.finish()
            raise

    def __del__(self, *_given: Any) -> None:  # noqa: ANN401 - as the driver
        """Close what a pool has let go: that is no mistake, as the driver would say."""
        self.pgconn.finish()


def set_up(engine: sa.Engine) -> None:
    """Have an engine make connections of this kind."""

    @event.listens_for(engine, "do_connect")
    def _on_connect(_dialect: object, _record: object, given: list[Any], named: dict[str, Any]) -> Connection:
        return Connection.connect(*given, **(TERMS | named))
