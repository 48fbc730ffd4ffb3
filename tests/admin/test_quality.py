"""Quality at the doors: the page in each of its states, the API, the command that tells truth, and the metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests import databases
from tests.admin.conftest import SIGNATURE, House, Page, serving
from webapp import db, feedback, metrics
from webapp.cli import main
from webapp.predictions import truth
from webapp.signature import Output, Signature
from webapp.worker.monitoring import Scorer

PATH = "/admin/quality"
_numbers = count(1)


def predict(house: House, told: Sequence[tuple[Any, Any]], days_ago: float = 0, **more: Any) -> list[str]:
    """Log predictions, and tell what was true of those where it is said."""
    ids = []
    for said, _ in told:
        odds = {"prediction": said, "probability": 0.75, "probabilities": {str(said): 0.75, str(1 - said): 0.25}}
        at = (db.now() - timedelta(days=days_ago)).timestamp()
        ids.append(house.prediction(next(_numbers), **{"at": at, **odds, **more}))
    items = [
        {"prediction_id": id_, "outcome": true} for id_, (_, true) in zip(ids, told, strict=True) if true is not None
    ]
    house.change(lambda session: feedback.take(session, None, items))
    return ids


def look(house: House, query: str = "model=churn") -> Page:
    return house.viewer.page(f"{PATH}?{query}")


# --- The page ---------------------------------------------------------------------------------------------


def test_without_a_model_the_page_says_so(house: House) -> None:
    assert "No model yet" in look(house, "").text


def test_without_truth_it_says_how_to_send_it_for_this_model(house: House) -> None:
    house.version()
    house.activate(1)
    [newest] = predict(house, [(1, None)])
    page = look(house)
    assert "Nothing is known of churn v1 yet No ground truth yet for 1 prediction." in page.text
    assert f'"prediction_id": "{newest}", "outcome": 1' in page.text
    assert "/feedback" in page.text
    assert "Estimated, not measured" in page.text
    assert "taken at their word" in page.text


def test_with_little_truth_it_says_how_much_is_needed(house: House) -> None:
    house.version()
    house.activate(1)
    predict(house, [(1, 1)] * 7 + [(1, None)] * 3)
    page = look(house)
    assert "Collecting: 7 of the 100 that are needed." in page.text
    assert "With ground truth 7 70 % of them" in page.text


@pytest.mark.parametrize(
    ("right", "title", "pill"),
    [
        (93, "churn v1 is as good as its card says", "As expected"),
        (60, "churn v1 is worse than its card says", "Worse"),
    ],
)
def test_with_enough_truth_it_says_whether_the_model_is_as_good_as_its_card(
    house: House, right: int, title: str, pill: str
) -> None:
    house.version(card={"accuracy": 0.9})
    house.activate(1)
    predict(house, [(1, 1)] * right + [(1, 0)] * (100 - right), days_ago=2)
    page = look(house)
    assert title in page.text
    assert f"Accuracy {right / 100:.3f}" in page.text
    came = "as expected" if right > 90 else "worse by more than 0.02"
    assert f"over 100 of 100 predictions; the card says 0.900: {came}." in page.text
    assert pill in page.text
    # The chart has a mark for the one day, the card's line, and its figures as a table.
    assert (
        sum(
            tag == "rect" and given.get("class") == "f-r" and given.get("y") not in {None, ".5"}
            for tag, given in page.elements
        )
        == 2
    )
    assert any(
        given.get("stroke-dasharray") and given["d"] and "H300" in given["d"]
        for tag, given in page.elements
        if tag == "path"
    )
    assert f"100 100 % {right / 100:.3f}" in page.text


def test_the_address_says_what_is_shown(house: House) -> None:
    house.version(card={"accuracy": 0.5})
    house.version()
    house.activate(2)
    predict(house, [(1, 1)] * 100, days_ago=20)
    assert "churn v2 made no predictions in this time" in look(house).text
    chosen = look(house, "model=churn&window=90d&version=1")
    assert "churn v1 is as good as its card says" in chosen.text
    assert chosen.fields(PATH) == {"model": "churn", "window": "90d"}
    assert "churn v1 made no predictions in this time" not in look(house, "model=churn&window=7d&version=1").text
    # What is no number and no window is passed over.
    assert "churn v2" in look(house, "model=churn&window=x&version=x").text
    assert house.viewer.get(f"{PATH}?model=nothing").status_code == 404


def test_each_output_of_several_is_shown(house: House) -> None:
    outputs = (Output("churn", (0, 1)), Output("value"))
    house.version(
        signature=Signature(SIGNATURE.features, "frame", "classification", outputs, "none", multi_output=True)
    )
    answers = [{"prediction": {"churn": 1, "value": 1200.0}, "probability": None, "probabilities": None}] * 3
    ids = [house.prediction(next(_numbers), at=db.now().timestamp(), **each) for each in answers]
    items = [{"prediction_id": each, "outcome": {"churn": 1, "value": 1300.0}} for each in ids]
    house.change(lambda session: feedback.take(session, None, items))
    page = look(house)
    assert "Scores of churn" in page.text
    assert "Scores of value" in page.text
    assert "MAE 100" in page.text


def test_a_model_leads_to_its_quality(house: House) -> None:
    house.version()
    hrefs = [given.get("href") for _, given in house.viewer.page("/admin/models/churn").elements]
    assert f"{PATH}?model=churn" in hrefs
    assert PATH in hrefs


# --- The API ----------------------------------------------------------------------------------------------


@pytest.fixture
def serving_house(house: House) -> Iterator[House]:
    """An installation that takes keys."""
    house.version(card={"accuracy": 0.9})
    house.activate(1)
    with serving(house):
        yield house


def test_the_api_says_the_same_to_who_may_read(serving_house: House) -> None:
    predict(serving_house, [(1, 1)] * 60 + [(1, 0)] * 40)
    _, key = serving_house.key("reader", scopes=["models:read"])
    _, other = serving_house.key("caller", scopes=["predict"])
    browser = serving_house.browser()
    answer = browser.get("/models/churn/quality?window=7d", {"X-API-Key": key})
    assert answer.status_code == 200
    found = json.loads(answer.text)
    [one] = found["versions"]
    assert (found["window"], one["version"], one["with_truth"], one["verdict"]["state"]) == ("7d", 1, 100, "worse")
    assert one["outputs"]["churn"]["scores"]["accuracy"]["value"] == 0.6
    assert browser.get("/models/churn/quality", {"X-API-Key": key}).get_json()["window"] == "30d"
    for path, given, status, code in (
        ("/models/churn/quality", other, 403, "scope_missing"),
        ("/models/nothing/quality", key, 404, "unknown_model"),
        ("/models/churn/quality?window=1y", key, 422, "window_unknown"),
    ):
        refused = browser.get(path, {"X-API-Key": given})
        assert (refused.status_code, refused.get_json()["code"]) == (status, code)


# --- The command ------------------------------------------------------------------------------------------


def command(house: House, file: Path, *options: str) -> Result:
    settings = {"MODELPORT_DATA_DIR": str(house.settings.data_dir), **databases.environment(house.settings.data_dir)}
    return CliRunner().invoke(main, ["feedback", str(file), *options], env=settings)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A file to write rows into."""
    return tmp_path / "truth.csv"


