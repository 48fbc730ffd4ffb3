"""The trail: every change through the admin UI stands in it once, with who, from where and in which request."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
import sqlalchemy as sa
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.admin.conftest import DEEDS, PASSWORD, TESTER, Browser, House, admin_rules, paths, unsafe
from webapp import audit
from webapp.audit import AuditRecord
from webapp.db import Base, Session
from webapp.uploads import waiting

# What is no change of the installation: trying a version, how a page looks, and ending one's own sessions.
NOT_NOTED = {"try a version", "send a test", "switch the theme", "sign out", "sign out elsewhere", "upload a file"}
ACTORS = {
    "turn off codes": "toni",
    "sign in by a link": "lou",
    "sign in by a password": "pat",
    "sign in by a code": "ted",
}
SUBJECTS = {
    "activate": "churn",
    "roll back": "churn",
    "edit a signature": "churn/3",
    "create a user": "nia",
    "enable a user": "dora",
    "set a password": "admin",
    "turn on codes": "admin",
    **dict.fromkeys(("change a role", "sign a user out", "reset a password", "disable a user"), "sam"),
    **ACTORS,
}


def address(browser: Browser) -> str:
    return str(browser.client.environ_base["REMOTE_ADDR"])


def newer(house: House, than: int) -> list[AuditRecord]:
    """Give the rows that came after so many."""
    return house.audited()[than:]


def test_every_change_stands_in_the_trail_once(lived_in: House) -> None:
    for name, deed in DEEDS.items():
        browser = deed.browser(lived_in)
        fields, before = deed.fields(lived_in, browser), len(lived_in.audited())
        answer = browser.post(deed.address(lived_in), fields)
        rows = newer(lived_in, before)
        assert tuple(row.action for row in rows) == deed.noted, name
        assert bool(rows) is (name not in NOT_NOTED), name
        for row in rows:
            assert row.actor == f"user:{ACTORS.get(name, 'admin')}", name
            assert (row.address, row.request_id) == (address(browser), answer.headers["X-Request-ID"]), name
            assert row.at.tzinfo
            assert row.subject == SUBJECTS.get(name, row.subject), name


def test_before_and_after_say_what_changed(lived_in: House) -> None:
    for name in ("edit a key", "edit a signature", "change a role", "activate", "roll back"):
        DEEDS[name].do(lived_in, lived_in.admin)
    details = {row.action: row.detail for row in lived_in.audited() if row.actor == "user:admin"}
    assert details["keys.edit"] == {"before": {"owner": ""}, "after": {"owner": "Mara"}}
    assert details["users.role"] == {"before": "viewer", "after": "operator"}
    assert details["models.activate"] == {"from_number": 2, "to_number": 1, "reason": "better"}
    assert details["models.rollback"] == {"from_number": 1, "to_number": 2, "reason": ""}


def test_rules_of_a_version_that_was_never_active_are_noted_feature_by_feature(lived_in: House) -> None:
    path = f"/admin/models/churn/versions/{lived_in.version()}/signature"
    lived_in.operator.send(path, path, **{"f0-maximum": "99"})
    [row] = lived_in.audited("models.edit_signature")
    assert (row.actor, row.subject) == ("user:operator", "churn/3")
    [[before], [after]] = row.detail["before"], row.detail["after"]
    assert (before["name"], before["maximum"], after["maximum"]) == ("age", 120.0, 99.0)
    assert {name for name in after if after[name] != before[name]} == {"maximum"}


@pytest.mark.parametrize("activate", [False, True])
def test_an_upload_is_noted_as_its_persons_when_a_worker_has_inspected_it(
    house: House,
    tmp_path: Path,
    activate: bool,  # noqa: FBT001 - a tick like any other
) -> None:
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), tmp_path / "iris.joblib")
    browser = house.operator
    fields = browser.page("/admin/upload").fields("/admin/upload")
    fields |= {"model": "iris", "file": (io.BytesIO((tmp_path / "iris.joblib").read_bytes()), "iris.joblib")}
    answer = browser.post("/admin/upload", {**fields, **({"activate": "1"} if activate else {})})
    before = len(house.audited())
    waiting.work(house.parts.desk, house.change(lambda session: waiting.claim(session, "a worker")))
    rows = newer(house, before)
    assert [(row.action, row.subject) for row in rows] == [
        ("models.upload", "iris/1"),
        *([("models.activate", "iris")] if activate else []),
    ]
    for row in rows:
        assert row.actor == "user:operator"
        assert (row.address, row.request_id) == (address(browser), answer.headers["X-Request-ID"])


REFUSED: dict[str, Callable[[House], Any]] = {
    "a wrong password": lambda house: house.browser().send("/login", "/login", name="pat", password="wrong"),
    "a dead link": lambda house: house.browser().post("/login/dead"),
    "a role that one lacks": lambda house: house.viewer.post("/admin/users/sam/disable"),
    "a key without a name": lambda house: house.admin.send("/admin/keys/new", "/admin/keys", name=""),
    "a user who is there": lambda house: house.admin.post("/admin/users", {"name": "sam", "role": "admin"}),
    "the last admin": lambda house: house.admin.post("/admin/users/admin/disable"),
    "a roll back that lost the race": lambda house: house.admin.post("/admin/models/churn/rollback", {"to": "7"}),
    "a version that is active": lambda house: house.admin.post("/admin/models/churn/versions/2/activate"),
    "a version that is not there": lambda house: house.admin.post("/admin/models/churn/versions/7/activate"),
    "a wrong rule": lambda house: house.admin.send(
        *2 * ["/admin/models/churn/versions/1/signature"], **{"f0-minimum": "x"}
    ),
    "a rule that the estimator cannot keep": lambda house: house.admin.send(
        *2 * ["/admin/models/churn/versions/1/signature"], **{"f0-nullable": "1"}
    ),
    "a password that is easy to guess": lambda house: house.admin.post(
        "/admin/account/password", {"chosen": "password1234", "again": "password1234"}
    ),
    "a job that is not there": lambda house: house.admin.post("/admin/jobs/none/cancel"),
}


@pytest.mark.parametrize("act", REFUSED.values(), ids=REFUSED)
def test_what_was_refused_is_no_change(museum: House, act: Callable[[House], Any]) -> None:
    _ = museum.admin, museum.viewer
    before = len(museum.audited())
    assert act(museum).status_code >= 303
    assert newer(museum, before) == []


NOTHING_NEW: dict[str, Callable[[House], Any]] = {
    "a role that one has": lambda house: house.admin.post("/admin/users/sam/role", {"role": "viewer"}),
    "enabling who is": lambda house: house.admin.post("/admin/users/sam/enable"),
    "disabling who is": lambda house: house.admin.post("/admin/users/dora/disable"),
    "a key as it was": lambda house: house.admin.send(*2 * [f"/admin/keys/{house.facts['key_id']}"]),
}


@pytest.mark.parametrize("act", NOTHING_NEW.values(), ids=NOTHING_NEW)
def test_what_changes_nothing_is_no_change(museum: House, act: Callable[[House], Any]) -> None:
    _ = museum.admin
    before = len(museum.audited())
    assert act(museum).status_code == 303
    assert newer(museum, before) == []


def test_cancelling_a_job_that_has_ended_is_no_change(lived_in: House) -> None:
    for _ in range(2):
        lived_in.admin.post(f"/admin/jobs/{lived_in.facts['job_id']}/cancel")
    assert len(lived_in.audited("jobs.cancel")) == 1


def test_revoking_twice_is_noted_once(lived_in: House) -> None:
    path = f"/admin/keys/{lived_in.facts['key_id']}/revoke"
    for _ in range(2):
        lived_in.admin.post(path, {"name": "mobile-app"})
    assert len(lived_in.audited("keys.revoke")) == 1


def test_a_change_that_fails_leaves_no_row_and_a_row_that_fails_leaves_no_change(
    museum: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are written in one transaction."""
    _ = museum.admin
    before = museum.state()

    def faulty(*_: object, **__: object) -> None:
        raise RuntimeError

    for module in ("webapp.users.audit.record", "webapp.users.end_all"):
        with monkeypatch.context() as broken:
            broken.setattr(module, faulty)
            assert museum.admin.post("/admin/users/sam/disable").status_code == 500
    assert museum.state() == before


