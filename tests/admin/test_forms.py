"""Forms: what another site's page sends, what was sent twice, and what is absurd, changes nothing."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from itsdangerous import TimestampSigner
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse, encode_multipart

from tests.admin.conftest import BASE, DEEDS, PASSWORD, RECORD, Browser, Deed, House, Page
from webapp.predictions import log
from webapp.uploads import waiting

FOREIGN_SITES = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": BASE},
    {"Sec-Fetch-Site": "Same-Origin"},
    {"Sec-Fetch-Site": "same-origin, cross-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://127.0.0.1:8001"},
    {"Origin": "https://127.0.0.1:8000"},
    {"Origin": "http://127.0.0.1:8000.evil.example"},
    {"Origin": f"{BASE}/"},
    {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
]
OWN_SITES = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": BASE},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example"},
]


def unchanged(house: House, before: dict[str, Any]) -> bool:
    """Whether everything that is stored is as it was; names what is not."""
    after = house.state()
    assert {name for name in after if after[name] != before[name]} == set()
    return True


# --- Proof that it was meant --------------------------------------------------------------------------------


def test_every_form_works_in_this_house(lived_in: House) -> None:
    """What the tests below see refused would have been done."""
    for name, deed in DEEDS.items():
        before, browser = lived_in.state(), deed.browser(lived_in)
        answer = deed.do(lived_in, browser)
        assert answer.status_code in {200, 303}, (name, Page(answer.text).text[:300])
        cookies = answer.headers.getlist("Set-Cookie")
        assert lived_in.state() != before or any(each.startswith("theme=") for each in cookies), name


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_a_form_without_the_token_of_its_session_changes_nothing(museum: House, deed: Deed) -> None:
    browser, path = deed.browser(museum), deed.address(museum)
    before = museum.state()
    strangers = {museum.browser().token(), museum.admin.token() if browser is not museum.admin else ""}
    for token in (None, "", "x", *strangers):
        fields = deed.fields(museum, browser)
        right = fields.pop("csrf_token")
        sent = fields if token is None else {**fields, "csrf_token": token}
        answer = browser.ask("POST", path, data=sent, query_string={"csrf_token": right})
        assert (answer.status_code, answer.mimetype) == (400, "text/html")
        assert "another session" in Page(answer.text).text
        assert "theme=" not in str(answer.headers.getlist("Set-Cookie"))
    assert unchanged(museum, before)


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_a_form_that_another_site_sends_changes_nothing_whatever_token_it_holds(museum: House, deed: Deed) -> None:
    browser, path = deed.browser(museum), deed.address(museum)
    before = museum.state()
    for headers in FOREIGN_SITES:
        answer = browser.post(path, deed.fields(museum, browser), headers)
        assert (answer.status_code, answer.mimetype) == (403, "text/html"), headers
        assert "another site" in Page(answer.text).text
    assert unchanged(museum, before)


@pytest.mark.parametrize("headers", OWN_SITES)
def test_a_form_that_an_own_page_sends_is_taken(house: House, headers: dict[str, str]) -> None:
    answer = house.admin.post("/admin/users", {"name": "nia", "role": "viewer"}, headers)
    assert answer.status_code == 200
    assert house.person("nia")


def test_a_token_goes_with_its_cookie(house: House) -> None:
    """A cookie that another page of the host planted is no help, nor is a token that somebody read elsewhere."""
    first, second = house.cast("admin"), house.cast("admin")
    assert first.token() != second.token()
    assert first.post("/admin/account/sessions", {"csrf_token": second.token()}).status_code == 400
    second.cookie = first.cookie
    assert second.post("/admin/theme", {"theme": "dark", "csrf_token": first.token()}).status_code == 303


def test_a_token_of_before_signing_in_is_of_another_session(house: House) -> None:
    house.user("admin", "admin")
    browser = house.browser()
    token = browser.token()
    house.sign_in("admin", browser)
    assert browser.post("/admin/theme", {"theme": "dark", "csrf_token": token}).status_code == 400


def test_an_hour_old_form_is_still_taken_in_a_living_session(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(TimestampSigner, "get_timestamp", lambda _self: int(time.time()) - 3 * 3600)
        browser = house.admin
        token = browser.token()
    assert browser.token() != token
    assert browser.post("/admin/users", {"name": "nia", "role": "viewer", "csrf_token": token}).status_code == 200


def test_a_script_may_send_the_token_in_a_header(house: House) -> None:
    browser = house.admin
    answer = browser.ask("POST", "/admin/theme", data={"theme": "dark"}, headers={"X-CSRFToken": browser.token()})
    assert answer.status_code == 303


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/octet-stream", ""])
def test_a_body_that_is_no_form_is_refused(house: House, content_type: str) -> None:
    browser = house.admin
    body = f"csrf_token={browser.token()}&name=nia&role=viewer"
    answer = browser.ask("POST", "/admin/users", data=body, content_type=content_type)
    assert answer.status_code == 400
    assert len(house.audited("users.create")) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "post"])
def test_other_methods_change_nothing(museum: House, method: str) -> None:
    before = museum.state()
    for name in ("disable a user", "revoke a key", "sign out"):
        answer = museum.admin.ask(method, DEEDS[name].address(museum), data={"csrf_token": museum.admin.token()})
        assert answer.status_code in {405, 501}
    assert unchanged(museum, before)


# --- Sent twice ---------------------------------------------------------------------------------------------


def new_key(browser: Browser, **typed: Any) -> dict[str, Any]:
    """Give the form of a new key, filled in."""
    return {**browser.page("/admin/keys/new").fields("/admin/keys"), "name": "till-app", **typed}


def test_the_form_of_a_new_key_is_good_for_one_key(house: House) -> None:
    browser = house.admin
    fields = new_key(browser)
    first, second = browser.post("/admin/keys", fields), browser.post("/admin/keys", fields)
    assert (first.status_code, second.status_code) == (200, 409)
    assert "is made already" in Page(second.text).text
    [key] = house.every_key()
    assert first.text.count(f"mp_live_{key.id}_") >= 1
    assert "mp_live_" not in second.text


def test_a_form_that_was_refused_is_good_for_the_next_attempt(house: House) -> None:
    browser = house.admin
    refused = browser.post("/admin/keys", new_key(browser, rate_limit="fast"))
    assert (refused.status_code, house.every_key()) == (422, [])
    fields = {**Page(refused.text).fields("/admin/keys"), "rate_limit": "10/minute"}
    assert browser.post("/admin/keys", fields).status_code == 200
    assert [key.rate_limit for key in house.every_key()] == ["10/minute"]


@pytest.mark.parametrize("key_id", ["", "x", "0" * 16])
def test_without_a_form_there_is_no_key(house: House, key_id: str) -> None:
    fields = {"key_id": key_id, "name": "till-app", "scopes": "predict", "reach": "every"}
    assert house.admin.post("/admin/keys", fields).status_code == 409
    assert house.every_key() == []


def test_a_form_that_is_sent_twice_at_once_makes_one_key(house: House) -> None:
    """As a double click does: the second request leaves before the first one's answer changes the cookie."""
    browser = house.admin
    fields, cookie = new_key(browser), browser.cookie
    browser.post("/admin/keys", fields)
    browser.cookie = cookie
    assert browser.post("/admin/keys", fields).status_code == 409
    assert len(house.every_key()) == 1


