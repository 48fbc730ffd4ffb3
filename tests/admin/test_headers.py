"""What every page says to the browser, and that pages hold nothing that the browser was told not to run."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from werkzeug.test import TestResponse

from tests import databases
from tests.admin.conftest import BASE, DEEDS, Browser, House, Page, admin_rules, paths, unsafe
from webapp.config import shipped
from webapp.db import Database
from webapp.errors import NotFound

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
EVERY_PAGE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Content-Type": "text/html; charset=utf-8",
}
YEAR = 31_536_000
ROOT = Path(__file__).parents[2]
# What only a program says: a path of this machine, a line of a stack trace, a class of the code.
INSIDES = [str(ROOT), "Traceback", "site-packages", "webapp/", "sqlalchemy", "werkzeug", ".py", "Error:", "line "]


def readable(house: House) -> list[str]:
    """Give the address of every page that can be fetched."""
    return [path for rule in admin_rules(house.app) if not unsafe(rule) for path in paths(house, rule)]


def pages(house: House) -> Iterator[tuple[str, TestResponse]]:
    """Give every page there is, as an admin and as nobody, and after every form that is refused."""
    for path in readable(house):
        for browser in (house.admin, house.browser()):
            answer = browser.get(path)
            if answer.mimetype == "text/html" and answer.status_code != 303:
                yield path, answer
    for name, deed in DEEDS.items():
        yield name, house.admin.post(deed.address(house), {"csrf_token": ""})
    yield "refused forms", house.admin.send("/admin/keys/new", "/admin/keys", name="", rate_limit="<x>")
    yield "refused rules", house.admin.send(*2 * [f"{version(house)}/signature"], **{"f0-minimum": "x"})
    yield "refused instance", house.admin.send(*2 * [f"{version(house)}/try"], f0="x")
    yield "an answer", house.admin.send(*2 * [f"{version(house)}/try"])
    yield "wrong filters", house.admin.get("/admin/predictions?input=x&low=7&version=x")
    yield "nothing found", house.admin.get("/admin/predictions?model=none")
    yield "no such page", house.admin.get("/admin/nothing/here")
    yield "not for viewers", house.viewer.get("/admin/users")
    yield "halfway", DEEDS["sign in by a code"].browser(house).get("/login/code")
    yield "a fragment", house.admin.get("/admin/models/churn/workers", {"HX-Request": "true"})
    yield "progress", house.admin.get(f"/admin/uploads/{house.facts['upload_id']}", {"HX-Request": "true"})


def version(house: House) -> str:
    return f"/admin/models/churn/versions/{house.facts['number']}"


# --- Headers ------------------------------------------------------------------------------------------------


def test_every_page_has_every_header_once(museum: House) -> None:
    count = 0
    for name, answer in pages(museum):
        for header, value in EVERY_PAGE.items():
            assert answer.headers.getlist(header) == [value], (name, header)
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])
        assert "Cookie" in answer.headers.get("Vary", "Cookie")
        assert "Server" not in answer.headers
        count += 1
    assert count > 60


def test_what_leads_on_is_not_kept_either(museum: House) -> None:
    for path in readable(museum):
        answer = museum.browser().get(path)
        if answer.status_code == 303:
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_files_to_download_are_downloads(museum: House) -> None:
    for path, kind in (
        (f"{version(museum)}/artifact", "application/octet-stream"),
        ("/admin/predictions/export/csv", "text/csv; charset=utf-8"),
        ("/admin/predictions/export/jsonl", "application/x-ndjson; charset=utf-8"),
    ):
        answer = museum.admin.get(path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind)
        assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert re.search("no-store|no-cache|max-age=0", answer.headers["Cache-Control"])


# --- Static files -------------------------------------------------------------------------------------------


def linked(page: Page) -> set[str]:
    """Give the files that a page takes in."""
    named = {attributes.get("src") or attributes.get("href") or "" for _, attributes in page.elements}
    return {each.partition("#")[0] for each in named if each.startswith("/static/")}


def test_static_files_are_kept_for_a_year_under_an_address_that_follows_their_content(museum: House) -> None:
    found = linked(museum.admin.page("/admin")) | linked(museum.browser().page("/login"))
    assert len(found) >= 4
    for address in found:
        assert re.fullmatch(r"/static/[\w./@-]+\?v=[0-9a-f]{12}", address), address
        answer = museum.browser().get(address)
        assert answer.status_code == 200
        assert f"max-age={YEAR}" in answer.headers["Cache-Control"]
        assert "no-store" not in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
        kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[
            urlsplit(address).path.split(".")[-1]
        ]
        assert answer.mimetype == kind


def test_another_content_has_another_address(museum: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.css").write_text("a {}")
    monkeypatch.setattr(museum.app, "static_folder", str(tmp_path))
    with museum.app.test_request_context():
        first = museum.app.jinja_env.globals["asset"]("app.css")
    (tmp_path / "app.css").write_text("b {}")
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "app.css").rename(other / "app.css")
    monkeypatch.setattr(museum.app, "static_folder", str(other))
    with museum.app.test_request_context():
        assert museum.app.jinja_env.globals["asset"]("app.css") != first


CLIMBING = [
    "/static/../pyproject.toml",
    "/static/%2e%2e/pyproject.toml",
    "/static/..%2fpyproject.toml",
    "/static/..%5cpyproject.toml",
    "/static/vendor/../../pyproject.toml",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/....//pyproject.toml",
    "/static/app.css/../../wsgi.py",
    "/static/app.css%00.js",
    "/static/.",
    "/static/vendor",
    "/static/",
    "/static/~root/.profile",
]


@pytest.mark.parametrize("path", CLIMBING)
def test_no_address_climbs_out_of_the_static_files(museum: House, path: str) -> None:
    answer = museum.browser().ask("GET", path, follow_redirects=True)
    assert answer.status_code in {400, 404}
    assert "build-backend" not in answer.text
    assert "root:" not in answer.text


def test_no_listing_and_no_source_is_served(museum: House) -> None:
    for path in (
        "/templates/base.html",
        "/wsgi.py",
        "/webapp/app.py",
        "/.git/config",
        "/data/secret-key",
        "/robots.txt~",
    ):
        assert museum.browser().get(path).status_code == 404


# --- What pages hold ----------------------------------------------------------------------------------------

ADDRESSES = {"href", "src", "action", "formaction", "xlink:href", "poster", "data", "hx-get", "hx-post", "cite", "ping"}


def test_no_page_holds_a_script_a_style_or_a_handler_of_its_own(museum: House) -> None:
    for name, answer in pages(museum):
        page = Page(answer.text)
        for tag, attributes in page.elements:
            assert tag not in {"style", "base", "object", "embed", "iframe", "frame", "applet"}, name
            assert tag != "script" or (attributes.get("src") or "").startswith("/static/"), name
            handlers = [each for each in attributes if each.startswith(("on", "hx-on", "hx-vals", "hx-vars", "x-on"))]
            assert handlers == [], (name, tag)
            assert "style" not in attributes, (name, tag)
            assert not any("javascript:" in (value or "").lower() for value in attributes.values()), (name, tag)
        assert [data for inside, data in page.texts if inside in {"script", "style"} and data.strip()] == []


def test_no_page_takes_anything_from_elsewhere(museum: House) -> None:
    for name, answer in pages(museum):
        for tag, attributes in Page(answer.text).elements:
            for attribute in attributes.keys() & ADDRESSES:
                address = attributes[attribute] or ""
                own = address.startswith(("/", "#", "?")) and not address.startswith("//")
                assert own or (tag == "link" and address.startswith("data:image/svg+xml")), (name, tag, address)


def test_every_form_that_changes_something_is_posted_with_a_token(museum: House) -> None:
    for path in readable(museum):
        answer = museum.admin.get(path)
        if answer.mimetype != "text/html" or answer.status_code != 200:
            continue
        page = Page(answer.text)
        forms = [attributes for tag, attributes in page.elements if tag == "form"]
        assert len(forms) == len(page.forms)
        for attributes, (_, fields) in zip(forms, page.forms, strict=True):
            names = {name for name, _ in fields}
            assert ("csrf_token" in names) is (attributes.get("method") == "post"), (path, attributes)


def test_own_scripts_and_styles_stay_within_the_policy() -> None:
    scripts = (shipped("static") / "app.js").read_text()
    assert not re.search(r"\beval\(|new Function|innerHTML|outerHTML\s*=|insertAdjacentHTML|document\.write", scripts)
    for name in ("app.css", "icons.svg"):
        text = (shipped("static") / name).read_text()
        assert "@import" not in text
        assert not re.search(r"url\((?!['\"]?(data:|#))|<script|\son\w+=", text)


def test_htmx_is_told_to_run_no_scripts_and_to_ask_nobody_else(museum: House) -> None:
    metas = [a for tag, a in museum.admin.page("/admin").elements if tag == "meta" and a.get("name") == "htmx-config"]
    told = json.loads(metas[0]["content"] or "")
    assert {
        name: told[name] for name in ("allowEval", "allowScriptTags", "includeIndicatorStyles", "selfRequestsOnly")
    } == {
        "allowEval": False,
        "allowScriptTags": False,
        "includeIndicatorStyles": False,
        "selfRequestsOnly": True,
    }


# --- Hosts --------------------------------------------------------------------------------------------------

ANSWERED = [
    "/admin",
    "/login",
    "/admin/keys",
    "/admin/nothing",
    "/",
    "/health",
    "/models",
    "/static/app.css",
    "/nothing",
]


def test_a_host_that_is_not_trusted_is_refused(new_house: Callable[..., House]) -> None:
    house = new_house(trusted_hosts="ml.example.com, .internal")
    for base in ("http://ml.example.com", "http://ml.example.com:8000", "http://a.internal", "https://ml.example.com"):
        assert house.browser(base).get("/login").status_code == 200, base
    for base in (
        "http://evil.example",
        "http://ml.example.com.evil.example",
        "http://127.0.0.1:8000",
        "http://xinternal",
    ):
        for path in ANSWERED:
            answer = house.browser(base).get(path)
            assert answer.status_code == 400, (base, path)
            assert "Location" not in answer.headers
            assert not [each for each in INSIDES if each in answer.text]


def test_a_wrong_host_with_a_right_session_changes_nothing(new_house: Callable[..., House]) -> None:
    house = new_house(trusted_hosts="127.0.0.1")
    admin, token = house.admin, house.admin.token()
    fields = {"csrf_token": token, "name": "nia", "role": "admin"}
    answer = admin.ask("POST", "/admin/users", data=fields, headers={"Host": "evil.example"})
    assert (answer.status_code, len(house.audited("users.create"))) == (400, 1)


@pytest.mark.parametrize(
    "path", ["//evil.example", "//evil.example/admin", "///admin", "/\\evil.example", "//evil.example/.."]
)
def test_no_address_leads_to_another_site(museum: House, path: str) -> None:
    for browser in (museum.admin, museum.browser()):
        answer = browser.client.open(environ_overrides={"PATH_INFO": path, "RAW_URI": path}, base_url=BASE)
        location = answer.headers.get("Location", "/")
        assert re.match(rf"(?!//)/|{re.escape(BASE)}/(?!/)", location), location


@pytest.mark.parametrize(
    "host", ["", "a b", "[::1", "x" * 5000, "ev\til", "a/b", "a@b", "a:b:c", "[", "127.0.0.1:99999999", "ü"]
)
def test_a_host_that_is_none_is_no_error_of_ours(museum: House, host: str) -> None:
    for browser in (museum.admin, museum.browser()):
        for path in ("/admin", "/login", "/"):
            assert browser.ask("GET", path, headers={"Host": host}).status_code < 500, path


# --- Errors -------------------------------------------------------------------------------------------------


HELD = "could not open /srv/secret.txt"


def broken() -> str:
    """Fail as code does that has a fault."""
    raise RuntimeError(HELD)


def cases(house: House, browser: Browser) -> Iterator[tuple[int, str, TestResponse]]:
    """Give errors of each kind, on a page's path and on the API's."""
    yield 404, "page", browser.get("/admin/nothing")
    yield 404, "page", browser.get("/admin/models/no-such-model")
    yield 404, "page", browser.get("/login/no-such-link")
    yield 404, "api", browser.get("/nothing")
    yield 405, "page", browser.get("/logout")
    yield 405, "page", browser.ask("DELETE", "/admin/keys")
    yield 405, "api", browser.get("/predict")
    yield 400, "page", browser.get("/admin/keys?api_key=x")
    yield 400, "api", browser.get("/models?api_key=x")
    yield 413, "page", browser.ask("POST", "/admin/users", data=b"x" * (house.settings.max_body_bytes + 1))
    key = house.facts["key"]
    yield (
        413,
        "api",
        browser.ask(
            "POST", "/models/churn/predict", data=b"x" * (house.settings.max_body_bytes + 1), headers={"X-API-Key": key}
        ),
    )
    yield 500, "page", browser.get("/admin/system")
    yield 500, "api", browser.get("/health")


def test_errors_are_pages_for_people_and_problems_for_programs(
    lived_in: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lived_in.parts.follower.catch_up(loaded=False)
    broken.role, broken.scope = "viewer", None  # type: ignore[attr-defined]
    monkeypatch.setitem(lived_in.app.view_functions, "admin_system.show", broken)
    monkeypatch.setitem(lived_in.app.view_functions, "health.health", broken)
    for status, kind, answer in cases(lived_in, lived_in.admin):
        assert answer.status_code == status, answer.text[:300]
        assert not [each for each in (*INSIDES, "secret.txt", "could not") if each in answer.text], answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        request_id = answer.headers["X-Request-ID"]
        assert request_id in answer.text
        if kind == "page":
            assert {name: answer.headers[name] for name in EVERY_PAGE} == EVERY_PAGE
            assert Page(answer.text).text.startswith(HTTPStatus(status).phrase)
        else:
            assert answer.mimetype == "application/problem+json"
            document = answer.get_json()
            assert (document["status"], document["request_id"]) == (status, request_id)
        if status == 405:
            assert answer.headers["Allow"]
        if status == 500:
            assert "it has been logged" in answer.text
    errors = [vars(record) for record in caplog.records if record.levelno >= logging.ERROR]
    assert [each["kind"] for each in errors] == ["RuntimeError", "RuntimeError"]
    assert all("broken" in each["places"] for each in errors)
    assert "could not open" not in str(errors), "the message may hold what the caller sent"


def test_a_fault_in_a_form_is_a_page_and_changes_nothing(museum: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = museum.state()

    def faulty(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("webapp.admin.users.users.set_role", faulty)
    answer = museum.admin.post("/admin/users/sam/role", {"role": "admin"})
    assert (answer.status_code, answer.mimetype) == (500, "text/html")
    assert museum.state() == before


def test_without_the_database_people_get_a_page_that_says_so(house: House) -> None:
    admin, nobody = house.admin, house.browser()
    token = admin.token()
    with databases.away(house.settings.data_dir, house.parts.database):
        answers = [
            admin.get("/admin"),
            admin.get("/admin/keys"),
            admin.post("/admin/users", {"csrf_token": token, "name": "nia", "role": "viewer"}),
            admin.get("/login"),
            nobody.get("/login/some-link"),
        ]
    for answer in answers:
        assert (answer.status_code, answer.mimetype) == (503, "text/html")
        assert {name: answer.headers[name] for name in EVERY_PAGE} == EVERY_PAGE
        assert "does not answer" in Page(answer.text).text
        assert "Retry-After" in answer.headers
    assert nobody.get("/login").status_code == 200
    assert admin.get("/admin").status_code == 200


def test_a_finding_is_not_taken_for_a_fault(museum: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_self: Database) -> None:
        raise NotFound("gone", "<b>It is gone.</b>")

    monkeypatch.setattr(Database, "reading", gone)
    answer = museum.browser().get("/login/x")
    assert (answer.status_code, "&lt;b&gt;It is gone." in answer.text) == (404, True)


# --- The root -----------------------------------------------------------------------------------------------

BROWSERS = [
    "text/html",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "text/html;q=0.9, */*;q=0.1",
]
PROGRAMS = [None, "*/*", "application/json", "application/json, text/html;q=0.5", "text/plain", "image/png, */*"]


@pytest.mark.parametrize("accept", BROWSERS)
def test_the_root_sends_people_to_the_admin_ui(museum: House, accept: str) -> None:
    answer = museum.browser().get("/", {"Accept": accept})
    assert (answer.status_code, answer.location) == (303, "/admin")


@pytest.mark.parametrize("accept", PROGRAMS)
def test_the_root_tells_programs_where_things_are(museum: House, accept: str | None) -> None:
    answer = museum.browser().get("/", {"Accept": accept} if accept else None)
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.get_json()["predict"] == "/predict"
