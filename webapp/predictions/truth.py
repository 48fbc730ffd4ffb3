"""Ground truth: what turned out to be true, beside the logged prediction that it is about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment
from webapp.predictions.log import CALLED, Prediction
from webapp.predictions.traffic import TRIALS

# What a statement may name at once.
MOST_NAMED = 500


class Outcome(Base):
    """What was true for a prediction. It goes with the prediction."""

    __tablename__ = "outcomes"
    # What was told of a version, by when it predicted.
    __table_args__ = (sa.Index(None, "model", "version", "at"),)

    prediction_id: Mapped[str] = mapped_column(
        sa.Text().with_variant(sa.Text(collation="C"), "postgresql"),
        sa.ForeignKey("predictions.id", ondelete="CASCADE"),
        primary_key=True,
    )
    # As predictions have it: a class, a number, or an object by output name.
    value: Mapped[Any] = mapped_column(sa.JSON)
    # When it turned out, and when it was told.
    observed_at: Mapped[datetime] = mapped_column(Moment)
    told_at: Mapped[datetime] = mapped_column(Moment)
    # As the prediction has them. Without them, all predictions of a time would be read to find the few with truth.
    model: Mapped[str] = mapped_column(sa.Text)
    version: Mapped[int]
    at: Mapped[datetime] = mapped_column(Moment)
    source: Mapped[str] = mapped_column(sa.Text)


@dataclass(frozen=True, slots=True)
class Told:
    """A prediction, when it was made, and what turned out to be true, when."""

    at: datetime
    observed_at: datetime
    prediction: Any
    probability: Any
    probabilities: Any
    truth: Any


def of(session: Session, prediction_id: str) -> Outcome | None:
    """Give what was true for a prediction; None where nobody has told it."""
    return session.get(Outcome, prediction_id)


def describe(outcome: Outcome) -> dict[str, Any]:
    """Give what stands beside a prediction."""
    return {"outcome": outcome.value, "observed_at": outcome.observed_at.isoformat()}


def known(session: Session, prediction_ids: Collection[str]) -> dict[str, Outcome]:
    """Give what is known of these predictions."""
    found: dict[str, Outcome] = {}
    for some in _parts(prediction_ids):
        rows = session.scalars(sa.select(Outcome).where(Outcome.prediction_id.in_(some)))
        found |= {row.prediction_id: row for row in rows}
    return found


def put(session: Session, outcomes: Sequence[dict[str, Any]]) -> None:
    """Keep outcomes, each a dictionary by column; what was told before of the same prediction is replaced."""
    if not outcomes:
        return
    told = db.insertion(session, Outcome)
    changes = {name: told.excluded[name] for name in ("value", "observed_at", "told_at")}
    session.execute(told.on_conflict_do_update(index_elements=["prediction_id"], set_=changes), list(outcomes))


def oldest_first(session: Session, model: str, version: int, since: datetime, most: int) -> list[Told]:
    """Give what is known of a version's predictions since a moment, of the newest; trials are left out."""
    columns = (Prediction.prediction, Prediction.probability, Prediction.probabilities, Outcome.value)
    chosen = sa.select(Outcome.at, Outcome.observed_at, *map(db.as_text, columns)).join(
        Prediction, Prediction.id == Outcome.prediction_id
    )
    newest = chosen.where(*_of_version(model, version, since)).order_by(Outcome.at.desc()).limit(most)
    at, observed_at, *stored = list(zip(*session.execute(newest), strict=True)) or [()] * 6
    return list(map(Told, at, observed_at, *map(db.documents, stored)))[::-1]


def count(session: Session, model: str, version: int, since: datetime, until: datetime) -> int:
    """Count the predictions of a version within a time of which the truth is known, without trials."""
    chosen = sa.select(sa.func.count()).select_from(Outcome)
    return session.scalar(chosen.where(*_of_version(model, version, since), Outcome.at < until)) or 0


def _of_version(model: str, version: int, since: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (Outcome.model == model, Outcome.version == version, Outcome.at >= since, Outcome.source.not_in(TRIALS))


def by_id(session: Session, key_id: str | None, prediction_ids: Collection[str]) -> dict[str, list[Prediction]]:
    """Give the predictions of a key, or with None of any, that have these ids."""
    whose = sa.true() if key_id is None else Prediction.key_id == key_id
    return _found(session, Prediction.id, prediction_ids, whose)


def by_client_id(session: Session, key_id: str, client_ids: Collection[str]) -> dict[str, list[Prediction]]:
    """Give the predictions of a key that the caller has given these ids; several may have the same."""
    return _found(session, Prediction.client_id, client_ids, sa.and_(Prediction.key_id == key_id, CALLED))


def _found(
    session: Session,
    column: sa.orm.InstrumentedAttribute[Any],
    names: Collection[str],
    which: sa.ColumnElement[bool],
) -> dict[str, list[Prediction]]:
    found: dict[str, list[Prediction]] = {}
    wanted = sa.orm.load_only(
        Prediction.id,
        Prediction.client_id,
        Prediction.model,
        Prediction.version,
        Prediction.at,
        Prediction.source,
    )
    for some in _parts(names):
        chosen = sa.select(Prediction).where(column.in_(some), which).options(wanted)
        for row in session.scalars(chosen.order_by(Prediction.id)):
            found.setdefault(getattr(row, column.key), []).append(row)
    return found


def _parts(names: Collection[str]) -> list[list[str]]:
    every = sorted(set(names))
    return [every[first : first + MOST_NAMED] for first in range(0, len(every), MOST_NAMED)]
