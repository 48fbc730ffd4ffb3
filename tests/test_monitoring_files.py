"""Tests of the Prometheus rules and the Grafana dashboard: what they ask for is there, and says what it should."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import eventually
from tests.functional.server import Server
from tests.receiver import receiver
from webapp import webhooks
from webapp.audit import Actor
from webapp.config import load, prepare
from webapp.db import Database
from webapp.webhooks import deliveries

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
RUNBOOK = ROOT / "docs" / "runbook.md"
CASES = ROOT / "tests" / "files" / "prometheus" / "rules.test.yml"
# Prometheus' own.
OWN = {"up"}
FUNCTIONS = {
    *("sum", "max", "count", "rate", "increase", "time", "vector", "histogram_quantile"),
    *("by", "or", "and", "offset"),
}
INSTANCE = {"age": 35, "income": 52000, "credit_score": 690}


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run promtool; without it a test is skipped, and where CI=true it fails."""
    program = shutil.which("promtool")
    if program is None:
        reason = "promtool is missing; scripts/test_packages.sh installs it or says how."
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerting() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Give every expression, with values in the place of Grafana's variables."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    replaced = [each.replace("$__rate_interval", "5m").replace("$model", ".*") for each in found]
    return [rule["expr"] for rule in rules()] + replaced


def names(expression: str) -> set[str]:
    """Give the metrics that an expression asks for, histograms as they are exposed."""
    # Not in what is matched, grouped by or a span of time.
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby \([^)]*\)|\boffset \w+", " ", expression)
    return {each for each in re.findall(r"[a-zA-Z_:][\w:]*", bare) if each not in FUNCTIONS}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which everything that is counted has happened."""
    made = Server(
        tmp_path_factory.mktemp("watched") / "data", workers=1, cache="on", webhook_private="on", rate_limit="20/minute"
    )
    made.demo()
    with receiver() as there:
        _tell_soon(made, there.url)
        try:
            made.start()
            _use(made, made.key("--scope", "predict", "--scope", "batch", "--scope", "feedback"))
            yield made
        finally:
            made.stop()


def _tell_soon(server: Server, url: str) -> None:
    """Have the worker tell a webhook something when it starts."""
    database = Database(prepare(load(server.environment)).sqlalchemy_url)
    terms: dict[str, Any] = {"name": "x", "url": url, "form": "slack", "events": ["job.failed"], "private": True}
    with database.transaction() as session:
        deliveries.send_test(session, webhooks.create(session, Actor("cli:root"), **terms))
    database.engine.dispose()


def _use(server: Server, key: str) -> None:
    assert server.post("/predict", {}, key).status_code == 422
    answer = server.post("/predict", INSTANCE, key).json()
    server.logged(answer["prediction_id"])
    told = {"prediction_id": answer["prediction_id"], "outcome": answer["prediction"]}
    assert server.post("/feedback", told, key).ok
    assert server.post("/predict/batch", {"instances": [INSTANCE]}, key).ok
    eventually(lambda: server.post("/predict", INSTANCE, key).status_code == 429)


def exposition(server: Server) -> set[str]:
    text = requests.get(f"{server.url}/metrics", timeout=30).text
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


# --- The rules ------------------------------------------------------------------------------------------------


def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", RULES)
    assert (done.returncode, f"{len(rules())} rules found" in done.stdout) == (0, True), done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_when_all_is_well(tmp_path: Path) -> None:
    for file in (RULES, CASES):
        shutil.copy(file, tmp_path)
    done = promtool("test", "rules", tmp_path / CASES.name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_named_once_has_a_severity_and_a_place_in_the_runbook() -> None:
    titles = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert [rule["alert"] for rule in alerting()] == list(dict.fromkeys(rule["alert"] for rule in alerting()))
    assert sorted(titles) == sorted(rule["alert"] for rule in alerting())
    for rule in alerting():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_alerts_that_operators_count_on_are_there() -> None:
    wanted = {
        *("HighErrorRatio", "HighLatencyP99", "NoPredictions", "WorkerDown", "LogLag", "LogDropped"),
        *("DriftDetected", "QualityDegraded", "KeyExpiring", "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"),
    }
    assert wanted <= {rule["alert"] for rule in alerting()}


# --- The dashboard --------------------------------------------------------------------------------------------


def test_panels_have_ids_of_their_own_and_ask_the_chosen_prometheus() -> None:
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert {name["name"] for name in dashboard()["templating"]["list"]} == {"DS_PROMETHEUS", "model"}
    for panel in panels():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert sources == [{"type": "prometheus", "uid": "${DS_PROMETHEUS}"}] * len(sources), panel["title"]
        assert panel["description"].endswith("."), panel["title"]


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_prometheus_takes_what_the_panels_ask(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


# --- Both -----------------------------------------------------------------------------------------------------


def test_the_search_for_names_finds_them() -> None:
    asked = 'histogram_quantile(0.9, sum by (le, x) (rate(a_bucket{b="c"}[5m]))) / max(d:e offset 1d) or time() - f'
    assert names(asked) == {"a_bucket", "d:e", "f"}


def test_every_metric_that_is_asked_for_is_exposed(exposed: Server) -> None:
    wanted = set().union(*map(names, expressions())) - OWN - {rule["record"] for rule in rules() if "record" in rule}
    assert len(wanted) >= 20
    missing: set[str] = set()

    def all_there() -> bool:
        missing.clear()
        missing.update(wanted - exposition(exposed))
        return not missing

    try:
        eventually(all_there, within_seconds=60)
    except AssertionError:
        pytest.fail(f"asked for, and not exposed: {sorted(missing)}")
