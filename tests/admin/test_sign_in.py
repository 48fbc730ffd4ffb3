"""Signing in: by links and passwords, in sessions that end when they should, with cookies that are nobody's else."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from flask.sessions import SecureCookieSessionInterface
from flask_login import encode_cookie
from werkzeug.test import TestResponse

from tests import databases
from tests.admin.conftest import BASE, PASSWORD, TESTER, Browser, Clock, House, Page, hashed_password
from tests.conftest import eventually
from tests.functional.server import Server
from webapp import users
from webapp.users import ROLES, SignIn

OTHER = "seven calm geese mend a radio"
WRONG = "seven calm geese mend a kettle"
DEAD = 404


def contents(browser: Browser) -> dict[str, Any]:
    """Give what a session's cookie holds; it is signed, not encrypted."""
    serializer = SecureCookieSessionInterface().get_signing_serializer(browser.app)
    assert serializer is not None
    held: dict[str, Any] = serializer.loads(browser.cookie)
    return held


def by_password(browser: Browser, name: str, password: str, **more: str) -> TestResponse:
    """Sign in by the form."""
    return browser.send("/login", "/login", name=name, password=password, **more)


def by_link(browser: Browser, token: str) -> TestResponse:
    """Press the button of a link's page, which may be gone."""
    return browser.post(f"/login/{token}")


@pytest.fixture
def mara(house: House) -> House:
    """A house with an admin, mara, who has a password, and a viewer, sam, who has none."""
    house.user("mara", "admin", hashed_password())
    house.user("sam")
    return house


# --- Links --------------------------------------------------------------------------------------------------


def test_a_link_shows_who_it_is_for_and_is_not_used_up_by_looking(mara: House) -> None:
    path = f"/login/{mara.link('sam')}"
    for browser in (mara.browser(), mara.browser()):
        for method in ("GET", "HEAD", "GET"):
            assert browser.ask(method, path).status_code == 200
        assert "sam" in browser.page(path).text
        assert "viewer" in browser.page(path).text
        assert not browser.signed_in
    browser = mara.browser()
    assert browser.send(path, path).status_code == 303
    assert browser.signed_in


def test_a_link_lets_in_once(mara: House) -> None:
    token = mara.link("sam")
    first, second = mara.browser(), mara.browser()
    assert by_link(first, token).status_code == 303
    refused = by_link(second, token)
    assert (refused.status_code, second.signed_in, first.signed_in) == (DEAD, False, True)
    assert "was used" in Page(refused.text).text
    assert second.get(f"/login/{token}").status_code == DEAD


def test_of_two_who_use_a_link_at_once_one_is_let_in(mara: House) -> None:
    token, begun = mara.link("sam"), Barrier(2, timeout=30)
    browsers = [mara.browser(), mara.browser()]
    tokens = [browser.token() for browser in browsers]

    def go(browser: Browser, csrf: str) -> int:
        begun.wait()
        return browser.ask("POST", f"/login/{token}", data={"csrf_token": csrf}).status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(go, browsers, tokens)) == [303, DEAD]
    assert sorted(browser.signed_in for browser in browsers) == [False, True]


def test_a_link_lives_for_15_minutes(mara: House, clock: Clock) -> None:
    token = mara.link("sam")
    clock.wait(minutes=14, seconds=50)
    assert mara.browser().get(f"/login/{token}").status_code == 200
    clock.wait(seconds=10)
    assert mara.browser().get(f"/login/{token}").status_code == DEAD
    assert by_link(mara.browser(), token).status_code == DEAD


def test_a_link_is_replaced_by_a_newer_one(mara: House) -> None:
    first, second = mara.link("sam"), mara.link("sam")
    assert by_link(mara.browser(), first).status_code == DEAD
    assert by_link(mara.browser(), second).status_code == 303


def test_a_link_of_a_disabled_user_is_dead(mara: House) -> None:
    token = mara.link("sam")
    mara.change(lambda session: users.disable(session, TESTER, "sam"))
    assert mara.browser().get(f"/login/{token}").status_code == DEAD
    assert by_link(mara.browser(), token).status_code == DEAD


