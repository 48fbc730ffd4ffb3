"""API keys: typos are told without a look-up, refusals without a reason, and only a digest is kept."""

from __future__ import annotations

import dataclasses
import hmac
import string
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import limits
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests import databases
from webapp import audit, db, keys
from webapp.audit import Actor
from webapp.cli import main
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Forbidden, Invalid, NotFound, Unauthenticated
from webapp.keys import KeyRecord, KeyRing

TESTER = Actor("tester")
PEPPER = b"p" * 32
KEY = "mp_live_Qm3xV7Lk_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2yZ3a4b281p2Z"
LETTERS = string.ascii_letters + string.digits + "_- \n\0é"
RECORD = KeyRecord(
    id="Qm3xV7Lk",
    test=False,
    scopes=frozenset({"predict"}),
    models=frozenset({"credit-risk"}),
    limit=limits.parse("10/minute"),
    expires_at=time.time() + 3600,
)


class Sealed(dict[str, KeyRecord]):
    """A snapshot that nobody may look into."""

    def get(self, *_: Any) -> Any:
        raise AssertionError("there was a look-up")

    __getitem__ = __contains__ = get


def create(database: Database, **terms: Any) -> tuple[keys.ApiKey, str]:
    """Make a key."""
    with database.transaction() as session:
        return keys.create(session, TESTER, PEPPER, "a key", **terms)


def test_the_command_says_where_a_key_is_for_a_model_that_is_not_there(settings: Settings, database: Database) -> None:
    environment = {"MODELPORT_DATA_DIR": str(settings.data_dir), **databases.environment(settings.data_dir)}
    made = CliRunner(env=environment).invoke(main, ["keys", "create", "till", "--model", "nope"])
    assert made.exit_code == 0
    assert "There is no model “nope” yet; the key is for it once there is." in made.output
    assert [row.models for row in live(database).values()] == [frozenset({"nope"})]


def live(database: Database) -> dict[str, KeyRecord]:
    """Give the live keys."""
    with database.reading() as session:
        return keys.live_keys(session, "7/hour")


def refusal(ring: KeyRing, key: str) -> Unauthenticated:
    """Give what is raised for a key."""
    with pytest.raises(Unauthenticated) as caught:
        ring.find(key)
    return caught.value


# --- The form -----------------------------------------------------------------------------------------------


def test_the_form_of_a_key_is_for_ever() -> None:
    assert keys.well_formed(KEY)
    assert keys.digest(PEPPER, KEY) == hmac.new(PEPPER, KEY.encode(), "sha256").hexdigest()


@given(st.integers(0, len(KEY) - 1), st.sampled_from(LETTERS))
def test_a_key_with_one_wrong_character_is_refused_without_a_look_up(place: int, character: str) -> None:
    typo = KEY[:place] + character + KEY[place + 1 :]
    ring = KeyRing(PEPPER, Sealed())
    if typo == KEY:
        with pytest.raises(AssertionError, match="look-up"):
            ring.find(typo)
    else:
        assert not keys.well_formed(typo)
        refusal(ring, typo)


@given(st.integers(0, len(KEY) - 2))
def test_a_key_with_two_characters_swapped_is_refused_without_a_look_up(place: int) -> None:
    swapped = KEY[:place] + KEY[place + 1] + KEY[place] + KEY[place + 2 :]
    assert keys.well_formed(swapped) is (swapped == KEY)


@given(st.integers(0, len(KEY)), st.sampled_from(LETTERS))
def test_a_key_that_is_too_long_or_too_short_is_refused_without_a_look_up(place: int, character: str) -> None:
    assert not keys.well_formed(KEY[:place] + character + KEY[place:])
    assert not keys.well_formed(KEY[:place] + KEY[place + 1 :]) or place == len(KEY)


@given(st.text())
def test_any_text_can_be_asked_for(text: str) -> None:
    refusal(KeyRing(PEPPER, Sealed()), text)


def test_keys_differ_and_are_well_formed(database: Database) -> None:
    made = [create(database, test=test)[1] for test in (False, True) for _ in range(5)]
    assert all(keys.well_formed(key) for key in made)
    assert [key.startswith("mp_live_") for key in made] == [True] * 5 + [False] * 5
    assert [key.startswith("mp_test_") for key in made] == [False] * 5 + [True] * 5
    assert len({key[17:] for key in made}) == len(made)


# --- The ring -----------------------------------------------------------------------------------------------


def test_a_ring_finds_its_keys() -> None:
    assert KeyRing(PEPPER, {keys.digest(PEPPER, KEY): RECORD}).find(KEY) is RECORD


