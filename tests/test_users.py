"""Users: who may come in as what, links that work once, and sessions that last as long as their rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from webapp import users
from webapp.audit import Actor, AuditRecord
from webapp.db import Database, Session
from webapp.errors import Conflict, Invalid, NotFound, Refusal, Unauthenticated
from webapp.users import ROLES, SignedIn, SignIn, SignInLink, User

TESTER = Actor("cli:ann", "192.0.2.1", "r-1")
EARLY = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.time = EARLY

    def __call__(self) -> datetime:
        return self.time

    def wait(self, span: timedelta) -> None:
        self.time += span


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(users, "now", made)
    return made


def change(database: Database, act: Callable[[Session], Any]) -> Any:
    """Do something in a transaction of its own."""
    with database.transaction() as session:
        return act(session)


def refused(database: Database, act: Callable[[Session], object]) -> str:
    """Do what is refused; give the code."""
    with pytest.raises(Refusal) as caught, database.transaction() as session:
        act(session)
    return caught.value.code


def create(database: Database, name: str = "mara", role: str = "admin") -> None:
    change(database, lambda session: users.create(session, TESTER, name, role))


def link(database: Database, name: str = "mara") -> str:
    token: str = change(database, lambda session: users.make_link(session, users.get_user(session, name)))
    return token


def begin(database: Database, name: str = "mara", agent: str = "a browser") -> str:
    """Begin a session; give what the cookie would hold."""
    token: str = change(
        database, lambda session: users.begin(session, TESTER, users.get_user(session, name), agent, "link")
    )
    return token


def holder(database: Database, token: str) -> SignedIn | None:
    with database.reading() as session:
        return users.signed_in(session, token)


def opens(database: Database, token: str) -> bool:
    """Whether a link lets somebody in."""
    with database.reading() as session:
        try:
            return users.link_user(session, token) is not None
        except NotFound:
            return False


def role_of(database: Database, name: str) -> str:
    with database.reading() as session:
        return users.get_user(session, name).role


def count(database: Database, table: type[Any]) -> int:
    with database.reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def audited(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    with database.reading() as session:
        rows = session.scalars(sa.select(AuditRecord).order_by(AuditRecord.id))
        return [(row.action, row.subject, row.detail) for row in rows]


# --- People -------------------------------------------------------------------------------------------------


def test_a_role_includes_those_before_it() -> None:
    assert [[users.includes(role, other) for other in ROLES] for role in ROLES] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@pytest.mark.parametrize("name", ["m", "mara", "mara@example.com", "0", "a-b_c.d+e@f", "x" * 63])
def test_names_and_addresses_are_taken(database: Database, name: str) -> None:
    create(database, name)
    assert role_of(database, name) == "admin"


BAD_NAMES = {
    "empty": "",
    "a space": "mara m",
    "a space at the end": "mara ",
    "a newline at the end": "mara\n",
    "capitals": "Mara",
    "64 characters": "x" * 64,
    "a slash": "mara/disable",
    "dots to climb by": "../admin",
    "a dot first": ".mara",
    "a minus first": "-rf",
    "an at first": "@mara",
    "NUL": "mara\0",
    "markup": "<script>alert(1)</script>",
    "a quote": "mara'--",
    "a colon": "user:mara",
    "a percent": "mara%2f",
    "another script": "mаra",  # noqa: RUF001 - the second letter is Cyrillic
    "digits of another script": "mara١",  # noqa: RUF001 - as it may come
    "written from right to left": "mara\u202eadmin",
    "no width": "mara\u200b",
    "escape": "mara\x1b[2J",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_name_that_reads_like_something_else_is_refused(database: Database, name: str) -> None:
    assert refused(database, lambda session: users.create(session, TESTER, name, "viewer")) == "user_name_not_allowed"
    assert count(database, User) == 0


@example("admin\n")
@given(st.text())
def test_a_name_that_is_taken_is_plain(name: str) -> None:
    if users._NAME.fullmatch(name):
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set(" /\\:%<>\"'&?#;,")
        assert name == name.lower()


@pytest.mark.parametrize("role", ["", "root", "Admin", "admin ", "viewer,admin"])
def test_an_unknown_role_is_refused_with_the_choices(database: Database, role: str) -> None:
    create(database)
    for act in (
        lambda session: users.create(session, TESTER, "bob", role),
        lambda session: users.set_role(session, TESTER, "mara", role),
    ):
        with pytest.raises(Invalid, match="viewer, operator, admin") as caught, database.transaction() as session:
            act(session)
        assert caught.value.code == "unknown_role"


def test_a_name_is_taken_once(database: Database) -> None:
    create(database)
    assert refused(database, lambda session: users.create(session, TESTER, "mara", "viewer")) == "user_exists"
    assert role_of(database, "mara") == "admin"


def test_nobody_is_no_user(database: Database) -> None:
    with database.reading() as session:
        assert users.find_user(session, "nobody") is None
    for act in (users.disable, users.enable, users.reset_password):
        assert refused(database, lambda session, act=act: act(session, TESTER, "nobody")) == "unknown_user"


def test_what_may_be_shown_of_a_user_holds_no_secret(database: Database) -> None:
    create(database)
    change(database, lambda session: users.set_password(session, TESTER, users.get_user(session, "mara"), "$hash"))
    with database.reading() as session:
        shown = users.describe(users.get_user(session, "mara"))
    assert (shown["name"], shown["role"], shown["has_password"]) == ("mara", "admin", True)
    assert "$hash" not in str(shown)


# --- The last admin -----------------------------------------------------------------------------------------

LEAVING: dict[str, Callable[[Session, str], object]] = {
    "disabled": lambda session, name: users.disable(session, TESTER, name),
    "made an operator": lambda session, name: users.set_role(session, TESTER, name, "operator"),
    "made a viewer": lambda session, name: users.set_role(session, TESTER, name, "viewer"),
}


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
def test_the_last_admin_stays(database: Database, leave: Callable[[Session, str], object]) -> None:
    create(database)
    create(database, "eve", "operator")
    create(database, "former", "admin")
    change(database, lambda session: users.disable(session, TESTER, "former"))
    assert refused(database, lambda session: leave(session, "mara")) == "last_admin"
    assert role_of(database, "mara") == "admin"

    change(database, lambda session: users.set_role(session, TESTER, "eve", "admin"))
    change(database, lambda session: leave(session, "mara"))
    assert refused(database, lambda session: leave(session, "eve")) == "last_admin"


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
def test_of_two_admins_who_leave_at_once_one_stays(database: Database, leave: Callable[[Session, str], object]) -> None:
    create(database)
    create(database, "eve")
    begun = Barrier(2, timeout=30)

    def go(name: str) -> str:
        begun.wait()
        try:
            change(database, lambda session: leave(session, name))
        except Conflict as refusal:
            return refusal.code
        return "left"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(go, ["mara", "eve"])) == ["last_admin", "left"]


def test_the_admins_are_locked_while_one_leaves(database: Database) -> None:
    """PostgreSQL lets two transactions read at once: what is decided on must not change before it is done."""
    create(database)
    create(database, "eve")
    asked: list[str] = []

    @sa.event.listens_for(sa.orm.Session, "do_orm_execute")
    def note(state: sa.orm.ORMExecuteState) -> None:
        asked.append(str(state.statement.compile(dialect=postgresql.dialect())))

    try:
        change(database, lambda session: users.disable(session, TESTER, "mara"))
    finally:
        sa.event.remove(sa.orm.Session, "do_orm_execute", note)
    assert [statement for statement in asked if "users.role" in statement and "FOR UPDATE" in statement]


# --- Links --------------------------------------------------------------------------------------------------


def test_a_link_is_not_used_up_by_looking_and_lets_in_once(database: Database) -> None:
    create(database)
    token = link(database)
    assert [opens(database, token) for _ in range(3)] == [True] * 3
    assert change(database, lambda session: users.use_link(session, token).name) == "mara"
    assert not opens(database, token)
    assert refused(database, lambda session: users.use_link(session, token)) == "sign_in_link_dead"


def test_of_two_who_use_a_link_at_once_one_is_let_in(database: Database) -> None:
    create(database)
    token = link(database)
    begun = Barrier(2, timeout=30)

    def go(_: int) -> str:
        begun.wait()
        try:
            return str(change(database, lambda session: users.use_link(session, token).name))
        except NotFound as refusal:
            return refusal.code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(go, range(2))) == ["mara", "sign_in_link_dead"]


def test_a_link_that_was_used_between_looking_and_using_lets_nobody_in(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two transactions of PostgreSQL may: both see the link, one deletes it."""
    create(database)
    token, look = link(database), users.link_user

    def look_and_lose(session: Session, asked: str) -> User:
        found = look(session, asked)
        session.execute(sa.delete(SignInLink))
        return found

    monkeypatch.setattr(users, "link_user", look_and_lose)
    assert refused(database, lambda session: users.use_link(session, token)) == "sign_in_link_dead"