def test_every_dead_link_looks_the_same(mara: House, clock: Clock) -> None:
    """Or it would tell which ones there were."""
    used, replaced, disabled = mara.link("sam"), mara.link("mara"), ""
    by_link(mara.browser(), used)
    mara.user("bob")
    disabled = mara.link("bob")
    mara.change(lambda session: users.disable(session, TESTER, "bob"))
    mara.link("mara")
    old = mara.link("sam")
    clock.wait(minutes=16)
    shown = set()
    for token in (used, replaced, disabled, old, "x" * 43, "no-link"):
        answer = mara.browser().get(f"/login/{token}")
        assert answer.status_code == DEAD
        shown.add(answer.text.replace(answer.headers["X-Request-ID"], ""))
    assert len(shown) == 1


def test_an_admin_hands_over_a_link_that_works_once(mara: House) -> None:
    admin = mara.sign_in("mara")
    made = admin.send("/admin/users", "/admin/users", name="Nia@Example.com", role="operator")
    [link] = re.findall(r"http://127\.0\.0\.1:8000/login/([\w-]{43})", made.text)
    nia = mara.browser()
    assert by_link(nia, link).status_code == 303
    assert "nia@example.com" in nia.page("/admin/account").text
    again = admin.send("/admin/users/nia@example.com", "/admin/users/nia@example.com/link")
    [newer] = re.findall(r"/login/([\w-]{43})", again.text)
    assert not nia.signed_in
    assert by_link(mara.browser(), newer).status_code == 303


def told(caplog: pytest.LogCaptureFixture) -> str:
    """Give everything that was logged, with what went along."""
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


def test_neither_a_link_nor_a_password_nor_a_cookie_is_logged_or_stored(
    mara: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token, browser = mara.link("sam"), mara.browser()
    browser.get(f"/login/{token}")
    by_link(browser, token)
    by_link(mara.browser(), token)
    by_password(mara.browser(), "mara", WRONG)
    by_password(mara.browser(), "mara", PASSWORD)
    session_id = contents(browser)["_user_id"]
    secrets = (token, PASSWORD, WRONG, session_id, browser.cookie)

    log = told(caplog)
    assert "/login/<token>" in log
    assert [secret for secret in secrets if secret in log] == []
    mara.parts.database.engine.dispose()
    stored = databases.everything(mara.settings.data_dir)
    assert [secret for secret in secrets if secret.encode() in stored] == []


# --- Passwords ----------------------------------------------------------------------------------------------


def test_the_right_password_lets_in(mara: House) -> None:
    browser = mara.browser()
    answer = by_password(browser, "mara", PASSWORD)
    assert (answer.status_code, answer.location, browser.signed_in) == (303, "/admin", True)


def test_a_name_is_read_without_spaces_and_capitals(mara: House) -> None:
    browser = mara.browser()
    assert by_password(browser, "  Mara ", PASSWORD).status_code == 303


def test_a_wrong_password_and_an_unknown_user_look_the_same(mara: House) -> None:
    browser = mara.browser()
    mara.user("off", "viewer", hashed_password())
    mara.change(lambda session: users.disable(session, TESTER, "off"))
    shown = set()
    for name, password in (("mara", WRONG), ("nobody", WRONG), ("sam", WRONG), ("off", WRONG), ("mara", "")):
        answer = by_password(browser, name, password)
        assert answer.status_code == 401
        page = Page(answer.text)
        assert "The name or the password is wrong." in page.text
        assert page.fields("/login")["name"] == name
        assert page.fields("/login")["password"] == "", "a password does not come back"
        shown.add(answer.text.replace(f'value="{name}"', "").replace(page.token, ""))
    assert len(shown) == 1
    assert not browser.signed_in


def test_a_disabled_user_is_not_let_in_by_the_right_password(mara: House) -> None:
    mara.user("off", "viewer", hashed_password())
    mara.change(lambda session: users.disable(session, TESTER, "off"))
    browser = mara.browser()
    assert by_password(browser, "off", PASSWORD).status_code == 401
    assert not browser.signed_in


@pytest.mark.parametrize("password", ["", " ", "\0", "x" * 100_000, "' OR 1=1 --", "*"])
def test_a_user_without_a_password_is_not_let_in_by_any(mara: House, password: str) -> None:
    browser = mara.browser()
    assert by_password(browser, "sam", password).status_code in {400, 401}
    assert not browser.signed_in


def test_five_wrong_passwords_slow_down_that_name_from_that_address_only(mara: House) -> None:
    attacker = mara.browser()
    assert [by_password(attacker, "mara", WRONG).status_code for _ in range(5)] == [401] * 5
    refused = by_password(attacker, "Mara ", WRONG)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "900")
    assert "quarter of an hour" in Page(refused.text).text
    assert by_password(attacker, "mara", PASSWORD).status_code == 429, "or it would be worth going on"
    assert by_password(attacker, "bob", WRONG).status_code == 401
    assert by_password(mara.browser(), "mara", WRONG).status_code == 401
    assert by_password(mara.browser(), "mara", PASSWORD).status_code == 303
    assert by_link(attacker, mara.link("mara")).status_code == 303, "the rightful person has another way in"


