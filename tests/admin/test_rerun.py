"""A logged prediction is asked of another version: both answers are shown, the difference is named, nothing is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from tests.admin.conftest import SIGNATURE, House, artifact, serving
from webapp.signature import Feature


def other_way_round() -> bytes:
    """Give an estimator that says the opposite of the usual one."""
    table = pd.DataFrame({"age": [20.0, 30, 60, 70], "income": [1000.0, 30_000, 60_000, 90_000]})
    return bytes(skops.io.dumps(LogisticRegression(max_iter=500).fit(table, [1, 1, 0, 0])))


@pytest.fixture
def asked(house: House) -> Iterator[House]:
    """A version, one that says the opposite, and one that takes another feature; the first has answered."""
    house.version()
    house.version(content=other_way_round())
    wider = (*SIGNATURE.features[:1], Feature("wealth"))
    house.version(signature=replace(SIGNATURE, features=wider), content=artifact())
    house.activate(2)
    with serving(house):
        loaded = house.parts.follower.served("churn", 1)
        instance = {"age": 65.0, "income": 80_000.0}
        [answer] = loaded.predict([instance], [""], ["x"])
        facts = {name: answer.document[name] for name in ("prediction", "probability", "probabilities")}
        house.facts = {"id": house.prediction(1, instance=instance, **facts)}
        yield house


def path(house: House, version: int | None = None) -> str:
    return f"/admin/predictions/{house.facts['id']}/rerun{f'?version={version}' if version else ''}"


def test_its_own_version_says_the_same(asked: House) -> None:
    text = asked.operator.page(path(asked, 1)).text
    assert "same answer" in text
    assert text.count("+0.000000") + text.count("-0.000000") == 2, "the probabilities of both classes"


def test_the_active_version_is_asked_first_and_another_answer_is_named(asked: House) -> None:
    text = asked.operator.page(path(asked)).text
    assert "Logged, v1" in text
    assert "Now, v2" in text
    assert "other answer 1 then, 0 now" in text


def test_a_version_that_cannot_be_asked_this_says_why(asked: House) -> None:
    text = asked.operator.page(path(asked, 3)).text
    assert "Version 3 cannot be asked this." in text
    assert "/wealth" in text
    assert "/income" in text
    answer = asked.operator.get(path(asked, 77))
    assert (answer.status_code, "Version 77 cannot be asked this." in answer.text) == (404, True)


def test_asking_again_leaves_nothing(asked: House) -> None:
    asked.operator  # noqa: B018 - signing in is noted
    before = asked.state()
    asked.operator.page(path(asked, 1))
    assert asked.state() == before
    assert asked.viewer.get(path(asked)).status_code == 403


def test_the_page_of_a_prediction_leads_there(asked: House) -> None:
    page = asked.operator.page(f"/admin/predictions/{asked.facts['id']}")
    assert path(asked) in [each.get("href") for _, each in page.elements]


def test_the_page_of_a_prediction_says_where_its_numbers_lie_in_the_reference(house: House) -> None:
    ages = "\n".join(str(age) for age in range(20, 71))
    house.version(reference=house.parts.artifacts.put(f"age\n{ages}\n".encode()))
    text = house.viewer.page(f"/admin/predictions/{house.prediction(1, instance={'age': 45.0, 'income': 46.0})}").text
    assert "above 50 % of the reference, which goes from 20 to 70" in text
    assert "below everything in the reference" in text
    text = house.viewer.page(
        f"/admin/predictions/{house.prediction(2, instance={'age': 45.0, 'income': 45_500.0})}"
    ).text
    assert "50 % of the way from 1000 to 90000" in text, "of what the reference has not, the ends are known"
