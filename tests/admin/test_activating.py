"""Tests of the Activate panel: what it asks first, without any script."""

from __future__ import annotations

from typing import Any

from tests.admin.conftest import House
from webapp.signature import Feature, Output, Signature

STRICTER = Signature(
    (Feature("age", minimum=21.0), Feature("income")), "frame", "classification", (Output("prediction"),)
)
PAGE = "/admin/models/churn/versions/2"


def prepared(house: House, **more: Any) -> None:
    house.activate(house.version())
    house.version(**more)


def test_a_version_that_refuses_what_works_now_asks_for_the_models_name(house: House) -> None:
    prepared(house, signature=STRICTER)
    page = house.operator.page(PAGE)
    assert "Type churn to confirm" in page.text
    fields = page.fields(f"{PAGE}/activate")
    assert house.operator.post(f"{PAGE}/activate", fields).location == PAGE
    assert "can be refused by version 2" in house.operator.page(PAGE).text
    assert house.active() == 1
    house.operator.post(f"{PAGE}/activate", fields | {"confirm": " churn "})
    assert house.active() == 2


def test_a_version_of_another_scikit_learn_asks_for_a_tick(house: House) -> None:
    prepared(house, trained_with="1.5.2")
    page = house.operator.page(PAGE)
    assert "I know that it was trained with scikit-learn 1.5.2" in page.text
    assert "to confirm" not in page.text
    fields = page.fields(f"{PAGE}/activate")
    fields.pop("accept_trained_with", None)
    house.operator.post(f"{PAGE}/activate", fields)
    assert "trained with scikit-learn 1.5.2" in house.operator.page(PAGE).text
    assert house.active() == 1
    house.operator.post(f"{PAGE}/activate", fields | {"accept_trained_with": "1.5.2"})
    assert house.active() == 2


def test_a_version_that_needs_nothing_asks_for_nothing(house: House) -> None:
    prepared(house)
    fields = house.operator.page(PAGE).fields(f"{PAGE}/activate")
    assert not {"confirm", "accept_trained_with"} & fields.keys()
    house.operator.post(f"{PAGE}/activate", fields)
    assert house.active() == 2


def test_a_version_that_cannot_be_loaded_is_refused_with_the_reason(house: House) -> None:
    prepared(house, content=b"no model")
    fields = house.operator.page(PAGE).fields(f"{PAGE}/activate")
    assert house.operator.post(f"{PAGE}/activate", fields).location == PAGE
    assert "cannot be served; nothing has changed" in house.operator.page(PAGE).text
    assert house.active() == 1