def test_right_passwords_slow_nobody_down(mara: House) -> None:
    browser = mara.browser()
    for _ in range(7):
        assert by_password(browser, "mara", PASSWORD).status_code == 303
        browser.post("/logout")


def test_an_address_of_ipv6_counts_as_its_network(mara: House) -> None:
    for number in range(5):
        by_password(Browser(mara.app, f"2001:db8::{number}"), "nobody", WRONG)
    assert by_password(Browser(mara.app, "2001:db8::ffff"), "nobody", WRONG).status_code == 429
    assert by_password(Browser(mara.app, "2001:db8:0:1::1"), "nobody", WRONG).status_code == 401


def test_a_proxy_that_nobody_trusts_cannot_lend_addresses(mara: House) -> None:
    browser = mara.browser()
    token = browser.token()
    fields = {"csrf_token": token, "name": "nobody", "password": WRONG}
    statuses = [
        browser.post("/login", fields, {"X-Forwarded-For": f"203.0.113.{number}"}).status_code for number in range(6)
    ]
    assert statuses == [401] * 5 + [429]


def test_a_password_is_set_changed_and_stored_as_argon2id_only(mara: House) -> None:
    sam = mara.sign_in("sam")
    assert sam.send("/admin/account", "/admin/account/password", chosen=PASSWORD, again=PASSWORD).status_code == 303
    first = mara.person("sam").password or ""
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    changed = sam.send("/admin/account", "/admin/account/password", present=PASSWORD, chosen=OTHER, again=OTHER)
    assert changed.status_code == 303
    assert mara.person("sam").password != first
    assert by_password(mara.browser(), "sam", OTHER).status_code == 303
    assert by_password(mara.browser(), "sam", PASSWORD).status_code == 401


REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    "no present one": ({"present": ""}, "present", "not your present password"),
    "a wrong present one": ({"present": WRONG}, "present", "not your present password"),
    "two that differ": ({"again": f"{OTHER}."}, "again", "not the same"),
    "no second one": ({"again": ""}, "again", "not the same"),
    "too short": ({"chosen": "kq7#Vw9!xZ2", "again": "kq7#Vw9!xZ2"}, "chosen", "12 to 128"),
    "too long": ({"chosen": "kq7#Vw9!xZ2" * 12, "again": "kq7#Vw9!xZ2" * 12}, "chosen", "12 to 128"),
    "empty": ({"chosen": "", "again": ""}, "chosen", "12 to 128"),
    "common": ({"chosen": "password1234", "again": "password1234"}, "chosen", "very common"),
    "of the house": ({"chosen": "modelportmodelport", "again": "modelportmodelport"}, "chosen", "easy to guess"),
    "ones own name": ({"chosen": "maramaramara", "again": "maramaramara"}, "chosen", "easy to guess"),
}


@pytest.mark.parametrize(("typed", "field", "says"), REFUSED.values(), ids=REFUSED)
def test_a_password_that_cannot_be_set_says_why(mara: House, typed: dict[str, str], field: str, says: str) -> None:
    browser, before = mara.sign_in("mara"), mara.person("mara").password
    fields = {"present": PASSWORD, "chosen": OTHER, "again": OTHER, **typed}
    answer = browser.send("/admin/account", "/admin/account/password", **fields)
    assert answer.status_code == 422
    page = Page(answer.text)
    assert says in page.text
    assert [a["id"] for _, a in page.elements if a.get("aria-invalid") == "true"] == [field]
    assert not [text for text in fields.values() if len(text) > 4 and text in answer.text], (
        "passwords stay out of pages"
    )
    assert mara.person("mara").password == before


