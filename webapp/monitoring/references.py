"""What a version's predictions are compared with: its reference and what it says of it, or the first it predicted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy.exc
from sqlalchemy.orm import Session

from webapp import audit
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor
from webapp.catalog import Catalog, ServedVersion
from webapp.db import Database, now
from webapp.drift import layout
from webapp.drift.layout import Record
from webapp.errors import Invalid, NotFound
from webapp.follower import Follower
from webapp.predictions import counts, log, recount, traffic
from webapp.predictions.counts import FIRST_ROWS, DriftReference
from webapp.serving import sample
from webapp.serving.loaded import LoadedVersion

LOG = logging.getLogger(__name__)
# Of a reference.
MOST_ROWS = 20_000
ASKED_ROWS = 500
# Versions that predicted lately are counted, though they are not active.
LATELY = timedelta(days=30)


class References:
    """Makes what versions are compared with, where it is missing."""

    def __init__(self, database: Database, artifacts: ArtifactStore, follower: Follower) -> None:
        """`follower` keeps versions at the committed state, and gives those that are asked."""
        self._database = database
        self._artifacts = artifacts
        self._follower = follower

    def make(self, catalog: Catalog) -> int:
        """Begin to count versions that are not counted and can be; tell how many."""
        with self._database.reading() as session:
            missing = list(_missing(session, catalog))
        return sum(self._begun(version) for version in missing)

    def _begun(self, version: ServedVersion) -> bool:
        try:
            made = self.of(version.model, version.number)
        except (sqlalchemy.exc.SQLAlchemyError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a version does, the others are counted
            facts = {"model": version.model, "version": version.number, "reason": type(error).__name__}
            LOG.warning("drift.no_reference", extra=facts)
            return False
        if made is not None:
            self.begin(made)
        return made is not None

    def begin(self, reference: DriftReference) -> int:
        """Count a version from now on, and what it has predicted so far; tell how many hours that are."""
        with self._database.reading() as session:
            logged_by_hour = traffic.hours(session, reference.model, reference.version)
        tallied = {}
        for hour, logged in logged_by_hour.items():
            # A transaction for each: whoever writes need not wait for all of it.
            with self._database.reading() as session:
                tallied[hour] = recount.tally(session, reference, hour, logged)
        with self._database.transaction() as session:
            return recount.begin(session, reference, tallied)

    def of(self, model: str, number: int) -> DriftReference | None:
        """Give what a version is compared with; None where it has no reference and has not predicted enough."""
        loaded = self._follower.served(model, number)
        if loaded.version.reference is not None:
            content = self._artifacts.get(loaded.version.reference)
            return _made(loaded, _answered(loaded, content), "reference")
        with self._database.reading() as session:
            first = log.first_records(session, model, number, FIRST_ROWS)
        return _made(loaded, first, "predictions") if len(first) >= FIRST_ROWS else None


def _missing(session: Session, catalog: Catalog) -> Iterator[ServedVersion]:
    known = counts.counted(session)
    for model in catalog.models.values():
        lately = traffic.by_version(session, model.name, now() - LATELY)
        for number, version in model.versions.items():
            if (model.name, number) not in known and (number == model.active or number in lately):
                yield version


def _made(loaded: LoadedVersion, records: Sequence[Record], origin: str) -> DriftReference | None:
    if not records:
        return None
    version = loaded.version
    made = layout.of(loaded.signature, records)
    return DriftReference(
        model=version.model,
        version=version.number,
        layout=made.as_json(),
        counts=layout.packed(made.count(records)),
        rows=len(records),
        origin=origin,
        made_at=now(),
        since=None,
        until=None,
    )


def _answered(loaded: LoadedVersion, content: bytes) -> list[Record]:
    """Ask a version its reference; rows that it does not take are left out, as they would be when they were asked."""
    instances = sample.referenced(content, loaded.signature, MOST_ROWS)
    found: list[Record] = []
    for first in range(0, len(instances), ASKED_ROWS):
        found += _asked(loaded, instances[first : first + ASKED_ROWS])
    return found


def _asked(loaded: LoadedVersion, instances: Sequence[Mapping[str, Any]]) -> list[Record]:
    places = [""] * len(instances)
    try:
        rows = loaded.checker.rows(instances, places)
        outcomes = loaded.predictor.predict(rows, places)
    except Invalid:
        half = len(instances) // 2
        return [] if not half else _asked(loaded, instances[:half]) + _asked(loaded, instances[half:])
    return [
        {
            "instance": dict(zip(loaded.checker.names, row, strict=True)),
            "prediction": outcome.prediction,
            "probability": outcome.probability,
            "probabilities": outcome.probabilities,
        }
        for row, outcome in zip(rows, outcomes, strict=True)
    ]


def get(session: Session, model: str, version: int) -> DriftReference:
    """Give what a version is compared with; `NotFound` says what is missing."""
    found = counts.reference(session, model, version)
    if found is None:
        raise NotFound(
            "no_drift_reference",
            f"Version {version} of “{model}” is compared with nothing yet: it came without a reference and has made"
            f" less than {FIRST_ROWS:,} predictions.",
        )
    return found


def choose(session: Session, actor: Actor, model: str, version: int, since: datetime, until: datetime) -> None:
    """Compare a version with what it predicted in a time, from now on."""
    reference = get(session, model, version)
    rows = layout.from_json(reference.layout).rows(counts.between(session, reference, since, until))
    if rows < FIRST_ROWS:
        detail = f"The time has {rows:,} predictions; to be compared with, it needs {FIRST_ROWS:,}."
        raise Invalid("too_few_predictions", detail)
    _choose(session, actor, reference, since, until)


def choose_packed(session: Session, actor: Actor, model: str, version: int) -> None:
    """Compare a version with its own reference again."""
    _choose(session, actor, get(session, model, version), None, None)


def _choose(
    session: Session, actor: Actor, reference: DriftReference, since: datetime | None, until: datetime | None
) -> None:
    reference.since, reference.until = since, until
    times = {name: moment and moment.isoformat() for name, moment in (("since", since), ("until", until))}
    audit.record(session, actor, "drift.compare_with", f"{reference.model}/{reference.version}", **times)
