"""Roles: every route names who it is for, and opens to them and to nobody else."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from tests.admin.conftest import DEEDS, Browser, Deed, House, Page, admin_rules, paths, unsafe
from webapp import app as composition
from webapp import keys
from webapp.admin.guard import ANYONE, SAFE_METHODS
from webapp.api import native
from webapp.users import ROLES, includes

ROOT = Path(__file__).parents[2]
NOBODY = "nobody"
# The API's description: a key of any scope opens it, and so does a sign-in; see test_openapi.py.
FOR_BOTH = frozenset({"openapi.show", "admin_docs.show"})


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that writes the document, which is in no package."""
    spec = importlib.util.spec_from_file_location("roles", ROOT / "scripts" / "roles.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def role_of(app: Flask, rule: Rule) -> str:
    """Give the role that a route declares."""
    role: str = app.view_functions[rule.endpoint].role  # type: ignore[attr-defined] # what these tests are about
    return role


def asked(house: House) -> Iterator[tuple[Rule, str, str]]:
    """Give every way to ask every route: rule, method, address."""
    for rule in admin_rules(house.app):
        for path in paths(house, rule):
            for method in sorted((rule.methods or set()) - {"OPTIONS"}):
                yield rule, method, path


def deed_at(house: House, path: str) -> Deed:
    """Give what a form that is sent to a path does."""
    return next(deed for deed in DEEDS.values() if deed.address(house) == path)


def outcome(answer: TestResponse, path: str = "") -> str:
    """Tell whether a route opened, refused for the role, or led to the sign-in page."""
    if answer.status_code == 303 and urlsplit(answer.location).path == "/login" and path != "/login/code":
        return "sign in"
    if answer.status_code == 403:
        return "refused"
    assert answer.status_code < 500, answer.text[:500]
    assert answer.status_code != 401
    return "opened"


def expected(role: str, needed: str) -> str:
    """Give what should happen."""
    if needed == ANYONE:
        return "opened"
    if role == NOBODY:
        return "sign in"
    return "opened" if includes(role, needed) else "refused"


# --- What routes say ----------------------------------------------------------------------------------------


def test_every_route_of_the_admin_ui_names_a_role(museum: House) -> None:
    rules = admin_rules(museum.app)
    assert len(rules) > 40
    nameless = [rule.endpoint for rule in rules if not hasattr(museum.app.view_functions[rule.endpoint], "role")]
    assert nameless == []
    assert {role_of(museum.app, rule) for rule in rules} == {ANYONE, *ROLES}


def test_no_page_is_outside_of_the_admin_ui(museum: House) -> None:
    """A route under its paths that belongs to none of its blueprints would pass the guard by."""
    inside = {rule.endpoint for rule in admin_rules(museum.app)}
    for rule in museum.app.url_map.iter_rules():
        assert (rule.endpoint in inside) is rule.rule.startswith(("/admin", "/docs", "/login", "/logout")), rule


def test_every_blueprint_of_the_admin_ui_has_the_guard(museum: House) -> None:
    for door in composition.ADMIN_DOORS:
        assert door.name.startswith("admin_")
        assert [guard.__name__ for guard in door.before_request_funcs[None]] == ["guard"]
    assert native.door.name not in {door.name for door in composition.ADMIN_DOORS}


def test_a_route_that_names_no_role_is_open_to_nobody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("admin_keys.index", "admin_system.show"):
        monkeypatch.setitem(house.app.view_functions, endpoint, lambda: "open")
    for browser in (house.admin, house.browser()):
        for path in ("/admin/keys", "/admin/system"):
            answer = browser.get(path)
            assert (answer.status_code, "open to nobody" in answer.text) == (403, True)


def test_no_change_is_made_by_looking(museum: House) -> None:
    adapter = museum.app.url_map.bind("127.0.0.1")
    changing = [rule for rule in admin_rules(museum.app) if unsafe(rule)]
    assert len(changing) > 20
    for rule in changing:
        assert unsafe(rule) == rule.methods - {"OPTIONS"} == {"POST"}, rule
        for path in paths(museum, rule):
            for method in ("GET", "HEAD"):
                try:
                    endpoint, _ = adapter.match(path, method)
                except MethodNotAllowed:
                    answer = museum.admin.ask(method, path)
                    assert (answer.status_code, "POST" in answer.headers["Allow"]) == (405, True)
                else:
                    assert endpoint != rule.endpoint


def test_every_form_of_the_pages_is_tried_in_these_tests(museum: House) -> None:
    changing = {path for rule in admin_rules(museum.app) if unsafe(rule) for path in paths(museum, rule)}
    assert {deed.address(museum) for deed in DEEDS.values()} == {
        path.replace("/sam/enable", "/dora/enable") for path in changing
    }


# --- Who they open to ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [NOBODY, *ROLES])
def test_each_route_opens_to_those_that_it_names(lived_in: House, role: str) -> None:
    wrong, seen = [], set()
    present = lived_in.browser() if role == NOBODY else lived_in.cast(role)
    token = present.token()
    for rule, method, path in asked(lived_in):
        needed = role_of(lived_in.app, rule)
        browser, fields = present, {"csrf_token": token}
        if needed == ANYONE or path == "/logout":
            # Some of these end the session that sends them, or begin one.
            browser = lived_in.browser() if role == NOBODY else lived_in.cast(role)
            fields = {"csrf_token": browser.token()}
        fields |= _fields(lived_in, path, needed, role) if method == "POST" else {}
        answer = browser.ask(method, path, data=fields if method == "POST" else None)
        signed_out = path == "/logout" and role != NOBODY
        happened = "opened" if signed_out else outcome(answer, path)
        seen.add(happened)
        if happened != expected(role, needed):
            wrong.append((method, path, needed, answer.status_code))
        if signed_out:
            assert not browser.signed_in
        if happened == "refused" and method != "HEAD":
            assert f"This needs the role {needed}; yours is {role}." in Page(answer.text).text
        if happened == "sign in":
            _check_way_back(method, path, answer)
    assert wrong == []
    assert seen == {NOBODY: {"opened", "sign in"}, "admin": {"opened"}}.get(role, {"opened", "refused"})


def _fields(house: House, path: str, needed: str, role: str) -> dict[str, object]:
    """Give what a form holds; that of a page which this role cannot open is made up."""
    if path == "/login":
        return {"name": "pat", "password": DEEDS["sign in by a password"].typed["password"]}
    if path.startswith("/login/") or expected(role, needed) != "opened":
        return {}
    if path.endswith("/enable"):
        return {}
    deed = deed_at(house, path)
    return {name: value for name, value in deed.typed.items() if isinstance(value, str)}


def _check_way_back(method: str, path: str, answer: TestResponse) -> None:
    query = parse_qs(urlsplit(answer.location).query)
    assert query == ({"next": [path]} if method == "GET" else {}), "only a page can be come back to"


def test_who_is_signed_out_comes_back_to_the_address_with_its_query(museum: House) -> None:
    answer = museum.browser().get("/admin/predictions?model=churn&input=age%3D35")
    query = parse_qs(urlsplit(answer.location).query)
    assert query == {"next": ["/admin/predictions?model=churn&input=age%3D35"]}


def test_a_fragment_of_a_page_leads_the_whole_page_to_the_sign_in(museum: House) -> None:
    answer = museum.browser().get("/admin/models/churn/workers", {"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"], answer.text) == (204, "/login", "")


def test_what_a_role_may_not_do_is_not_offered(museum: House) -> None:
    """A button that leads to a refusal is a promise that is not kept."""
    rules = [(rule, path) for rule in admin_rules(museum.app) for path in paths(museum, rule)]
    needed = {path: role_of(museum.app, rule) for rule, path in rules if not unsafe(rule)}
    posted = {path: role_of(museum.app, rule) for rule, path in rules if unsafe(rule)}
    for role in ROLES:
        browser = museum.cast(role)
        for path in sorted(needed):
            if needed[path] == ANYONE or not includes(role, needed[path]) or "/export/" in path or "artifact" in path:
                continue
            answer = browser.get(path)
            page = Page(answer.text)
            for tag, attributes in page.elements:
                link, action = attributes.get("href") or "", attributes.get("action") or ""
                offered = (
                    needed.get(urlsplit(link).path) if tag == "a" else posted.get(action) if tag == "form" else None
                )
                if tag == "form" and attributes.get("method") != "post":
                    offered = needed.get(action)
                if offered not in {None, ANYONE}:
                    assert includes(role, str(offered)), (role, path, tag, link or action)


# --- Keys and cookies ---------------------------------------------------------------------------------------


def key_headers(key: str) -> list[dict[str, str]]:
    basic = base64.b64encode(f"any:{key}".encode()).decode()
    return [{"X-API-Key": key}, {"Authorization": f"Bearer {key}"}, {"Authorization": f"Basic {basic}"}]


def test_a_key_opens_no_page(lived_in: House) -> None:
    _, key = lived_in.key("for everything", scopes=keys.SCOPES)
    lived_in.parts.follower.catch_up(loaded=False)
    before = lived_in.state()
    browser = lived_in.browser()
    for headers in key_headers(key):
        assert browser.get("/models", headers).status_code == 200, "the key itself is good"
        for rule, method, path in asked(lived_in):
            if role_of(lived_in.app, rule) != ANYONE and rule.endpoint not in FOR_BOTH:
                answer = browser.ask(method, path, headers=headers, data={} if method == "POST" else None)
                assert outcome(answer) == "sign in", (method, path)
    assert lived_in.state()["users"] == before["users"]
    assert lived_in.state()["audit_records"] == before["audit_records"]


def test_a_sign_in_opens_no_api(museum: House) -> None:
    rules = [rule for rule in museum.app.url_map.iter_rules() if rule.endpoint not in FOR_BOTH]
    api = [rule for rule in rules if hasattr(museum.app.view_functions[rule.endpoint], "scope")]
    assert len(api) > 10
    admin = museum.cast("admin")
    for rule in api:
        adapter = museum.app.url_map.bind("127.0.0.1")
        values = {"number": 1} | dict.fromkeys(rule.arguments - {"number"}, "churn")
        for method in sorted((rule.methods or set()) - SAFE_METHODS | ((rule.methods or set()) & {"GET"})):
            path = adapter.build(rule.endpoint, {n: v for n, v in values.items() if n in rule.arguments}, method=method)
            answer = admin.ask(method, path, headers={"X-CSRFToken": "x", "Sec-Fetch-Site": "same-origin"})
            assert (answer.status_code, answer.mimetype) == (401, "application/problem+json"), (method, path)
    assert admin.signed_in


def test_a_key_does_not_help_who_lacks_a_role(lived_in: House) -> None:
    _, key = lived_in.key("for everything", scopes=keys.SCOPES)
    viewer: Browser = lived_in.viewer
    for headers in key_headers(key):
        assert viewer.get("/admin/users", headers).status_code == 403
        assert viewer.post("/admin/models/churn/rollback", {"to": "1"}, headers).status_code == 403
    assert lived_in.active() == 2


# --- The document -------------------------------------------------------------------------------------------


def test_the_document_is_what_the_routes_say(script: ModuleType, museum: House) -> None:
    written = script.DOCUMENT.read_text(encoding="utf-8")
    assert written == script.document(museum.app), "write it anew: python scripts/roles.py"


def test_the_document_has_a_line_for_every_route(script: ModuleType, museum: House) -> None:
    lines = list(script.lines(museum.app))
    assert len(lines) == len(admin_rules(museum.app))
    for line in lines:
        _method, _path, does, *opens = (cell.strip() for cell in line.strip("| ").split(" | "))
        assert does.endswith(".")
        assert opens == sorted(opens), "no before yes: a role may do what those before it may"
        assert (len(opens), opens[-1]) == (4, "yes")
