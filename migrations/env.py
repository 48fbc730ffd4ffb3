"""How migrations run: by `modelport db upgrade`, which passes the URL, or by the `alembic` command in a checkout."""

from __future__ import annotations

import os

import sqlalchemy as sa
from alembic import context
from sqlalchemy import event

from webapp import app, config, installation
from webapp.db import Base, Moment

# Any number that nobody else locks in this database.
MIGRATION_LOCK = 7_411_902_386

assert app  # importing the composition root declares every table but one
assert installation  # declares the other


def url() -> str:
    """Give the database that the caller names, else the one of the settings."""
    return context.config.attributes.get("url") or config.load(os.environ).sqlalchemy_url


def render_item(kind: str, item: object, _context: object) -> str | bool:
    """Write our moments as plain timestamps: a migration must not change with the code."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, Moment) else False


engine = sa.create_engine(url())
if engine.dialect.name == "sqlite":
    # The driver would begin no transaction for DDL, and half of an interrupted migration would stay.
    event.listen(engine, "connect", lambda connection, _record: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
try:
    with engine.connect() as connection:
        # SQLite cannot alter a table in place: batch mode copies it.
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            render_item=render_item,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                # Of several that are started at once one migrates, and the others find it done.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            context.run_migrations()
finally:
    engine.dispose()
