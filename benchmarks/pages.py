"""Server time of every page of the admin UI, with 200 versions, 10,000 keys and a million predictions (SQLite)."""

from __future__ import annotations

import argparse
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from webapp import app, config, db, feedback, keys, registry, users
from webapp.audit import Actor
from webapp.cli.demo import METADATA, rows, train
from webapp.config import Settings
from webapp.db import Database
from webapp.intake import Upload
from webapp.keys import ApiKey
from webapp.monitoring import drift_watch
from webapp.monitoring.drift_report import Terms
from webapp.monitoring.references import References
from webapp.predictions import log
from webapp.predictions.counts import DriftReference, HourlyCounts
from webapp.registry import Version
from webapp.uploads import Wish, upload
from webapp.web import Parts

ACTOR = Actor("user:bench")
GOAL_SECONDS = 0.1
REPEATS = 7
PIECE_ROWS = 10_000
DAYS = 30
YEAR_HOURS, TRUTHS = 24 * 365, 5000


def seed(parts: Parts, versions: int, key_count: int, predictions: int) -> str:
    """Fill a database; gives the id of a prediction."""
    _model(parts)
    with parts.database.transaction() as session:
        first = registry.get_version(session, registry.get_model(session, "credit-risk"), 1)
        for _ in range(versions - 1):
            _copy(session, parts.settings, first)
    with parts.database.transaction() as session:
        for number in range(key_count):
            keys.create(session, ACTOR, parts.ring.pepper, f"application-{number}", owner=f"team {number % 50}")
        ids = [row.id for row in keys.search(session, "", "live", 0, 200).rows]
    records = _records(ids, versions, predictions)
    number = 0
    while piece := list(islice(records, PIECE_ROWS)):
        number += len(piece)
        with parts.database.transaction() as session:
            log.insert(session, log.Piece("bench", "one", piece, number))
        print(f"\r{number:,} predictions", end="", flush=True)
    print()
    return f"{predictions // 2:032x}-0"


def _model(parts: Parts) -> None:
    import joblib  # noqa: PLC0415 - only to write one file

    people, paid = rows()
    with tempfile.TemporaryDirectory() as folder:
        model, reference = Path(folder) / "model.joblib", Path(folder) / "reference.csv"
        joblib.dump(train(people, paid), model)
        people.to_csv(reference, index=False)
        files = Upload(model, reference=reference, metadata={**METADATA, "accuracy": 0.7})
        upload(parts.desk, ACTOR, Wish("credit-risk", activate=True), files)


def _copy(session: db.Session, settings: Settings, version: Version) -> None:
    registry.add_version(
        session,
        ACTOR,
        settings.derive("versions"),
        "credit-risk",
        artifact=version.artifact,
        signature=version.signature,
        report=version.report,
        card=version.card,
    )


