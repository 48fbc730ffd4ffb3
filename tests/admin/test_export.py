"""The export of the prediction log: what the list shows, in its order, without holding up those who write."""

from __future__ import annotations

import csv
import io
import json
import re
import time

import pytest

from tests.admin.conftest import House
from tests.test_predictions import truth_of
from webapp.admin import predictions
from webapp.predictions import files, truth
from webapp.predictions.search import Wanted
from webapp.worker.exports import Exporter


@pytest.fixture
def logged(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """Twelve predictions, exported in pieces of five."""
    monkeypatch.setattr(files, "PIECE_ROWS", 5)
    for number in range(12):
        house.prediction(number, at=1_772_366_400 + number // 3, prediction=number % 2)
    return house


def test_a_file_has_what_the_list_shows_newest_first(logged: House) -> None:
    answer = logged.operator.get("/admin/predictions/export/jsonl?outcome=1")
    assert answer.content_type == "application/x-ndjson; charset=utf-8"
    assert "attachment" in answer.headers["Content-Disposition"]
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["prediction"] for row in rows] == [1] * 6
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)


def test_a_csv_has_a_line_per_prediction_with_its_instance(logged: House) -> None:
    lines = list(csv.DictReader(io.StringIO(logged.operator.get("/admin/predictions/export/csv").text)))
    assert len(lines) == 12
    assert json.loads(lines[0]["instance"]) == {"age": 35.0, "income": 52_000.0}


def test_every_form_has_what_turned_out_to_be_true(logged: House) -> None:
    told = truth_of(f"{11:032x}-0", 0)
    logged.change(lambda session: truth.put(session, [told]))
    first, second, *_ = map(json.loads, logged.operator.get("/admin/predictions/export/jsonl").text.splitlines())
    assert (first["outcome"], first["observed_at"]) == (0, told["observed_at"].isoformat())
    assert (second["outcome"], second["observed_at"]) == (None, None)
    first, second, *_ = csv.DictReader(io.StringIO(logged.operator.get("/admin/predictions/export/csv").text))
    assert (first["outcome"], first["observed_at"]) == ("0", told["observed_at"].isoformat())
    assert (second["outcome"], second["observed_at"]) == ("", "")


def test_what_is_exported_is_what_the_truth_and_the_time_choose(logged: House) -> None:
    told = truth_of(f"{3:032x}-0", 0)
    logged.change(lambda session: truth.put(session, [told]))
    export = "/admin/predictions/export/jsonl"
    # Of number 3 the answer was 1; all of them were made on the first of March.
    for query, count in (
        ("truth=wrong", 1),
        ("truth=untold", 11),
        ("from=2026-03-01&to=2026-03-01", 12),
        ("from=2026-03-02", 0),
        ("to=2026-03-01T12:00:01", 3),
    ):
        assert len(logged.operator.get(f"{export}?{query}").text.splitlines()) == count, query
    refused = logged.operator.get(f"{export}?from=soon")
    assert (refused.status_code, "2026-03-03" in refused.text) == (422, True)


def test_parquet_says_what_it_needs_where_that_is_not_installed(logged: House) -> None:
    answer = logged.operator.get("/admin/predictions/export/parquet")
    assert answer.status_code == 422
    assert "pip install &#34;modelport[parquet]&#34;" in answer.text


def test_a_file_ends_at_the_most_that_is_exported(logged: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MOST_EXPORTED", 7)
    assert len(logged.operator.get("/admin/predictions/export/jsonl").text.splitlines()) == 7


def test_who_reads_slowly_holds_up_nobody(logged: House) -> None:
    stream = files.lines(logged.parts.database, Wanted())
    next(stream)
    # With a transaction left open, SQLite would make this wait, and then refuse it.
    logged.prediction(99, at=time.time() + 60)
    assert len(list(stream)) == 11


def test_an_unreadable_filter_makes_no_file(logged: House) -> None:
    assert logged.operator.get("/admin/predictions/export/csv?low=much").status_code == 422
    assert logged.viewer.get("/admin/predictions/export/csv").status_code == 403


# --- Large ones ---------------------------------------------------------------------------------------------

PAGE = "/admin/predictions/exports"


def write(house: House) -> None:
    """Do what the worker does with one export."""
    assert Exporter(house.parts, "this-host").work_once()


def test_a_large_export_is_asked_for_with_the_filters_of_the_list_and_downloaded_when_it_is_done(logged: House) -> None:
    listed = logged.operator.page("/admin/predictions?outcome=1")
    [link] = [each["href"] for tag, each in listed.elements if tag == "a" and f"{PAGE}?" in (each.get("href") or "")]
    assert link
    [action] = [action for action, _ in logged.operator.page(link).forms if action.startswith(PAGE)]
    answer = logged.operator.send(link, action, form="csv")
    assert (answer.status_code, answer.location) == (303, PAGE)
    assert "processing" in logged.operator.page(PAGE).text.lower()
    write(logged)
    page = logged.operator.page(PAGE)
    assert ("6 rows" in page.text, "Completed" in page.text) == (True, True)
    assert re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\d\b", page.text)
    assert "outcome 1" in page.text
    [file] = [each["href"] for tag, each in page.elements if tag == "a" and (each.get("href") or "").endswith("/file")]
    assert file
    answer = logged.operator.get(file)
    assert answer.content_type == "text/csv; charset=utf-8"
    assert re.search(r"attachment; filename=predictions-[0-9-]+\.csv", answer.headers["Content-Disposition"])
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["prediction"] for row in rows] == ["1"] * 6


def test_who_takes_predictions_away_stands_in_the_trail_and_what_was_looked_for_does_not(logged: House) -> None:
    path = f"{PAGE}?caller=ada-1815&input=name=Lovelace&model=churn"
    logged.operator.post(path, {"form": "jsonl"})
    [row] = logged.audited("predictions.export")
    assert (row.actor, row.detail["form"], row.detail["wanted"]["model"]) == ("user:operator", "jsonl", "churn")
    assert not re.search("ada-1815|Lovelace", json.dumps(row.detail))


def test_an_export_is_for_operators_and_needs_filters_and_a_form_that_can_be(logged: House) -> None:
    assert logged.viewer.get(PAGE).status_code == 403
    assert logged.operator.post(f"{PAGE}?low=much", {"form": "csv"}).status_code == 422
    assert logged.operator.post(PAGE, {"form": "xlsx"}).status_code == 422
    assert not logged.audited("predictions.export")


def test_what_is_not_done_has_no_file_and_what_is_removed_neither(logged: House) -> None:
    export_id = logged.export()
    file = f"{PAGE}/{export_id}/file"
    assert logged.operator.get(file).status_code == 409
    write(logged)
    assert len(logged.operator.get(file).text.splitlines()) == 12
    logged.operator.send(PAGE, f"{PAGE}/{export_id}/remove")
    assert logged.operator.get(file).status_code == 404
    assert not list(logged.parts.artifacts.storage.names("exports"))
