"""The export of the prediction log: what the list shows, in its order, without holding up those who write."""

from __future__ import annotations

import csv
import io
import json
import time

import pytest

from tests.admin.conftest import House
from webapp.admin import predictions
from webapp.predictions.search import Wanted


@pytest.fixture
def logged(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """Twelve predictions, exported in pieces of five."""
    monkeypatch.setattr(predictions, "PIECE_ROWS", 5)
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


def test_a_file_ends_at_the_most_that_is_exported(logged: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MOST_EXPORTED", 7)
    assert len(logged.operator.get("/admin/predictions/export/jsonl").text.splitlines()) == 7


def test_who_reads_slowly_holds_up_nobody(logged: House) -> None:
    stream = predictions._every(logged.parts.database, Wanted())
    next(stream)
    # With a transaction left open, SQLite would make this wait, and then refuse it.
    logged.prediction(99, at=time.time() + 60)
    assert len(list(stream)) == 11


def test_an_unreadable_filter_makes_no_file(logged: House) -> None:
    assert logged.operator.get("/admin/predictions/export/csv?low=much").status_code == 422
    assert logged.viewer.get("/admin/predictions/export/csv").status_code == 403
