"""Comparing two versions, and what was active when, at the doors: pages, the API and the command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import skops.io
from click.testing import CliRunner, Result
from sklearn.tree import DecisionTreeClassifier

from tests import databases
from tests.admin.conftest import SIGNATURE, House, Page, serving
from webapp.cli import main

TABLE = pd.DataFrame({"age": [20, 30, 40, 50, 60, 70], "income": [1000, 2000, 3000, 4000, 5000, 6000]})
COMPARE, AS_OF = "/admin/models/churn/compare", "/admin/models/churn/as-of"


def tree(from_age: int, **parameters: Any) -> bytes:
    """Give the file of an estimator that says 1 from an age on."""
    fitted = DecisionTreeClassifier(random_state=0, **parameters).fit(TABLE, (TABLE.age >= from_age).astype(int))
    return bytes(skops.io.dumps(fitted))


@pytest.fixture
def two(house: House) -> House:
    """An installation with two versions that differ in what they say of people of forty and fifty."""
    reference = house.parts.artifacts.put(TABLE.to_csv(index=False).encode())
    older = replace(SIGNATURE, features=(replace(SIGNATURE.features[0], minimum=25.0), SIGNATURE.features[1]))
    house.version(content=tree(40), card={"accuracy": 0.75}, label="spring")
    house.version(content=tree(60, max_depth=3), card={"accuracy": 0.5}, signature=older, reference=reference)
    house.activate(1, reason="the first <one>")
    with serving(house):
        yield house


def texts(page: Page, element: str) -> list[str]:
    """Give the texts that stand in elements of a kind."""
    return [text.strip() for tag, text in page.texts if tag == element and text.strip()]


# --- The pages ----------------------------------------------------------------------------------------------


def test_a_viewer_sees_what_the_newest_version_says_otherwise(two: House) -> None:
    page = two.viewer.page(COMPARE)
    assert "churn v1 and v2" in texts(page, "h1")
    assert "6 rows of the reference of v2" in page.text
    # Of six rows one is refused by v2, and two of the five others flip.
    assert "Same answer 60 % 2 of 5 rows get another one" in page.text
    assert "Refused by v2 1 by v1: 0, of 6 rows" in page.text
    assert "age: Must be from 25 to 120." in page.text
    assert "Rows with another answer" in page.text
    assert re.search(r"max_depth None 3\b", page.text)
    assert "accuracy 0.75 0.5 -0.25" in page.text
    assert "1 breaking" in page.text


def test_the_two_can_be_chosen_by_number_or_label(two: House) -> None:
    assert "churn v2 and v1" in texts(two.viewer.page(f"{COMPARE}?from=2&to=spring"), "h1")
    fields = two.viewer.page(COMPARE).fields(COMPARE)
    assert fields == {"from": "1", "to": "2"}


@pytest.mark.parametrize(("query", "status"), [("from=1&to=1", 422), ("from=9", 404), ("to=nothing", 404)])
def test_what_cannot_be_compared_is_said_on_a_page(two: House, query: str, status: int) -> None:
    answer = two.viewer.get(f"{COMPARE}?{query}")
    assert (answer.status_code, answer.mimetype) == (status, "text/html")


def test_a_model_with_one_version_offers_no_comparison(house: House) -> None:
    house.version()
    with serving(house):
        assert house.viewer.get(COMPARE).status_code == 409
        links = [attributes.get("href") for tag, attributes in house.viewer.page("/admin/models/churn").elements]
        assert not any("/compare" in str(link) for link in links)
        house.version()
        links = [attributes.get("href") for tag, attributes in house.viewer.page("/admin/models/churn").elements]
        assert COMPARE in links


def test_without_a_reference_the_page_says_that_the_rows_are_made_up(house: House) -> None:
    house.version(content=tree(40))
    house.version(content=tree(60))
    with serving(house):
        page = house.viewer.page(COMPARE)
    assert "200 made-up rows" in page.text
    assert "Neither version has a reference" in page.text


def test_the_page_of_a_model_answers_what_was_active_in_a_sentence(two: House) -> None:
    browser = two.viewer
    assert AS_OF in [path for path, _ in browser.page("/admin/models/churn").forms]
    later = browser.page(f"{AS_OF}?as_of=2100-03-03T12:00")
    assert "On 3 Mar 2100 12:00 UTC v1 was active, activated" in later.text
    assert "by a-test (terminal): the first <one>" in later.text
    assert (
        "On 3 Mar 2001 12:00 UTC no version of churn was active."
        in browser.page(f"{AS_OF}?as_of=2001-03-03T12:00").text
    )
    two.activate(2)
    assert "UTC v2 was active, activated" in browser.page(f"{AS_OF}?as_of=2100-03-03").text


def test_what_is_no_moment_comes_back_with_its_error(two: House) -> None:
    answer = two.viewer.get(f"{AS_OF}?as_of=some+day")
    assert (answer.status_code, answer.mimetype) == (422, "text/html")
    assert "not “some day”" in Page(answer.text).text
    assert two.viewer.get("/admin/models/nothing/as-of").status_code == 404


# --- The API ------------------------------------------------------------------------------------------------


def ask(house: House, path: str, **terms: Any) -> Any:
    """Ask with a key that may read models."""
    _, key = house.key(**{"scopes": ("models:read",), **terms})
    house.parts.follower.catch_up(loaded=False)
    return house.browser().get(path, {"X-API-Key": key})


def test_the_api_gives_the_comparison_as_json(two: House) -> None:
    found = ask(two, "/models/churn/compare?from=1&to=2").get_json()
    assert (found["model"], found["from"]["version"], found["to"]["version"]) == ("churn", 1, 2)
    assert found["from"]["model_version"] == "spring"
    assert (found["rows"]["reference_of"], found["rows"]["flipped"], found["rows"]["refused_by_to"]) == (2, 2, 1)
    assert [each["instance"]["age"] for each in found["rows"]["changed"]] == [40, 50]
    assert found["metrics"] == [{"name": "accuracy", "from": 0.75, "to": 0.5, "change": -0.25}]
    assert {"path": "max_depth", "from": "None", "to": "3"} in found["parameters"]


def test_the_api_compares_for_keys_that_may_read_that_model(two: House) -> None:
    assert ask(two, "/models/churn/compare", scopes=("predict",)).status_code == 403
    assert ask(two, "/models/churn/compare", models=("other",)).status_code == 403
    assert ask(two, "/models/churn/compare?from=1&to=1").get_json()["code"] == "same_version"


def test_the_api_says_what_was_active_as_of_a_moment(two: House) -> None:
    found = ask(two, "/models/churn?as_of=2100-03-03").get_json()
    assert found["as_of"]["at"] == "2100-03-03T23:59:59.999999+00:00"
    assert (found["as_of"]["active_version"], found["as_of"]["label"]) == (1, "spring")
    assert (found["as_of"]["actor"], found["as_of"]["reason"]) == ("cli:a-test", "the first <one>")
    assert found["as_of"]["since"] == found["history"][0]["at"]
    assert ask(two, "/models/churn?as_of=2001-01-01T00:00:00Z").get_json()["as_of"] is None
    assert "as_of" not in ask(two, "/models/churn").get_json()


def test_the_api_names_the_parameter_that_is_no_moment(two: House) -> None:
    for text in ("tomorrow", "", "2026-13-01"):
        answer = ask(two, f"/models/churn?as_of={text}")
        assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")
        assert (answer.get_json()["code"], answer.get_json()["parameter"]) == ("as_of_unreadable", "as_of")


# --- The command --------------------------------------------------------------------------------------------


def run(house: House, *arguments: str) -> Result:
    """Run the command on a house."""
    folder = house.settings.data_dir
    environ = {"MODELPORT_DATA_DIR": str(folder), **databases.environment(folder)}
    return CliRunner(env=environ).invoke(main, ["models", *arguments])


def test_the_command_compares_by_number_and_label(two: House) -> None:
    done = run(two, "compare", "churn", "spring", "2", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["from"]["version"], found["to"]["version"], found["rows"]["flipped"]) == (1, 2, 2)
    lines = run(two, "compare", "churn", "1", "2").stdout
    assert "max_depth: None -> 3" in lines
    assert "3 of 5 answers are the same" in lines
    assert run(two, "compare", "churn", "1", "9").exit_code == 1


def test_the_command_says_first_what_was_active(two: House) -> None:
    done = run(two, "show", "churn", "--as-of", "2100-03-03T12:00:00Z")
    first = done.stdout.splitlines()[0]
    assert first.startswith("On 2100-03-03 12:00:00 UTC version 1 was active, since 20")
    assert first.endswith("by cli:a-test: the first <one>")
    assert json.loads(run(two, "show", "churn", "--as-of", "2001-01-01", "--json").stdout)["as_of"] is None
    refused = run(two, "show", "churn", "--as-of", "never")
    assert (refused.exit_code, "as_of" in refused.stderr) == (1, True)