# --- What it may not hold -----------------------------------------------------------------------------------


def everything(house: House) -> str:
    """Give every value of every column of every table."""

    def rows(session: Session) -> list[str]:
        return [repr(row) for table in Base.metadata.tables.values() for row in session.execute(sa.select(table))]

    return "\n".join(house.look(rows))


def test_no_secret_stands_in_the_trail_or_anywhere_else(lived_in: House) -> None:
    admin, secrets = lived_in.admin, {PASSWORD, lived_in.facts["key"], lived_in.facts["token"]}
    for name in ("create a key", "roll a key"):
        secrets |= set(re.findall(r"mp_live_\w{60,}", DEEDS[name].do(lived_in, admin).text))
    for name in ("create a user", "reset a password"):
        secrets |= set(re.findall(r"/login/([\w-]{43})", DEEDS[name].do(lived_in, admin).text))
    shown = DEEDS["turn on codes"].do(lived_in, admin)
    secrets |= set(re.findall(r"\b[a-z0-9]{5}-[a-z0-9]{5}\b", shown.text))
    DEEDS["set a password"].do(lived_in, admin)
    secrets |= {browser.cookie for browser in (admin, lived_in.operator)} | {admin.token().partition(".")[0]}
    assert len(secrets) >= 3 + 2 + 2 + 8 + 2
    held = everything(lived_in)
    assert lived_in.facts["key_id"] in held, "the search finds what is there"
    assert [secret for secret in secrets if secret in held] == []
    assert [key for key in re.findall(r"mp_(?:live|test)_\w+", held) if len(key) > 20] == []


