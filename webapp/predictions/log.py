"""The prediction log in SQL: segments of the spool go in, exactly once; single predictions come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment
from webapp.errors import NotFound
from webapp.predictions import counts, failures, refusals, timings, traffic
from webapp.predictions.spool import is_failure, is_prediction, is_refusal

# Ids of callers that can be asked for; PostgreSQL cannot keep every text in an index. A query has to say it, too.
CALLED = sa.text("length(client_id) <= 200")
OWNED = sa.text("subject IS NOT NULL")
TRACED = sa.text("trace_id IS NOT NULL")


class Prediction(Base):
    """One answer to one instance."""

    __tablename__ = "predictions"
    # The order of the log: of all of it, of a model's part, of a key's.
    __table_args__ = (
        sa.Index(None, "at", "id"),
        sa.Index(None, "model", "at", "id"),
        sa.Index(None, "key_id", "at", "id"),
        # Those that callers have called something.
        sa.Index(
            "ix_predictions_called",
            "key_id",
            "client_id",
            sqlite_where=CALLED,
            postgresql_where=CALLED,
        ),
        # Their order, whichever key it was.
        sa.Index(
            "ix_predictions_caller",
            "client_id",
            "at",
            "id",
            sqlite_where=CALLED,
            postgresql_where=CALLED,
        ),
        # Those that are kept as somebody's.
        sa.Index(None, "subject", sqlite_where=OWNED, postgresql_where=OWNED),
        # Those that belong to a trace.
        sa.Index("ix_predictions_trace", "trace_id", "at", "id", sqlite_where=TRACED, postgresql_where=TRACED),
    )

    # In the order of their characters, whatever language a database sorts by.
    id: Mapped[str] = mapped_column(sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), primary_key=True)
    at: Mapped[datetime] = mapped_column(Moment)
    model: Mapped[str] = mapped_column(sa.Text)
    version: Mapped[int]
    model_version: Mapped[str] = mapped_column(sa.Text)
    key_id: Mapped[str] = mapped_column(sa.Text)
    request_id: Mapped[str] = mapped_column(sa.Text)
    source: Mapped[str] = mapped_column(sa.Text)
    client_id: Mapped[str | None] = mapped_column(sa.Text)
    instance: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    prediction: Mapped[Any] = mapped_column(sa.JSON)
    probability: Mapped[Any] = mapped_column(sa.JSON)
    probabilities: Mapped[Any] = mapped_column(sa.JSON)
    warnings: Mapped[list[Any]] = mapped_column(sa.JSON)
    latency_seconds: Mapped[float]
    cached: Mapped[bool] = mapped_column(server_default=sa.false())
    # Whom it is about, as a digest with a key, where the version's signature says that.
    subject: Mapped[str | None] = mapped_column(sa.Text)
    # Microseconds of each of `timings.STAGES`; null where nobody measured them.
    timings: Mapped[list[int | None] | None] = mapped_column(sa.JSON(none_as_null=True))
    # The trace that the caller's request belonged to, where it named one.
    trace_id: Mapped[str | None] = mapped_column(sa.Text)


class SpoolPosition(Base):
    """How far a segment of a host's spool has been inserted."""

    __tablename__ = "spool_positions"

    host: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    segment: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    offset: Mapped[int] = mapped_column(sa.BigInteger)


@dataclass(frozen=True, slots=True)
class Piece:
    """Records of one segment, of predictions, refusals and failures, and the offset behind the last of them."""

    host: str
    segment: str
    records: list[dict[str, Any]]
    offset: int


def insert(session: Session, piece: Piece) -> None:
    """Insert the records, count them and remember the place, in one transaction: exactly once, also after a crash.

    A record whose id is there already is the same prediction, sent again by a proxy or a resumed batch chunk.
    """
    new = _insert_new(session, map(_row, filter(is_prediction, piece.records)))
    traffic.count(session, new)
    counts.count(session, new)
    refusals.count_lines(session, filter(is_refusal, piece.records))
    failures.count_lines(session, filter(is_failure, piece.records))
    session.merge(SpoolPosition(host=piece.host, segment=piece.segment, offset=piece.offset))


