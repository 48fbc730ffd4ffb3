"""One story in a real browser, with scripts and without: a model goes live and back, a key comes and goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from tests.conftest import eventually
from tests.functional.browser import chromium, sign_in, window, worker_held
from tests.functional.server import Server
from webapp.cli import demo

PATH = "/models/loans/predict"
ADULT = {"age": 35, "income": 52000, "credit_score": 690}
CHILD = {"age": 12, "income": 52000, "credit_score": 690}
MESSAGE = "We lend to adults only."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for both ways through the story."""
    with chromium() as made:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two models of one kind, and what each was trained on; the second's says what it learned."""
    people, paid = demo.rows()
    for name, estimator in (("first", LogisticRegression()), ("second", DecisionTreeClassifier(max_depth=3))):
        joblib.dump(make_pipeline(StandardScaler(), estimator).fit(people, paid), tmp_path / f"{name}.joblib")
    people.to_csv(tmp_path / "first.csv", index=False)
    people.assign(paid=paid).to_csv(tmp_path / "second.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("javascript", [True, False], ids=["with_scripts", "without_scripts"])
def test_a_model_goes_live_and_back_and_its_key_ends(
    new_server: Callable[..., Server], browser: Browser, files: Path, *, javascript: bool
) -> None:
    server = new_server().start()
    clipboard = ["clipboard-read", "clipboard-write"]
    with window(browser, server, java_script_enabled=javascript, permissions=clipboard) as context:
        page = context.new_page()
        sign_in_by_a_link_that_works_once(page, server.cli("users", "create", "mara", "--role", "admin")["link"])
        go(page, "Models")
        main(page).get_by_role("link", name="Upload a model").first.click()
        page.get_by_label("Model", exact=True).fill("loans")
        upload(page, server, files, "first", 1)
        demand_adults(page)
        activate(page, 1, "the first one")

        key = create_key(page, javascript=javascript)
        first = answered(server, key)
        assert first["model_version"] == "1"
        refused = server.post(PATH, CHILD, key)
        assert (refused.status_code, refused.json()["errors"][0]["message"]) == (422, MESSAGE)
        server.post(PATH, {**ADULT, "income": 53000}, key)
        server.logged(first["prediction_id"])
        find_prediction(page, first["prediction_id"])

        upload_second(page, server, files)
        activate(page, 2, "")
        second = answered(server, key)
        assert second["model_version"] == "2026-11"
        assert second["probabilities"] != first["probabilities"]
        page.get_by_role("button", name="Roll back to v1 of loans").click()
        sees_all_workers_serve(page, 1)
        again = answered(server, key)
        assert (again["model_version"], again["probabilities"]) == ("1", first["probabilities"])

        revoke_key(page)
        eventually(lambda: server.post(PATH, ADULT, key).status_code == 401)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("You are signed out.")).to_be_visible()


def answered(server: Server, key: str) -> dict[str, Any]:
    """Give the API's answer to a good instance."""
    response = server.post(PATH, ADULT, key)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def main(page: Page) -> Locator:
    """The page without its menu."""
    return page.get_by_role("main")


def go(page: Page, entry: str) -> None:
    """Follow an entry of the menu."""
    page.get_by_role("navigation", name="Main").get_by_role("link", name=entry, exact=True).click()
    expect(main(page).get_by_role("heading", name=entry, level=1)).to_be_visible()


def sees(page: Page, sentence: str) -> None:
    """Expect a sentence that tells how something went."""
    expect(main(page).get_by_role("status").filter(has_text=sentence)).to_be_visible()


def sees_all_workers_serve(page: Page, number: int) -> None:
    """Expect the page of a version that everyone gets."""
    expect(page.get_by_role("heading", name=f"loans v{number}")).to_be_visible()
    sees(page, f"Every worker serves v{number}2 of 2")


def sign_in_by_a_link_that_works_once(page: Page, link: str) -> None:
    sign_in(page, link)
    page.goto(link)
    expect(page.get_by_text("This sign-in link was used")).to_be_visible()
    page.get_by_role("link", name="To the dashboard").click()
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()