# --- How it is read -----------------------------------------------------------------------------------------


def test_the_trail_is_only_read(museum: House) -> None:
    rules = [rule for rule in admin_rules(museum.app) if rule.endpoint.startswith("admin_audit.")]
    assert rules
    assert [rule for rule in rules if unsafe(rule)] == []
    assert all(museum.operator.get(path).status_code == 200 for rule in rules for path in paths(museum, rule))
    named = {name for name in vars(audit) if callable(getattr(audit, name)) and not name.startswith("_")}
    assert not [name for name in named if re.search("delete|update|edit|clear|forget|remove", name.lower())]


def test_every_act_reads_as_a_sentence_of_its_own(lived_in: House) -> None:
    for deed in DEEDS.values():
        deed.do(lived_in, deed.browser(lived_in))
    change = lived_in.app.jinja_env.filters["change"]
    for row in lived_in.audited():
        assert change(row) != f"{row.subject} changed", row.action
        assert "{" not in change(row)


def test_changes_are_found_page_by_page_by_who_what_and_act(house: House) -> None:
    for number in range(60):
        house.change(lambda session, n=number: audit.record(session, TESTER, "keys.create", f"key-{n}-"))
    browser = house.operator
    first = browser.page("/admin/audit?action=keys.create")
    links = [attributes.get("href") or "" for tag, attributes in first.elements if tag == "a"]
    [older] = [link for link in links if "before=" in link]
    second = browser.page(older)
    assert [f"key-{number}-" in first.text for number in (59, 10, 9, 0)] == [True, True, False, False]
    assert [f"key-{number}-" in second.text for number in (59, 10, 9, 0)] == [False, False, True, True]
    assert "No change matches" in browser.page("/admin/audit?actor=nobody").text
    assert "operator signed in" in browser.page("/admin/audit?q=operator").text
    for literal in ("%25", "_", "%27", "%5C"):
        assert "No change matches" in browser.page(f"/admin/audit?q=x{literal}y").text