def test_a_link_lives_for_15_minutes(database: Database, clock: Clock) -> None:
    create(database)
    token = link(database)
    clock.wait(timedelta(minutes=15) - SECOND)
    assert opens(database, token)
    clock.wait(SECOND)
    assert not opens(database, token)
    assert refused(database, lambda session: users.use_link(session, token)) == "sign_in_link_dead"


def test_a_new_link_replaces_the_earlier_ones_of_its_user_only(database: Database) -> None:
    create(database)
    create(database, "bob")
    first, others, second = link(database), link(database, "bob"), link(database)
    assert [opens(database, token) for token in (first, others, second)] == [False, True, True]


ENDING_LINKS: dict[str, Callable[[Session], object]] = {
    "disabling": lambda session: users.disable(session, TESTER, "mara"),
    "resetting": lambda session: users.reset_password(session, TESTER, "mara"),
    "signing out everywhere": lambda session: users.end_all(session, users.get_user(session, "mara")),
}


@pytest.mark.parametrize("act", ENDING_LINKS.values(), ids=ENDING_LINKS)
def test_a_link_dies_with(database: Database, act: Callable[[Session], object]) -> None:
    create(database)
    create(database, "eve")
    token, of_eve = link(database), link(database, "eve")
    change(database, act)
    assert [opens(database, token), opens(database, of_eve)] == [False, True]