# --- What is said must be so --------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["", "mobile", "mobile-app\u200b", "yes"])
def test_a_key_is_revoked_when_its_name_is_typed(museum: House, typed: str) -> None:
    before, path = museum.state(), f"/admin/keys/{museum.facts['key_id']}/revoke"
    answer = museum.admin.send(path, path, name=typed)
    assert answer.status_code == 422
    assert "mobile-app" in Page(answer.text).text
    assert unchanged(museum, before)


def test_looking_at_the_question_revokes_nothing(museum: House) -> None:
    before = museum.state()
    for _ in range(2):
        museum.admin.page(f"/admin/keys/{museum.facts['key_id']}/revoke")
    assert unchanged(museum, before)


def history(house: House) -> tuple[int | None, int]:
    return house.active(), len(house.audited("models.activate", "models.rollback"))


def test_a_roll_back_goes_where_its_button_said(house: House) -> None:
    for _ in range(3):
        house.activate(house.version())
    page = house.operator.page("/admin/models/churn")
    fields = page.fields("/admin/models/churn/rollback")
    assert fields["to"] == "2"
    assert "Roll back to v2" in page.text
    assert house.operator.post("/admin/models/churn/rollback", fields).status_code == 303
    assert history(house) == (2, 4)


def test_a_roll_back_is_refused_when_the_active_version_has_changed_meanwhile(house: House) -> None:
    for _ in range(3):
        house.activate(house.version())
    fields = house.operator.page("/admin/models/churn").fields("/admin/models/churn/rollback")
    house.activate(1)
    answer = house.operator.post("/admin/models/churn/rollback", fields)
    assert (answer.status_code, answer.location) == (303, "/admin/models/churn")
    assert "has changed since" in house.operator.page("/admin/models/churn").text
    assert history(house) == (1, 4)


