"""A server with something on every page: names as long as may be, refusals, things that never end, odd keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import requests
import sqlalchemy as sa
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from tests.conftest import eventually
from tests.functional.browser import worker_held
from tests.functional.server import Server
from tests.test_predictions import record
from webapp import alerts, config, feedback, keys, passwords, registry, second_factor, uploads, users, webhooks
from webapp.alerts import Found
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor
from webapp.db import Database, Session
from webapp.intake import Upload
from webapp.monitoring import drift_report
from webapp.predictions import exports, log, refusals
from webapp.predictions.search import Wanted
from webapp.signature import from_dict
from webapp.signature.refused import Tally
from webapp.uploads import Desk, Wish
from webapp.webhooks import deliveries

# As long as may be, with nothing in them where a line could break.
MODEL, TEXTS = "x" * 63, "texts"
LONG_USER = f"{'y' * 51}@example.com"
LONG_KEY = "z" * 100
NUMBER = "a_number_whose_name_is_longer_than_a_phone_is_wide_by_far"
INSTANCE = {"city": "Rome", "plan": "basic", "member": False, NUMBER: 1.5}
CARD = {
    "features": [
        {"name": "city", "type": "string", "allowed": ["Oslo", "Rome"], "description": "Where the person lives."},
        {"name": NUMBER, "type": "number", "minimum": 0, "message": "It cannot be less than nothing."},
    ],
    "accuracy": 0.875,
    "trained_by": "a team whose description is long " * 5,
}
PEOPLE = {
    "mara": "admin",
    "gone": "admin",
    "vera": "viewer",
    "guest": "viewer",
    "otto": "viewer",
    LONG_USER: "operator",
}
# Otto's, who also needs one-time codes.
PASSWORD = "four words are good"
FAR = datetime(2100, 1, 1, tzinfo=UTC)
PAST = "2026-01-01 00:00:00.000000"


@dataclass(frozen=True, slots=True)
class Stocked:
    """The server, how to come in, and where there is something to see."""

    server: Server
    stock: Stock
    # The sign-in link of each person.
    links: dict[str, str]
    # What stands for the variables of each rule, the query included.
    examples: dict[str, list[dict[str, Any]]]


@contextmanager
def stocked_server(folder: Path) -> Iterator[Stocked]:
    """Run such a server."""
    server = Server(folder / "data", workers=1)
    stock = Stock(server)
    stock.models(folder)
    stock.truth()
    key, key_id = stock.keys()
    links = stock.people()
    try:
        server.start()
        predictions = _predict(server, key)
        refused = _begin_upload(server, key, folder / "mixed.csv")
        eventually(lambda: server.rows("SELECT id FROM uploads WHERE refusal IS NOT NULL"))
        eventually(lambda: server.rows("SELECT host FROM heartbeats WHERE process = 'worker'"))
        batch = {"instances": [INSTANCE] * 3}
        assert server.post(f"/models/{MODEL}/predict/batch", batch, key).status_code == 202
        eventually(lambda: server.rows("SELECT number FROM chunks WHERE done_at IS NOT NULL"))
        eventually(lambda: server.rows("SELECT version FROM drift_references"))
        stock.drift(key_id)
        done = stock.export(Wanted())
        eventually(lambda: server.rows("SELECT id FROM exports WHERE done_at IS NOT NULL"))
        stock.alter(
            "UPDATE exports SET failed_at = :past, done_at = NULL, failure = :why WHERE id = :id",
            past=PAST,
            why="It could not be written.",
            id=done,
        )
        stock.export(Wanted(model=MODEL))
        eventually(lambda: server.rows("SELECT id FROM exports WHERE done_at IS NOT NULL"))
        stock.export(Wanted(model=TEXTS, feature="text"), leased_by="elsewhere/1", leased_until=FAR)
        with worker_held(server):
            waiting = _begin_upload(server, key, folder / "mixed.joblib")
            assert server.post(f"/models/{MODEL}/predict/batch", batch, key).status_code == 202
            stock.alter("UPDATE heartbeats SET seen_at = :past WHERE process = 'worker'", past=PAST)
            examples = _examples(key_id, predictions, [refused, waiting], links["guest"].rpartition("/")[2])
            examples |= stock.alerts(key_id)
            yield Stocked(server, stock, links, examples)
    finally:
        server.stop()


class Stock:
    """Fills a server: through the rooms, since a command for each thing would take a minute."""

    def __init__(self, server: Server) -> None:
        """Open what the server works on."""
        self.server = server
        self.settings = config.prepare(config.load(server.environment))
        self.actor = Actor("cli:root")

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Open the database."""
        made = Database(self.settings.sqlalchemy_url)
        yield made
        made.engine.dispose()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Change the database."""
        with self.database() as database, database.transaction() as session:
            yield session

    def alter(self, statement: str, **values: object) -> None:
        """Do to rows what otherwise time does, or an accident."""
        with self.session() as session:
            changed = session.execute(sa.text(statement), values)
            assert changed.rowcount > 0, statement  # type: ignore[attr-defined] # an UPDATE's result has it

    def models(self, folder: Path) -> None:
        """Upload a model that takes inputs of every kind, and one that takes a text; switch to and fro."""
        _train(folder)
        with self.database() as database:
            desk = Desk(self.settings, database, ArtifactStore(self.settings.artifacts_dir))
            mixed = Upload(folder / "mixed.joblib", reference=folder / "mixed.csv", metadata=CARD)
            uploads.upload(desk, self.actor, Wish(MODEL, "w" * 64), mixed)
            uploads.upload(desk, self.actor, Wish(TEXTS), Upload(folder / "text.joblib"))
        with self.session() as session:
            for name in (MODEL, TEXTS):
                registry.activate(session, self.actor, name, 1, "a reason that takes some words to tell " * 3)
                self._edit_signature(session, name)
                registry.activate(session, self.actor, name, 2)
            registry.rollback(session, self.actor, MODEL)
        long_ago = "UPDATE activations SET at = :past WHERE model_id = (SELECT id FROM models WHERE name = :name)"
        self.alter(long_ago, name=TEXTS, past=PAST)

    def _edit_signature(self, session: Session, name: str) -> None:
        first = registry.get_version(session, registry.get_model(session, name), 1)
        signature, narrow = from_dict(first.signature), ("good", "Oslo")
        features = [replace(each, allowed=narrow if each.kind == "string" else None) for each in signature.features]
        edited = replace(signature, features=tuple(features)).as_dict()
        registry.edit_signature(session, self.actor, self.settings.derive("versions"), first, edited)

    def truth(self) -> None:
        """Log what the first model said on some days, and tell that it was right half of the time."""
        moment = datetime.now(UTC)
        made = [
            record(
                at,
                model=MODEL,
                version=1,
                at=(moment - timedelta(days=at % 12)).timestamp(),
                prediction=at % 3 == 0,
                probability=0.9,
                probabilities={"False": 0.1 + 0.8 * (at % 3 > 0), "True": 0.9 - 0.8 * (at % 3 > 0)},
            )
            for at in range(150)
        ]
        items = [{"prediction_id": each["id"], "outcome": at % 2 == 0} for at, each in enumerate(made)]
        with self.session() as session:
            log.insert(session, log.Piece("another-host", "a-segment", made, 1))
            assert feedback.counted(feedback.take(session, None, items))["accepted"] == len(made)

    def export(self, wanted: Wanted, **facts: object) -> str:
        """Ask for an export."""
        with self.session() as session:
            made = exports.ask(session, self.actor, "jsonl", wanted)
            for name, value in facts.items():
                setattr(made, name, value)
            return made.id

    def keys(self) -> tuple[str, str]:
        """Make a key for everything with a long name, and one in each state; give the first with its id."""
        pepper = self.settings.derive(keys.PEPPER)
        models, others = (MODEL, TEXTS), ("expired", "revoked", "soon over", "unused")
        with self.session() as session:
            row, key = keys.create(
                session, self.actor, pepper, LONG_KEY, owner="Ada", scopes=keys.SCOPES, models=models
            )
            made = {name: keys.create(session, self.actor, pepper, name)[0].id for name in others}
            keys.revoke(session, self.actor, made["revoked"])
            key_id = row.id
        soon = (datetime.now(UTC) + timedelta(days=3)).strftime("%Y-%m-%d %H:%M:%S.%f")
        self.alter("UPDATE api_keys SET expires_at = :past WHERE id = :id", id=made["expired"], past=PAST)
        self.alter("UPDATE api_keys SET expires_at = :soon WHERE id = :id", id=made["soon over"], soon=soon)
        self.alter("UPDATE api_keys SET created_at = :past WHERE id = :id", id=made["unused"], past=PAST)
        return key, key_id

    def drift(self, key_id: str) -> None:
        """Log what the version activated yesterday was asked then, a value as never before, and have it decided."""
        yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - drift_report.DAY
        facts = {"model": MODEL, "version": 1, "model_version": "w" * 64, "source": "api", "key_id": key_id}
        answer = {"prediction": True, "probability": 0.75, "probabilities": {"False": 0.25, "True": 0.75}}
        rest = {"request_id": "drifted", "client_id": None, "warnings": [], "latency_seconds": 0.001}
        made = [
            {
                **facts,
                **answer,
                **rest,
                "id": f"drifted-{number}",
                "at": (yesterday + timedelta(minutes=number)).timestamp(),
                "instance": {**INSTANCE, "city": "Ankh-Morpork" * 9, NUMBER: 1e6 + number},
            }
            for number in range(600)
        ]
        with self.session() as session:
            log.insert(session, log.Piece("another", "yesterday", made, 1))
            reasons = {
                "city": {"not_allowed": 30},
                "(unknown field)": {"unknown_field": 9},
                NUMBER: {"not_a_number": 9},
            }
            refusals.count(session, MODEL, 1, yesterday - drift_report.DAY, Tally(500, 1, reasons))
            refusals.count(session, MODEL, 1, yesterday, Tally(90, 40, reasons))
            drift_report.decide(session, MODEL, 1, yesterday, drift_report.Terms())
        of_model = "UPDATE activations SET at = :then WHERE model_id = (SELECT id FROM models WHERE name = :name)"
        self.alter(of_model, name=MODEL, then=f"{yesterday + timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}")

    def alerts(self, key_id: str) -> dict[str, list[dict[str, Any]]]:
        """Let things need a person, each in another state, and tell webhooks; give where to look at them."""
        facts = {"p99_seconds": 0.25, "reason": "w" * 90, "heard_of_at": None}
        seen = [
            Found("latency", f"{MODEL} answers slowly. " + "w" * 90, "info", MODEL, details=facts),
            Found("plan_off", "The plan differs.", "critical", MODEL, "1"),
            Found("key_expiring", "The key ends.", subject=key_id),
            Found("job_failed", "A batch failed.", model=TEXTS, subject="x" * 32),
            Found("long " + "k" * 60, "A kind that is looked at no more.", subject="s" * 90),
        ]
        with self.session() as session:
            hooks = [self._webhook(session, form, name) for form, name in (("standard", LONG_KEY), ("slack", "chat"))]
            made = [alerts.see(session, each).id for each in seen]
            alerts.acknowledge(session, self.actor, made[1])
            alerts.snooze(session, self.actor, made[2], "7d")
            alerts.resolve(session, self.actor, made[3])
            alerts.settle(session, seen[4].kind, [])
            deliveries.send_test(session, webhooks.get_webhook(session, hooks[0]))
            deliveries.disable(session, self.actor, hooks[1])
        self._answer(hooks[0])
        # Or its page would be made anew each second, while it is looked at.
        given_up = "UPDATE deliveries SET attempts = 1, given_up_at = :past, answer = :answer WHERE event = 'test'"
        self.alter(given_up, past=PAST, answer="No answer within 10 seconds.")
        return {
            "/admin/alerts/<int:alert_id>": [{"alert_id": each} for each in made],
            "/admin/alerts": [{"state": each} for each in ("open", "handled", "resolved")],
            "/admin/webhooks/<int:webhook_id>": [{"webhook_id": each} for each in hooks],
            "/admin/webhooks/<int:webhook_id>/remove": [{"webhook_id": hooks[0]}],
        }

    def _webhook(self, session: Session, form: str, name: str) -> int:
        url = f"https://{'h' * 60}.example.com/{'p' * 300}"
        events = webhooks.EVENTS
        return webhooks.create(session, self.actor, name=name, url=url, form=form, events=events, private=False).id

    def _answer(self, webhook_id: int) -> None:
        """Let the webhook have answered, to one message well, to one badly, and not yet to the others."""
        for status, done, at in ((200, "delivered_at", "min"), (500, "due_at", "max")):
            self.alter(
                f"UPDATE deliveries SET status = :status, answer = :answer, attempts = 1, {done} = :past WHERE id ="
                f" (SELECT {at}(id) FROM deliveries WHERE webhook_id = :id AND event <> 'test')",
                status=status,
                answer="w" * 200,
                past=PAST,
                id=webhook_id,
            )

    def people(self) -> dict[str, str]:
        """Make people; give the sign-in link of each."""
        with self.session() as session:
            made = {name: users.create(session, self.actor, name, role) for name, role in PEOPLE.items()}
            links = {name: f"{self.server.url}/login/{users.make_link(session, user)}" for name, user in made.items()}
            users.disable(session, self.actor, "gone")
            users.set_password(session, self.actor, made["otto"], passwords.hashed(PASSWORD))
            users.set_second_factor(session, self.actor, made["otto"], second_factor.new_nonce(), 0, [])
        return links


def _train(folder: Path) -> None:
    """Write the two models, and what the first was trained on."""
    people = pd.DataFrame(
        {
            "city": ["Oslo", "Rome"] * 20,
            "plan": ["basic", "plus", "family", "student"] * 10,
            "member": [True, True, False, False] * 10,
            NUMBER: [number / 7 for number in range(40)],
        }
    )
    words = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city", "plan"]), remainder="passthrough")
    mixed = make_pipeline(words, DecisionTreeClassifier()).fit(people, [number % 3 == 0 for number in range(40)])
    text = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good", "bad"] * 9, [1, 0] * 9)
    joblib.dump(mixed, folder / "mixed.joblib")
    joblib.dump(text, folder / "text.joblib")
    people.to_csv(folder / "mixed.csv", index=False)


def _predict(server: Server, key: str) -> list[str]:
    """Ask both models, once with a value that was never seen; give the predictions' ids."""
    sent = ((MODEL, INSTANCE), (MODEL, {**INSTANCE, "plan": "gold"}), (TEXTS, {"text": "very good"}))
    answers = [server.post(f"/models/{model}/versions/1/predict", instance, key).json() for model, instance in sent]
    for answer in answers:
        server.logged(answer["prediction_id"])
    truth = {"prediction_id": answers[0]["prediction_id"], "outcome": answers[0]["prediction"]}
    assert server.post("/feedback", truth, key).json()["accepted"] == 1
    return [answer["prediction_id"] for answer in answers]


