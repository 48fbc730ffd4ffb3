"""Subjects: whom predictions are about, by a keyed digest, and those whose predictions were to be deleted.

What was to be deleted may still lie in a spool, also of a host that is away: a mark stays as long as anything from
before it could come into the log, and who inserts looks at the marks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import db
from webapp.db import Base, Moment
from webapp.predictions.log import Prediction


class SubjectDeletion(Base):
    """That a subject's predictions from before a moment were to go; of one model, or of all."""

    __tablename__ = "subject_deletions"

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(sa.Text, index=True)
    model: Mapped[str | None] = mapped_column(sa.Text)
    at: Mapped[datetime] = mapped_column(Moment)


@dataclass(frozen=True, slots=True)
class Removed:
    """Some predictions that were removed, and the requests that they came with."""

    count: int
    request_ids: frozenset[str]


def mark(session: Session, subjects: Iterable[str], model: str | None) -> None:
    """Note that what these subjects have in the log, or on the way to it, is to go."""
    # What is inserted beside this transaction, by somebody who has not seen the mark, is committed before it.
    moment = db.now()
    session.add_all(SubjectDeletion(subject=each, model=model, at=moment) for each in sorted(subjects))
    session.flush()


def remove(session: Session, subjects: Collection[str], model: str | None, most: int) -> Removed:
    """Remove some of the subjects' predictions, with what was told of them."""
    chosen = sa.select(Prediction.id, Prediction.request_id).where(Prediction.subject.in_(subjects))
    if model is not None:
        chosen = chosen.where(Prediction.model == model)
    found = session.execute(chosen.limit(most)).all()
    gone = sa.delete(Prediction).where(Prediction.id.in_([row.id for row in found]))
    session.execute(gone, execution_options={"synchronize_session": False})
    return Removed(len(found), frozenset(row.request_id for row in found))


def marks_of(session: Session, records: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], datetime]]:
    """Give the records whose subject was to be deleted, each with the moment of the last time."""
    subjects = {record["subject"] for record in records if record.get("subject")}
    if not subjects:
        return []
    db.share(session, SubjectDeletion)
    found = session.scalars(sa.select(SubjectDeletion).where(SubjectDeletion.subject.in_(subjects)))
    last: dict[tuple[str, str | None], datetime] = {}
    for each in found:
        last[each.subject, each.model] = max(each.at, last.get((each.subject, each.model), each.at))
    if not last:
        return []
    return [(record, max(moments)) for record in records if (moments := _moments(last, record))]


def _moments(last: Mapping[tuple[str, str | None], datetime], record: Mapping[str, Any]) -> list[datetime]:
    named = ((record.get("subject") or "", model) for model in (record["model"], None))
    return [last[each] for each in named if each in last]


def made_at(record: Mapping[str, Any]) -> datetime:
    """Give when a record of the spool was made."""
    return datetime.fromtimestamp(record["at"], UTC)


def forget(session: Session, before: datetime) -> None:
    """Drop marks from before a moment from which on everything is kept no longer anyway."""
    session.execute(sa.delete(SubjectDeletion).where(SubjectDeletion.at < before))