def _records(key_ids: list[str], versions: int, count: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(1)  # noqa: S311 - the same log each time
    begin, span = time.time() - DAYS * 86_400, DAYS * 86_400 / count
    for number in range(count):
        low = round(chance.random(), 3)
        yield {
            "id": f"{number:032x}-0",
            "at": begin + number * span,
            "model": "credit-risk",
            "version": 1 + number * versions // count,
            "model_version": str(1 + number * versions // count),
            "key_id": chance.choice(key_ids),
            "request_id": f"{number:032x}",
            "source": "api",
            "client_id": None,
            "instance": {"age": chance.randint(18, 90), "income": float(chance.randint(10_000, 200_000))}
            | {"credit_score": chance.randint(300, 850)},
            "prediction": int(low > 0.5),  # noqa: PLR2004 - as a classifier decides
            "probability": max(low, 1 - low),
            "probabilities": {"0": 1 - low, "1": low},
            "warnings": [] if number % 20 else [{"feature": "age", "code": "outside", "message": "out of range"}],
            "latency_seconds": chance.uniform(0.001, 0.01),
        }


def watch(parts: Parts, number: int) -> None:
    """Count a version for drift over a year, hour by hour, and decide about the last days; tell the truth of some."""
    # Not `make`: it would count all that is logged of each version, which takes as long as logging it.
    likes = References(parts.database, parts.artifacts, parts.follower).of("credit-risk", 1)
    assert likes is not None
    columns = ("layout", "counts", "rows", "origin", "made_at", "since", "until")
    facts = {"model": "credit-risk", "version": number, **{name: getattr(likes, name) for name in columns}}
    this_hour = db.now().replace(minute=0, second=0, microsecond=0)
    with parts.database.transaction() as session:
        session.merge(DriftReference(**facts))
        for hours in range(YEAR_HOURS):
            row = {"model": "credit-risk", "version": number, "hour": this_hour - timedelta(hours=hours)}
            session.merge(HourlyCounts(**row, rows=likes.rows, counts=likes.counts))
    drift_watch.decide_all(parts.database, Terms())
    with parts.database.reading() as session:
        chosen = log.newest_of(session, "credit-risk", number, this_hour - timedelta(days=DAYS), TRUTHS)
    items = [{"prediction_id": each.id, "outcome": each.prediction} for each in chosen]
    with parts.database.transaction() as session:
        feedback.take(session, None, items)


def signed_in(parts: Parts, client: FlaskClient) -> None:
    """Sign in as an admin, through the pages."""
    with parts.database.transaction() as session:
        token = users.make_link(session, users.create(session, ACTOR, "bench", "admin"))
    page = client.get(f"/login/{token}").get_data(as_text=True)
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None
    client.post(f"/login/{token}", data={"csrf_token": found[1]})


def paths(database: Database, number: int, prediction_id: str) -> list[str]:
    """Every kind of page."""
    with database.reading() as session:
        [row, *_] = keys.search(session, "", "live", 0, 1).rows
    key: ApiKey = row
    model = "/admin/models/credit-risk"
    version = f"{model}/versions/{number}"
    log_page = "/admin/predictions"
    return [
        "/admin",
        "/admin?span=30d",
        "/admin/models",
        model,
        version,
        f"{version}/signature",
        f"{version}/try",
        "/admin/upload",
        "/admin/keys",
        "/admin/keys?q=application-77",
        "/admin/keys?state=all&page=150",
        f"/admin/keys/{key.id}",
        "/admin/keys/new",
        log_page,
        f"{log_page}?model=credit-risk&time=7d",
        f"{log_page}?outcome=1&low=0.95",
        f"{log_page}?input=age%3D200",
        f"{log_page}?key={key.id}&warned=1",
        f"{log_page}/{prediction_id}",
        f"{log_page}/exports",
        f"/admin/drift?version=credit-risk v{number}",
        f"/admin/drift?version=credit-risk v{number}&shown=prediction:prediction",
        "/admin/latency",
        "/admin/latency?span=90d",
        "/admin/latency?model=credit-risk&span=7d",
        "/admin/quality?model=credit-risk&window=30d",
        "/admin/alerts",
        "/admin/webhooks",
        "/admin/jobs",
        "/admin/audit",
        "/admin/audit?q=nothing-is-called-so",
        "/admin/users",
        "/admin/system",
        "/admin/account",
    ]


def measure(client: FlaskClient, path: str) -> float:
    """Give the median of the server's seconds, after one request that does not count."""
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        response = client.get(path)
        response.get_data()
        times.append(time.perf_counter() - started)
        assert response.status_code == 200, (path, response.status_code)  # noqa: PLR2004 - OK
    return statistics.median(times[1:])


def main() -> None:
    """Seed, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = config.prepare(config.load({"MODELPORT_DATA_DIR": folder}))
        db.upgrade(settings.sqlalchemy_url)
        web = app.create_app(settings)
        parts: Parts = web.extensions["modelport"]
        prediction_id = seed(parts, asked.versions, asked.keys, asked.predictions)
        parts.spool.start()
        parts.follower.start(slot=None)
        watch(parts, asked.versions // 2)
        client = web.test_client()
        signed_in(parts, client)
        slow = 0
        for path in paths(parts.database, asked.versions // 2, prediction_id):
            seconds = measure(client, path)
            slow += seconds > GOAL_SECONDS
            print(f"{seconds * 1000:7.1f} ms  {path}{'  over the goal' if seconds > GOAL_SECONDS else ''}")
        print(f"{slow} over the goal of {GOAL_SECONDS * 1000:.0f} ms")
        parts.follower.stop()
        parts.spool.stop()


if __name__ == "__main__":
    main()