def _begin_upload(server: Server, key: str, file: Path) -> str:
    """Send a file as a model; give the upload's id."""
    address = f"{server.url}/models/{MODEL}/versions"
    with file.open("rb") as content:
        answer = requests.post(address, headers={"X-API-Key": key}, files={"file": content}, timeout=60)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _examples(key_id: str, predictions: list[str], uploaded: list[str], token: str) -> dict[str, list[dict[str, Any]]]:
    versions = [{"name": name, "number": number} for name in (MODEL, TEXTS) for number in (1, 2)]
    version = "/admin/models/<name>/versions/<int:number>"
    return {
        "/admin/drift": [
            {},
            {"version": f"{MODEL} v1", "shown": "input:city"},
            {"shown": "refused:rows"},
            {"model": MODEL, "day": "2026-01-01"},
        ],
        "/admin/keys/<key_id>": [{"key_id": key_id}],
        "/admin/keys/<key_id>/revoke": [{"key_id": key_id}],
        "/admin/latency": [{}, {"span": "90d"}, {"model": MODEL, "version": 1, "span": "7d"}, {"model": TEXTS}],
        "/admin/models/<name>": [{"name": MODEL}, {"name": TEXTS}],
        "/admin/models/<name>/as-of": [{"name": MODEL}, {"name": MODEL, "as_of": "2100-01-01T12:00"}],
        "/admin/models/<name>/compare": [{"name": MODEL}, {"name": TEXTS}, {"name": TEXTS, "from": 1, "to": 2}],
        version: versions,
        f"{version}/signature": versions,
        f"{version}/try": versions,
        "/admin/predictions/<prediction_id>": [{"prediction_id": each} for each in predictions],
        "/admin/quality": [{"model": MODEL}, {"model": TEXTS, "window": "90d"}, {"model": MODEL, "version": 2}],
        "/admin/predictions/<prediction_id>/rerun": [
            *({"prediction_id": each} for each in predictions),
            {"prediction_id": predictions[0], "version": 2},
        ],
        "/admin/predictions/find": [{"id": predictions[0]}],
        "/admin/uploads/<upload_id>": [{"upload_id": each} for each in uploaded],
        "/admin/users/<name>": [{"name": name} for name in (LONG_USER, "gone", "mara")],
        "/login/<token>": [{"token": token}],
    }
