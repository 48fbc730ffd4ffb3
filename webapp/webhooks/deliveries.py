"""Deliveries: what webhooks are told, a row each, written with the change that it tells of and sent under a lease."""

from __future__ import annotations

import json
import random
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import audit, webhooks
from webapp.audit import Actor
from webapp.db import Base, Moment, now
from webapp.errors import Conflict
from webapp.webhooks import ACTOR, TEST, Webhook
from webapp.webhooks.sending import Answer

# Longer than one attempt can take.
LEASE = timedelta(seconds=60)
# How long each attempt after the first one waits: the schedule of the Standard Webhooks specification, three days.
PAUSES = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
MOST_ATTEMPTS = len(PAUSES) + 1
# Those that wait for the same receiver do not come back all at once.
JITTER = 0.1
GONE = 410
LONGEST_RETRY_AFTER = timedelta(hours=24)
OPEN = sa.text("delivered_at IS NULL AND given_up_at IS NULL")


class Delivery(Base):
    """One message to one webhook, and how it went."""

    __tablename__ = "deliveries"
    __table_args__ = (
        sa.Index("ix_deliveries_webhook", "webhook_id", "id"),
        # What is still to be sent, among all that ever was.
        sa.Index("ix_deliveries_waiting", "due_at", sqlite_where=OPEN, postgresql_where=OPEN),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    webhook_id: Mapped[int] = mapped_column(sa.ForeignKey("webhooks.id", ondelete="CASCADE"))
    # The same for all who are told of one event, and in each attempt: by it receivers know what they have already.
    message_id: Mapped[str] = mapped_column(sa.Text)
    event: Mapped[str] = mapped_column(sa.Text)
    data: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    # What it says in words, and the page of the admin UI that shows it.
    sentence: Mapped[str] = mapped_column(sa.Text)
    page: Mapped[str] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(Moment, index=True)
    due_at: Mapped[datetime] = mapped_column(Moment)
    attempts: Mapped[int] = mapped_column(default=0)
    leased_by: Mapped[str | None] = mapped_column(sa.Text)
    leased_until: Mapped[datetime | None] = mapped_column(Moment)
    delivered_at: Mapped[datetime | None] = mapped_column(Moment)
    given_up_at: Mapped[datetime | None] = mapped_column(Moment)
    # What came of the last attempt: the status, and the beginning of the answer or why there was none.
    status: Mapped[int | None]
    answer: Mapped[str] = mapped_column(sa.Text, default="")

    @property
    def state(self) -> str:
        """`waiting`, `delivered` or `failed`."""
        if self.delivered_at is not None:
            return "delivered"
        return "waiting" if self.given_up_at is None else "failed"


@dataclass(frozen=True, slots=True)
class Message:
    """What is told of an event: to programs, and in words."""

    event: str
    sentence: str
    page: str
    data: dict[str, Any]


def tell(session: Session, message: Message, *, not_before: datetime | None = None) -> None:
    """Have every webhook that wants it told of an event, once this transaction is committed."""
    wanted = webhooks.wanting(session, message.event)
    if wanted:
        session.add_all(_deliveries(wanted, message, not_before))


def send_test(session: Session, webhook: Webhook) -> Delivery:
    """Have a webhook told that this is a test; once, whatever comes of it."""
    if webhook.disabled_at is not None:
        raise Conflict("webhook_disabled", f"The webhook {webhook.name} is disabled; enable it first.")
    message = Message(TEST, "This is a test of Modelport's webhooks.", "/admin/webhooks", {"webhook": webhook.name})
    (delivery,) = _deliveries([webhook], message)
    session.add(delivery)
    session.flush()
    return delivery


def _deliveries(wanted: list[Webhook], message: Message, not_before: datetime | None = None) -> list[Delivery]:
    message_id, moment = f"msg_{secrets.token_hex(16)}", now()
    return [
        Delivery(
            webhook_id=webhook.id,
            message_id=message_id,
            event=message.event,
            data=message.data,
            sentence=message.sentence,
            page=message.page,
            created_at=moment,
            due_at=max(moment, not_before or moment),
            attempts=0,
            answer="",
        )
        for webhook in wanted
    ]


# --- Sending --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Post:
    """One attempt, with all that sending needs."""

    delivery_id: int
    message_id: str
    attempt: int
    url: str
    nonces: list[str]
    body: bytes


def is_waiting(session: Session) -> bool:
    """Whether there is something that nobody sends."""
    waiting = sa.select(Delivery.id).join(Webhook).where(*_waits()).limit(1)
    return session.execute(waiting).first() is not None


def _waits() -> list[sa.ColumnElement[bool]]:
    free = sa.or_(Delivery.leased_until.is_(None), Delivery.leased_until < now())
    still = [Delivery.delivered_at.is_(None), Delivery.given_up_at.is_(None), Webhook.disabled_at.is_(None)]
    return [*still, Delivery.due_at <= now(), free]


def claim(session: Session, owner: str, base_url: str) -> Post | None:
    """Take the lease on the next delivery that nobody sends; what was tried least goes first.

    So a receiver that is away does not hold up what others are told. `base_url` is where the pages are.
    """
    found = session.execute(
        sa.select(Delivery, Webhook)
        .join(Webhook)
        .where(*_waits())
        .order_by(Delivery.attempts, Delivery.due_at, Delivery.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Delivery)
    ).first()
    if found is None:
        return None
    delivery, webhook = found
    delivery.attempts += 1
    if delivery.attempts > MOST_ATTEMPTS:
        # Its last attempt has ended the process that made it.
        _give_up(delivery)
        return None
    delivery.leased_by, delivery.leased_until = owner, now() + LEASE
    body = _body(delivery, webhook.format, base_url)
    return Post(delivery.id, delivery.message_id, delivery.attempts, webhook.url, webhook.nonces(now()), body)


def _body(delivery: Delivery, form: str, base_url: str) -> bytes:
    """Write what is sent; each attempt gives the same bytes."""
    link = base_url + delivery.page
    told: dict[str, Any] = {"text": f"{_escaped(delivery.sentence)} <{link}>"}
    if form == "standard":
        at = delivery.created_at.isoformat().replace("+00:00", "Z")
        told = {"type": delivery.event, "timestamp": at, "data": {**delivery.data, "url": link}}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def _escaped(sentence: str) -> str:
    """Keep a name from being read as a mention or a link."""
    return sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def finish(session: Session, post: Post, owner: str, answer: Answer) -> bool:
    """Note what came of an attempt, unless another process took it over; tells whether it did not.

    A receiver that is gone for good (410) is told nothing any more.
    """
    delivery = session.get(Delivery, post.delivery_id, with_for_update=True)
    if (
        delivery is None
        or (delivery.leased_by, delivery.attempts) != (owner, post.attempt)
        or delivery.state != "waiting"
    ):
        return False
    delivery.leased_by = delivery.leased_until = None
    delivery.status, delivery.answer = answer.status, answer.text
    if answer.taken:
        delivery.delivered_at = now()
    elif answer.status == GONE:
        disable(session, ACTOR, delivery.webhook_id, "It answered 410: nobody is there any more.")
    elif delivery.attempts >= MOST_ATTEMPTS or delivery.event == TEST:
        _give_up(delivery)
    else:
        delivery.due_at = now() + _pause(delivery.attempts, answer)
    return True


def _pause(attempts: int, answer: Answer) -> timedelta:
    pause = PAUSES[attempts - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311 - no secret
    return max(pause, min(timedelta(seconds=answer.retry_after_seconds), LONGEST_RETRY_AFTER))


def _give_up(delivery: Delivery) -> None:
    delivery.given_up_at = now()


def disable(session: Session, actor: Actor, webhook_id: int, reason: str = "") -> Webhook:
    """Tell a webhook nothing any more, nor what waits: later it would be no news. `Conflict` when it is so already."""
    webhook = webhooks.get_webhook(session, webhook_id)
    if webhook.disabled_at is not None:
        raise Conflict("webhook_disabled", f"The webhook {webhook.name} is disabled already.")
    webhook.disabled_at = now()
    still = (Delivery.delivered_at.is_(None), Delivery.given_up_at.is_(None))
    waiting = sa.update(Delivery).where(Delivery.webhook_id == webhook_id, *still)
    session.execute(waiting.values(given_up_at=now(), leased_by=None, leased_until=None))
    audit.record(session, actor, "webhooks.disable", webhook.title, reason=reason)
    return webhook


# --- Looking at them ------------------------------------------------------------------------------------------


def newest_of(session: Session, webhook_id: int, most: int = 50) -> list[Delivery]:
    """Give what a webhook was told last, the newest first."""
    chosen = sa.select(Delivery).where(Delivery.webhook_id == webhook_id)
    return list(session.scalars(chosen.order_by(Delivery.id.desc()).limit(most)))


def last_by_webhook(session: Session) -> dict[int, Delivery]:
    """Give the last delivery of each webhook that was ever told anything."""
    lasts = sa.select(sa.func.max(Delivery.id)).group_by(Delivery.webhook_id)
    return {row.webhook_id: row for row in session.scalars(sa.select(Delivery).where(Delivery.id.in_(lasts)))}


def remove(session: Session, before: datetime, most: int) -> int:
    """Remove the oldest deliveries from before a moment that are not waiting; tell how many."""
    ended = sa.or_(Delivery.delivered_at.is_not(None), Delivery.given_up_at.is_not(None))
    oldest = sa.select(Delivery.id).where(Delivery.created_at < before, ended).order_by(Delivery.created_at).limit(most)
    removed = session.execute(
        sa.delete(Delivery).where(Delivery.id.in_(oldest)), execution_options={"synchronize_session": False}
    )
    count: int = removed.rowcount  # type: ignore[attr-defined] # a DELETE's result has it
    return count