def test_the_same_roll_back_sent_twice_goes_one_version_back(house: House) -> None:
    for _ in range(3):
        house.activate(house.version())
    fields = house.operator.page("/admin/models/churn").fields("/admin/models/churn/rollback")
    for _ in range(2):
        house.operator.post("/admin/models/churn/rollback", fields)
    assert history(house) == (2, 4)


@pytest.mark.parametrize("to", [None, "", "x", "2.0"])
def test_a_roll_back_that_names_no_target_is_refused(house: House, to: str | None) -> None:
    for _ in range(3):
        house.activate(house.version())
    house.operator.post("/admin/models/churn/rollback", {} if to is None else {"to": to})
    assert history(house) == (3, 3)


def test_activating_what_is_active_changes_nothing_and_says_so(museum: House) -> None:
    before = museum.state()
    assert museum.operator.post("/admin/models/churn/versions/2/activate").location == "/admin/models/churn"
    assert "already the active one" in museum.operator.page("/admin/models/churn").text
    before |= {name: museum.state()[name] for name in ("users", "sign_ins", "sign_in_links", "audit_records")}
    assert unchanged(museum, before)


# --- Absurdities --------------------------------------------------------------------------------------------

# Choices: what is none of them counts as the one that stands first.
CHOICES = {"days", "hours", "next", "back", "key_id", "to", "reach", "username"}
LONG = "x" * 100_000
LONG_TEXTS_ARE_KEPT = {
    ("edit a signature", f"f{number}-{part}") for number in range(2) for part in ("description", "message")
}


def test_a_field_that_is_absurdly_long_is_refused_and_changes_nothing(museum: House) -> None:
    before, kept = museum.state(), []
    for name, deed in DEEDS.items():
        browser = deed.browser(museum)
        fields = deed.fields(museum, browser)
        for field in (
            fields.keys() - CHOICES - {"csrf_token", "file"} - {f for n, f in LONG_TEXTS_ARE_KEPT if n == name}
        ):
            sent = {**deed.fields(museum, browser), field: LONG}
            answer = browser.post(deed.address(museum), sent)
            if not 400 <= answer.status_code < 500:
                kept.append((name, field, answer.status_code))
    assert kept == []
    assert unchanged(museum, before)


@pytest.mark.parametrize(("deed", "field"), sorted(LONG_TEXTS_ARE_KEPT))
def test_texts_of_rules_that_are_absurdly_long_are_refused(lived_in: House, deed: str, field: str) -> None:
    browser = DEEDS[deed].browser(lived_in)
    fields = {**DEEDS[deed].fields(lived_in, browser), field: LONG}
    assert browser.post(DEEDS[deed].address(lived_in), fields).status_code in range(400, 500)