def test_a_stolen_session_is_no_place_to_try_out_passwords(mara: House) -> None:
    thief = mara.sign_in("mara").copied()
    token = thief.token()
    fields = {"csrf_token": token, "present": WRONG, "chosen": OTHER, "again": OTHER}
    statuses = [thief.post("/admin/account/password", fields).status_code for _ in range(6)]
    assert statuses == [422] * 5 + [429]
    assert thief.post("/admin/account/password", {**fields, "present": PASSWORD}).status_code == 429
    assert mara.person("mara").password == hashed_password()


# --- Sessions -----------------------------------------------------------------------------------------------


def test_the_session_before_signing_in_is_not_the_one_after(mara: House) -> None:
    """An attacker who could put a cookie into a browser would otherwise be signed in with it."""
    attacker, victim = mara.browser(), mara.browser()
    attacker.token()
    planted = attacker.cookie
    victim.cookie = planted
    mara.sign_in("mara", victim)
    assert victim.cookie != planted
    assert not attacker.signed_in
    assert (
        contents(victim)["csrf_token"] != contents(attacker)["csrf_token"] if "csrf_token" in contents(victim) else True
    )
    assert attacker.post("/admin/account/sessions").status_code == 303, "it leads to the sign-in page"


def test_what_a_cookie_held_before_signing_in_is_gone(mara: House) -> None:
    browser = mara.sign_in("mara")
    browser.page("/admin/account/codes")
    before = contents(browser)
    assert {"second_factor", "csrf_token", "_user_id"} <= before.keys()
    mara.sign_in("sam", browser)
    after = contents(browser)
    # The library's own: that the session is fresh, and a digest of address and browser.
    kept = {name for name in before if after.get(name) == before[name]}
    assert kept == {"_fresh", "_id"}


def test_signing_in_again_ends_the_session_that_the_browser_had(mara: House) -> None:
    browser = mara.sign_in("mara")
    copy = browser.copied()
    mara.sign_in("sam", browser)
    assert not copy.signed_in
    by_password(browser, "mara", PASSWORD) if not browser.signed_in else browser.post("/logout")
    assert mara.look(lambda session: session.query(SignIn).count()) == 0


def test_a_cookie_says_nothing_but_the_session(mara: House) -> None:
    held = contents(mara.sign_in("mara"))
    assert held.keys() <= {"_user_id", "_fresh", "_id", "csrf_token", "_flashes"}
    assert "mara" not in str(held)
    assert "admin" not in str(held)


def post_as(name: str, path: str, **typed: str) -> Callable[[House, Browser], None]:
    """Give what somebody does in a browser of their own, or mara in hers."""

    def act(house: House, own: Browser) -> None:
        browser = own if name == "mara" else house.sign_in(name)
        fields = {"present": PASSWORD, "chosen": OTHER, "again": OTHER} if path.endswith("/password") else typed
        assert browser.post(path, fields).status_code in {200, 303}

    return act


ENDS: dict[str, Callable[[House, Browser], None]] = {
    "signing out": post_as("mara", "/logout"),
    "disabling": post_as("eve", "/admin/users/mara/disable"),
    "signing out everywhere": post_as("eve", "/admin/users/mara/sign-out"),
    "resetting the password": post_as("eve", "/admin/users/mara/link"),
    "a command on the server": lambda house, _own: house.change(
        lambda session: users.reset_password(session, TESTER, "mara")
    ),
}


@pytest.mark.parametrize("act", ENDS.values(), ids=ENDS)
def test_a_copied_cookie_is_worth_nothing_after(mara: House, act: Callable[[House, Browser], None]) -> None:
    mara.user("eve", "admin")
    browser = mara.sign_in("mara")
    copy = browser.copied()
    assert copy.signed_in
    act(mara, browser)
    assert (copy.signed_in, browser.signed_in) == (False, False)
    assert copy.get("/admin").status_code == 303
    assert copy.post("/admin/users", {"name": "evil", "role": "admin"}).status_code == 303
    assert mara.look(lambda session: users.find_user(session, "evil")) is None


ENDS_OTHERS: dict[str, Callable[[House, Browser], None]] = {
    "changing the password": post_as("mara", "/admin/account/password"),
    "signing out everywhere else": post_as("mara", "/admin/account/sessions"),
}


