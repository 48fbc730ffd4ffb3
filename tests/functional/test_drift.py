"""The demo's story of drift, told by the real parts: it is noticed on its day, by the page, the API and the console."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.conftest import eventually
from tests.functional.browser import chromium, sign_in, window
from tests.functional.server import Refused, Server


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, dict[str, Any]]:
    """Play it; give where it was played, and what the command said."""
    server = Server(tmp_path_factory.mktemp("story") / "data", workers=1)
    # A key of somebody's own, which has a name of the story's.
    server.cli("keys", "create", "mobile-app")
    return server, server.cli("demo", "--drift")


def test_the_alarm_comes_on_the_day_of_the_change_and_names_who_brought_it(told: tuple[Server, dict[str, Any]]) -> None:
    _, story = told
    assert story["predictions"] == 14_000
    assert story["outcomes"] > 5000
    assert story["noticed_on"] == story["changed_at"].partition(" ")[0]
    assert story["drifted"] == ["income"]
    assert story["key"] == "partner-broker"
    assert story["part"] > 0.8


def test_what_is_refused_and_never_logged_is_an_alarm_of_its_own(told: tuple[Server, dict[str, Any]]) -> None:
    server, _ = told
    (version,) = server.cli("drift", "run")["versions"]
    assert "refused:rows" in version["drifted"]
    refused = version["refused"]
    assert (refused["asked"], refused["refused"], refused["drifted"]) == (541, 41, True)
    assert refused["share_before"] < 0.003
    assert refused["reasons"][0]["field"] == "age"
    assert refused["reasons"][0]["code"] == "out_of_bounds"


def test_it_is_played_once(told: tuple[Server, dict[str, Any]]) -> None:
    server, _ = told
    with pytest.raises(Refused) as refused:
        server.cli("demo", "--drift")
    assert refused.value.answer["error"]["code"] == "played_before"


def test_the_console_tells_what_is_known_and_counts_the_same_again(told: tuple[Server, dict[str, Any]]) -> None:
    server, _ = told
    asked = "SELECT hour, rows, counts FROM hourly_counts ORDER BY hour"
    before = server.rows(asked)
    known = server.cli("drift", "run")
    assert known["decided"] == 0
    (version,) = known["versions"]
    assert "input:income" in version["drifted"]
    assert server.cli("drift", "rebuild")["hours"] == len(before)
    assert server.rows(asked) == before


def test_page_and_api_tell_the_same(told: tuple[Server, dict[str, Any]]) -> None:
    server, story = told
    day = story["noticed_on"]
    key = server.cli("keys", "create", "reader", "--scope", "models:read")["key"]
    server.start()
    try:
        answer = server.get(f"/models/credit-risk/drift?day={day}", key)
        assert answer.status_code == 200
        found = answer.json()
        assert found["drifted"] == ["input:income"]
        assert found["findings"][0]["name"] == "income"
        assert {each["name"] for each in found["described"]} == {"age", "income", "credit_score"}
        assert (found["refused"]["refused"], found["refused"]["drifted"], found["new_values"]) == (1, False, {})
        week = server.get(f"/models/credit-risk/drift?since={day}", key).json()
        assert "input:income" in week["drifted"]
        raised = eventually(lambda: server.get("/alerts?state=open", key).json()["alerts"])
        (income,) = [each for each in raised if each["kind"] == "drift" and "income" in each["sentence"]]
        assert income["severity"] == "critical"
        assert "% of the change comes from key “partner-broker”." in income["sentence"]
        wrong = server.get("/models/credit-risk/drift?day=yesterday", key)
        assert (wrong.status_code, wrong.json()["code"]) == (422, "date_unreadable")
        early = server.get("/models/credit-risk/drift?day=0001-01-01", key)
        assert (early.status_code, early.json()["code"]) == (422, "date_unreadable")
        link = server.cli("users", "create", "mara", "--role", "viewer")["link"]
        with chromium() as browser, window(browser, server) as opened:
            page = opened.new_page()
            sign_in(page, link)
            page.get_by_role("link", name="Drift").click()
            expect(page.get_by_role("heading", level=2).first).to_contain_text("1 of 3 inputs differs")
            # Each of the days has been decided about, the first one, too.
            expect(page.locator(".heat tbody td").first).not_to_have_text("\N{EN DASH}")
            page.goto(f"/admin/drift?day={day}")
            expect(page.get_by_text("of the change comes from the key partner-broker")).to_be_visible()
            expect(page.get_by_role("row", name="income").last).to_be_visible()
            page.goto("/admin/drift?shown=refused:rows")
            expect(page.get_by_text("7.6 % of 541 rows were refused (0.2 % on the days before)")).to_be_visible()
            expect(page.get_by_role("link", name="Alert of refused rows")).to_be_visible()
            # Whoever only looks may not choose what is compared with.
            expect(page.get_by_role("button", name="Compare with this time")).to_have_count(0)
    finally:
        server.stop()