def upload(page: Page, server: Server, files: Path, name: str, number: int) -> None:
    page.get_by_label("Model file").set_input_files(files / f"{name}.joblib")
    page.get_by_label("Training data").set_input_files(files / f"{name}.csv")
    with worker_held(server):
        page.get_by_role("button", name="Upload model").click()
        expect(page.get_by_role("heading", name="Upload of loans")).to_be_visible()
        expect(main(page).get_by_role("listitem").filter(has_text="Wait")).to_have_attribute("aria-current", "step")
        sees(page, "Waiting for the worker.")
    expect(page.get_by_role("heading", name=f"loans v{number}")).to_be_visible()
    sees(page, f"loans v{number} is stored, not active yet.")
    expect(page.get_by_role("region", name="Inspection report")).to_contain_text(f"{name}.joblib")


def upload_second(page: Page, server: Server, files: Path) -> None:
    go(page, "Models")
    page.get_by_role("link", name="loans").click()
    page.get_by_role("link", name="Upload a version").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("loans")
    page.get_by_text("More: target column").click()
    page.get_by_label("Target column").fill("paid")
    page.get_by_label("Label", exact=True).fill("2026-11")
    upload(page, server, files, "second", 2)


def demand_adults(page: Page) -> None:
    page.get_by_role("link", name="Edit the signature").click()
    age = page.get_by_role("region", name="age", exact=True)
    age.get_by_label("At least").fill("18")
    age.get_by_label("Message when a rule is broken").fill(MESSAGE)
    page.get_by_role("button", name="Save signature").click()
    sees(page, "The signature is stored.")
    row = page.get_by_role("table", name="Inputs of loans v1").get_by_role("row", name="age")
    expect(row).to_contain_text("at least 18")
    expect(row).to_contain_text(MESSAGE)


def activate(page: Page, number: int, reason: str) -> None:
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name=f"Activate loans v{number}").click()
    sees_all_workers_serve(page, number)
    history = page.get_by_role("region", name="Switches")
    expect(history.get_by_role("listitem").first).to_contain_text(re.compile(rf"Activated v{number}.* mara .*{reason}"))


def create_key(page: Page, *, javascript: bool) -> str:
    go(page, "API keys")
    main(page).get_by_role("link", name="Create key").first.click()
    page.get_by_label("Name", exact=True).fill("web shop")
    page.get_by_label("Owner").fill("Ada")
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_role("heading", name="Key web shop created")).to_be_visible()
    key = page.locator("#key").inner_text()
    if javascript:
        page.get_by_role("button", name="Copy key").click()
        expect(page.get_by_role("button", name="Copied key")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == key
    page.get_by_role("link", name="I stored the key").click()
    expect(page.get_by_role("row", name="web shop")).to_contain_text("Ada")
    return key


def find_prediction(page: Page, prediction_id: str) -> None:
    go(page, "Predictions")
    page.get_by_label("Key", exact=True).fill("web shop")
    page.get_by_label("Input equals").fill("income=52000")
    page.get_by_role("button", name="Apply filters").click()
    found = page.get_by_role("table", name="Predictions").get_by_role("row")
    expect(found).to_have_count(2)
    found.last.get_by_role("link").click()
    expect(page.get_by_text(prediction_id).first).to_be_visible()
    sent = page.get_by_role("table", name="Inputs of this prediction")
    expect(sent.get_by_role("row", name="income")).to_contain_text("52000")
    expect(page.get_by_role("link", name="web shop")).to_be_visible()


def revoke_key(page: Page) -> None:
    go(page, "API keys")
    page.get_by_role("link", name="Revoke web shop").click()
    name = page.get_by_label("Type the key's name to revoke it")
    name.fill("web shoe")
    page.get_by_role("button", name="Revoke web shop").click()
    expect(page.get_by_role("alert")).to_contain_text("Type the key's name, web shop, as it stands here.")
    name.fill("web shop")
    page.get_by_role("button", name="Revoke web shop").click()
    sees(page, "is revoked. Requests with it are refused from now on.")
