"""Who is given the API's description, and how: by key, signed in, as a page, by command."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from tests import databases
from tests.admin.conftest import House
from webapp import keys
from webapp.cli import main


def ask(house: House, key: str | None, etag: str = "") -> Any:
    headers = {"X-API-Key": key} if key else {}
    return house.browser().get("/openapi.json", headers | ({"If-None-Match": etag} if etag else {}))


def key_for(house: House, **terms: Any) -> str:
    _, key = house.key("reads", **terms)
    house.parts.follower.catch_up(loaded=False)
    return str(key)


def own_paths(answer: Any) -> set[str]:
    return {path for path in answer.get_json()["paths"] if re.fullmatch(r"/models/[a-z-]+/predict", path)}


@pytest.mark.parametrize("scope", keys.SCOPES)
def test_a_key_of_any_scope_reads_it(lived_in: House, scope: str) -> None:
    answer = ask(lived_in, key_for(lived_in, scopes=[scope]))
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert "RateLimit" in answer.headers
    assert own_paths(answer) == {"/models/churn/predict"}


def test_a_key_reads_of_the_models_that_it_may_use(lived_in: House) -> None:
    answer = ask(lived_in, key_for(lived_in, models=["another"]))
    assert own_paths(answer) == set()
    assert "churn" not in answer.text


def test_who_is_signed_in_reads_it_and_who_is_nobody_does_not(museum: House) -> None:
    assert own_paths(museum.viewer.get("/openapi.json")) == {"/models/churn/predict"}
    refused = museum.browser().get("/openapi.json")
    assert (refused.status_code, refused.get_json()["code"]) == (401, "key_refused")
    wrong = museum.viewer.get("/openapi.json", {"X-API-Key": "mp_live_wrong"})
    assert wrong.status_code == 401, "a sign-in does not help a wrong key"


def test_it_is_sent_once_and_anew_when_a_model_changes(lived_in: House) -> None:
    key, narrow = key_for(lived_in), key_for(lived_in, models=["another"])
    first = ask(lived_in, key)
    assert (ask(lived_in, key, first.headers["ETag"]).status_code, ask(lived_in, key, '"other"').status_code) == (
        304,
        200,
    )
    assert ask(lived_in, key, first.headers["ETag"]).data == b""
    assert ask(lived_in, narrow, first.headers["ETag"]).status_code == 200, "another caller's is another document"
    assert lived_in.admin.send("/admin/models/churn", "/admin/models/churn/rollback").status_code == 303
    lived_in.parts.follower.catch_up(loaded=True)
    again = ask(lived_in, key, first.headers["ETag"])
    assert again.status_code == 200
    assert again.headers["ETag"] != first.headers["ETag"]
    assert again.get_json() != first.get_json()


def test_a_key_reads_it_without_the_database(lived_in: House) -> None:
    key, asker = key_for(lived_in), lived_in.browser()
    threads: list[int] = []

    def note(*_about: object) -> None:
        threads.append(threading.get_ident())

    sa.event.listen(lived_in.parts.database.engine, "before_cursor_execute", note)
    answer = asker.get("/openapi.json", {"X-API-Key": key})
    sa.event.remove(lived_in.parts.database.engine, "before_cursor_execute", note)
    assert answer.status_code == 200
    # Others follow the committed state meanwhile.
    assert threading.get_ident() not in threads


# --- The page -----------------------------------------------------------------------------------------------------


def test_the_page_names_the_models_and_leads_to_the_document_without_scripts(museum: House) -> None:
    page = museum.viewer.page("/docs")
    assert "POST /models/churn/predict" in page.text
    links = [given.get("href") for tag, given in page.elements if tag == "a"]
    assert "/openapi.json" in links
    assert ("a", {"href": "/docs", "aria-current": "page"}) in page.elements, "it stands in the menu"


def test_who_is_not_signed_in_comes_back_to_the_page_after_signing_in(museum: House) -> None:
    answer = museum.browser().get("/docs")
    assert (answer.status_code, answer.location) == (303, "/login?next=/docs")
    browser = museum.viewer
    assert browser.get("/login?next=/docs").location == "/docs"


def test_a_key_reads_the_page_of_its_models_and_gets_no_menu(lived_in: House) -> None:
    narrow = lived_in.browser().get("/docs", {"X-API-Key": key_for(lived_in, models=["another"])})
    assert (narrow.status_code, narrow.mimetype) == (200, "text/html")
    assert "churn" not in narrow.text
    assert "/admin/users" not in narrow.text


def test_a_wrong_key_is_refused_on_the_page(museum: House) -> None:
    assert museum.browser().get("/docs", {"X-API-Key": "mp_live_wrong"}).status_code == 401


# --- The command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_what_the_server_answers(lived_in: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPORT_DATA_DIR", str(lived_in.settings.data_dir))
    for name, value in databases.environment(lived_in.settings.data_dir).items():
        monkeypatch.setenv(name, value)
    answered = ask(lived_in, key_for(lived_in)).get_json()
    for arguments in (["openapi"], ["openapi", "--json"], ["openapi", "--model", "churn"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == answered
    unknown = CliRunner().invoke(main, ["openapi", "--model", "nothing"])
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "no model “nothing”" in unknown.stderr