@pytest.mark.parametrize("act", ENDS_OTHERS.values(), ids=ENDS_OTHERS)
def test_other_sessions_and_links_end_with(mara: House, act: Callable[[House, Browser], None]) -> None:
    other, browser = mara.sign_in("mara"), mara.sign_in("mara")
    link, others = mara.link("mara"), mara.sign_in("sam")
    act(mara, browser)
    assert (other.signed_in, browser.signed_in, others.signed_in) == (False, True, True)
    assert by_link(mara.browser(), link).status_code == DEAD


def test_a_new_role_holds_in_a_copied_cookie_at_once(mara: House) -> None:
    mara.user("olga", "operator")
    copy = mara.sign_in("olga").copied()
    assert copy.get("/admin/upload").status_code == 200
    assert mara.sign_in("mara").post("/admin/users/olga/role", {"role": "viewer"}).status_code == 303
    assert (copy.signed_in, copy.get("/admin/upload").status_code) == (True, 403)
    mara.change(lambda session: users.set_role(session, TESTER, "olga", "admin"))
    assert copy.get("/admin/users").status_code == 200


def test_a_session_ends_after_30_minutes_without_use(mara: House, clock: Clock) -> None:
    used, unused = mara.sign_in("mara"), mara.sign_in("mara")
    clock.wait(minutes=29)
    assert used.signed_in
    clock.wait(minutes=2)
    assert (used.signed_in, unused.signed_in) == (True, False)
    clock.wait(minutes=31)
    assert not used.signed_in


def test_a_session_in_use_ends_after_12_hours(mara: House, clock: Clock) -> None:
    browser = mara.sign_in("mara")
    for _ in range(28):
        clock.wait(minutes=25)
        assert browser.signed_in
    clock.wait(minutes=21)
    assert not browser.signed_in


def test_who_is_signed_in_is_not_asked_again(mara: House) -> None:
    browser = mara.sign_in("mara")
    answer = browser.get("/login?next=/admin/keys")
    assert (answer.status_code, answer.location) == (303, "/admin/keys")


def test_there_is_nothing_to_sign_out_of_for_nobody(mara: House) -> None:
    answer = mara.browser().post("/logout")
    assert (answer.status_code, answer.location) == (303, "/login")


# --- Cookies ------------------------------------------------------------------------------------------------

SECRETS = {name: letter * 40 for name, letter in (("ours", "o"), ("theirs", "t"))}


def test_a_cookie_of_another_secret_or_installation_is_nobody(new_house: Callable[..., House]) -> None:
    ours = new_house(secret_key=SECRETS["ours"])
    for secret in ("ours", "theirs"):
        other = new_house(secret_key=SECRETS[secret])
        other.user("mara", "admin")
        stranger = ours.browser()
        stranger.cookie = other.sign_in("mara").cookie
        assert not stranger.signed_in, secret


def test_a_cookie_that_was_tampered_with_is_nobody(mara: House) -> None:
    sam, mallory = mara.sign_in("sam"), mara.browser()
    good = sam.cookie
    body, _, signature = good.rpartition(".")
    forged = SecureCookieSessionInterface().get_signing_serializer(mara.app)
    assert forged is not None
    forged.secret_keys = [b"guessed"]
    cookies = [
        f"{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        good[:5] + ("A" if good[5] != "A" else "B") + good[6:],
        f"{body}.",
        f"{body}.{signature[::-1]}",
        forged.dumps(contents(sam)),
        contents(sam)["_user_id"],
        "",
        "x" * 4000,
        "..",
        "\u20ac",
    ]
    for cookie in cookies:
        mallory.cookie = cookie
        assert not mallory.signed_in, cookie
    mallory.cookie = good
    assert mallory.signed_in


def test_a_cookie_that_is_signed_but_names_no_session_is_nobody(mara: House) -> None:
    """As one that was made with the secret's help, without the database's."""
    mara.sign_in("mara")
    digest = mara.look(lambda session: session.query(SignIn).one().digest)
    serializer = SecureCookieSessionInterface().get_signing_serializer(mara.app)
    assert serializer is not None
    browser = mara.browser()
    for made_up in ("1", "mara", digest, "", None, "x" * 3000):
        browser.cookie = serializer.dumps({"_user_id": made_up, "_fresh": True})
        answer = browser.get("/admin/users")
        assert (answer.status_code, answer.location) == (303, "/login?next=/admin/users"), made_up