def test_a_disabled_user_gets_no_link_and_an_old_one_stays_dead_after_enabling(database: Database) -> None:
    create(database, "sam", "viewer")
    token = link(database, "sam")
    change(database, lambda session: users.disable(session, TESTER, "sam"))
    assert refused(database, lambda session: users.make_link(session, users.get_user(session, "sam"))) == (
        "user_disabled"
    )
    change(database, lambda session: users.enable(session, TESTER, "sam"))
    assert not opens(database, token)


def test_a_link_of_a_user_whose_row_was_disabled_by_hand_is_dead(database: Database) -> None:
    create(database)
    token = link(database)
    change(database, lambda session: session.execute(sa.update(User).values(disabled_at=EARLY)))
    assert not opens(database, token)


def test_tokens_are_not_stored_and_cannot_be_guessed(database: Database) -> None:
    create(database)
    tokens = [link(database) for _ in range(5)] + [begin(database) for _ in range(5)]
    assert len(set(tokens)) == 10
    assert all(len(token) >= 43 for token in tokens), "256 bits in base64"
    with database.reading() as session:
        kept = [
            str(vars(row)) for table in (SignInLink, SignIn, AuditRecord) for row in session.scalars(sa.select(table))
        ]
    assert not [token for token in tokens if token in "".join(kept)]


# --- Sessions -----------------------------------------------------------------------------------------------


def test_a_session_says_who_and_what_they_may(database: Database) -> None:
    create(database, "olga", "operator")
    facts = holder(database, begin(database, "olga"))
    assert facts is not None
    assert (facts.name, facts.role, facts.has_password, facts.stale) == ("olga", "operator", False, False)
    assert [facts.may(role) for role in ROLES] == [True, True, False]


def test_another_token_is_nobodys(database: Database) -> None:
    create(database)
    token = begin(database)
    for other in ("", token[:-1], f"{token}x", token.swapcase(), users._digest(token)):
        assert holder(database, other) is None, other


def test_a_session_ends_after_30_minutes_without_use(database: Database, clock: Clock) -> None:
    create(database)
    token = begin(database)
    clock.wait(timedelta(minutes=30))
    assert holder(database, token)
    clock.wait(SECOND)
    assert holder(database, token) is None


def test_a_session_in_use_lasts_12_hours_and_no_longer(database: Database, clock: Clock) -> None:
    create(database)
    token = begin(database)
    for _ in range(24):
        clock.wait(timedelta(minutes=30))
        facts = holder(database, token)
        assert facts is not None
        assert facts.stale
        change(database, lambda session: users.touch(session, users._digest(token)))
    clock.wait(SECOND)
    assert holder(database, token) is None


