"""Tests of the schema's way: empty to newest, nothing forgotten, back again; another release's database is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import alembic.command
import alembic.script
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from tests import databases
from webapp import app, cli, db, generation
from webapp.config import Settings
from webapp.db import Base, Database
from webapp.errors import Unavailable

assert app  # importing the composition root declares every table


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A database that nobody has migrated yet."""
    databases.make(settings.data_dir)
    made = Database(settings.sqlalchemy_url)
    yield made
    made.engine.dispose()


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations of the release after this one: a copy of ours, to which a test adds one."""
    folder = tmp_path / "migrations"
    shutil.copytree(db.migrations_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(db, "migrations_folder", lambda: folder)
    return folder


def write_next(folder: Path, statement: str) -> None:
    """Write the migration that follows our newest one."""
    path = folder / "versions" / "next.py"
    path.unlink(missing_ok=True)
    lines = ["import sqlalchemy as sa", "from alembic import op", "revision = 'next'", f"down_revision = {head()!r}"]
    path.write_text("\n".join([*lines, "def upgrade() -> None:", f"    {statement}"]))


def head() -> str:
    newest = alembic.script.ScriptDirectory(str(db.migrations_folder())).get_current_head()
    assert newest is not None
    return newest


def tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names()) - {"alembic_version"}


def pretend_revision(database: Database, revision: str) -> None:
    with database.transaction() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def refusal(database: Database) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        cli.require_schema(database)
    assert caught.value.code == "schema_differs"
    return caught.value


def defaults_differ(*given: Any) -> bool | None:
    """Compare defaults of JSON as text, since PostgreSQL has no equality of JSON; leave others to Alembic."""
    *_, found, _default, rendered = given
    return found != f"'{rendered}'::json" if found and found.endswith("::json") else None


def test_an_empty_database_is_brought_to_the_newest_schema(settings: Settings, database: Database) -> None:
    assert db.revisions(database) == (None, head())
    db.upgrade(settings.sqlalchemy_url)
    assert db.revisions(database) == (head(), head())
    assert tables(database) == set(Base.metadata.tables)


def test_upgrading_again_changes_nothing(settings: Settings, database: Database) -> None:
    db.upgrade(settings.sqlalchemy_url)
    with database.transaction() as session:
        generation.advance(session)
    db.upgrade(settings.sqlalchemy_url)
    with database.reading() as session:
        assert generation.current(session) == 2


def test_the_migrations_make_exactly_the_tables_that_the_code_declares(settings: Settings, database: Database) -> None:
    db.upgrade(settings.sqlalchemy_url)
    with database.engine.connect() as connection:
        opts = {"compare_type": True, "compare_server_default": defaults_differ}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, Base.metadata) == []


def test_every_constraint_has_the_name_that_the_rule_gives_it(settings: Settings, database: Database) -> None:
    db.upgrade(settings.sqlalchemy_url)
    inspector = sa.inspect(database.engine)
    for name, table in Base.metadata.tables.items():
        found: list[Mapping[str, Any]] = [inspector.get_pk_constraint(name), *inspector.get_unique_constraints(name)]
        found += [*inspector.get_foreign_keys(name), *inspector.get_indexes(name)]
        declared = {each.name for each in table.constraints} | {each.name for each in table.indexes}
        assert {each["name"] for each in found} == declared


def test_the_schema_can_be_taken_back_and_made_again(settings: Settings, database: Database) -> None:
    db.upgrade(settings.sqlalchemy_url)
    made = tables(database)
    alembic.command.downgrade(db._alembic(settings.sqlalchemy_url), "base")
    assert tables(database) == set()
    assert db.revisions(database) == (None, head())
    db.upgrade(settings.sqlalchemy_url)
    assert tables(database) == made


def test_what_was_told_before_is_found_by_version_and_time(settings: Settings, database: Database) -> None:
    url = settings.sqlalchemy_url
    alembic.command.upgrade(db._alembic(url), "0008")
    told = {
        "id": "p",
        "at": "2026-03-03 12:00:00.000000+00:00" if databases.ON_POSTGRESQL else "2026-03-03 12:00:00.000000",
    }
    columns = (
        "id, at, model, version, model_version, key_id, request_id, source, instance, prediction, probability,"
        " probabilities, warnings, latency_seconds"
    )
    values = ":id, :at, 'churn', 3, '3', 'k', 'r', 'test', '{}', '1', 'null', 'null', '[]', 0"
    with database.transaction() as session:
        session.execute(sa.text(f"INSERT INTO predictions ({columns}) VALUES ({values})"), told)
        session.execute(sa.text("INSERT INTO outcomes VALUES (:id, '1', :at, :at)"), told)
    db.upgrade(url)
    with database.reading() as session:
        [found] = session.execute(sa.text("SELECT model, version, source, at = told_at AS same FROM outcomes"))
    assert tuple(found) == ("churn", 3, "test", True)


def test_the_migrations_are_one_line_without_branches() -> None:
    script = alembic.script.ScriptDirectory(str(db.migrations_folder()))
    assert len(script.get_heads()) == len(script.get_bases()) == 1
    assert all(db.knows_revision(each.revision) for each in script.walk_revisions())


def test_a_new_database_begins_with_the_first_generation(settings: Settings, database: Database) -> None:
    db.upgrade(settings.sqlalchemy_url)
    with database.reading() as session:
        assert generation.current(session) == 1


def test_the_migrated_database_refuses_rows_that_refer_to_nothing(settings: Settings, database: Database) -> None:
    db.upgrade(settings.sqlalchemy_url)
    orphan = "INSERT INTO activations VALUES (1, 99, '2026-01-01', 'ann', 'activate', NULL, 1, '')"
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(sa.text(orphan))


@pytest.mark.sqlite("only SQLite's database is a path")
def test_a_path_with_a_percent_sign_can_be_migrated(settings: Settings) -> None:
    folder = settings.data_dir / "50%"
    folder.mkdir()
    url = f"sqlite:///{folder}/modelport.db"
    db.upgrade(url)
    database = Database(url)
    assert db.revisions(database) == (head(), head())
    database.engine.dispose()


# --- What a command does with another schema ----------------------------------------------------------------


def test_the_database_of_this_release_is_accepted(settings: Settings, database: Database) -> None:
    db.upgrade(settings.sqlalchemy_url)
    cli.require_schema(database)


def test_a_database_without_tables_is_refused_and_upgrade_is_named(database: Database) -> None:
    detail = refusal(database).detail
    assert "no tables yet" in detail
    assert str(database.engine.url.database) in detail
    assert "`modelport db upgrade`" in detail


def test_a_database_of_a_newer_release_is_refused_and_that_release_is_asked_for(
    settings: Settings, database: Database
) -> None:
    db.upgrade(settings.sqlalchemy_url)
    pretend_revision(database, "9999")
    assert not db.knows_revision("9999")
    assert refusal(database).detail == "The database has the schema of a newer release; run that release here."


def test_a_database_of_an_older_release_is_refused_and_upgrade_is_named(
    settings: Settings, database: Database, next_release: Path
) -> None:
    db.upgrade(settings.sqlalchemy_url)
    write_next(next_release, "op.create_table('first', sa.Column('id', sa.Integer()))")
    detail = refusal(database).detail
    assert "older release" in detail
    assert "`modelport db upgrade`" in detail
    db.upgrade(settings.sqlalchemy_url)
    cli.require_schema(database)


def test_an_interrupted_migration_leaves_the_old_schema_and_can_be_repeated(
    settings: Settings, database: Database, next_release: Path
) -> None:
    db.upgrade(settings.sqlalchemy_url)
    before, newest = tables(database), head()
    create = "op.create_table('first', sa.Column('id', sa.Integer()))"
    write_next(next_release, f"{create}; raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        db.upgrade(settings.sqlalchemy_url)
    assert tables(database) == before
    assert db.revisions(database) == (newest, "next")
    write_next(next_release, create)
    db.upgrade(settings.sqlalchemy_url)
    assert tables(database) == before | {"first"}