def test_the_librarys_own_cookie_of_remembering_opens_nothing(mara: House) -> None:
    signed_in = mara.sign_in("mara")
    browser = mara.browser()
    with mara.app.test_request_context():
        for text in ("mara", "1", contents(signed_in)["_user_id"] + "x"):
            browser.client.set_cookie("remember_token", encode_cookie(text), domain="127.0.0.1")
            assert not browser.signed_in


def flags(answer: TestResponse, name: str = "modelport") -> set[str]:
    """Give the attributes of a cookie that an answer sets."""
    [cookie] = [line for line in answer.headers.getlist("Set-Cookie") if line.startswith(f"{name}=")]
    return {part.strip() for part in cookie.split(";")[1:]}


LOOPBACK = [
    "http://127.0.0.1:8000",
    "http://localhost:8000",
    "http://[::1]:8000",
    "http://localhost",
    "http://127.0.0.1",
]
ELSEWHERE = [
    "http://example.com",
    "http://192.168.0.5:8000",
    "http://localhost.example.com:8000",
    "http://127.0.0.1.example.com",
    "http://[2001:db8::1]:8000",
]


@pytest.mark.parametrize("base", [*LOOPBACK, *ELSEWHERE])
def test_cookies_stay_out_of_scripts_and_of_other_sites_and_leave_loopback_by_tls_only(mara: House, base: str) -> None:
    browser = mara.browser(base)
    answer = browser.get("/login")
    secure = {"Secure"} if base in ELSEWHERE else set()
    assert flags(answer) == {"HttpOnly", "Path=/", "SameSite=Lax"} | secure
    assert ("without TLS" in answer.text) is (base in ELSEWHERE)
    assert "Strict-Transport-Security" not in answer.headers
    theme = browser.post("/admin/theme", {"theme": "dark"})
    expires = {part for part in flags(theme, "theme") if part.startswith(("Expires", "Max-Age"))}
    assert flags(theme, "theme") - expires == flags(answer)


def test_behind_tls_cookies_are_secure_and_browsers_are_told_to_stay(new_house: Callable[..., House]) -> None:
    house = new_house(trusted_proxies=1)
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "ml.example.com"}
    for base in ("http://127.0.0.1:8000", "http://upstream"):
        answer = house.browser(base).get("/login", forwarded)
        assert "Secure" in flags(answer)
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert "without TLS" not in answer.text


def test_without_a_trusted_proxy_nobody_can_say_that_there_is_tls(mara: House) -> None:
    answer = mara.browser("http://example.com").get("/login", {"X-Forwarded-Proto": "https"})
    assert "Strict-Transport-Security" not in answer.headers
    assert "without TLS" in answer.text


def test_a_person_signs_in_behind_a_proxy_with_tls(new_house: Callable[..., House]) -> None:
    house = new_house(trusted_proxies=1)
    house.user("mara", "admin", hashed_password())
    browser = house.browser("http://ml.example.com")
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "ml.example.com"}
    page = Page(browser.get("/login", forwarded).text)
    fields = {**page.fields("/login"), "name": "mara", "password": PASSWORD}
    own = {"Origin": "https://ml.example.com", "Referer": "https://ml.example.com/login"}
    assert browser.post("/login", fields, forwarded | own).status_code == 303
    assert browser.get("/admin", forwarded).status_code == 200
    [row] = house.look(lambda session: users.sessions(session, users.get_user(session, "mara")))
    assert row.address == "203.0.113.9"
    foreign = {"Origin": "http://ml.example.com", "Referer": "https://ml.example.com/login"}
    assert browser.post("/login", fields, forwarded | foreign).status_code == 403, "another scheme is another site"


# --- Where it leads -----------------------------------------------------------------------------------------

