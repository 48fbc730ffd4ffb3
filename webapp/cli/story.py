"""The demo's story: four weeks of two keys' traffic; both begin to send another unit, and the truth comes late."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from webapp import feedback, keys
from webapp.cli import Console, demo, first_call
from webapp.cli.started import started
from webapp.db import Session, now
from webapp.errors import Conflict, Invalid
from webapp.monitoring import drift_report
from webapp.monitoring.drift_report import DriftDecision
from webapp.monitoring.references import References
from webapp.predictions import log, spool
from webapp.predictions.traffic import DAY, beginning
from webapp.serving.loaded import LoadedVersion
from webapp.signature import refused
from webapp.signature.refused import Mark
from webapp.web import Parts

DAYS, CHANGED_DAYS = 28, 7
HOST = "demo"
# Whose its keys are: others may have the same names.
OWNER = "modelport demo --drift"
# Who asks how often a day. The second begins one afternoon to send what people earn in thousands.
APP, BROKER = "mobile-app", "partner-broker"
ROWS_A_DAY = {APP: 300, BROKER: 200}
# How long answers took: the logarithm's mean (of a millisecond) and spread.
SECONDS = (math.log(0.001), 0.7)
CHANGED_AT = timedelta(hours=14, minutes=5)
# The first sends some ages in months on the last days, which the model refuses; a few rows lack something on any day.
MONTHS_DAYS, IN_MONTHS, INCOMPLETE = 2, 40, 1
# The truth is told some days later, and not of all.
LABEL_DAYS, LABELLED = 5, 0.7


@dataclass(frozen=True, slots=True)
class Told:
    """What was played, and what was noticed of it."""

    predictions: int
    outcomes: int
    changed_at: str
    noticed_on: str | None
    drifted: list[str]
    key: str | None
    part: float | None

    def as_dict(self) -> dict[str, Any]:
        """Give the public form."""
        return asdict(self)

    @property
    def text(self) -> str:
        """Tell it."""
        noticed = "Nothing was noticed."
        if self.noticed_on:
            noticed = f"Noticed on {self.noticed_on}: {', '.join(self.drifted)}."
        if self.key and self.part:
            noticed += f" {self.part:.0%} of the change comes from the key {self.key}."
        return (
            f"{self.predictions:,} predictions and {self.outcomes:,} outcomes of {DAYS} days are in the log.\n"
            f"From {self.changed_at} on, {BROKER} sent incomes in thousands. {noticed}\n"
            f"On the last {MONTHS_DAYS} days {APP} sent some ages in months, which are refused and never logged.\n"
            "See /admin/drift and /admin/quality, and /admin/alerts within two minutes of `modelport serve`."
        )


def play(console: Console) -> Told:
    """Play it once; `Conflict` where it was played before."""
    with console.database.transaction() as session:
        key_ids = {name: _key(console, session, name) for name in ROWS_A_DAY}
    with started(console) as parts:
        return _played(parts, key_ids)


def _key(console: Console, session: Session, name: str) -> str:
    if any(keys.get_key(session, each).owner == OWNER for each in keys.named(session, name)):
        detail = (
            f"The story was played here before: the key “{name}” is of it. MODELPORT_DATA_DIR chooses another place."
        )
        raise Conflict("played_before", detail)
    pepper = console.settings.derive(keys.PEPPER)
    made, _ = keys.create(session, console.actor, pepper, name, owner=OWNER, scopes=keys.SCOPES)
    return made.id


def _played(parts: Parts, key_ids: dict[str, str]) -> Told:
    loaded = parts.follower.served(first_call.MODEL, None)
    References(parts.database, parts.artifacts, parts.follower).make(parts.runtime.catalog)
    midnight = beginning(now(), DAY)
    days = [midnight - number * DAY for number in range(DAYS, 0, -1)]
    changed_at = days[-CHANGED_DAYS] + CHANGED_AT
    predictions = outcomes = 0
    for number, day in enumerate(days):
        records, items = _day(loaded, key_ids, day, number, changed_at)
        with parts.database.transaction() as session:
            log.insert(session, log.Piece(HOST, f"story-{number}", records, 1))
        with parts.database.transaction() as session:
            log.forget(session, HOST, [f"story-{number}"])
            for key_id, told in items.items():
                outcomes += feedback.counted(feedback.take(session, key_id, told))["accepted"]
        predictions += sum(map(spool.is_prediction, records))
    return _told(parts, loaded, days, changed_at, predictions, outcomes)


def _day(
    loaded: LoadedVersion, key_ids: dict[str, str], day: datetime, number: int, changed_at: datetime
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Give the records of a day with what was refused on it, and by key what is told of them later."""
    records: list[dict[str, Any]] = []
    items: dict[str, list[dict[str, Any]]] = {}
    for position, (name, count) in enumerate(ROWS_A_DAY.items()):
        random = np.random.default_rng([demo.SEED, number, position])
        people, paid = demo.rows(count, int(random.integers(2**31)))
        moments = [day + timedelta(seconds=each) for each in sorted(random.uniform(0, 86_400, count).tolist())]
        sent = people.to_dict("records")
        if name == BROKER:
            sent = [_in_thousands(each) if at >= changed_at else each for each, at in zip(sent, moments, strict=True)]
        seconds = np.random.default_rng([demo.SEED, number, position, 1]).lognormal(*SECONDS, count).tolist()
        made = list(_records(loaded, key_ids[name], f"story-{number:02}-{position}", sent, moments, seconds))
        records += made
        truths = zip(made, moments, paid.tolist(), random.random(count).tolist(), strict=True)
        items[key_ids[name]] = [
            {"prediction_id": record["id"], "outcome": outcome, "observed_at": (at + LABEL_DAYS * DAY).isoformat()}
            for record, at, outcome, luck in truths
            if luck < LABELLED and at + LABEL_DAYS * DAY < now()
        ]
    people, _ = demo.rows(IN_MONTHS, number)
    in_months = [{**each, "age": each["age"] * 12} for each in people.to_dict("records")]
    records.append(_refusal(loaded, day, [{"age": 35}] * INCOMPLETE))
    if number >= DAYS - MONTHS_DAYS:
        records.append(_refusal(loaded, day, in_months))
    return records, items


