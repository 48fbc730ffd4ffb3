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

from webapp import db, keys, registry, uploads
from webapp.cli import Console, main, pass_console
from webapp.config import Settings
from webapp.intake import Upload
from webapp.web import Parts

NAME = "credit-risk"
ROWS = 2000
SEED = 42
INSTANCE = '{"age": 35, "income": 52000, "credit_score": 690}'
METADATA = {
    "description": "The demo: who pays a loan back, from generated rows.",
    "features": [
        {"name": "age", "type": "integer", "minimum": 18, "maximum": 100},
        {"name": "income", "type": "number", "minimum": 0, "maximum": 1_000_000},
        {"name": "credit_score", "type": "integer", "minimum": 300, "maximum": 850},
    ],
}


def rows() -> tuple[pd.DataFrame, pd.Series[int]]:
    """Generate people and whether they paid; always the same ones."""
    random = np.random.default_rng(SEED)
    people = pd.DataFrame(
        {
            "age": random.integers(18, 80, ROWS),
            "income": random.lognormal(10.7, 0.5, ROWS).round(),
            "credit_score": random.normal(650, 90, ROWS).clip(300, 850).round().astype(int),
        }
    )
    score = (people["credit_score"] - 640) / 60 + (people["income"] - 45_000) / 40_000 + (people["age"] - 40) / 60
    paid = pd.Series(random.random(ROWS) < 1 / (1 + np.exp(-score)), name="paid").astype(int)
    return people, paid


def train(people: pd.DataFrame, paid: pd.Series[int]) -> Pipeline:
    """Fit the guide's pipeline."""
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=100, random_state=SEED))
    return pipeline.fit(people, paid)


@main.command()
@pass_console
def demo(console: Console) -> None:
    """Make the database, the demo model and a demo key, where they are missing."""
    settings = console.settings
    db.upgrade(settings.sqlalchemy_url)
    with console.parts.database.reading() as session:
        there = any(model.name == NAME for model in registry.all_models(session))
    if not there:
        click.echo("Training the demo model and uploading it …", err=True)
        _upload(console.parts, console.actor)
    if not _key_file(settings).exists():
        _make_key(console.parts, console.actor)
    console.answer({"model": NAME, "curl": curl(settings)}, "The demo is in place; `modelport serve` serves it.")


def _upload(parts: Parts, actor: str) -> None:
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
        uploads.upload(parts, actor, NAME, files, label="1.0.0", activate=True)


def _key_file(settings: Settings) -> Path:
    return settings.data_dir / "demo-key"


def _make_key(parts: Parts, actor: str) -> None:
    with parts.database.transaction() as session:
        _, key = keys.create(session, actor, parts.ring.pepper, "demo", scopes=keys.SCOPES)
        # Inside the transaction: a key that could not be kept is not made.
        descriptor = os.open(_key_file(parts.settings), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key)


def curl(settings: Settings) -> str:
    """Give a first call on one line, which works when pasted."""
    key = _key_file(settings).read_text(encoding="ascii")
    return (
        f"curl -s http://{settings.bind}/predict -H 'X-API-Key: {key}'"
        f" -H 'Content-Type: application/json' -d '{INSTANCE}'"
    )


def welcome(settings: Settings) -> None:
    """Say on stderr where the server is and, where there is a demo, how to call it."""
    click.echo(f"\nModelport serves on http://{settings.bind}", err=True)
    if _key_file(settings).exists():
        click.echo(f"\nA first prediction:\n\n  {curl(settings)}\n", err=True)


