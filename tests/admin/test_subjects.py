"""Pages of whom predictions are about: deleting them, and what the log has not as it was sent."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.admin.conftest import SIGNATURE, House, serving
from webapp.signature import Feature, Signature, keeping

PAGE = "/admin/predictions/subject"
ADA = "ada@example.com"


def hiding() -> Signature:
    """Give a signature of which the age is hashed and the income not kept; the income is the subject."""
    age, income = SIGNATURE.features
    return replace(SIGNATURE, features=(replace(age, log="hash"), replace(income, log="drop", subject=True)))


def of(house: House, number: int, whom: str) -> str:
    digest = keeping.subject(house.settings.derive(keeping.KEY), whom)
    return house.prediction(number, at=time.time(), subject=digest)


def count(house: House) -> int:
    return house.operator.page("/admin/predictions").text.count("API") and len(
        house.operator.get("/admin/predictions/export/jsonl").text.splitlines()
    )


def test_a_subject_is_deleted_when_it_was_typed_twice_and_named_nowhere(house: House) -> None:
    for number, whom in enumerate([ADA, ADA, "bob"]):
        of(house, number, whom)
    browser = house.admin
    answer = browser.send(PAGE, PAGE, subject=ADA, again="ada")
    assert (answer.status_code, "nothing was deleted" in answer.text) == (422, True)
    assert count(house) == 3
    answer = browser.send(PAGE, PAGE, subject=ADA, again=ADA)
    assert (answer.status_code, answer.location) == (303, PAGE)
    text = browser.page(PAGE).text
    assert "2 predictions, 0 batches and 0 exports are removed" in text
    assert ADA not in text
    assert count(house) == 1
    [noted] = house.audited("predictions.delete_subject")
    assert ADA not in f"{noted.subject}{noted.detail}"
    assert "Predictions about a subject deleted" in browser.page("/admin/audit").text


def test_only_admins_delete_subjects(house: House) -> None:
    assert house.operator.get(PAGE).status_code == 403
    assert house.operator.post(PAGE, {"subject": ADA, "again": ADA}).status_code == 403
    assert house.admin.send(PAGE, PAGE, subject="", again="").status_code == 422


def test_what_the_log_has_not_is_said_and_cannot_be_asked_again(house: House) -> None:
    house.version(signature=hiding())
    hashed = "0123456789abcdef"
    path = f"/admin/predictions/{house.prediction(1, instance={'age': hashed})}"
    with serving(house):
        page = house.operator.page(path)
        assert f"age hashed {hashed}" in page.text
        assert "income not kept" in page.text
        assert "age, income are hashed or not kept" in page.text
        assert "curl " not in page.text
        again = house.operator.page(f"{path}/rerun?version=1")
        assert "hashed or not kept are age, income" in again.text
        form = house.operator.get(f"/admin/models/churn/versions/1/try?prediction={1:032x}-0")
        assert form.status_code == 200
        assert hashed not in form.text


def test_a_versions_page_says_what_the_log_keeps(house: House) -> None:
    house.version(signature=hiding())
    house.version(signature=replace(SIGNATURE, id_is_subject=True))
    house.version()
    first, second, third = (house.viewer.page(f"/admin/models/churn/versions/{number}").text for number in (1, 2, 3))
    assert "In the log" in first
    assert "not kept, the subject" in first
    assert "hashed" in first
    assert "own id is the subject." in second
    assert "In the log" not in second + third


def test_other_features_of_such_a_version_are_shown_as_ever(house: House) -> None:
    signature = replace(hiding(), features=(*hiding().features, Feature("plan", "string")))
    house.version(signature=signature)
    text = house.operator.page(f"/admin/predictions/{house.prediction(1, instance={'age': None, 'plan': 'pro'})}").text
    assert "plan pro" in text
    assert "age null" in text
