"""The page of latency and traffic: what it says, of whom and of when."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

from tests.admin.conftest import House
from webapp.db import now
from webapp.predictions import failures

HOUR = timedelta(hours=1)


def told(house: House, number: int, ago: timedelta, **more: object) -> str:
    return house.prediction(number, at=(now() - ago).timestamp(), **more)


def test_without_predictions_it_says_so_and_offers_a_longer_time(house: House) -> None:
    house.version()
    page = house.viewer.page("/admin/latency")
    assert "No predictions in the last 24 hours. Tests and tries are not counted." in page.text
    assert "Look at the last 90 days" in page.text
    assert "Look at the last 90 days" not in house.viewer.page("/admin/latency?span=90d").text


def test_it_says_how_much_was_predicted_and_how_fast(house: House) -> None:
    house.version()
    for number in range(3):
        told(house, number, HOUR)
    told(house, 3, HOUR, warnings=[{"feature": "age", "code": "unseen_value", "message": "New."}])
    told(house, 4, HOUR, source="test", latency_seconds=9.0)
    told(house, 5, HOUR, source="batch", latency_seconds=0.0)
    text = house.viewer.page("/admin/latency").text
    assert "5 predictions in the last 24 hours; of 100, 95 were answered within about 3.2 ms" in text
    assert "nothing before that to compare with" in text
    assert "With warnings 20 % 1 had values never seen" in text
    # Of those in the log, the test's is not meant, and nobody waited for the batch's.
    assert "among all 6 that are in the log" in text
    assert "9 s" not in text


def test_slower_than_before_is_said(house: House) -> None:
    house.version()
    told(house, 1, 40 * HOUR, latency_seconds=0.002)
    told(house, 2, HOUR, latency_seconds=0.002)
    assert "as in the time before" in house.viewer.page("/admin/latency").text
    told(house, 3, HOUR, latency_seconds=0.2)
    assert "slower than in the time before (about 3.2 ms)" in house.viewer.page("/admin/latency").text


def test_what_became_faster_is_said(house: House) -> None:
    house.version()
    told(house, 1, 40 * HOUR, latency_seconds=0.2)
    told(house, 2, HOUR, latency_seconds=0.002)
    assert "faster than in the time before" in house.viewer.page("/admin/latency").text


def test_batches_alone_have_no_latency(house: House) -> None:
    house.version()
    told(house, 1, HOUR, source="batch", latency_seconds=0.0)
    text = house.viewer.page("/admin/latency").text
    assert "1 prediction in the last 24 hours, all of them in batches" in text
    assert "Slowest predictions" not in text


def test_what_could_not_be_answered_is_told_with_a_request_to_look_for(house: House) -> None:
    house.version()
    house.version("prices")
    line = {"at": (now() - HOUR).timestamp(), "model": "churn", "version": 1, "request_id": "ab12", "failed": 3}
    house.change(lambda session: failures.count_lines(session, [line, line | {"request_id": "cd34"}]))
    said = "Not answered, through no fault of who asked: 6 of churn v1 (for example request cd34"
    assert said in house.viewer.page("/admin/latency").text
    assert said in house.viewer.page("/admin/latency?model=churn&version=1&span=7d").text
    assert "Not answered" not in house.viewer.page("/admin/latency?span=24h&model=prices").text


def test_the_address_says_which_model_version_and_time(house: House) -> None:
    house.version()
    house.version()
    house.version("prices")
    told(house, 1, HOUR)
    told(house, 2, 2 * HOUR, version=2)
    told(house, 3, 2 * HOUR, model="prices")
    told(house, 4, timedelta(days=5))
    counted = {
        "": "3 predictions in the last 24 hours",
        "?span=7d": "4 predictions in the last 7 days",
        "?model=churn": "2 predictions in the last 24 hours",
        "?model=churn&span=30d": "3 predictions in the last 30 days",
        "?model=churn&version=2": "1 prediction in the last 24 hours",
        # What a model has not, as after another one was chosen, is not looked for.
        "?model=prices&version=2": "1 prediction in the last 24 hours",
        "?span=never&version=x": "3 predictions in the last 24 hours",
    }
    for query, sentence in counted.items():
        assert sentence in house.viewer.page(f"/admin/latency{query}").text, query
    assert house.viewer.get("/admin/latency?model=nothing").status_code == 404


def test_the_slowest_come_first_and_lead_to_their_pages(house: House) -> None:
    house.version()
    spent = [None, 100, 20, 190_000, 50]
    slow = told(house, 1, 3 * HOUR, latency_seconds=0.2, timings=spent)
    quick = told(house, 2, HOUR, latency_seconds=0.002)
    page = house.viewer.page("/admin/latency?model=churn")
    links = [
        each["href"] for tag, each in page.elements if tag == "a" and "/admin/predictions/" in (each["href"] or "")
    ]
    assert links == [f"/admin/predictions/{each}" for each in (slow, quick)]
    assert "200 ms 190 ms" in page.text


def test_activations_are_told_with_their_time(house: House) -> None:
    house.version()
    house.version("prices")
    house.activate(1)
    house.activate(1, "prices")
    told(house, 1, timedelta(0))
    text = house.viewer.page("/admin/latency").text
    assert "churn v1 activated" in text
    assert "prices v1 activated" in text
    assert "prices v1 activated" not in house.viewer.page("/admin/latency?model=churn").text


def test_the_table_has_every_hour_for_the_drawings_to_be_made_of(house: House) -> None:
    house.version()
    told(house, 1, HOUR)
    page = house.viewer.page("/admin/latency")
    rows = [each for tag, each in page.elements if tag == "th" and "data-value" in each]
    moments = [int(each["data-value"] or 0) for each in rows]
    assert len(moments) in {24, 25}
    assert {after - before for before, after in pairwise(moments)} == {3600}


# --- A prediction's page ------------------------------------------------------------------------------------


def test_a_prediction_says_where_its_time_went(house: House) -> None:
    house.version()
    known = house.prediction(1, timings=[1500, 100, 20, 1850, 30])
    text = house.viewer.page(f"/admin/predictions/{known}").text
    assert "Where the time went 3.5 ms" in text
    assert (
        "Waiting for a worker 1.5 ms Key, limit and body 0.1 ms Checking the inputs 0.02 ms Predicting 1.85 ms" in text
    )
    assert "Where the time went" not in house.viewer.page(f"/admin/predictions/{house.prediction(2)}").text


def test_a_wait_that_nobody_told_is_left_out(house: House) -> None:
    house.version()
    text = house.viewer.page(f"/admin/predictions/{house.prediction(1, timings=[None, 100, 0, 1850, 50])}").text
    assert "Where the time went 2 ms" in text
    assert "Waiting for a worker" not in text


def test_a_trace_id_leads_to_its_predictions(house: House) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    house.version()
    made = [house.prediction(number, trace_id=trace) for number in (1, 2)]
    house.prediction(3)
    answer = house.viewer.get(f"/admin/predictions/find?id={trace}")
    assert (answer.status_code, answer.location) == (303, f"/admin/predictions?trace={trace}")
    text = house.viewer.get(answer.location).text
    assert all(f"/admin/predictions/{each}" in text for each in made)
    assert f"/admin/predictions/{3:032x}-0" not in text
    assert f"trace={trace}" in house.viewer.get(f"/admin/predictions/{made[0]}").text
