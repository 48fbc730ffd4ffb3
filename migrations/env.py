"""How migrations run: by `modelport db upgrade`, which passes the URL, or by the `alembic` command in a checkout."""

from __future__ import annotations

import os

import sqlalchemy as sa
from alembic import context

from webapp import app, config
from webapp.db import Base, Moment

assert app  # importing the composition root declares every table


def url() -> str:
    """Give the database that the caller names, else the one of the settings."""
    return context.config.attributes.get("url") or config.load(os.environ).sqlalchemy_url


def render_item(kind: str, item: object, _context: object) -> str | bool:
    """Write our moments as plain timestamps: a migration must not change with the code."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, Moment) else False


engine = sa.create_engine(url())
with engine.connect() as connection:
    # SQLite cannot alter a table in place: batch mode copies it.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