def test_every_refusal_is_the_same() -> None:
    digest = keys.digest(PEPPER, KEY)
    expired = dataclasses.replace(RECORD, expires_at=time.time() - 0.001)
    refusals = [
        refusal(KeyRing(PEPPER), ""),
        refusal(KeyRing(PEPPER), "letmein"),
        refusal(KeyRing(PEPPER), KEY[:-1] + "c"),
        refusal(KeyRing(PEPPER), KEY),
        refusal(KeyRing(PEPPER, {digest: expired}), KEY),
        refusal(KeyRing(b"q" * 32, {digest: RECORD}), KEY),
    ]
    assert {(each.code, each.detail, each.problems, str(each.more)) for each in refusals} == {
        ("key_refused", keys._REFUSED, (), "{}")
    }


def test_a_record_opens_its_scopes_and_models_only() -> None:
    RECORD.require_scope("predict")
    RECORD.require_model("credit-risk")
    dataclasses.replace(RECORD, models=None).require_model("anything")
    with pytest.raises(Forbidden, match="batch"):
        RECORD.require_scope("batch")
    with pytest.raises(Forbidden, match="pricing"):
        RECORD.require_model("pricing")
    with pytest.raises(Forbidden):
        dataclasses.replace(RECORD, models=frozenset()).require_model("credit-risk")


# --- The table ----------------------------------------------------------------------------------------------


def test_only_the_digest_of_a_key_is_kept(database: Database, settings: Settings) -> None:
    row, key = create(database, scopes=["predict"], models=["credit-risk"])
    assert row.digest == keys.digest(PEPPER, key)
    with database.reading() as session:
        kept = [str(vars(each)) for kind in (keys.ApiKey, audit.AuditRecord) for each in session.query(kind)]
    database.engine.dispose()
    raw = databases.everything(settings.data_dir)
    secret = key.split("_")[3]
    assert row.digest.encode() in raw
    assert secret[:43].encode() not in raw
    assert not [text for text in [*kept, str(keys.describe(row))] if secret in text or secret[:43] in text]


def test_a_new_key_is_live_until_it_expires_or_is_revoked(database: Database) -> None:
    row, key = create(database, scopes=["predict", "predict", "batch"], models=["b", "a", "a"], rate_limit="5/second")
    record = KeyRing(PEPPER, live(database)).find(key)
    assert record == KeyRecord(
        id=row.id,
        test=False,
        scopes=frozenset({"predict", "batch"}),
        models=frozenset({"a", "b"}),
        limit=limits.parse("5/second"),
        expires_at=row.expires_at.timestamp(),
    )

    with database.transaction() as session:
        keys.get_key(session, row.id).expires_at = db.now() - timedelta(seconds=1)
    assert live(database) == {}

    with database.transaction() as session:
        keys.get_key(session, row.id).expires_at = db.now() + timedelta(days=1)
    assert len(live(database)) == 1

    with database.transaction() as session:
        revoked = keys.revoke(session, TESTER, row.id).revoked_at
    with database.transaction() as session:
        assert keys.revoke(session, TESTER, row.id).revoked_at == revoked
    assert live(database) == {}


def test_a_key_without_terms_may_predict_with_every_model_for_a_year(database: Database) -> None:
    row, key = create(database)
    record = KeyRing(PEPPER, live(database)).find(key)
    assert (record.scopes, record.models, record.limit) == (frozenset({"predict"}), None, limits.parse("7/hour"))
    assert row.expires_at - row.created_at - timedelta(days=365) < timedelta(minutes=1)


def test_an_unknown_key_cannot_be_revoked(database: Database) -> None:
    with database.transaction() as session, pytest.raises(NotFound, match="modelport keys list"):
        keys.revoke(session, TESTER, "nothing")


WRONG_TERMS: dict[str, tuple[dict[str, Any], str, Callable[[str], bool]]] = {
    "unknown_scope": (
        {"scopes": ["predict", "admin", "root"]},
        "unknown_scope",
        lambda detail: "admin, root" in detail and all(scope in detail for scope in keys.SCOPES),
    ),
    "no_limit": ({"rate_limit": "fast"}, "rate_limit_unreadable", lambda detail: "1000/minute" in detail),
    "no_unit": ({"rate_limit": "1000"}, "rate_limit_unreadable", lambda detail: "1000/minute" in detail),
    "unknown_unit": ({"rate_limit": "10/blink"}, "rate_limit_unreadable", lambda detail: "“10/blink”" in detail),
    "past": ({"life": timedelta(0)}, "expiry_in_the_past", lambda detail: "future" in detail),
}


@pytest.mark.parametrize(("terms", "code", "helps"), WRONG_TERMS.values(), ids=WRONG_TERMS)
def test_wrong_terms_are_refused_with_the_choices(
    database: Database, terms: dict[str, Any], code: str, helps: Callable[[str], bool]
) -> None:
    with pytest.raises(Invalid) as caught:
        create(database, **terms)
    assert caught.value.code == code
    assert helps(caught.value.detail)
    assert live(database) == {}