OWN = [
    "/admin",
    "/admin/",
    "/admin/keys",
    "/admin/keys?q=a&state=all",
    "/admin?span=7d",
    "/admin#changes",
    "/admin/a@b",
]
FOREIGN = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/admin\\@evil.example",
    "/admin/\\/evil.example",
    "https://evil.example",
    "https:evil.example",
    "HTTPS://EVIL.EXAMPLE/admin",
    "http:/admin",
    "//evil.example/admin",
    "/admin@evil.example",
    "/admin:80",
    "/admin.evil.example",
    "/administrator",
    "admin",
    "evil.example/admin",
    "@evil.example",
    "javascript:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "/admin\r\nSet-Cookie: a=b",
    "/admin\n/x",
    "/admin\t/x",
    "\t//evil.example",
    " //evil.example",
    "/\t/evil.example",
    "/admin\0",
    "/admin\x1b[2J",
    "/admin/\u202egpj",
    "/admin/\u2028",
    "/logout",
    "/login",
    "/predict",
    "/",
    "",
    "?next=/admin",
]


def lands(answer: TestResponse) -> str:
    """Give where a browser goes, whatever it makes of slashes, and see that it is ours."""
    assert answer.status_code == 303
    location = re.sub(r"[\t\r\n]", "", answer.location).replace("\\", "/")
    target = urlsplit(urljoin(BASE, location))
    assert f"{target.scheme}://{target.netloc}" == BASE
    assert re.match(r"/admin(/|$)", target.path), answer.location
    return answer.location


@pytest.mark.parametrize("wanted", OWN)
def test_after_signing_in_people_are_where_they_wanted_to_be(mara: House, wanted: str) -> None:
    browser = mara.browser()
    page = Page(browser.ask("GET", "/login", query_string={"next": wanted}).text)
    fields = {**page.fields("/login"), "name": "mara", "password": PASSWORD}
    assert fields["next"] == wanted
    assert lands(browser.post("/login", fields)) == wanted
    assert lands(browser.ask("GET", "/login", query_string={"next": wanted})) == wanted


def test_signing_in_leads_to_no_other_place(mara: House) -> None:
    browser = mara.sign_in("mara")
    signed_out = mara.browser()
    for wanted in FOREIGN:
        shown = signed_out.ask("GET", "/login", query_string={"next": wanted})
        if shown.status_code == 400:
            assert "\0" in wanted
            continue
        assert Page(shown.text).fields("/login")["next"] == "/admin", wanted
        assert lands(browser.ask("GET", "/login", query_string={"next": wanted})) == "/admin", wanted
        assert lands(browser.post("/admin/theme", {"theme": "dark", "back": wanted})) == "/admin", wanted
        sent = mara.sign_in("sam", mara.browser())
        token, path = mara.link("sam"), ""
        path = f"/login/{token}"
        assert lands(sent.post(path, {"next": wanted})) == "/admin", wanted


def test_a_password_form_with_a_foreign_place_leads_to_the_dashboard(mara: House) -> None:
    assert lands(by_password(mara.browser(), "mara", PASSWORD, next="//evil.example")) == "/admin"


# --- Users --------------------------------------------------------------------------------------------------


def test_the_last_admin_cannot_be_disabled_or_demoted(mara: House) -> None:
    browser = mara.sign_in("mara")
    for path, fields in (("disable", {}), ("role", {"role": "viewer"}), ("role", {"role": "operator"})):
        answer = browser.post(f"/admin/users/mara/{path}", fields)
        assert (answer.status_code, "is the last admin" in Page(answer.text).text) == (422, True)
        assert browser.get("/admin/users").status_code == 200
    mara.user("eve", "admin")
    assert browser.post("/admin/users/mara/role", {"role": "viewer"}).status_code == 303
    assert browser.get("/admin/users").status_code == 403


