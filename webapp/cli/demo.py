"""`modelport demo`: a model, a key and a first call, for whoever tries Modelport for the first time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
import numpy as np
import pandas as pd
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from webapp import db, keys, registry, uploads, users
from webapp.cli import Command, Console, first_call, models, pass_console, story
from webapp.intake import Upload
from webapp.uploads import Wish

ADMIN = "admin"
ROWS = 2000
SEED = 42
METADATA = {
    "description": "The demo: who pays a loan back, from generated rows.",
    "features": [
        {"name": "age", "type": "integer", "minimum": 18, "maximum": 100},
        {"name": "income", "type": "number", "minimum": 0, "maximum": 1_000_000},
        {"name": "credit_score", "type": "integer", "minimum": 300, "maximum": 850},
    ],
}


def rows(count: int = ROWS, seed: int = SEED) -> tuple[pd.DataFrame, pd.Series[int]]:
    """Generate people and whether they paid; always the same ones."""
    random = np.random.default_rng(seed)
    people = pd.DataFrame(
        {
            "age": random.integers(18, 80, count),
            "income": random.lognormal(10.7, 0.5, count).round(),
            "credit_score": random.normal(650, 90, count).clip(300, 850).round().astype(int),
        }
    )
    score = (people["credit_score"] - 640) / 60 + (people["income"] - 45_000) / 40_000 + (people["age"] - 40) / 60
    paid = pd.Series(random.random(count) < 1 / (1 + np.exp(-score)), name="paid").astype(int)
    return people, paid


def train(people: pd.DataFrame, paid: pd.Series[int]) -> Pipeline:
    """Fit the guide's pipeline."""
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=100, random_state=SEED))
    return pipeline.fit(people, paid)


@click.command(cls=Command)
@click.option("--drift", is_flag=True, help="Play four weeks of traffic in which something goes wrong, too.")
@pass_console
def demo(console: Console, *, drift: bool) -> None:
    """Make the database, the demo model, a demo key and a first admin, where they are missing."""
    console.begin()
    settings = console.settings
    db.upgrade(settings.sqlalchemy_url)
    with console.database.reading() as session:
        there = any(model.name == first_call.MODEL for model in registry.all_models(session))
    if not there:
        click.echo("Training the demo model and uploading it …", err=True)
        _upload(console)
    if not _key_is_live(console):
        _make_key(console)
    with console.database.transaction() as session:
        if not users.all_users(session):
            users.create(session, console.actor, ADMIN, "admin")
    if not drift:
        console.answer({"model": first_call.MODEL, "curl": first_call.curl(settings)}, "The demo is in place.")
        return
    click.echo("Playing four weeks of traffic …", err=True)
    told = story.play(console)
    console.answer(told.as_dict(), told.text)


def _upload(console: Console) -> None:
    people, paid = rows()
    half = ROWS // 2
    estimator = train(people[:half], paid[:half])
    accuracy = round(float(estimator.score(people[half:], paid[half:])), 3)
    with tempfile.TemporaryDirectory() as folder:
        model, reference = Path(folder) / "credit-risk.skops", Path(folder) / "reference.csv"
        skops.io.dump(estimator, model)
        people[:half].to_csv(reference, index=False)
        metadata = {**METADATA, "accuracy": accuracy, "training_samples": half}
        files = Upload(model, reference=reference, metadata=metadata)
        uploads.upload(models.desk(console), console.actor, Wish(first_call.MODEL, "1.0.0", activate=True), files)


def _key_is_live(console: Console) -> bool:
    """Whether the kept key belongs to this database: the file may have outlived another one."""
    try:
        key = first_call.key_file(console.settings).read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    with console.database.reading() as session:
        live = keys.live_keys(session, console.settings.rate_limit)
    return keys.digest(console.settings.derive(keys.PEPPER), key) in live


def _make_key(console: Console) -> None:
    pepper = console.settings.derive(keys.PEPPER)
    with console.database.transaction() as session:
        _, key = keys.create(session, console.actor, pepper, "demo", scopes=keys.SCOPES)
        # Inside the transaction: a key that could not be kept is not made.
        descriptor = os.open(first_call.key_file(console.settings), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key)
