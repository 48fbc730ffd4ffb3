"""The page of drift before there is anything to see, and choosing what is compared with."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa

from tests.admin.conftest import SIGNATURE, House
from webapp import parquet
from webapp.db import Session, now
from webapp.monitoring import drift_report
from webapp.monitoring.drift_report import Terms
from webapp.predictions import counts, log, refusals
from webapp.registry import Activation
from webapp.signature import Feature, Signature
from webapp.signature.refused import Tally

DAY = timedelta(days=1)
SECRET = "ada@example.com"
REGIONS = replace(
    SIGNATURE,
    features=(
        Feature("region", "string", observed_values=("north", "south")),
        Feature("mail", "string", log="hash"),
        Feature("note", "string", log="drop"),
    ),
)


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


# --- A day that is over -----------------------------------------------------------------------------------------


def yesterday() -> datetime:
    return now().replace(hour=0, minute=0, second=0, microsecond=0) - DAY


def day_of(house: House, instances: list[dict[str, Any]], signature: Signature = REGIONS) -> str:
    """Activate a version, log what it was asked yesterday, and decide about that day; give the address of its page."""
    house.version(signature=signature)
    house.activate(1)
    house.count(1)
    at = yesterday() + DAY / 2
    for number, instance in enumerate(instances):
        house.prediction(number, at=at.timestamp() + number, instance=instance)
    house.change(lambda session: drift_report.decide(session, "churn", 1, yesterday(), Terms()))
    return f"/admin/drift?version=churn+v1&day={yesterday():%Y-%m-%d}"


def sent(count: int, region: str) -> list[dict[str, Any]]:
    return [{"region": region, "mail": f"hash-of-{SECRET[:3]}"} for _ in range(count)]


def test_new_values_are_named_with_their_share_and_as_the_log_has_them(house: House) -> None:
    address = day_of(house, [*sent(19, "north"), *sent(1, "XK" * 40)])
    shown = house.viewer.page(f"{address}&shown=input:region").text
    assert f"New in region : “{'XK' * 19}X…” 5.0 %" in shown
    assert "XK" * 20 not in shown
    # What is hashed is not compared, and so is never new.
    assert "hash-of" not in shown


def test_what_is_removed_from_the_log_is_named_no_more(house: House) -> None:
    address = day_of(house, [*sent(19, "north"), *sent(1, SECRET)])
    assert SECRET in house.viewer.page(address).text
    house.change(lambda session: log.remove(session, now(), 1000))
    assert SECRET not in house.viewer.page(address).text


def test_the_window_is_downloaded_as_it_was_looked_at_by_who_may(house: House) -> None:
    address = day_of(house, sent(20, "north"))
    # Of another day.
    house.prediction(99, at=(yesterday() - 3 * DAY).timestamp())
    links = [each for tag, given in house.operator.page(address).elements if tag == "a" and (each := given.get("href"))]
    found = {form: next(link for link in links if f"/export/{form}?" in link) for form in ("csv", "jsonl")}
    assert parse_qs(urlsplit(unescape(found["csv"])).query) == {
        "model": ["churn"],
        "version": ["1"],
        "from": [f"{yesterday():%Y-%m-%d}"],
        "to": [f"{yesterday():%Y-%m-%d}"],
    }
    # What could not be written is not offered.
    assert parquet.is_there() or not [each for each in links if "parquet" in each]
    assert len(house.operator.get(found["jsonl"]).text.splitlines()) == 20
    assert "/export/" not in house.viewer.get(address).text


def test_refusals_stand_beside_what_was_logged_with_their_reasons(house: House) -> None:
    house.change(lambda session: refusals.count(session, "churn", 1, yesterday() - DAY, Tally(1000, 1, {})))
    tally = Tally(340, 25, {"region": {"not_allowed": 23}, "(unknown field)": {"unknown_field": 2}})
    house.change(lambda session: refusals.count(session, "churn", 1, yesterday(), tally))
    address = day_of(house, sent(260, "north"))
    text = house.viewer.page(address).text
    assert "More is refused than on the days before" in text
    said = (
        "4.2 % of 600 rows were refused (0.1 % on the days before), region none of the allowed values in 92 % of them"
    )
    assert said in text
    detail = house.viewer.page(f"{address}&shown=refused:rows").text
    assert "(unknown field) not of the model 8.0 %" in detail
    assert "25 of 600 rows were refused, 1 of 1,000 before" in detail


def test_a_day_on_which_nothing_was_taken_is_shown(house: House) -> None:
    house.change(lambda session: refusals.count(session, "churn", 1, yesterday(), Tally(300, 300, {})))
    text = house.viewer.page(day_of(house, [])).text
    assert "No predictions on" in text
    assert "100.0 % of 300 rows were refused. There are no days before to compare that with." in text


def test_an_alert_of_what_has_drifted_is_a_click_away(house: House) -> None:
    address = day_of(house, sent(20, "north"))
    alert_id = house.alert(kind="drift", subject="v1 input:region", sentence="It has drifted.")
    house.alert(kind="drift", subject="v2 input:mail", sentence="So has another one.")
    page = house.viewer.page(address)
    assert "Alert of region" in page.text
    assert "Alert of mail" not in page.text
    assert ("a", f"/admin/alerts/{alert_id}") in {(tag, given.get("href")) for tag, given in page.elements}


def test_a_day_that_nobody_decides_about_is_said_to_be_late(house: House) -> None:
    address = day_of(house, sent(20, "north"))
    assert "not decided about" not in house.viewer.page(address).text
    late = now() - 5 * DAY
    house.prediction(77, at=late.timestamp(), instance={"region": "north"})
    assert "1 day that is over was not decided about" in house.viewer.page(address).text


def test_another_version_than_the_active_one_is_said_to_be_so(house: House) -> None:
    address = day_of(house, sent(20, "north"))
    assert "is not the active version" not in house.viewer.page(address).text
    house.version(signature=REGIONS)
    house.activate(2)
    text = house.viewer.page(address).text
    assert "churn v1 is not the active version, which is v2 and is not counted yet" in text
    # The second came without a reference, too.
    assert "churn v2 came without a reference" in text
    assert "of which 2,000 are missing" in text


def test_a_version_that_collects_says_how_many_are_missing(house: House) -> None:
    house.version()
    house.activate(1)
    for number in range(30):
        house.prediction(number)
    text = house.viewer.page("/admin/drift").text
    assert "compared with the first 2,000 predictions that it makes, of which 1,970 are missing" in text
    house.version("other", reference="ab" * 32)
    house.activate(1, "other")
    assert "other v1 is counted within a minute" in house.viewer.page("/admin/drift").text


def test_a_version_that_is_compared_with_its_first_predictions_says_how_to_do_better(house: House) -> None:
    address = day_of(house, sent(20, "north"))
    assert "came without a reference" not in house.viewer.page(address).text

    def packed_nothing(session: Session) -> None:
        reference = counts.reference(session, "churn", 1)
        assert reference is not None
        reference.origin = "predictions"

    house.change(packed_nothing)
    assert "churn v1 came without a reference" in house.viewer.page(address).text


def test_the_days_on_which_a_version_was_activated_are_marked(house: House) -> None:
    address = day_of(house, sent(20, "north"))
    assert "activated:" not in house.viewer.page(address).text
    earlier = yesterday() - 3 * DAY
    house.change(lambda session: session.execute(sa.update(Activation).values(at=earlier)))
    assert f"{earlier.day} {earlier:%b} , activated: v1" in house.viewer.page(address).text


def test_percentiles_stand_beside_those_of_the_reference(house: House) -> None:
    address = day_of(house, [{"age": float(age), "income": 1.0} for age in range(101)], SIGNATURE)
    # The reference is not at hand: a dash stands there.
    shown = house.viewer.page(f"{address}&shown=input:age").text.replace("\N{EN DASH}", "-")
    for said in ("1 % below - 1", "Median - 50", "99 % below - 99", "Maximum - 100"):
        assert said in shown