def test_an_operator_tells_what_was_true_of_any_keys_predictions(house: House, table: Path) -> None:
    house.version()
    first, second = predict(house, [(1, None)], key_id="a") + predict(house, [(1, None)], key_id="b")
    # As spreadsheets write it.
    text = f"\ufeffprediction_id,outcome,observed_at\r\n{first},1,2026-03-03T12:00Z\r\n{second},0,\r\n"
    table.write_text(text, encoding="utf-8", newline="")
    done = command(house, table, "--json")
    assert (done.exit_code, json.loads(done.stdout)["accepted"]) == (0, 2)
    assert house.look(lambda session: [truth.of(session, each).value for each in (first, second)]) == [1, 0]
    assert command(house, table).stdout == "2 unchanged.\n"
    [noted] = house.audited("feedback.tell")
    assert (noted.subject, noted.detail["accepted"], noted.actor.partition(":")[0]) == ("every key", 2, "cli")


def test_ids_of_a_callers_own_need_their_key(house: House, table: Path) -> None:
    house.version()
    key_id, _ = house.key("shop")
    predict(house, [(1, None)], key_id=key_id, client_id="order 1")
    [foreign] = predict(house, [(1, None)], key_id="another", client_id="order 1")
    table.write_text("id,outcome\norder 1,0\n")
    without = command(house, table)
    assert (without.exit_code, "needs the key" in without.stdout) == (1, True)
    for named in ("shop", key_id):
        assert command(house, table, "--key", named).exit_code == 0
    assert house.look(lambda session: truth.of(session, foreign)) is None
    house.key("shop")
    for named, code in (("shop", "key_ambiguous"), ("nobody", "unknown_key")):
        refused = command(house, table, "--key", named)
        assert (refused.exit_code, code in refused.stderr) == (1, True)