def _refusal(loaded: LoadedVersion, day: datetime, instances: Sequence[dict[Any, Any]]) -> dict[str, Any]:
    """Ask for rows that are refused; give what is noted of that."""
    pointers = [f"/instances/{number}" for number in range(len(instances))]
    marks: set[Mark] = set()
    try:
        loaded.predict(instances, pointers, pointers)
    except Invalid as invalid:
        marks = refused.marks(invalid, pointers, loaded.checker.names)
    return dict(spool.refusal((day + DAY / 2).timestamp(), loaded, refused.tally(len(instances), marks)))


def _in_thousands(instance: dict[Any, Any]) -> dict[Any, Any]:
    return {**instance, "income": instance["income"] / 1000}


def _records(
    loaded: LoadedVersion,
    key_id: str,
    request_id: str,
    instances: Sequence[dict[Any, Any]],
    moments: Sequence[datetime],
    seconds: Sequence[float],
) -> Iterator[dict[str, Any]]:
    ids = [f"{request_id}-{number:04}" for number in range(len(instances))]
    answers = loaded.predict(instances, [""] * len(instances), ids)
    for answer, at, latency in zip(answers, moments, seconds, strict=True):
        origin = spool.Origin(at.timestamp(), key_id, request_id, "api", round(latency, 6))
        yield dict(spool.record(origin, loaded, answer, None))


def _told(
    parts: Parts, loaded: LoadedVersion, days: Sequence[datetime], changed_at: datetime, predictions: int, outcomes: int
) -> Told:
    model, number = loaded.version.model, loaded.version.number
    terms = drift_report.terms(parts.settings)
    decided: list[DriftDecision | None] = []
    for day in days:
        with parts.database.transaction() as session:
            decided.append(drift_report.decide(session, model, number, day, terms))
    first = next((each for each in decided if each is not None and each.drifted), None)
    sources = [one for each in first.findings for one in each["sources"]] if first else []
    with parts.database.reading() as session:
        names = keys.names(session, {each["key_id"] for each in sources[:1]})
    return Told(
        predictions,
        outcomes,
        f"{changed_at:%Y-%m-%d %H:%M}",
        f"{first.day:%Y-%m-%d}" if first else None,
        [each.partition(":")[2] for each in first.drifted] if first else [],
        next(iter(names.values()), None),
        min(sources[0]["part"], 1.0) if sources else None,
    )