def _insert_new(session: Session, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Insert what is not in the log and give just that; of two rows with one id, the first counts."""
    by_id: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_id.setdefault(row["id"], row)
    if not by_id:
        return []
    statement = db.insertion(session, Prediction).on_conflict_do_nothing().returning(Prediction.id)
    return [by_id[inserted] for inserted in session.execute(statement, list(by_id.values())).scalars()]


def _row(record: dict[str, Any]) -> dict[str, Any]:
    # A record may have been written before there was a cache, or timings; and of a version that names no subject.
    usual = {"cached": False, "subject": None, "timings": None, "trace_id": None}
    return {**usual, **record, "at": datetime.fromtimestamp(record["at"], UTC)}


def positions(session: Session, host: str) -> dict[str, int]:
    """Give the offset up to which each segment of a host is in the log."""
    found = session.scalars(sa.select(SpoolPosition).where(SpoolPosition.host == host))
    return {position.segment: position.offset for position in found}


def forget(session: Session, host: str, segments: Iterable[str]) -> None:
    """Drop the places of segments that no longer exist."""
    session.execute(
        sa.delete(SpoolPosition).where(SpoolPosition.host == host, SpoolPosition.segment.in_(list(segments)))
    )


def remove(session: Session, before: datetime, most: int) -> int:
    """Remove the oldest predictions from before a moment; tell how many. What pages count by the hour stays."""
    oldest = sa.select(Prediction.id).where(Prediction.at < before).order_by(Prediction.at, Prediction.id).limit(most)
    removed = session.execute(
        sa.delete(Prediction).where(Prediction.id.in_(oldest)), execution_options={"synchronize_session": False}
    )
    count: int = removed.rowcount  # type: ignore[attr-defined] # a DELETE's result has it
    return count


def get_prediction(session: Session, prediction_id: str, key_id: str) -> Prediction:
    """Give a logged prediction of a key; another key's is not there."""
    found = session.get(Prediction, prediction_id)
    if found is None or found.key_id != key_id:
        raise NotFound(
            "unknown_prediction", "No prediction of this key has this id; one just made is in the log within a second."
        )
    return found


def newest_of(session: Session, model: str, version: int, since: datetime, most: int) -> list[Prediction]:
    """Give the newest predictions of a version after a moment, the newest first."""
    chosen = sa.select(Prediction).where(
        Prediction.model == model, Prediction.version == version, Prediction.at > since
    )
    return list(session.scalars(chosen.order_by(Prediction.at.desc(), Prediction.id.desc()).limit(most)))


def records(
    session: Session, model: str, version: int, since: datetime, until: datetime, most: int | None = None
) -> Iterator[dict[str, Any]]:
    """Give what the predictions of a version held in a time, the newest first; at `most` so many. No trials."""
    chosen = _held(model, version).where(Prediction.at >= since, Prediction.at < until)
    newest = chosen.order_by(Prediction.at.desc(), Prediction.id.desc()).limit(most)
    for row in session.execute(newest, execution_options={"yield_per": 1000}).mappings():
        yield dict(row)


def first_records(session: Session, model: str, version: int, most: int) -> list[dict[str, Any]]:
    """Give what the first predictions of a version held. No trials."""
    oldest = _held(model, version).order_by(Prediction.at, Prediction.id).limit(most)
    return [dict(row) for row in session.execute(oldest).mappings()]


def _held(model: str, version: int) -> sa.Select[Any]:
    row = Prediction
    held = sa.select(row.at, row.key_id, row.instance, row.prediction, row.probability, row.probabilities)
    return held.where(row.model == model, row.version == version, row.source.not_in(traffic.TRIALS))


def newest_probabilities(session: Session, model: str, since: datetime, most: int) -> list[tuple[int, Any]]:
    """Give version and probability of a model's newest predictions since a moment, without trials.

    No more than `most` predictions are looked at, trials among them.
    """
    columns = (Prediction.version, db.as_text(Prediction.probability).label("probability"), Prediction.source)
    chosen = sa.select(*columns).where(Prediction.model == model, Prediction.at >= since)
    looked_at = chosen.order_by(Prediction.at.desc(), Prediction.id.desc()).limit(most).subquery()
    counted = sa.select(looked_at.c.version, looked_at.c.probability)
    found = session.execute(counted.where(looked_at.c.source.not_in(traffic.TRIALS))).all()
    probabilities = db.documents(probability for _, probability in found)
    return [(version, probability) for (version, _), probability in zip(found, probabilities, strict=True)]


def describe(prediction: Prediction) -> dict[str, Any]:
    """Give what the key that made it may see."""
    return {
        "prediction_id": prediction.id,
        "id": prediction.client_id,
        "at": prediction.at.isoformat(),
        "model": prediction.model,
        "model_version": prediction.model_version,
        "instance": prediction.instance,
        "prediction": prediction.prediction,
        "probability": prediction.probability,
        "probabilities": prediction.probabilities,
        "warnings": prediction.warnings,
        "source": prediction.source,
        "latency_seconds": prediction.latency_seconds,
        "timings": timings.seconds(prediction.timings),
        "cached": prediction.cached,
        "trace_id": prediction.trace_id,
    }
