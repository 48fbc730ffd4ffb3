"""Tests of the registry: numbers, labels, the active version and its history, and what web workers see of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from webapp import artifacts, registry
from webapp.audit import Actor, AuditRecord
from webapp.catalog import Catalog
from webapp.config import Settings
from webapp.db import Database, Session
from webapp.errors import Conflict, Invalid, NotFound
from webapp.registry import Version

SECRET = b"the secret that seals versions"
ANN, BOB = Actor("cli:ann"), Actor("key:bob")
EARLY = datetime(2026, 3, 1, 12, tzinfo=UTC)
SIGNATURE: dict[str, Any] = {"features": [], "container": "frame", "task": "classification", "outputs": []}


class Clock:
    """Minutes that pass when the test says so."""

    def __init__(self) -> None:
        self.time = EARLY

    def __call__(self) -> datetime:
        return self.time

    def wait(self, minutes: int) -> None:
        self.time += timedelta(minutes=minutes)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(registry, "now", made)
    return made


def add(session: Session, name: str = "churn", *, label: str | None = None, **card: object) -> Version:
    """Register one more version, as an upload does."""
    return registry.add_version(
        session,
        ANN,
        SECRET,
        name,
        artifact="ab" * 32,
        signature=SIGNATURE,
        report={"notes": []},
        card=card,
        label=label,
    )


def upload(database: Database, count: int = 1, name: str = "churn") -> None:
    with database.transaction() as session:
        for _ in range(count):
            add(session, name)


def activate(database: Database, number: int, name: str = "churn") -> None:
    with database.transaction() as session:
        registry.activate(session, ANN, name, number)


def rollback(database: Database, name: str = "churn") -> int:
    with database.transaction() as session:
        return registry.rollback(session, BOB, name).to_number


def refused(database: Database, act: Callable[[Session], object]) -> str:
    """Do what is refused in a transaction of its own; give the code."""
    with pytest.raises((Conflict, Invalid, NotFound)) as caught, database.transaction() as session:
        act(session)
    return caught.value.code


def history(database: Database, name: str = "churn") -> list[tuple[str, int | None, int]]:
    with database.reading() as session:
        found = registry.history(session, registry.get_model(session, name))
        return [(each.act, each.from_number, each.to_number) for each in found]


def catalog(database: Database) -> Catalog:
    with database.reading() as session:
        return registry.catalog(session)


def audited(database: Database) -> list[tuple[str, str, str]]:
    with database.reading() as session:
        records = session.scalars(sa.select(AuditRecord).order_by(AuditRecord.id))
        return [(record.actor, record.action, record.subject) for record in records]


# --- Versions ---------------------------------------------------------------------------------------------


def test_versions_are_numbered_from_one_for_each_model(database: Database) -> None:
    with database.transaction() as session:
        assert [add(session).number for _ in range(3)] == [1, 2, 3]
        assert add(session, "fraud").number == 1
    with database.transaction() as session:
        assert add(session).number == 4


def test_a_version_keeps_who_made_it_and_when(database: Database, clock: Clock) -> None:
    with database.transaction() as session:
        add(session, label="2026-03")
    with database.reading() as session:
        version = registry.get_version(session, registry.get_model(session, "churn"), 1)
        assert registry.describe_version(version) == {
            "model": "churn",
            "version": 1,
            "label": "2026-03",
            "state": "inactive",
            "sha256": "ab" * 32,
            "created_at": "2026-03-01T12:00:00+00:00",
            "created_by": ANN.name,
        }


def sealed(version: Version, number: int, **other: str) -> str:
    """Give the seal of a version under another number, or with other parts."""
    parts = {"golden": version.golden, "report_sha256": version.report_sha256} | other
    return artifacts.seal(SECRET, "churn", number, version.artifact, version.signature, **parts)


def test_a_versions_seal_binds_it_to_its_artifact_and_signature(database: Database) -> None:
    with database.transaction() as session:
        version = add(session)
    assert version.seal == sealed(version, 1)
    assert version.seal != sealed(version, 2)
    assert version.seal != sealed(version, 1, golden="cd" * 32)
    assert version.seal != sealed(version, 1, report_sha256="ef" * 32)


def test_a_label_is_unique_within_its_model(database: Database) -> None:
    with database.transaction() as session:
        add(session, label="spring")
        add(session, "fraud", label="spring")
    assert refused(database, lambda session: add(session, label="spring")) == "label_taken"
    with database.transaction() as session:
        assert add(session, label="Spring").number == 2


def test_versions_without_a_label_do_not_collide(database: Database) -> None:
    upload(database, 2)


@pytest.mark.parametrize("label", ["7", "0012", "", "-first", ".hidden", "a b", "a/b", "é", "x" * 65, "1.0\n", "７"])  # noqa: RUF001 - a digit of another script
def test_what_is_no_label_is_refused(database: Database, label: str) -> None:
    assert refused(database, lambda session: add(session, label=label)) == "label_not_allowed"


@pytest.mark.parametrize("label", ["1.0", "v7", "2026-03-01", "a", "7_", "x" * 64])
def test_what_can_be_told_from_a_number_is_a_label(database: Database, label: str) -> None:
    with database.transaction() as session:
        assert add(session, label=label).label == label


@pytest.mark.parametrize(
    "name", ["stats", "", "Churn", "-churn", "churn_1", "churn model", "é", "a" * 64, "a/b", "churn\n", "..", "%2e"]
)
def test_what_is_no_model_name_is_refused(database: Database, name: str) -> None:
    assert refused(database, lambda session: add(session, name)) == "model_name_not_allowed"
    assert catalog(database).models == {}


@pytest.mark.parametrize("name", ["a", "7", "credit-risk", "statistics", "a-", "a" * 63])
def test_letters_digits_and_hyphens_are_a_model_name(database: Database, name: str) -> None:
    with database.transaction() as session:
        assert add(session, name).number == 1


def test_models_are_listed_by_name(database: Database) -> None:
    for name in ("b", "c", "a"):
        upload(database, name=name)
    with database.reading() as session:
        assert [model.name for model in registry.all_models(session)] == ["a", "b", "c"]


def test_what_does_not_exist_is_not_found(database: Database) -> None:
    upload(database)
    assert refused(database, lambda session: registry.get_model(session, "fraud")) == "unknown_model"
    assert refused(database, lambda session: registry.activate(session, ANN, "fraud", 1)) == "unknown_model"
    assert refused(database, lambda session: registry.activate(session, ANN, "churn", 2)) == "unknown_version"
    assert refused(database, lambda session: registry.rollback(session, ANN, "fraud")) == "unknown_model"


# --- Activation -------------------------------------------------------------------------------------------


def test_no_version_is_active_before_one_is_activated(database: Database) -> None:
    upload(database)
    assert catalog(database).models["churn"].active is None
    assert history(database) == []


def test_the_history_says_who_when_from_to_and_why(database: Database, clock: Clock) -> None:
    upload(database, 2)
    with database.transaction() as session:
        registry.activate(session, ANN, "churn", 1, "the first one")
    clock.wait(5)
    with database.transaction() as session:
        registry.activate(session, BOB, "churn", 2, "trained on March")
    clock.wait(5)
    with database.transaction() as session:
        registry.rollback(session, ANN, "churn", "wrong for Bavaria")
    with database.reading() as session:
        found = registry.history(session, registry.get_model(session, "churn"))
        assert [registry.describe_activation(each) for each in found] == [
            {
                "act": "activate",
                "version": 1,
                "from_version": None,
                "at": "2026-03-01T12:00:00+00:00",
                "actor": ANN.name,
                "reason": "the first one",
            },
            {
                "act": "activate",
                "version": 2,
                "from_version": 1,
                "at": "2026-03-01T12:05:00+00:00",
                "actor": BOB.name,
                "reason": "trained on March",
            },
            {
                "act": "rollback",
                "version": 1,
                "from_version": 2,
                "at": "2026-03-01T12:10:00+00:00",
                "actor": ANN.name,
                "reason": "wrong for Bavaria",
            },
        ]


def test_activating_the_active_version_is_refused(database: Database) -> None:
    upload(database, 2)
    activate(database, 2)
    assert refused(database, lambda session: registry.activate(session, BOB, "churn", 2)) == "already_active"
    assert history(database) == [("activate", None, 2)]


def test_of_two_activations_that_saw_the_same_state_the_second_is_refused(database: Database) -> None:
    upload(database, 3)
    activate(database, 1)
    with Session(database.engine, expire_on_commit=False) as slow:
        with slow.begin():
            seen = registry.get_model(slow, "churn")
        activate(database, 2)
        # The slow one decides on what it saw before the other committed, as two transactions of PostgreSQL may.
        assert seen.active_number == 1
        with pytest.raises(Conflict) as caught, slow.begin():
            registry.activate(slow, BOB, "churn", 3)
    assert caught.value.code == "activation_lost_race"
    assert catalog(database).models["churn"].active == 2
    assert history(database) == [("activate", None, 1), ("activate", 1, 2)]
    assert BOB.name not in {actor for actor, _, _ in audited(database)}


def test_a_rollback_that_lost_the_race_is_refused_too(database: Database) -> None:
    upload(database, 3)
    for number in (1, 2):
        activate(database, number)
    with Session(database.engine, expire_on_commit=False) as slow:
        with slow.begin():
            seen = registry.get_model(slow, "churn")
        activate(database, 3)
        with pytest.raises(Conflict, match="activation_lost_race"), slow.begin():
            # Not through `rollback`: that would see the new history, and find that 2 is active already.
            registry._set_active(slow, BOB, seen, "rollback", 1, "")
    assert catalog(database).models["churn"].active == 3


def test_after_a_lost_race_looking_again_succeeds(database: Database) -> None:
    upload(database, 3)
    with Session(database.engine, expire_on_commit=False) as slow:
        with slow.begin():
            seen = registry.get_model(slow, "churn")
        activate(database, 2)
        with pytest.raises(Conflict), slow.begin():
            registry.activate(slow, BOB, "churn", 3)
        with slow.begin():
            assert registry.get_model(slow, "churn") is seen
            registry.activate(slow, BOB, "churn", 3)
    assert history(database) == [("activate", None, 2), ("activate", 2, 3)]


def test_a_version_can_be_activated_in_the_transaction_that_registers_it(database: Database) -> None:
    with database.transaction() as session:
        add(session)
        session.flush()
        registry.activate(session, ANN, "churn", 1)
    assert catalog(database).resolve("churn").number == 1


# --- Rollback ---------------------------------------------------------------------------------------------


def test_rolling_back_goes_back_one_version_after_the_other(database: Database) -> None:
    upload(database, 3)
    for number in (1, 2, 3):
        activate(database, number)
    assert rollback(database) == 2
    assert rollback(database) == 1
    assert refused(database, lambda session: registry.rollback(session, BOB, "churn")) == "nothing_to_roll_back_to"
    assert catalog(database).resolve("churn").number == 1


def test_after_rollbacks_activation_begins_from_where_they_ended(database: Database) -> None:
    upload(database, 3)
    for number in (1, 2, 3):
        activate(database, number)
    rollback(database)
    rollback(database)
    activate(database, 3)
    assert rollback(database) == 1
    activate(database, 2)
    activate(database, 3)
    assert rollback(database) == 2
    assert history(database)[-1] == ("rollback", 3, 2)


def test_a_version_that_was_activated_twice_is_returned_to_twice(database: Database) -> None:
    upload(database, 2)
    for number in (1, 2, 1, 2):
        activate(database, number)
    assert [rollback(database) for _ in range(3)] == [1, 2, 1]


@pytest.mark.parametrize("activations", [(), (1,)])
def test_without_an_earlier_active_version_there_is_nothing_to_roll_back_to(
    database: Database, activations: tuple[int, ...]
) -> None:
    upload(database, 2)
    for number in activations:
        activate(database, number)
    assert refused(database, lambda session: registry.rollback(session, BOB, "churn")) == "nothing_to_roll_back_to"


def test_models_have_histories_of_their_own(database: Database) -> None:
    for name in ("churn", "fraud"):
        upload(database, 2, name)
        activate(database, 1, name)
    activate(database, 2, "churn")
    assert refused(database, lambda session: registry.rollback(session, BOB, "fraud")) == "nothing_to_roll_back_to"
    assert rollback(database, "churn") == 1


# --- One transaction --------------------------------------------------------------------------------------


def test_every_change_is_audited_with_its_actor(database: Database) -> None:
    upload(database, 2)
    activate(database, 1)
    activate(database, 2)
    rollback(database)
    assert audited(database) == [
        (ANN.name, "models.upload", "churn/1"),
        (ANN.name, "models.upload", "churn/2"),
        (ANN.name, "models.activate", "churn"),
        (ANN.name, "models.activate", "churn"),
        (BOB.name, "models.rollback", "churn"),
    ]


def test_the_audit_record_of_an_activation_holds_both_versions_and_the_reason(database: Database) -> None:
    upload(database, 2)
    activate(database, 1)
    with database.transaction() as session:
        registry.activate(session, ANN, "churn", 2, "better recall")
    with database.reading() as session:
        newest = session.scalars(sa.select(AuditRecord).order_by(AuditRecord.id.desc()).limit(1)).one()
        assert newest.detail == {"from_number": 1, "to_number": 2, "reason": "better recall"}


def test_a_transaction_that_fails_leaves_neither_the_change_nor_its_audit_record(database: Database) -> None:
    upload(database, 2)
    activate(database, 1)
    before = (catalog(database).generation, audited(database), history(database))

    def change(session: Session) -> None:
        add(session)
        registry.activate(session, ANN, "churn", 2)
        session.flush()
        message = "the door fails after the change"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError), database.transaction() as session:
        change(session)
    assert (catalog(database).generation, audited(database), history(database)) == before
    assert sorted(catalog(database).models["churn"].versions) == [1, 2]


def test_a_refused_label_leaves_no_model_behind(database: Database) -> None:
    assert refused(database, lambda session: add(session, label="7")) == "label_not_allowed"
    assert (catalog(database).models, audited(database)) == ({}, [])


def test_two_versions_with_one_number_are_refused_by_the_database_itself(database: Database) -> None:
    upload(database)
    copied = sa.insert(Version).from_select(
        [column.name for column in Version.__table__.columns if column.name != "id"],
        sa.select(*[column for column in Version.__table__.columns if column.name != "id"]),
    )
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(copied)


# --- What web workers see ---------------------------------------------------------------------------------


def test_each_change_advances_the_generation(database: Database) -> None:
    seen = [catalog(database).generation]
    upload(database)
    seen.append(catalog(database).generation)
    upload(database)
    seen.append(catalog(database).generation)
    for number in (1, 2):
        activate(database, number)
        seen.append(catalog(database).generation)
    rollback(database)
    seen.append(catalog(database).generation)
    assert all(before < after for before, after in itertools.pairwise(seen))


def test_a_refused_change_does_not_advance_the_generation(database: Database) -> None:
    upload(database)
    activate(database, 1)
    before = catalog(database).generation
    refused(database, lambda session: registry.activate(session, BOB, "churn", 1))
    assert catalog(database).generation == before


def test_a_change_is_announced_once_after_it_was_committed(settings: Settings, database: Database) -> None:
    seen: list[int] = []
    announcing = Database(settings.sqlalchemy_url, announce=lambda: seen.append(catalog(database).generation))
    upload(announcing, 2)
    with pytest.raises(NotFound):
        activate(announcing, 9)
    with announcing.reading() as session:
        registry.catalog(session)
    announcing.engine.dispose()
    assert seen == [catalog(database).generation]


def test_the_catalog_holds_every_version_and_the_active_one(database: Database) -> None:
    with database.transaction() as session:
        add(session)
        add(session, label="spring")
        add(session, "fraud")
    activate(database, 2)
    found = catalog(database)
    assert set(found.models) == {"churn", "fraud"}
    assert set(found.models["churn"].versions) == {1, 2}
    assert [(version.model, version.number) for version in found.active_versions()] == [("churn", 2)]
    served = found.resolve("churn")
    assert (served.number, served.shown, served.artifact, served.signature) == (2, "spring", "ab" * 32, SIGNATURE)
    assert served.seal == artifacts.seal(
        SECRET, "churn", 2, "ab" * 32, SIGNATURE, golden=served.golden, report_sha256=served.report_sha256
    )
    assert found.resolve("churn", 1).shown == "1"


def test_the_catalog_resolves_only_what_there_is(database: Database) -> None:
    upload(database)
    found = catalog(database)
    with pytest.raises(Conflict, match="no_active_model"):
        found.resolve("churn")
    with pytest.raises(NotFound, match="unknown_version"):
        found.resolve("churn", 2)
    with pytest.raises(NotFound, match="unknown_model"):
        found.resolve("fraud", 1)


@pytest.mark.parametrize(("stated", "accuracy"), [(0.87, 0.87), (1, 1), ("0.87", None), (None, None)])
def test_the_accuracy_of_the_active_versions_card_is_in_the_catalog(
    database: Database, stated: object, accuracy: float | None
) -> None:
    with database.transaction() as session:
        add(session, accuracy=stated)
    assert catalog(database).models["churn"].accuracy is None
    activate(database, 1)
    assert catalog(database).models["churn"].accuracy == accuracy


def test_a_catalog_stays_what_it_was_when_the_registry_changes(database: Database) -> None:
    upload(database, 2)
    activate(database, 1)
    before = catalog(database)
    activate(database, 2)
    upload(database)
    assert (before.resolve("churn").number, sorted(before.models["churn"].versions)) == (1, [1, 2])


def test_a_models_public_form_counts_its_versions(database: Database, clock: Clock) -> None:
    upload(database, 3)
    activate(database, 2)
    with database.reading() as session:
        assert registry.describe_model(registry.get_model(session, "churn")) == {
            "name": "churn",
            "active_version": 2,
            "versions": 3,
            "created_at": "2026-03-01T12:00:00+00:00",
        }


def test_activations_from_many_threads_are_one_unbroken_chain(database: Database) -> None:
    upload(database, 4)

    def flip(number: int) -> None:
        for _ in range(5):
            with suppress(Conflict):
                activate(database, number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(flip, range(1, 5)))
    found = history(database)
    assert [before for _, before, _ in found] == [None, *[after for _, _, after in found[:-1]]]
    with database.reading() as session:
        assert registry.get_model(session, "churn").activation_count == len(found)