@pytest.mark.parametrize("deed", ["create a key", "edit a key"])
@pytest.mark.parametrize("field", ["scopes", "models"])
def test_lists_that_are_absurdly_long_are_refused(museum: House, deed: str, field: str) -> None:
    before, browser = museum.state(), museum.admin
    for sent in (LONG, [f"x{number}" for number in range(10_000)]):
        fields = {**DEEDS[deed].fields(museum, browser), field: sent}
        fields.pop("every_model", None)
        assert browser.post(DEEDS[deed].address(museum), fields).status_code in range(400, 500)
    assert unchanged(museum, before)


def test_a_field_with_the_character_nul_is_refused(museum: House) -> None:
    """PostgreSQL takes it in no text."""
    before = museum.state()
    for name, deed in DEEDS.items():
        browser = deed.browser(museum)
        for field in deed.fields(museum, browser).keys() - {"csrf_token", "file"}:
            answer = browser.post(deed.address(museum), {**deed.fields(museum, browser), field: "a\0b"})
            assert (answer.status_code, answer.mimetype) == (400, "text/html"), (name, field)
    for path in ("/admin/keys?q=%00", "/admin/audit?actor=a%00", "/admin/predictions/find?id=%00", "/login?next=%00"):
        assert museum.admin.get(path).status_code == 400
    assert unchanged(museum, before)


NUMBERS = ["-1", "0", "1.5", "x", "", "9" * 9, "9" * 12, "9" * 20, "9" * 5000, "1e9", "\u0661", "NaN", "0x10"]


def test_no_number_in_an_address_or_a_form_is_an_error_of_ours(museum: House) -> None:
    key = museum.facts["key_id"]
    for number in NUMBERS:
        for path in (
            f"/admin/audit?before={number}",
            f"/admin/keys?page={number}",
            f"/admin/predictions?version={number}&low={number}",
            f"/admin/models/churn/versions/{number[:30]}",
            f"/admin/models/churn/versions/{number[:30]}/signature",
            f"/admin/models/churn/versions/{number[:30]}/try",
            f"/admin?span={number}",
            f"/admin/alerts?before={number}",
            f"/admin/alerts/{number[:30] or '0'}",
            f"/admin/webhooks/{number[:30] or '0'}",
        ):
            assert museum.admin.get(path).status_code in {200, 404, 422}, path
    for number in NUMBERS:
        typed = {"csrf_token": museum.admin.token(), "name": "", "hours": number, "days": number, "to": number}
        for path in (f"/admin/keys/{key}/revoke", f"/admin/models/none/versions/{number[:30]}/activate"):
            assert 400 <= museum.admin.post(path, typed).status_code < 500, (path, number)


@pytest.mark.parametrize("days", [number for number in NUMBERS if number != "-1"])
def test_a_key_lives_for_a_time_that_a_calendar_has(house: House, days: str) -> None:
    assert house.admin.post("/admin/keys", new_key(house.admin, days=days)).status_code in {200, 422}


@pytest.mark.parametrize("hours", NUMBERS)
def test_a_rolled_key_ends_within_a_month(house: House, hours: str) -> None:
    key_id, _ = house.key()
    assert house.admin.post(f"/admin/keys/{key_id}/roll", {"hours": hours}).status_code == 200
    old = next(key for key in house.every_key() if key.id == key_id)
    assert (old.expires_at - old.created_at).days <= 30


# --- Files --------------------------------------------------------------------------------------------------

KIB = 1024


def send(browser: Browser, path: str, fields: dict[str, Any]) -> TestResponse:
    """Send a form that brings files."""
    parts = {name: FileStorage(*value) if isinstance(value, tuple) else value for name, value in fields.items()}
    boundary, body = encode_multipart(parts)
    return browser.ask("POST", path, data=body, content_type=f"multipart/form-data; boundary={boundary}")


def upload(browser: Browser, content: bytes, name: str = "m.skops", **more: Any) -> TestResponse:
    """Upload a file by the form."""
    fields = browser.page("/admin/upload").fields("/admin/upload")
    return send(browser, "/admin/upload", {**fields, "model": "new", "file": (io.BytesIO(content), name), **more})


