"""Tests of what PostgreSQL brings along: a server that is away or hangs, and transactions that run side by side."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from tests import databases
from tests.postgres_server import PASSWORD, Server
from tests.waiting import eventually
from webapp import app, db, fleet, generation, keys, postgresql, registry, users
from webapp.audit import Actor
from webapp.db import Database, Session
from webapp.errors import Conflict, Invalid, Unavailable
from webapp.predictions import log, search

ANN = Actor("user:ann")
SECRET = b"a secret"
NUMBERS = itertools.count()
assert app  # importing the composition root declares every table


@pytest.fixture(scope="module")
def cluster() -> Server:
    return databases.cluster()


@pytest.fixture
def url(cluster: Server) -> Iterator[str]:
    """A database with the newest schema."""
    name = f"postgresql_{next(NUMBERS)}"
    cluster.create(name, databases.template())
    yield cluster.url(name)
    cluster.execute(f"DROP DATABASE {name} (FORCE)")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    yield made
    made.engine.dispose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have waits end soon."""
    monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(postgresql, "PING_SECONDS", 0.5)
    monkeypatch.setitem(postgresql.TERMS, "connect_timeout", "2")


def read(database: Database) -> int:
    with database.reading() as session:
        return generation.current(session)


def refusal(work: Callable[[], object]) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        work()
    assert PASSWORD not in caught.value.detail
    return caught.value


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Do things at the same moment; give what came of each, also when it was refused."""
    together = threading.Barrier(len(works))

    def do(work: Callable[[], Any]) -> Any:
        together.wait()
        try:
            return work()
        except Conflict as conflict:
            return conflict.code

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(do, works))


def doing(database: Database, work: Callable[[Session], Any]) -> Callable[[], Any]:
    """Give a transaction that can be begun later."""

    def do() -> Any:
        with database.transaction() as session:
            return work(session)

    return do


def waiting(database: Database) -> int:
    """Give how many wait for what another transaction has locked."""
    asked = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with database.reading() as session:
        return int(session.execute(asked).scalar_one())


# --- A server that is away ----------------------------------------------------------------------------------


def test_a_server_that_was_away_is_used_again(cluster: Server, database: Database) -> None:
    assert read(database) == 1
    with cluster.refusing():
        assert refusal(lambda: read(database)).code == "database_unavailable"
        assert "MODELPORT_DATABASE_URL" in refusal(lambda: db.revisions(database)).detail
    assert read(database) == 1


def test_a_server_that_hangs_holds_nobody_up(cluster: Server, database: Database, impatient: None) -> None:
    assert read(database) == 1
    began = time.monotonic()
    with cluster.hanging():
        refused = [refusal(lambda: read(database)) for _ in range(2)]
        assert time.monotonic() - began < 20
    assert {each.code for each in refused} == {"database_unavailable"}
    assert read(database) == 1


def test_a_statement_without_an_answer_is_given_up_in_the_middle(
    cluster: Server, database: Database, impatient: None
) -> None:
    def work() -> None:
        with database.transaction() as session:
            generation.advance(session)
            with cluster.hanging():
                generation.advance(session)

    assert refusal(work).code == "database_unavailable"
    assert read(database) == 1


def test_what_hangs_in_a_transaction_does_not_lock_others_out_for_ever(
    cluster: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgresql.TERMS, "options", "-c idle_in_transaction_session_timeout=200ms")
    one, other = Database(url), Database(url)

    def hang(session: Session) -> None:
        generation.advance(session)
        doing(other, generation.advance)()
        generation.current(session)

    refusal(doing(one, hang))
    assert read(other) == 2
    one.engine.dispose()
    other.engine.dispose()


def test_a_wrong_password_is_not_told(url: str) -> None:
    database = Database(url.replace(PASSWORD, "quite-another-one"))
    detail = refusal(lambda: db.revisions(database)).detail
    assert "password authentication failed" in detail
    assert "quite-another-one" not in detail + database.place
    database.engine.dispose()


@pytest.mark.parametrize("wrong", ["mysql://host/name", "postgresql+psycopg2://u:secret@host/name", "postgresql:x"])
def test_what_modelport_does_not_work_on_is_refused(wrong: str) -> None:
    with pytest.raises(Invalid) as caught:
        Database(wrong)
    assert caught.value.code == "database_url_unusable"
    assert "MODELPORT_DATABASE_URL" in caught.value.detail
    assert "secret" not in caught.value.detail


# --- Side by side -------------------------------------------------------------------------------------------


def test_what_is_read_is_of_one_moment_and_cannot_be_changed(database: Database) -> None:
    with database.reading() as session:
        assert generation.current(session) == 1
        doing(database, generation.advance)()
        assert generation.current(session) == 1
    assert read(database) == 2
    with pytest.raises(Unavailable), database.reading() as session:
        generation.advance(session)


def upload(database: Database, name: str = "churn", **more: Any) -> Callable[[], Any]:
    def add(session: Session) -> int:
        facts: dict[str, Any] = {"artifact": "0" * 64, "signature": {"features": []}, "report": {}, "card": {}, **more}
        return registry.add_version(session, ANN, SECRET, name, **facts).number

    return doing(database, add)


def test_uploads_at_once_get_a_number_each(database: Database) -> None:
    assert sorted(at_once(*[upload(database)] * 6)) == [1, 2, 3, 4, 5, 6]
    assert sorted(at_once(*[upload(database, label="1.0")] * 3), key=str) == [7, "label_taken", "label_taken"]


def test_of_two_activations_at_once_the_last_is_what_is_active(database: Database) -> None:
    for _ in range(3):
        upload(database)()
    first = [doing(database, lambda session, n=n: registry.activate(session, ANN, "churn", n, count=0)) for n in (1, 2)]
    assert [each if isinstance(each, str) else "done" for each in at_once(*first)].count("activation_lost_race") == 1


def test_a_signature_that_is_edited_while_its_version_becomes_active_becomes_a_new_one(database: Database) -> None:
    upload(database)()

    def edit(session: Session) -> int:
        version = registry.get_version(session, registry.get_model(session, "churn"), 1)
        return registry.edit_signature(session, ANN, SECRET, version, {"features": []}).number

    def activate(session: Session) -> None:
        registry.activate(session, ANN, "churn", 1)
        editing.start()
        # The other one has seen the version as it was, and waits for the model.
        eventually(lambda: waiting(database) == 1)

    found: list[int] = []
    editing = threading.Thread(target=lambda: found.append(doing(database, edit)()))
    doing(database, activate)()
    editing.join()
    assert found == [2]


def test_users_and_keys_are_made_once(database: Database) -> None:
    made = at_once(*[doing(database, lambda session: users.create(session, ANN, "mara", "admin"))] * 3)
    assert sum(each == "user_exists" for each in made) == 2
    key_id = keys.new_id()
    made = at_once(*[doing(database, lambda session: keys.create(session, ANN, SECRET, "a key", key_id=key_id))] * 3)
    assert sum(each == "key_already_made" for each in made) == 2


def test_a_recovery_code_lets_in_once(database: Database) -> None:
    doing(database, lambda session: users.create(session, ANN, "mara", "admin"))()
    set_up = doing(
        database,
        lambda session: users.set_second_factor(session, ANN, users.get_user(session, "mara"), "x", 0, ["a code"]),
    )
    set_up()

    def use(session: Session) -> bool:
        return users.use_recovery(session, ANN, users.get_user(session, "mara"), "a code")

    def use_first(session: Session) -> bool:
        done = use(session)
        session.flush()
        second.start()
        eventually(lambda: waiting(database) == 1)
        return done

    found: list[bool] = []
    second = threading.Thread(target=lambda: found.append(doing(database, use)()))
    assert doing(database, use_first)()
    second.join()
    assert found == [False]


def test_workers_of_a_host_load_one_after_the_other(database: Database) -> None:
    def ask(session: Session) -> list[int]:
        for slot in (1, 2, 3):
            fleet.report(session, "a-host", slot, slot, 1)
        return fleet.ask(session, "churn", 1)

    asked = doing(database, ask)()
    takes = [doing(database, lambda session, each=each: fleet.take(session, each)) for each in asked]
    assert sorted(at_once(*takes)) == [False, False, True]


def test_log_writers_that_insert_the_same_predictions_count_each_once(database: Database) -> None:
    facts = {
        "at": 1_772_366_400.25,
        "model": "churn",
        "version": 1,
        "model_version": "1",
        "key_id": "key1",
        "request_id": "r",
        "source": "api",
        "client_id": None,
        "instance": {},
        "prediction": 1,
        "probability": None,
        "probabilities": None,
        "warnings": [],
        "latency_seconds": 0.002,
    }
    records = [{**facts, "id": f"r-{number}"} for number in range(300)]

    def insert(host: str) -> Callable[[], Any]:
        return doing(database, lambda session: log.insert(session, log.Piece(host, "segment", records, 1)))

    at_once(*(insert(host) for host in ("a", "b", "c")))
    with database.reading() as session:
        counted = session.execute(sa.text("SELECT sum(predictions) FROM hourly_traffic")).scalar_one()
        assert (counted, session.execute(sa.text("SELECT count(*) FROM predictions")).scalar_one()) == (300, 300)


def test_ids_lie_in_the_order_of_their_characters_whatever_the_language(database: Database) -> None:
    ids = ["B-1", "a-1", "a-10", "aa", "ab-1", "A-2"]
    with database.transaction() as session:
        row = {"at": db.now(), "model": "m", "version": 1, "model_version": "1", "key_id": "k", "request_id": "r"}
        rest = {"source": "api", "instance": {}, "prediction": 1, "probability": 1, "probabilities": {}, "warnings": []}
        session.execute(
            sa.insert(log.Prediction), [{**row, **rest, "id": each, "latency_seconds": 0.1} for each in ids]
        )
    with database.reading() as session:
        assert list(session.scalars(sa.select(log.Prediction.id).order_by(log.Prediction.id))) == sorted(ids)
        assert [search.beginning(session, text) for text in ("a-1", "aa", "ab", "B", "A-", "a-")] == [
            "a-1",
            "aa",
            "ab-1",
            "B-1",
            "A-2",
            None,
        ]
