"""The database: base class of all tables, engine, and the one way to open a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
import psycopg.errors
import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Session as Session  # noqa: PLC0414 - the doors name the type, and nothing else of SQL

from webapp.config import shipped
from webapp.errors import Invalid, NoRoom, Unavailable
from webapp.postgresql import set_up as set_up_postgresql

BUSY_TIMEOUT_SECONDS = 15
# A process opens so many connections to a server at most, where it says nothing else; a thread waits for one so long.
THREADS, POOL_SECONDS = 8, 3.0
# What an id fits into: a larger one cannot even be compared with.
MOST_ID = 2**31 - 1
# Where a session keeps what is done before it commits.
_AT_THE_END = "at the end"
# No answer, no connection left; or one that was cut off, or leads to a copy that only reads.
AWAY = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InternalError, sqlalchemy.exc.TimeoutError)

FULL = "The disk of the database is full, so nothing was changed; try again when there is room on it."


class Base(DeclarativeBase):
    """Every table. Constraints are named by rule, so that migrations can name them too."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Moment(sa.types.TypeDecorator[datetime]):
    """A point in time: UTC and timezone-aware in Python, whatever the database keeps."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - the interface
        """Refuse a naive time: it would be read back as another moment."""
        if value is not None and value.tzinfo is None:
            message = "a moment needs a time zone"
            raise ValueError(message)
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - the interface
        """SQLite gives back naive times; what was stored was UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def _wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Before these releases a reset of the write-ahead log can corrupt the file (sqlite.org/wal.html)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def _set_up_sqlite(engine: sa.Engine) -> None:
    journal = "WAL" if _wal_is_safe(sqlite3.sqlite_version_info[:3]) else "TRUNCATE"

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own idea of when to begin is switched off; `_on_begin` decides.
        connection.isolation_level = None
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        # IMMEDIATE takes the write lock at the start, where waiting is possible: a reader that turns
        # writer in the middle would get "database is locked" without any wait.
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _engine(url: str, threads: int) -> sa.Engine:
    """Make an engine, or say in words why the URL names none. The URL may hold a password and is not repeated."""
    ways = "use sqlite:////absolute/path.db or postgresql+psycopg://user:password@host/name"
    try:
        if url.startswith("sqlite"):
            engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
            _set_up_sqlite(engine)
            return engine
        engine = sa.create_engine(
            url, pool_pre_ping=True, pool_size=threads, max_overflow=0, pool_timeout=POOL_SECONDS, pool_use_lifo=True
        )
        if (engine.dialect.name, engine.dialect.driver) == ("postgresql", "psycopg"):
            set_up_postgresql(engine)
            return engine
        detail = f"MODELPORT_DATABASE_URL names a database that Modelport does not work on; {ways}."
    except sa.exc.ArgumentError:
        detail = f"MODELPORT_DATABASE_URL is no database URL; {ways}."
    except ModuleNotFoundError as error:
        detail = f"MODELPORT_DATABASE_URL needs the Python package {error.name}, which is not installed; or {ways}."
    raise Invalid("database_url_unusable", detail)


@contextmanager
def _having_room() -> Iterator[None]:
    """Say in words that the disk of the database is full."""
    try:
        yield
    except AWAY as error:
        if _is_full(error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else None):
            raise NoRoom(FULL) from error
        raise


def _is_full(cause: BaseException | None) -> bool:
    if isinstance(cause, sqlite3.Error):
        # An error of the driver itself has no code.
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(cause, psycopg.errors.DiskFull)


@contextmanager
def _answering() -> Iterator[None]:
    """Say in words that the database is away, locked, has no connection or no room left."""
    try:
        with _having_room():
            yield
    except AWAY as error:
        raise Unavailable("database_unavailable", "The database does not answer at the moment; try again.") from error


class Database:
    """The engine of one process. Making it opens nothing; connections are opened after the fork, on demand."""

    def __init__(self, url: str, announce: Callable[[], None] = lambda: None, *, threads: int = THREADS) -> None:
        """`url` is an SQLAlchemy URL; `announce` is called after a commit that others must follow.

        So many `threads` may use a server's database at once.
        """
        self.engine = _engine(url, threads)
        self._announce = announce
        # What is read is of one moment: SQLite does so by itself.
        terms: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reader = self.engine.execution_options(reading=True, **({} if self.is_file else terms))

    @property
    def is_file(self) -> bool:
        """Whether it is a file of this machine, SQLite's."""
        return self.engine.dialect.name == "sqlite"

    @property
    def place(self) -> str:
        """Where the database is, in words and without a password."""
        url = self.engine.url
        return f"The database {url.database}{'' if self.is_file else f' on {url.host}'}"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: leaving commits, raising rolls back."""
        with _answering(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
            for act in session.info.get(_AT_THE_END, ()):
                act(session)
        if session.info.get("advanced"):
            self._announce()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view that changes nothing and takes no write lock."""
        with _answering(), Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session


def at_the_end(session: Session, act: Callable[[Session], None]) -> None:
    """Have something done just before the commit.

    What waits for other transactions belongs there: nothing is waited for any more by one that others wait for.
    """
    session.info.setdefault(_AT_THE_END, []).append(act)


def insertion(session: Session, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """Give an insertion that can say what happens to rows that are there already."""
    # Into the table and not the class: no objects are made of rows, which would cost as much as inserting them.
    rows = Base.metadata.tables[table.__tablename__]
    return sqlite.insert(rows) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(rows)


def as_text(column: sa.orm.InstrumentedAttribute[Any]) -> sa.Cast[str]:
    """Select the documents of a column as they are stored, for `documents`."""
    return sa.cast(column, sa.Text)


def documents(stored: Iterable[str]) -> list[Any]:
    """Read documents that were selected as text: thousands at once take a fraction of what one by one takes."""
    found: list[Any] = json.loads(f"[{','.join(stored)}]")
    return found


def one_at_a_time(session: Session, table: type[Base]) -> None:
    """Have those who ask for the same wait until this transaction ends; those who only read do not.

    SQLite lets one transaction write at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.text(f"LOCK TABLE {table.__tablename__} IN SHARE ROW EXCLUSIVE MODE"))


def share(session: Session, table: type[Base]) -> None:
    """Wait for one who has asked to be alone (`one_at_a_time`), and keep it waiting until this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.text(f"LOCK TABLE {table.__tablename__} IN SHARE MODE"))


def migrations_folder() -> Path:
    """Where the migrations are."""
    return shipped("migrations")


def _alembic(url: str) -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Bring the database to the newest schema. Safe to repeat."""
    with _having_room():
        alembic.command.upgrade(_alembic(url), "head")


def revisions(database: Database) -> tuple[str | None, str | None]:
    """Give the schema revision the database has, and the one that this release needs."""
    script = alembic.script.ScriptDirectory(str(migrations_folder()))
    try:
        with database.engine.connect() as connection:
            present = alembic.migration.MigrationContext.configure(connection).get_current_revision()
    except sqlalchemy.exc.DBAPIError as error:
        detail = f"The database (MODELPORT_DATABASE_URL) cannot be opened: {error.orig}."
        raise Unavailable("database_unavailable", detail) from None
    return present, script.get_current_head()


def knows_revision(revision: str) -> bool:
    """Tell an older schema (which can be upgraded) from one that a newer release made."""
    script = alembic.script.ScriptDirectory(str(migrations_folder()))
    return any(known.revision == revision for known in script.walk_revisions())
