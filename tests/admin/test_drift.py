"""The page of drift before there is anything to see, and choosing what is compared with."""

from __future__ import annotations

from tests.admin.conftest import House


def test_without_a_model_it_says_what_to_do(house: House) -> None:
    assert "Upload one with a reference" in house.operator.get("/admin/drift").text
    assert "Upload a model" not in house.viewer.get("/admin/drift").text


def test_a_version_that_was_just_activated_is_waited_for(house: House) -> None:
    house.version()
    assert "No version is active" in house.viewer.get("/admin/drift").text
    house.activate(1)
    assert "Collecting" in house.viewer.get("/admin/drift").text


def test_a_day_without_predictions_is_no_verdict(house: House) -> None:
    house.version()
    house.activate(1)
    house.count(1)
    text = house.viewer.get("/admin/drift?day=2026-01-04").text
    assert "No predictions on 4 Jan 2026" in text


def test_whatever_the_address_says_there_is_a_page(house: House) -> None:
    house.version()
    house.activate(1)
    house.count(1)
    days = ("2026-02-30", "0001-01-01", "9999-12-31", "never")
    versions = ("nothing", "churn v99", "churn v" + "9" * 99)
    asked = [*(f"day={each}" for each in days), *(f"version={each}" for each in versions), "shown=x"]
    for query in asked:
        assert house.viewer.get(f"/admin/drift?{query}").status_code == 200


def choose(house: House, since: str, until: str) -> tuple[int, str]:
    """Choose what is compared with; give the status, and what the page then says."""
    typed = {"version": "churn v1", "since": since, "until": until}
    answer = house.operator.post("/admin/drift/compare-with", typed)
    text = house.operator.get(answer.location).text if answer.status_code == 303 else answer.text
    return answer.status_code, text


def test_a_time_with_predictions_can_be_compared_with_and_the_reference_again(house: House) -> None:
    house.version()
    house.activate(1)
    house.count(1)
    status, text = choose(house, "2026-01-06", "2026-01-07")
    assert status == 422
    assert "it needs 2,000" in text
    status, text = choose(house, "2026-01-05", "soon")
    assert status == 422
    assert "Write the day as a date" in text
    # What was right is still there.
    assert 'value="2026-01-05"' in text
    status, text = choose(house, "2026-01-05", "2026-01-05")
    assert "compared with 2026-01-05 to 2026-01-06" in text
    answer = house.operator.post("/admin/drift/compare-with-reference", {"version": "churn v1"})
    assert "compared with the reference" in house.operator.get(answer.location).text
    assert [each.subject for each in house.audited("drift.compare_with")] == ["churn/1"] * 2
    assert house.viewer.post("/admin/drift/compare-with", {"version": "churn v1"}).status_code == 403
    assert house.operator.post("/admin/drift/compare-with-reference", {"version": "x v1"}).status_code == 404
