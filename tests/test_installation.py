"""Tests of whose database it is: another secret is refused, and a file is for one replica."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from webapp import fleet, installation, registry
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Conflict

ANN = Actor("user:ann")
OTHER = "another-machine-0a1b"


@pytest.fixture
def stranger(settings: Settings) -> Settings:
    """The same settings with another secret."""
    return replace(settings, secret_key="another secret of more than thirty-two characters")


def refusal(database: Database, settings: Settings) -> Conflict:
    with pytest.raises(Conflict) as caught:
        installation.begin(database, settings)
    return caught.value


def test_a_database_belongs_to_the_first_secret_that_uses_it(
    database: Database, settings: Settings, stranger: Settings
) -> None:
    installation.begin(database, settings)
    installation.begin(database, settings)
    found = refusal(database, stranger)
    assert found.code == "secret_differs"
    assert all(name in found.detail for name in ("MODELPORT_DATABASE_URL", "MODELPORT_SECRET_KEY", "secret-key"))
    assert stranger.secret_key is not None
    assert settings.secret_key is not None
    assert not {text for text in (stranger.secret_key, settings.secret_key) if text in found.detail}
    with database.reading() as session:
        assert session.scalars(sa.select(installation.Installation.fingerprint)).all() == [
            installation.fingerprint(settings)
        ]


def test_of_versions_from_before_the_seals_tell_whose_they_are(
    database: Database, settings: Settings, stranger: Settings
) -> None:
    with database.transaction() as session:
        secret = settings.derive("versions")
        registry.add_version(session, ANN, secret, "churn", artifact="0" * 64, signature={}, report={}, card={})
    assert refusal(database, stranger).code == "secret_differs"
    installation.begin(database, settings)
    installation.begin(database, settings)


def hear_of(database: Database, host: str) -> None:
    with database.transaction() as session:
        fleet.report(session, host, 1, 4711, 1)


@pytest.mark.sqlite("PostgreSQL is for several replicas")
def test_a_replica_that_lives_on_the_same_file_is_named(database: Database, settings: Settings) -> None:
    hear_of(database, OTHER)
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.05):
            hear_of(database, OTHER)

    beating = threading.Thread(target=go_on)
    beating.start()
    try:
        with pytest.raises(Conflict) as caught:
            installation.check_alone(database, settings.replica)
    finally:
        stop.set()
        beating.join()
    assert caught.value.code == "database_in_use"
    assert OTHER in caught.value.detail
    assert "modelport db copy" in caught.value.detail


@pytest.mark.sqlite("PostgreSQL is for several replicas")
def test_a_replica_that_was_killed_is_waited_out(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear_of(database, OTHER)
    monkeypatch.setattr(fleet, "LEASE", timedelta(seconds=0.5))
    installation.check_alone(database, settings.replica)


def test_ones_own_workers_stand_against_nothing(database: Database, settings: Settings) -> None:
    hear_of(database, settings.replica)
    installation.check_alone(database, settings.replica)
