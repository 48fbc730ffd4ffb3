"""Tests of what a version's page says of how it is computed, and of the button that allows a plan again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.admin.conftest import TESTER, House
from webapp import fleet, registry

PAGE, FORM = "/admin/models/churn/versions/1", "/admin/models/churn/versions/1/plan"
PROOF: dict[str, Any] = {
    "plan": "9 trees",
    "rows": 1234,
    "left": 0,
    "label_differences": 0,
    "largest_difference": 2e-16,
    "plan_microseconds": 50.0,
    "estimator_microseconds": 5000.0,
    "reason": "",
}
HELD: dict[str, Any] = {
    "role": "active",
    "model": "churn",
    "version": 1,
    "load_seconds": 0.25,
    "memory_bytes": 12_000_000,
    "plan": "9 trees",
    "proof": PROOF,
    "cache": {"local": False, "shared": False, "reason": "It would not pay."},
}


@pytest.fixture
def churn(house: House) -> House:
    """A house with one active version."""
    house.version()
    house.activate(1)
    return house


def hold(house: House, slot: int = 1, **more: Any) -> None:
    """Have a web worker report that it holds the version."""
    house.change(lambda session: fleet.report(session, "here", slot, 1, 1))
    house.change(lambda session: fleet.hold(session, "here", slot, [{**HELD, **more}]))


def said(house: House) -> str:
    return house.viewer.page(PAGE).text


def test_the_plan_is_shown_with_its_proof_and_what_it_gains(churn: House) -> None:
    hold(churn)
    text = said(churn)
    assert "By a plan" in text
    assert "9 trees" in text
    for name, value in (("Rows compared", "1,234"), ("Other labels", "0"), ("Largest difference", "2.0e-16")):
        assert f"{name} {value}" in text
    assert "A row by the plan 0.05 ms A row by scikit-learn 5 ms Times as fast 100" in text
    assert "No answers are kept for rows that come again. It would not pay." in text


def test_each_worker_says_what_the_version_costs_it(churn: House) -> None:
    hold(churn, slot=1)
    hold(churn, slot=2, role="extra", plan=None, memory_bytes=3_000_000)
    text = said(churn)
    assert "In memory 15 MB" in text
    assert "here slot 1 Answers, by a plan 12 MB 250 ms" in text
    assert "here slot 2 Asked for by number, by scikit-learn 3 MB 250 ms" in text


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        ({**PROOF, "reason": "It is not faster than scikit-learn."}, "It is not faster than scikit-learn."),
        ({**PROOF, "rows": 0, "plan_microseconds": None, "reason": "No plan could be made."}, "No plan could be made."),
        (None, "There is no plan for what this estimator is made of."),
    ],
)
def test_where_scikit_learn_computes_the_page_says_why(churn: House, proof: Any, reason: str) -> None:
    hold(churn, plan=None, proof=proof)
    assert "By scikit-learn" in said(churn)
    assert f"scikit-learn itself computes every answer. {reason}" in said(churn)


def test_a_version_that_nobody_holds_is_loaded_when_it_is_asked_for(churn: House) -> None:
    text = said(churn)
    assert "No worker has it in memory." in text
    assert "In memory" not in text


def test_a_plan_that_is_off_is_shown_with_the_reason_and_allowed_again_by_a_button(churn: House) -> None:
    hold(churn, plan=None, proof=None)
    churn.change(lambda session: registry.switch_plan_off(session, TESTER, "churn", 1, "It said 1 <b>instead</b>."))
    text = said(churn)
    assert "Plan switched off" in text
    assert "scikit-learn itself computes every answer. It said 1 <b>instead</b>." in text
    answer = churn.operator.send(PAGE, FORM, reason="mended")
    assert (answer.status_code, answer.location) == (303, PAGE)
    assert "The plan is allowed again." in churn.operator.page(PAGE).text
    assert "Plan switched off" not in said(churn)
    [off, on] = churn.audited("models.plan_off", "models.plan_on")
    assert (off.subject, off.detail) == ("churn/1", {"reason": "It said 1 <b>instead</b>."})
    assert (on.actor, on.detail["reason"]) == ("user:operator", "mended")
    assert "Plan of churn v1 allowed again" in churn.admin.page("/admin/audit").text


def test_a_plan_that_is_allowed_already_changes_nothing(churn: House) -> None:
    answer = churn.operator.post(FORM)
    assert (answer.status_code, answer.location) == (303, PAGE)
    assert "may be computed by a plan already" in churn.operator.page(PAGE).text
    assert churn.audited("models.plan_on") == []


def test_the_system_page_says_how_much_each_worker_holds(churn: House) -> None:
    hold(churn)
    assert "1 12 MB" in churn.viewer.page("/admin/system").text