BAD_NAMES = [
    "",
    "a b",
    "x" * 64,
    "../admin",
    ".hidden",
    "-x",
    "<b>",
    "mara'--",
    "a/b",
    "mär",
    "m\u202ea",
    "a\nb",
    "u:x",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_users_name_is_plain(mara: House, name: str) -> None:
    answer = mara.sign_in("mara").post("/admin/users", {"name": name, "role": "admin"})
    assert answer.status_code == 422
    assert "cannot be a user's name" in Page(answer.text).text
    assert len(mara.look(users.all_users)) == 2


@pytest.mark.parametrize("role", ["", "root", "ADMIN", "viewer admin"])
def test_a_role_is_one_of_three(mara: House, role: str) -> None:
    browser = mara.sign_in("mara")
    made = browser.post("/admin/users", {"name": "nia", "role": role})
    changed = browser.post("/admin/users/sam/role", {"role": role})
    assert (made.status_code, changed.status_code) == (422, 422)
    assert all("viewer, operator, admin" in Page(answer.text).text for answer in (made, changed))
    assert {each.role for each in mara.look(users.all_users)} == {"admin", "viewer"}


def test_a_users_name_is_taken_once_whatever_its_capitals(mara: House) -> None:
    answer = mara.sign_in("mara").post("/admin/users", {"name": " SAM ", "role": "admin"})
    assert (answer.status_code, mara.person("sam").role) == (422, "viewer")


def test_a_user_that_is_not_there_is_a_page_that_says_so(mara: House) -> None:
    browser = mara.sign_in("mara")
    assert browser.get("/admin/users/nobody").status_code == 404
    for path in ("role", "disable", "enable", "sign-out", "link"):
        answer = browser.post(f"/admin/users/nobody/{path}", {"role": ROLES[0]})
        assert (answer.status_code, answer.mimetype) == (404, "text/html")


def test_a_disabled_user_gets_no_link(mara: House) -> None:
    browser = mara.sign_in("mara")
    browser.post("/admin/users/sam/disable")
    answer = browser.post("/admin/users/sam/link")
    assert (answer.status_code, "/login/" in Page(answer.text).text) == (422, False)


# --- One-time codes -----------------------------------------------------------------------------------------


def test_who_knows_the_password_and_not_the_code_is_nobody(mara: House) -> None:
    mara.second_factor("ted", hashed_password())
    browser = mara.browser()
    assert by_password(browser, "ted", PASSWORD).location.startswith("/login/code")
    assert not browser.signed_in
    token = browser.token()
    wrong = {"csrf_token": token, "code": f"{(int(mara.codes['ted'].now()) + 7) % 1_000_000:06}"}
    assert [browser.post("/login/code", wrong).status_code for _ in range(6)] == [401] * 5 + [429]
    right = {"csrf_token": token, "code": mara.codes["ted"].now()}
    assert browser.post("/login/code", right).status_code == 429
    assert not browser.signed_in


def test_a_stolen_session_cannot_put_another_device_in_place_of_the_one_that_is_on(mara: House) -> None:
    mara.second_factor("ted", hashed_password())
    thief = mara.browsers["ted"].copied()
    thief.get("/admin/account/codes")
    assert thief.post("/admin/account/codes", {"code": "000000"}).status_code == 409
    token = thief.token()
    wrong = {"csrf_token": token, "code": f"{(int(mara.codes['ted'].now()) + 7) % 1_000_000:06}"}
    assert [thief.post("/admin/account/codes/off", wrong).status_code for _ in range(6)] == [422] * 5 + [429]
    assert mara.person("ted").second_factor is not None


# --- On a real server ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server with two processes that answer."""
    made = Server(tmp_path_factory.mktemp("sign-in") / "data")
    made.start()
    yield made
    made.stop()


def test_of_two_who_use_a_link_at_once_on_a_server_one_is_let_in_and_no_log_tells_the_link(server: Server) -> None:
    link = str(server.cli("users", "create", "mara", "--role", "admin")["link"])
    token = link.rpartition("/")[2]
    visitors = [requests.Session() for _ in range(6)]
    forms = [Page(visitor.get(link, timeout=60).text).fields(urlsplit(link).path) for visitor in visitors]
    begun = Barrier(len(visitors), timeout=60)

    def go(visitor: requests.Session, fields: dict[str, str]) -> requests.Response:
        begun.wait()
        return visitor.post(link, fields, timeout=60, allow_redirects=False)

    with ThreadPoolExecutor(len(visitors)) as pool:
        answers = list(pool.map(go, visitors, forms))
    assert sorted(answer.status_code for answer in answers) == [303] + [DEAD] * 5
    in_now = [visitor.get(f"{server.url}/admin", timeout=60, allow_redirects=False).status_code for visitor in visitors]
    assert sorted(in_now) == [200] + [303] * 5

    ids = [answer.headers["X-Request-ID"] for answer in answers]
    log = eventually(lambda: server.log.read_text() if all(each in server.log.read_text() for each in ids) else "")
    assert '"route":"/login/<token>"' in log
    assert token not in log
    assert not [cookie for visitor in visitors for cookie in visitor.cookies.values() if cookie in log]
    assert token.encode() not in databases.everything(server.data_dir)
    for visitor in visitors:
        visitor.close()
