"""Alerts: what needs a person. A thing is one alert for as long as it is so, however often it is looked at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import audit, db
from webapp.audit import Actor
from webapp.db import MOST_ID, Base, Moment, now
from webapp.errors import Conflict, Invalid, NotFound
from webapp.webhooks import deliveries
from webapp.webhooks.deliveries import Message

SEVERITIES = ("info", "warning", "critical")
STATES = ("open", "acknowledged", "snoozed", "resolved")
SNOOZES = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
# Who resolves what is no longer so.
ITSELF = "modelport"
PAGE_ROWS = 50
STANDING = sa.text("ended_at IS NULL")


class Alert(Base):
    """One thing, from when it was seen first until it was so no more."""

    __tablename__ = "alerts"
    __table_args__ = (
        # One thing is one alert.
        sa.Index(
            "ix_alerts_standing",
            "kind",
            "model",
            "subject",
            unique=True,
            sqlite_where=STANDING,
            postgresql_where=STANDING,
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.Text)
    # Empty where it is about no model, or about nothing more than the model.
    model: Mapped[str] = mapped_column(sa.Text)
    subject: Mapped[str] = mapped_column(sa.Text)
    severity: Mapped[str] = mapped_column(sa.Text)
    sentence: Mapped[str] = mapped_column(sa.Text)
    details: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    opened_at: Mapped[datetime] = mapped_column(Moment)
    last_seen_at: Mapped[datetime] = mapped_column(Moment)
    times_seen: Mapped[int]
    acknowledged_at: Mapped[datetime | None] = mapped_column(Moment)
    acknowledged_by: Mapped[str | None] = mapped_column(sa.Text)
    snoozed_until: Mapped[datetime | None] = mapped_column(Moment)
    # By a person, or by itself when it was so no more.
    resolved_at: Mapped[datetime | None] = mapped_column(Moment)
    resolved_by: Mapped[str | None] = mapped_column(sa.Text)
    # When it was so no more. One that a person has resolved before that is not opened anew by what is known of it.
    ended_at: Mapped[datetime | None] = mapped_column(Moment)

    @property
    def state(self) -> str:
        """`open`, `acknowledged`, `snoozed` or `resolved`."""
        if self.resolved_at is not None:
            return "resolved"
        if self.snoozed_until is not None and self.snoozed_until > now():
            return "snoozed"
        return "open" if self.acknowledged_at is None else "acknowledged"

    @property
    def name(self) -> str:
        """What the audit log calls it."""
        return f"alert {self.id}"


@dataclass(frozen=True, slots=True)
class Found:
    """Something that is so now. Kind, model and subject tell whether it is the same as before."""

    kind: str
    sentence: str
    severity: str = "warning"
    model: str = ""
    subject: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    # Told of when it is seen for the first time, beside `alert.opened`.
    event: str = ""


# --- By itself ------------------------------------------------------------------------------------------------


def see(session: Session, found: Found) -> Alert:
    """Note that something is so: it becomes an alert, or the alert that it is already was seen once more."""
    alert = _standing(session, found)
    if alert is None and _open(session, found):
        return _told_of(session, found)
    # Of two who see it at once one opens it, and for the other it stands by now.
    alert = alert or _stands(session, found)
    alert.last_seen_at, alert.times_seen = now(), alert.times_seen + 1
    alert.sentence, alert.severity, alert.details = found.sentence, found.severity, found.details
    if alert.snoozed_until is not None and alert.snoozed_until <= now():
        # The snooze is over, and it is still so.
        alert.snoozed_until = None
        if alert.resolved_at is None:
            _tell(session, "alert.opened", alert)
    return alert


def _standing(session: Session, found: Found) -> Alert | None:
    same = (Alert.kind == found.kind, Alert.model == found.model, Alert.subject == found.subject)
    return session.scalar(sa.select(Alert).where(*same, Alert.ended_at.is_(None)).with_for_update())


def _stands(session: Session, found: Found) -> Alert:
    alert = _standing(session, found)
    assert alert is not None, "it was found to be there"
    return alert


def _open(session: Session, found: Found) -> bool:
    """Make an alert of something; tells whether nobody else has done so at the same time."""
    facts = {name: value for name, value in asdict(found).items() if name != "event"}
    moments = {"opened_at": now(), "last_seen_at": now(), "times_seen": 1}
    made = db.insertion(session, Alert).values(**facts, **moments).on_conflict_do_nothing().returning(Alert.id)
    return session.scalar(made) is not None


def _told_of(session: Session, found: Found) -> Alert:
    alert = _stands(session, found)
    _tell(session, "alert.opened", alert)
    if found.event:
        _tell(session, found.event, alert)
    return alert


def settle(session: Session, kind: str, still_true: Collection[Found]) -> int:
    """End the alerts of a kind that are not so any more; tell how many."""
    there = {(each.model, each.subject) for each in still_true}
    standing = sa.select(Alert).where(Alert.kind == kind, Alert.ended_at.is_(None)).with_for_update()
    ended = [alert for alert in session.scalars(standing) if (alert.model, alert.subject) not in there]
    for alert in ended:
        alert.ended_at = now()
        if alert.resolved_at is None:
            alert.resolved_at, alert.resolved_by = now(), ITSELF
            # While it is snoozed nobody is told, and so not that it is over either.
            _tell(session, "alert.resolved", alert, not_before=alert.snoozed_until)
    return len(ended)


def _tell(session: Session, event: str, alert: Alert, not_before: datetime | None = None) -> None:
    sentence = f"Resolved: {alert.sentence}" if event == "alert.resolved" else alert.sentence
    message = Message(event, sentence, f"/admin/alerts/{alert.id}", describe(alert))
    deliveries.tell(session, message, not_before=not_before)


# --- By people ------------------------------------------------------------------------------------------------


def acknowledge(session: Session, actor: Actor, alert_id: int) -> Alert:
    """Say that somebody looks after it; it stays until it is so no more."""
    alert = _unresolved(session, alert_id)
    alert.acknowledged_at, alert.acknowledged_by, alert.snoozed_until = now(), actor.name, None
    audit.record(session, actor, "alerts.acknowledge", alert.name, kind=alert.kind, sentence=alert.sentence)
    return alert


def snooze(session: Session, actor: Actor, alert_id: int, span: str) -> Alert:
    """Have an alert tell nobody for a while: `1h`, `24h` or `7d`."""
    if span not in SNOOZES:
        raise Invalid("snooze_unknown", f"“{span}” is no such span; there are: {', '.join(SNOOZES)}.")
    alert = _unresolved(session, alert_id)
    alert.snoozed_until = now() + SNOOZES[span]
    until = alert.snoozed_until.isoformat(timespec="seconds")
    audit.record(session, actor, "alerts.snooze", alert.name, kind=alert.kind, sentence=alert.sentence, until=until)
    return alert


def resolve(session: Session, actor: Actor, alert_id: int) -> Alert:
    """Say that it needs nobody any more; as long as it goes on being so, it opens no other alert."""
    alert = _unresolved(session, alert_id)
    alert.resolved_at, alert.resolved_by = now(), actor.name
    audit.record(session, actor, "alerts.resolve", alert.name, kind=alert.kind, sentence=alert.sentence)
    _tell(session, "alert.resolved", alert)
    return alert


def reopen(session: Session, actor: Actor, alert_id: int) -> Alert:
    """Take back what somebody has said of an alert. `Conflict` when it is so no more: then it would be another one."""
    alert = _held(session, alert_id)
    if alert.ended_at is not None:
        detail = "This is so no more; if it is so again, that is a new alert."
        raise Conflict("alert_ended", detail)
    if alert.state == "open":
        raise Conflict("alert_is_open", "This alert is open already.")
    was_resolved = alert.resolved_at is not None
    alert.acknowledged_at = alert.acknowledged_by = alert.snoozed_until = alert.resolved_at = alert.resolved_by = None
    audit.record(session, actor, "alerts.reopen", alert.name, kind=alert.kind, sentence=alert.sentence)
    if was_resolved:
        _tell(session, "alert.opened", alert)
    return alert


def _unresolved(session: Session, alert_id: int) -> Alert:
    alert = _held(session, alert_id)
    if alert.resolved_at is not None:
        raise Conflict("alert_resolved", "This alert is resolved already.")
    return alert


def _held(session: Session, alert_id: int) -> Alert:
    """Give an alert that nobody else changes until this transaction ends."""
    alert = get_alert(session, alert_id)
    session.refresh(alert, with_for_update=True)
    return alert


# --- Looking at them ------------------------------------------------------------------------------------------


def get_alert(session: Session, alert_id: int) -> Alert:
    """Give an alert by its id."""
    alert = session.get(Alert, alert_id) if alert_id <= MOST_ID else None
    if alert is None:
        raise NotFound("unknown_alert", f"There is no alert {alert_id}.")
    return alert


def _is(state: str) -> sa.ColumnElement[bool]:
    unresolved, snoozed = Alert.resolved_at.is_(None), sa.func.coalesce(Alert.snoozed_until > now(), sa.false())
    return {
        "open": sa.and_(unresolved, ~snoozed, Alert.acknowledged_at.is_(None)),
        "acknowledged": sa.and_(unresolved, ~snoozed, Alert.acknowledged_at.is_not(None)),
        "snoozed": sa.and_(unresolved, snoozed),
        "resolved": Alert.resolved_at.is_not(None),
    }[state]


def search(
    session: Session,
    states: Sequence[str],
    *,
    models: Collection[str] | None = None,
    before: int | None = None,
    most: int = PAGE_ROWS,
) -> list[Alert]:
    """Give alerts in some states, the newest first; of some models, or of all and of none."""
    chosen = sa.select(Alert).where(sa.or_(*map(_is, states))).order_by(Alert.id.desc()).limit(most)
    if models is not None:
        chosen = chosen.where(Alert.model.in_(models))
    if before is not None:
        chosen = chosen.where(Alert.id < before)
    return list(session.scalars(chosen))


def standing(session: Session, kind: str, model: str) -> list[Alert]:
    """Give the alerts of a kind about a model that are so now, also those that a person has resolved."""
    chosen = sa.select(Alert).where(Alert.kind == kind, Alert.model == model, Alert.ended_at.is_(None))
    return list(session.scalars(chosen.order_by(Alert.id)))


def check_state(state: str) -> None:
    """Raise `Invalid` unless an alert can be in this state."""
    if state not in STATES:
        raise Invalid("unknown_state", f"There is no state “{state}”; there are: {', '.join(STATES)}.")


def count_by_state(session: Session) -> dict[str, int]:
    """Give how many alerts are in each state."""
    counts = sa.select(*(sa.func.count().filter(_is(state)).label(state) for state in STATES)).select_from(Alert)
    return dict(session.execute(counts).mappings().one())


def telling(session: Session) -> dict[tuple[str, str], int]:
    """Give how many alerts of each kind and severity may tell somebody: those not resolved and not snoozed."""
    awake = sa.or_(_is("open"), _is("acknowledged"))
    counts = sa.select(Alert.kind, Alert.severity, sa.func.count()).where(awake).group_by(Alert.kind, Alert.severity)
    return {(kind, severity): count for kind, severity, count in session.execute(counts)}


def remove(session: Session, before: datetime, most: int) -> int:
    """Remove the oldest alerts that ended before a moment; tell how many."""
    oldest = sa.select(Alert.id).where(Alert.ended_at < before).order_by(Alert.id).limit(most)
    removed = session.execute(
        sa.delete(Alert).where(Alert.id.in_(oldest)), execution_options={"synchronize_session": False}
    )
    count: int = removed.rowcount  # type: ignore[attr-defined] # a DELETE's result has it
    return count


def describe(alert: Alert) -> dict[str, Any]:
    """Give the public form of an alert."""

    def told(moment: datetime | None) -> str | None:
        return moment.isoformat() if moment else None

    return {
        "id": alert.id,
        "kind": alert.kind,
        "model": alert.model or None,
        "subject": alert.subject or None,
        "severity": alert.severity,
        "state": alert.state,
        "sentence": alert.sentence,
        "details": alert.details,
        "opened_at": told(alert.opened_at),
        "last_seen_at": told(alert.last_seen_at),
        "times_seen": alert.times_seen,
        "acknowledged_at": told(alert.acknowledged_at),
        "acknowledged_by": alert.acknowledged_by,
        "snoozed_until": told(alert.snoozed_until) if alert.state == "snoozed" else None,
        "resolved_at": told(alert.resolved_at),
        "resolved_by": alert.resolved_by,
    }
