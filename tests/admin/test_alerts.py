"""Pages of alerts and webhooks: what a person reads and does there, and GET /alerts beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from tests import databases
from tests.admin.conftest import TESTER, Browser, House, Page, serving
from webapp import alerts, watching, webhooks
from webapp.cli import main
from webapp.keys import SCOPES
from webapp.webhooks import deliveries, signing


@pytest.fixture
def answering(house: House) -> Iterator[House]:
    """A house that answers programs."""
    with serving(house) as made:
        yield made


def ask(house: House, key: str, query: str = "") -> Any:
    house.parts.follower.catch_up(loaded=False)
    return house.browser().get(f"/alerts{query}", {"X-API-Key": key})


def webhook(browser: Browser, **typed: Any) -> tuple[int, str]:
    """Add a webhook by its form; give its id and the secret that the page shows."""
    fields = {"name": "on-call", "url": "https://example.com/hook", **typed}
    shown = Page(browser.send("/admin/webhooks/new", "/admin/webhooks", **fields).text)
    links = {str(attributes.get("href")) for tag, attributes in shown.elements if tag == "a"}
    (made,) = (link for link in links if re.fullmatch(r"/admin/webhooks/\d+", link))
    (secret,) = re.findall(r"whsec_[\w+/]{43}=", shown.text)
    return int(made.rpartition("/")[2]), secret


# --- Alerts ---------------------------------------------------------------------------------------------------


def test_the_list_says_what_needs_a_person_and_the_dashboard_how_much(house: House) -> None:
    assert "Nothing needs you" in house.viewer.page("/admin/alerts").text
    house.alert()
    handled = house.alert(kind="job_failed", sentence="A batch failed.", subject="job")
    house.change(lambda session: alerts.acknowledge(session, TESTER, handled))
    shown = house.viewer.page("/admin/alerts").text
    assert "churn answers slowly." in shown
    assert "A batch failed." not in shown
    assert "Open (1) Acknowledged and snoozed (1) Resolved (0)" in shown
    assert "A batch failed." in house.viewer.page("/admin/alerts?state=handled").text
    assert "Open alerts 1 See alerts · 1 looked after" in house.viewer.page("/admin").text


def test_an_alert_says_what_to_do_and_leads_to_where_one_can_see_it(house: House) -> None:
    house.version()
    kinds = {kind.name: kind for kind in watching.KINDS}
    key_id, _ = house.key()
    subjects = {"plan_off": "1", "errors": "1", "key_expiring": key_id}
    for name, kind in kinds.items():
        alert_id = house.alert(kind=name, subject=subjects.get(name, "it"))
        page = house.operator.page(f"/admin/alerts/{alert_id}")
        assert kind.advice in page.text, name
        (place,) = {
            str(attributes["href"])
            for tag, attributes in page.elements
            if tag == "a" and attributes.get("class") == "btn btn-plain"
        }
        assert house.operator.get(place).status_code == 200, name


def test_what_people_say_of_an_alert_stands_in_its_story(house: House) -> None:
    alert_id = house.alert()
    path = f"/admin/alerts/{alert_id}"
    for act, typed, says in (
        ("acknowledge", {}, "Acknowledged"),
        ("snooze", {"span": "1h"}, "Snoozed"),
        ("resolve", {}, "Resolved"),
        ("reopen", {}, "Open"),
    ):
        answer = house.operator.send(path, f"{path}/{act}", **typed)
        assert (answer.status_code, answer.location) == (303, path)
        assert says in house.operator.page(path).text
    story = house.operator.page(path).text.partition("Story")[2]
    order = [
        "Opened again operator",
        "Resolved operator",
        "Snoozed until",
        "Acknowledged operator",
        "Seen for the first",
    ]
    places = [story.index(each) for each in order]
    assert places == sorted(places)
    house.change(lambda session: alerts.settle(session, "latency", []))
    ended = house.operator.page(path)
    assert "Resolved by itself: it is so no more" in ended.text
    assert [action for action, _ in ended.forms if action.startswith(path)] == []


def test_a_viewer_sees_alerts_and_is_offered_no_act(house: House) -> None:
    path = f"/admin/alerts/{house.alert()}"
    assert [action for action, _ in house.viewer.page(path).forms if action.startswith(path)] == []
    assert house.viewer.post(f"{path}/resolve").status_code == 403


def test_an_act_that_came_too_late_says_so(house: House) -> None:
    path = f"/admin/alerts/{house.alert()}"
    fields = house.operator.page(path).fields(f"{path}/acknowledge")
    house.change(lambda session: alerts.settle(session, "latency", []))
    answer = house.operator.post(f"{path}/acknowledge", fields)
    assert (answer.status_code, "resolved already" in Page(answer.text).text) == (409, True)


def test_long_lists_are_turned_page_by_page(house: House) -> None:
    for number in range(alerts.PAGE_ROWS + 1):
        house.alert(subject=str(number), sentence=f"This is number {number}.")
    first = house.viewer.page("/admin/alerts")
    (older,) = {str(a["href"]) for tag, a in first.elements if tag == "a" and "before=" in str(a.get("href"))}
    assert "number 0." not in first.text
    assert "number 0." in house.viewer.page(older).text


# --- Programs -------------------------------------------------------------------------------------------------


def test_programs_get_alerts_as_json(answering: House) -> None:
    alert_id = answering.alert(details={"p99_seconds": 0.2})
    resolved = answering.alert(kind="job_failed", sentence="A batch failed.")
    answering.change(lambda session: alerts.resolve(session, TESTER, resolved))
    _, key = answering.key(scopes=["models:read"])
    (only,) = ask(answering, key).get_json()["alerts"]
    assert (only["id"], only["kind"], only["model"], only["state"]) == (alert_id, "latency", "churn", "open")
    assert (only["sentence"], only["details"], only["subject"]) == (
        "churn answers slowly.",
        {"p99_seconds": 0.2},
        None,
    )
    (other,) = ask(answering, key, "?state=resolved").get_json()["alerts"]
    assert (other["id"], other["resolved_by"]) == (resolved, TESTER.name)
    assert ask(answering, key, f"?state=open&before={alert_id}").get_json() == {"alerts": []}
    for query, code in (("?state=quiet", "unknown_state"), ("?before=x", "before_unreadable")):
        answer = ask(answering, key, query)
        assert (answer.status_code, answer.get_json()["code"]) == (422, code)


def test_a_key_for_some_models_sees_their_alerts_only(answering: House) -> None:
    answering.version()
    answering.alert()
    answering.alert(model="prices", sentence="prices answers slowly.")
    answering.alert(kind="log_lag", model="", subject="a-host", sentence="The log writer is away.")
    _, key = answering.key(scopes=["models:read"], models=["churn"])
    assert [each["model"] for each in ask(answering, key).get_json()["alerts"]] == ["churn"]
    _, blind = answering.key(scopes=[scope for scope in SCOPES if scope != "models:read"])
    assert ask(answering, blind).status_code == 403


def test_the_command_lists_them(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"MODELPORT_DATA_DIR": str(house.settings.data_dir), **databases.environment(house.settings.data_dir)}
    run = CliRunner(env=environment)
    assert "No alert is open." in run.invoke(main, ["alerts", "list"]).output
    house.alert()
    assert "churn answers slowly." in run.invoke(main, ["alerts", "list"]).output
    assert '"kind": "latency"' in run.invoke(main, ["alerts", "list", "--state", "all", "--json"]).output
    assert run.invoke(main, ["alerts", "list", "--state", "quiet"]).exit_code == 2


# --- Webhooks -------------------------------------------------------------------------------------------------


def test_a_secret_is_shown_once_and_again_only_by_rolling(house: House) -> None:
    made, secret = webhook(house.admin)
    nonce = house.look(lambda session: webhooks.get_webhook(session, made).nonce)
    assert secret == signing.secret_of(house.settings.derive(signing.PEPPER), nonce)
    for path in ("/admin/webhooks", f"/admin/webhooks/{made}", f"/admin/webhooks/{made}/remove"):
        assert "whsec_" not in house.admin.get(path).text
    path = f"/admin/webhooks/{made}"
    rolled = Page(house.admin.send(path, f"{path}/roll").text).text
    (new,) = re.findall(r"whsec_[\w+/]{43}=", rolled)
    assert new != secret
    assert "signed with the old secret, too" in rolled


def test_what_cannot_be_a_webhook_comes_back_with_the_reason(house: House) -> None:
    sent = {"name": "", "url": "https://example.com"}
    answer = house.admin.send("/admin/webhooks/new", "/admin/webhooks", **sent)
    assert (answer.status_code, "needs a name" in Page(answer.text).text) == (422, True)
    made, _ = webhook(house.admin)
    for url, says in (("http://example.com", "https://"), ("https://127.0.0.1/", "private network")):
        answer = house.admin.send(f"/admin/webhooks/{made}", f"/admin/webhooks/{made}", url=url)
        assert (answer.status_code, says in Page(answer.text).text) == (422, True)
        assert Page(answer.text).fields(f"/admin/webhooks/{made}")["url"] == url
    assert house.look(lambda session: webhooks.get_webhook(session, made)).url == "https://example.com/hook"


def test_the_page_shows_what_became_of_a_test(house: House) -> None:
    made, _ = webhook(house.admin)
    path = f"/admin/webhooks/{made}"
    answer = house.admin.send(path, f"{path}/test")
    assert (answer.status_code, answer.location) == (303, f"{path}#test")
    waiting = house.admin.get(path).text
    assert "no answer yet" in waiting
    # It looks again by itself, with and without scripts.
    assert 'hx-trigger="load delay:1s' in waiting
    assert 'http-equiv="refresh"' in waiting
    post = house.change(lambda session: deliveries.claim(session, "a-worker", ""))
    answer_of = deliveries.Answer(503, "The disk is full.")
    house.change(lambda session: deliveries.finish(session, post, "a-worker", answer_of))
    shown = house.admin.get(path).text
    assert "HTTP 503: The disk is full." in Page(shown).text
    assert "Not delivered" in Page(shown).text
    assert "http-equiv" not in shown


def test_a_webhook_is_disabled_enabled_and_removed_by_its_page(house: House) -> None:
    made, _ = webhook(house.admin)
    path = f"/admin/webhooks/{made}"
    for says in ("disabled", "enabled"):
        house.admin.send(path, f"{path}/switch")
        assert f"The webhook on-call is {says}." in house.admin.page(path).text
    house.admin.send(f"{path}/remove", f"{path}/remove")
    assert "No webhooks yet" in house.admin.page("/admin/webhooks").text
    assert house.admin.get(path).status_code == 404


def test_the_address_of_a_webhook_is_for_admins_only(house: House) -> None:
    made, _ = webhook(house.admin, url="https://hooks.slack.com/services/T0/B0/hidden-part")
    assert "hidden-part" in house.admin.get(f"/admin/webhooks/{made}").text
    assert "hidden-part" not in house.admin.get("/admin/webhooks").text
    assert "hidden-part" not in house.operator.get("/admin/audit").text
    for path in ("/admin/webhooks", f"/admin/webhooks/{made}", "/admin/webhooks/new"):
        assert house.operator.get(path).status_code == 403