def test_use_is_noted_once_a_minute(database: Database, clock: Clock) -> None:
    create(database)
    token = begin(database)
    clock.wait(timedelta(minutes=1))
    facts = holder(database, token)
    assert facts is not None
    assert not facts.stale
    clock.wait(SECOND)
    facts = holder(database, token)
    assert facts is not None
    assert facts.stale


def test_an_ended_session_is_dropped_when_another_begins(database: Database, clock: Clock) -> None:
    create(database)
    begin(database)
    clock.wait(timedelta(hours=13))
    begin(database)
    assert count(database, SignIn) == 1


def test_ending_one_session_leaves_the_others(database: Database) -> None:
    create(database)
    first, second = begin(database), begin(database)
    change(database, lambda session: users.end(session, users._digest(first)))
    assert holder(database, first) is None
    assert holder(database, second)


def test_ending_all_but_one_leaves_that_and_those_of_others(database: Database) -> None:
    create(database)
    create(database, "eve")
    kept, ended, of_eve = begin(database), begin(database), begin(database, "eve")
    digest = users._digest(kept)
    change(database, lambda session: users.end_all(session, users.get_user(session, "mara"), but=digest))
    assert [holder(database, token) is not None for token in (kept, ended, of_eve)] == [True, False, True]


@pytest.mark.parametrize("act", ENDING_LINKS.values(), ids=ENDING_LINKS)
def test_every_session_of_a_user_ends_with(database: Database, act: Callable[[Session], object]) -> None:
    create(database)
    create(database, "eve")
    tokens = [begin(database), begin(database), begin(database, "eve")]
    change(database, act)
    assert [holder(database, token) is not None for token in tokens] == [False, False, True]


def test_a_new_role_holds_in_a_session_that_goes_on(database: Database) -> None:
    create(database)
    create(database, "sam", "operator")
    token = begin(database, "sam")
    change(database, lambda session: users.set_role(session, TESTER, "sam", "viewer"))
    facts = holder(database, token)
    assert facts is not None
    assert not facts.may("operator")


def test_a_disabled_user_cannot_begin_and_holds_no_session(database: Database) -> None:
    create(database)
    token = begin(database)
    change(database, lambda session: session.execute(sa.update(User).values(disabled_at=EARLY)))
    assert holder(database, token) is None
    with pytest.raises(Unauthenticated), database.transaction() as session:
        users.begin(session, TESTER, users.get_user(session, "mara"), "a browser", "password")


def test_a_users_sessions_are_listed_without_those_that_ended(database: Database, clock: Clock) -> None:
    create(database)
    create(database, "eve")
    begin(database, agent="old")
    clock.wait(timedelta(minutes=29))
    begin(database, agent="x" * 5000)
    begin(database, "eve")
    clock.wait(timedelta(minutes=2))
    with database.reading() as session:
        found = users.sessions(session, users.get_user(session, "mara"))
    assert [(each.agent, each.address) for each in found] == [("x" * 200, TESTER.address)]


# --- The trail ----------------------------------------------------------------------------------------------


def test_every_change_is_noted_once_and_what_changes_nothing_is_not(database: Database) -> None:
    create(database)
    create(database, "sam", "viewer")
    for _ in range(2):
        change(database, lambda session: users.set_role(session, TESTER, "sam", "operator"))
        change(database, lambda session: users.disable(session, TESTER, "sam"))
    for _ in range(2):
        change(database, lambda session: users.enable(session, TESTER, "sam"))
    change(database, lambda session: users.set_password(session, TESTER, users.get_user(session, "sam"), "$hash"))
    change(database, lambda session: users.reset_password(session, TESTER, "sam"))
    begin(database, "sam")
    assert audited(database)[2:] == [
        ("users.role", "sam", {"before": "viewer", "after": "operator"}),
        ("users.disable", "sam", {}),
        ("users.enable", "sam", {}),
        ("users.password", "sam", {}),
        ("users.reset_password", "sam", {}),
        ("users.sign_in", "sam", {"way": "link"}),
    ]


def test_resetting_forgets_every_way_in(database: Database) -> None:
    create(database)
    mara = partial(users.get_user, name="mara")
    change(database, lambda session: users.set_password(session, TESTER, mara(session), "$hash"))
    change(database, lambda session: users.set_second_factor(session, TESTER, mara(session), "nonce", 1, ["digest"]))
    token = change(database, lambda session: users.reset_password(session, TESTER, "mara"))
    assert opens(database, token)
    with database.reading() as session:
        user = mara(session)
        assert (user.password, user.second_factor, user.recovery) == (None, None, [])