def test_rows_that_are_not_taken_are_named_and_keep_no_other_out(house: House, table: Path) -> None:
    house.version()
    [known] = predict(house, [(1, None)])
    table.write_text(f"prediction_id,outcome\nnone,1\n{known},1\n{known},7\n\n" + "none,0\n" * 30)
    done = command(house, table)
    assert done.exit_code == 1
    assert "line 2: No prediction has this id" in done.stdout
    assert "line 4: The outcome is none of the classes of this model: 0, 1. [outcome_not_a_class]" in done.stdout
    assert "and 12 more that were not taken" in done.stdout
    assert "1 accepted, 31 unknown, 1 refused." in done.stdout


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "columns_missing"),
        (b"prediction_id,outcome\n", "no_items"),
        (b"outcome\n1\n", "columns_missing"),
        (b"id,outcome,weight\na,1,2\n", "unknown_field"),
        (b"id,outcome,id\na,1,b\n", "csv_duplicate_name"),
        (b"id,outcome\na,1,2\n", "csv_malformed"),
        (b'id,outcome\n"a,1\n', "csv_malformed"),
        (b"id,outcome\n\xff,1\n", "csv_malformed"),
        (b"id,outcome\na\0,1\n", "csv_nul"),
    ],
)
def test_a_file_that_is_no_table_of_truth_is_refused(house: House, table: Path, content: bytes, code: str) -> None:
    table.write_bytes(content)
    done = command(house, table, "--json")
    assert (done.exit_code, json.loads(done.stdout)["error"]["code"]) == (1, code)
    assert command(house, table.with_name("none.csv")).exit_code == 2


# --- The metrics ------------------------------------------------------------------------------------------


def gauge(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_the_worker_says_how_good_active_versions_are(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.worker.monitoring.SCORE_SECONDS", 0)
    house.version("gauged")
    house.version("idle")
    house.activate(1, "gauged")
    house.activate(1, "idle")
    scorer = Scorer(house.parts, "this-host")
    predict(house, [(1, 1)] * 3 + [(1, 0)] + [(1, None)] * 4, model="gauged")
    assert not scorer.work_once()
    assert gauge("modelport_feedback_coverage_ratio", model="gauged") == 0.5
    assert gauge("modelport_model_quality_ratio", model="gauged", metric="accuracy") == 0.75
    assert gauge("modelport_model_quality_ratio", model="idle", metric="accuracy") is None
    idle = gauge("modelport_feedback_coverage_ratio", model="idle")
    assert idle is not None
    assert math.isnan(idle)
    # Another version is active, of which nothing is known.
    house.version("gauged")
    house.activate(2, "gauged")
    scorer.work_once()
    now = gauge("modelport_model_quality_ratio", model="gauged", metric="accuracy")
    assert now is not None
    assert math.isnan(now)
