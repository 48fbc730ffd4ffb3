"""The database of each installation that a test makes: SQLite in its data directory, or its own in a PostgreSQL.

`MODELPORT_TEST_DATABASE=postgresql` has all of them in PostgreSQL. Each is named after its data directory, so that who
knows the one finds the other.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from psycopg import sql
from psycopg.types.string import TextLoader

from tests.postgres_server import Server
from webapp import db
from webapp.db import Database

# Kept under another name: the product refuses to start with a setting that it does not know.
KIND = os.environ["TEST_DATABASE"] = os.environ.pop(
    "MODELPORT_TEST_DATABASE", os.environ.get("TEST_DATABASE", "sqlite")
)
ON_POSTGRESQL = KIND == "postgresql"
TEMPLATE = "migrated"
# Where rows of a table lie to which rows are only added.
INSERTED = "ctid" if ON_POSTGRESQL else "rowid"


@functools.cache
def cluster() -> Server:
    """Start the PostgreSQL of this process, once it is needed."""
    made = Server()
    atexit.register(made.close)
    return made


def environment(data_dir: Path) -> dict[str, str]:
    """Give the settings that name an installation's database."""
    return {"MODELPORT_DATABASE_URL": cluster().url(_name(data_dir))} if ON_POSTGRESQL else {}


def _name(data_dir: Path) -> str:
    return f"of_{hashlib.sha256(bytes(data_dir.absolute())).hexdigest()[:16]}"


def _file(data_dir: Path) -> Path:
    return data_dir / "modelport.db"


def make(data_dir: Path) -> None:
    """Make an installation's database, without tables. SQLite makes its file itself."""
    if ON_POSTGRESQL:
        cluster().create(_name(data_dir))


def make_migrated(data_dir: Path) -> None:
    """Make an installation's database with the newest schema: a copy of one that was migrated once."""
    if ON_POSTGRESQL:
        cluster().create(_name(data_dir), template())
    else:
        shutil.copyfile(_migrated_file(), _file(data_dir))
        # As the product makes it: what SQLite writes beside it takes its mode.
        _file(data_dir).chmod(0o600)


def drop(data_dir: Path) -> None:
    """Remove an installation's database."""
    if ON_POSTGRESQL:
        cluster().execute(f"DROP DATABASE {_name(data_dir)} (FORCE)")
    else:
        _file(data_dir).unlink()


@functools.cache
def template() -> str:
    """Give the name of a database with the newest schema, to be copied."""
    cluster().create(TEMPLATE)
    db.upgrade(cluster().url(TEMPLATE))
    return TEMPLATE


@functools.cache
def _migrated_file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="migrated-"))
    atexit.register(shutil.rmtree, folder)
    db.upgrade(f"sqlite:///{folder}/modelport.db")
    return folder / "modelport.db"


# --- Looking into it past the product -----------------------------------------------------------------------


def execute(data_dir: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Do a statement, in which values stand as `?`, and give its rows; JSON stays text."""
    if not ON_POSTGRESQL:
        with closing(sqlite3.connect(_file(data_dir), timeout=30)) as connection, connection:
            return connection.execute(statement, values).fetchall()
    with cluster().connect(_name(data_dir)) as connection:
        connection.adapters.register_loader("json", TextLoader)
        done = connection.execute(statement.replace("?", "%s").encode(), values)
        return done.fetchall() if done.description else []


def everything(data_dir: Path) -> bytes:
    """Give all that is stored, as whoever steals the database has it."""
    if not ON_POSTGRESQL:
        return b"".join(file.read_bytes() for file in data_dir.glob("modelport.db*"))
    named = execute(data_dir, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return "\n".join(
        text for (name,) in named for (text,) in execute(data_dir, f'SELECT t::text FROM "{name}" t')
    ).encode()


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the database so that nobody else can read or write it."""
    if not ON_POSTGRESQL:
        with closing(sqlite3.connect(_file(data_dir), timeout=30, isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            yield
        return
    with cluster().connect(_name(data_dir)) as connection, connection.transaction():
        named = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        tables = sql.SQL(", ").join(sql.Identifier(name) for (name,) in named)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
        yield


@contextmanager
def away(data_dir: Path, database: Database) -> Iterator[None]:
    """Take the database away for a while from who holds it as `database`."""
    file = _file(data_dir)
    database.engine.dispose()
    if ON_POSTGRESQL:
        cluster().execute(f"ALTER DATABASE {_name(data_dir)} ALLOW_CONNECTIONS false")
        cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{_name(data_dir)}'"
        cluster().execute(cut)
    else:
        file.rename(file.with_suffix(".away"))
        file.mkdir()
    yield
    database.engine.dispose()
    if ON_POSTGRESQL:
        cluster().execute(f"ALTER DATABASE {_name(data_dir)} ALLOW_CONNECTIONS true")
    else:
        file.rmdir()
        file.with_suffix(".away").rename(file)
