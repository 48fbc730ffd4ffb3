"""The page of drift before there is anything to see, and choosing what is compared with."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from tests.admin.conftest import SIGNATURE, House
from webapp.drift import layout
from webapp.predictions import recount
from webapp.predictions.counts import DriftReference

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def count(house: House, number: int = 1) -> None:
    """Begin to count a version, with a reference of nothing."""
    meant = layout.of(SIGNATURE, [])
    reference = DriftReference(
        model="churn",
        version=number,
        layout=meant.as_json(),
        counts=layout.packed(np.zeros(meant.width, dtype=np.int64)),
        rows=0,
        origin="reference",
        made_at=TODAY,
        since=None,
        until=None,
    )
    house.change(lambda session: recount.begin(session, reference, {}))


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
    count(house)
    text = house.viewer.get("/admin/drift?day=2026-01-05").text
    assert "No predictions on 5 Jan 2026" in text


def test_whatever_the_address_says_there_is_a_page(house: House) -> None:
    house.version()
    house.activate(1)
    count(house)
    for query in ("version=nothing", "version=churn v99", "version=churn v" + "9" * 99, "day=2026-02-30", "shown=x"):
        assert house.viewer.get(f"/admin/drift?{query}").status_code == 200


def choose(house: House, **typed: str) -> str:
    """Choose what is compared with; give what the page then says."""
    answer = house.operator.post("/admin/drift/compare-with", {"version": "churn v1", **typed})
    assert answer.status_code == 303
    return house.operator.get(answer.location).text


def test_only_a_time_with_predictions_can_be_compared_with(house: House) -> None:
    house.version()
    house.activate(1)
    count(house)
    assert "it needs 2,000" in choose(house, since="2026-01-05", until="2026-01-06")
    assert "Give both days as dates" in choose(house, since="2026-01-05", until="soon")
    assert "from now on" in choose(house, packed="1")
    assert [each.subject for each in house.audited("drift.compare_with")] == ["churn/1"]
    assert house.viewer.post("/admin/drift/compare-with", {"version": "churn v1"}).status_code == 403
