"""Webhooks: addresses that are told of what happens, each with a secret of its own that signs what it is told."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp import audit
from webapp.audit import Actor
from webapp.db import MOST_ID, Base, Moment, now
from webapp.errors import Conflict, Invalid, NotFound
from webapp.webhooks import signing
from webapp.webhooks.sending import MOST_URL_CHARACTERS, check_url

TEST = "test"
# What can be told of; a test is sent when somebody asks for it.
EVENTS = {
    "alert.opened": "something needs a person",
    "alert.resolved": "it needs nobody any more",
    "model.activated": "another version answers",
    "model.rolled_back": "the version before answers again",
    "job.failed": "a batch could not be computed",
    "key.expiring": "a key ends within 14 days",
}
# `standard` is the JSON of the Standard Webhooks specification, `slack` what Slack and those like it show.
FORMATS = ("standard", "slack")
# So long what is sent is signed with the secret before, too.
OVERLAP = timedelta(hours=24)
ACTOR = Actor("modelport")


class Webhook(Base):
    """One address. Its secret is made of `nonce` and the installation's own, and stands nowhere."""

    __tablename__ = "webhooks"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text)
    url: Mapped[str] = mapped_column(sa.Text)
    format: Mapped[str] = mapped_column(sa.Text)
    events: Mapped[list[str]] = mapped_column(sa.JSON)
    nonce: Mapped[str] = mapped_column(sa.Text)
    # After rolling, until receivers know the new secret.
    previous_nonce: Mapped[str | None] = mapped_column(sa.Text)
    previous_until: Mapped[datetime | None] = mapped_column(Moment)
    created_at: Mapped[datetime] = mapped_column(Moment)
    created_by: Mapped[str] = mapped_column(sa.Text)
    disabled_at: Mapped[datetime | None] = mapped_column(Moment)

    @property
    def title(self) -> str:
        """What tells this webhook from others, of the same name too."""
        return f"{self.name} ({self.id})"

    @property
    def host(self) -> str:
        """Whom it tells. The rest of an address may be a secret, as Slack's are."""
        return urlsplit(self.url).netloc

    def nonces(self, moment: datetime) -> list[str]:
        """Give what the secrets are made of that sign at a moment, the newest first."""
        overlaps = self.previous_nonce and self.previous_until and self.previous_until > moment
        return [self.nonce, self.previous_nonce] if overlaps and self.previous_nonce else [self.nonce]


def create(  # noqa: PLR0913 - the terms of a webhook, each by name
    session: Session, actor: Actor, *, name: str, url: str, form: str, events: Iterable[str], private: bool
) -> Webhook:
    """Make a webhook; `signing.secret_of` gives its secret. `private` takes addresses of one's own network."""
    terms = _checked(name, url, form, list(events), private=private)
    row = Webhook(**terms, nonce=signing.new_nonce(), created_at=now(), created_by=actor.name)
    session.add(row)
    session.flush()
    audit.record(session, actor, "webhooks.create", row.title, host=row.host, format=form, events=row.events)
    return row


def _checked(name: str, url: str, form: str, events: list[str], *, private: bool) -> dict[str, object]:
    if not name:
        raise Invalid("webhook_name_missing", "A webhook needs a name, such as who is told.")
    if len(url) > MOST_URL_CHARACTERS:
        raise Invalid("webhook_url_unusable", f"The address is longer than {MOST_URL_CHARACTERS} characters.")
    check_url(url, private=private)
    if form not in FORMATS:
        raise Invalid("webhook_format_unknown", f"There is no format “{form}”; there are: {', '.join(FORMATS)}.")
    if not events or set(events) - set(EVENTS):
        raise Invalid("webhook_events_missing", f"Tick at least one of: {', '.join(EVENTS)}.")
    return {"name": name, "url": url, "format": form, "events": [each for each in EVENTS if each in events]}


def all_webhooks(session: Session) -> list[Webhook]:
    """Every webhook, the oldest first."""
    return list(session.scalars(sa.select(Webhook).order_by(Webhook.id)))


def wanting(session: Session, event: str) -> list[Webhook]:
    """Give the webhooks that are told of an event."""
    enabled = session.scalars(sa.select(Webhook).where(Webhook.disabled_at.is_(None)).order_by(Webhook.id))
    return [row for row in enabled if event in row.events]


def get_webhook(session: Session, webhook_id: int) -> Webhook:
    """Give a webhook by its id."""
    row = session.get(Webhook, webhook_id) if webhook_id <= MOST_ID else None
    if row is None:
        raise NotFound("unknown_webhook", f"There is no webhook {webhook_id}.")
    return row


def edit(  # noqa: PLR0913 - the terms of a webhook, each by name
    session: Session,
    actor: Actor,
    webhook_id: int,
    *,
    name: str,
    url: str,
    form: str,
    events: Iterable[str],
    private: bool,
) -> Webhook:
    """Change what a webhook is told of, and where; it holds for what happens from now on."""
    row = get_webhook(session, webhook_id)
    terms = _checked(name, url, form, list(events), private=private)
    changed = [term for term, value in terms.items() if getattr(row, term) != value]
    for term in changed:
        setattr(row, term, terms[term])
    if changed:
        # Neither the old nor the new address: of both only the host is nobody's secret.
        audit.record(session, actor, "webhooks.edit", row.title, changed=changed, host=row.host, events=row.events)
    return row


def roll(session: Session, actor: Actor, webhook_id: int) -> Webhook:
    """Give a webhook a new secret; for a day what is sent is signed with the old one, too."""
    row = get_webhook(session, webhook_id)
    row.previous_nonce, row.previous_until = row.nonce, now() + OVERLAP
    row.nonce = signing.new_nonce()
    audit.record(session, actor, "webhooks.roll", row.title, until=row.previous_until.isoformat())
    return row


def enable(session: Session, actor: Actor, webhook_id: int) -> Webhook:
    """Tell a webhook again what it wants to know. `Conflict` when it is told already."""
    row = get_webhook(session, webhook_id)
    if row.disabled_at is None:
        raise Conflict("webhook_enabled", f"The webhook {row.name} is enabled already.")
    row.disabled_at = None
    audit.record(session, actor, "webhooks.enable", row.title)
    return row


def remove(session: Session, actor: Actor, webhook_id: int) -> Webhook:
    """Remove a webhook with what it was told."""
    row = get_webhook(session, webhook_id)
    audit.record(session, actor, "webhooks.remove", row.title, host=row.host)
    session.delete(row)
    session.flush()
    return row