def test_a_file_that_is_larger_than_any_may_be_is_refused_in_words(new_house: Callable[..., House]) -> None:
    house = new_house(max_upload_bytes=64 * KIB)
    answer = upload(house.operator, b"x" * (64 + 1024 + 1) * KIB)
    assert (answer.status_code, answer.mimetype) == (413, "text/html")
    assert len(Page(answer.text).text) > 60
    assert list(house.settings.quarantine_dir.iterdir()) == []


def test_a_file_above_the_limit_that_came_through_is_refused_by_its_inspection(new_house: Callable[..., House]) -> None:
    house = new_house(max_upload_bytes=64 * KIB)
    browser = house.operator
    place = upload(browser, b"x" * 65 * KIB).location
    pending = house.change(lambda session: waiting.claim(session, "a worker"))
    waiting.work(house.parts.desk, pending)
    page = browser.page(place)
    assert "upload_too_large" in page.text
    assert list(house.settings.quarantine_dir.iterdir()) == []


def test_only_the_form_that_brings_files_takes_a_large_body(new_house: Callable[..., House]) -> None:
    house = new_house(max_body_bytes=64 * KIB, max_upload_bytes=10 * KIB * KIB)
    admin = house.admin
    assert upload(admin, b"x" * 1024 * KIB).status_code == 303
    token = admin.token()
    for path in ("/admin/users", "/admin/keys", "/admin/theme", "/login", "/admin/models/churn/versions/1/signature"):
        body = {"csrf_token": token, "name": "x" * 65 * KIB}
        assert admin.post(path, body).status_code == 413, path
    files = {"csrf_token": token, "name": "x", "file": (io.BytesIO(b"x" * 65 * KIB), "x")}
    assert send(admin, "/admin/users", files).status_code == 413


# Werkzeug leaves the parts that it read to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_form_of_very_many_parts_is_refused(house: House) -> None:
    many = {f"field-{number}": "x" for number in range(1100)}
    assert upload(house.operator, b"x", **many).status_code == 413


@pytest.mark.parametrize("missing", ["file", "model"])
def test_an_upload_without_what_it_needs_comes_back_with_words(house: House, missing: str) -> None:
    browser = house.operator
    fields = {"model": "new", "file": (io.BytesIO(b"x"), "m.skops"), "label": "spring"}
    fields.pop(missing)
    answer = browser.post("/admin/upload", fields)
    assert answer.status_code == 422
    page = Page(answer.text)
    assert page.fields("/admin/upload")["label"] == "spring", "what was typed stays"
    assert {"file": "Choose the model's file", "model": "cannot be a model's name"}[missing] in page.text
    assert list(house.settings.quarantine_dir.iterdir()) == []


def test_what_signed_out_people_send_is_not_even_read(new_house: Callable[..., House]) -> None:
    house = new_house(max_upload_bytes=64 * KIB)
    fields = {"model": "new", "file": (io.BytesIO(b"x" * 4096 * KIB), "m.skops"), "csrf_token": "x"}
    answer = send(house.browser(), "/admin/upload", fields)
    assert (answer.status_code, answer.location) == (303, "/login")


@pytest.mark.sqlite("readers of PostgreSQL keep nobody waiting")
def test_a_slow_download_keeps_nobody_from_writing(house: House) -> None:
    house.version()
    records = [{**RECORD, "id": f"{number:032x}-0"} for number in range(1200)]
    house.change(lambda session: log.insert(session, log.Piece("a-host", "a-segment", records, 1)))
    browser = house.operator
    answer = browser.client.get("/admin/predictions/export/csv", base_url=BASE, buffered=False)
    lines = iter(answer.response)
    next(lines), next(lines)
    try:
        with closing(sqlite3.connect(house.settings.data_dir / "modelport.db", timeout=0)) as connection, connection:
            connection.execute("UPDATE users SET signed_in_at = NULL")
    finally:
        answer.close()


def test_signing_in_by_a_form_needs_its_token_too(museum: House) -> None:
    """Or another site could sign a person in as somebody else, who then reads what is typed."""
    browser = museum.browser()
    assert browser.post("/login", {"name": "pat", "password": PASSWORD, "csrf_token": ""}).status_code == 400
    assert not browser.signed_in
