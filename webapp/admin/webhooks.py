"""Pages of webhooks: who is told of what, the secret that signs it, a test, and what became of each message."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import web, webhooks
from webapp.admin.guard import actor, blueprint, form, needs
from webapp.admin.pages import page
from webapp.errors import Invalid
from webapp.webhooks import EVENTS, TEST, Webhook, deliveries, signing
from webapp.webhooks.sending import MOST_URL_CHARACTERS

door: Blueprint = blueprint("webhooks")

FORMATS = (("standard", "JSON, signed by the Standard Webhooks specification"), ("slack", "A sentence, for Slack"))
# What alerts tell of anyway need not be told twice.
USUAL = ["alert.opened", "alert.resolved", "model.activated", "model.rolled_back"]
# Which field a refusal is about.
_FIELDS = {
    "webhook_name_missing": "name",
    "webhook_url_unusable": "url",
    "webhook_format_unknown": "format",
    "webhook_events_missing": "events",
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a form says of a webhook."""

    name: str
    url: str
    form: str
    events: list[str]


def _terms() -> Terms:
    return Terms(form("name", 100), form("url", MOST_URL_CHARACTERS), form("format"), request.form.getlist("events"))


def _private() -> bool:
    return web.parts().settings.webhook_private


def _errors(refusal: Invalid) -> dict[str, str]:
    return {_FIELDS.get(refusal.code, ""): refusal.detail}


@door.get("/webhooks")
@needs("admin")
def index() -> Response:
    """List who is told of what, and whether it arrives."""
    with web.parts().database.reading() as session:
        rows = webhooks.all_webhooks(session)
        lasts = deliveries.last_by_webhook(session)
    return page("webhooks/index.html", rows=rows, lasts=lasts)


@door.get("/webhooks/new")
@needs("admin")
def new() -> Response:
    """Show the form of a new webhook."""
    return _new_page(Terms("", "", "standard", USUAL))


def _new_page(terms: Terms, errors: dict[str, str] | None = None) -> Response:
    return page("webhooks/new.html", 422 if errors else 200, terms=terms, errors=errors or {}, **_choices())


def _choices() -> dict[str, object]:
    events = [(event, event, about) for event, about in EVENTS.items()]
    return {"events": events, "formats": FORMATS, "private": _private()}


@door.post("/webhooks")
@needs("admin")
def create() -> AnyResponse:
    """Make a webhook and show its secret, this once."""
    terms = _terms()
    try:
        with web.parts().database.transaction() as session:
            row = webhooks.create(
                session,
                actor(),
                name=terms.name,
                url=terms.url,
                form=terms.form,
                events=terms.events,
                private=_private(),
            )
    except Invalid as refusal:
        return _new_page(terms, _errors(refusal))
    return _shown_once(row, "added")


def _shown_once(row: Webhook, act: str) -> Response:
    secret = signing.secret_of(web.parts().settings.derive(signing.PEPPER), row.nonce)
    return page("webhooks/shown_once.html", row=row, secret=secret, act=act)


@door.get("/webhooks/<int:webhook_id>")
@needs("admin")
def show(webhook_id: int) -> Response:
    """Show a webhook with what it was told last."""
    return _webhook_page(webhook_id)


def _webhook_page(webhook_id: int, errors: dict[str, str] | None = None, typed: Terms | None = None) -> Response:
    with web.parts().database.reading() as session:
        row = webhooks.get_webhook(session, webhook_id)
        told = deliveries.newest_of(session, webhook_id)
    test = next((each for each in told if each.event == TEST), None)
    return page(
        "webhooks/show.html",
        422 if errors else 200,
        row=row,
        terms=typed or Terms(row.name, row.url, row.format, row.events),
        errors=errors or {},
        told=told,
        test=test,
        most=deliveries.MOST_ATTEMPTS,
        **_choices(),
    )


@door.post("/webhooks/<int:webhook_id>")
@needs("admin")
def edit(webhook_id: int) -> AnyResponse:
    """Change what a webhook is told of, and where."""
    terms = _terms()
    try:
        with web.parts().database.transaction() as session:
            webhooks.edit(
                session,
                actor(),
                webhook_id,
                name=terms.name,
                url=terms.url,
                form=terms.form,
                events=terms.events,
                private=_private(),
            )
    except Invalid as refusal:
        return _webhook_page(webhook_id, _errors(refusal), terms)
    flash(f"The webhook {terms.name} is changed.", "ok")
    return redirect(url_for("admin_webhooks.show", webhook_id=webhook_id), code=303)


@door.post("/webhooks/<int:webhook_id>/roll")
@needs("admin")
def roll(webhook_id: int) -> AnyResponse:
    """Make a new secret and show it, this once; the old one signs on for a day."""
    with web.parts().database.transaction() as session:
        row = webhooks.roll(session, actor(), webhook_id)
    return _shown_once(row, "has a new secret")


@door.post("/webhooks/<int:webhook_id>/test")
@needs("admin")
def test(webhook_id: int) -> AnyResponse:
    """Have a test sent; the webhook's page shows what comes of it."""
    with web.parts().database.transaction() as session:
        deliveries.send_test(session, webhooks.get_webhook(session, webhook_id))
    return redirect(url_for("admin_webhooks.show", webhook_id=webhook_id, _anchor="test"), code=303)


@door.post("/webhooks/<int:webhook_id>/switch")
@needs("admin")
def switch(webhook_id: int) -> AnyResponse:
    """Tell a webhook nothing any more, or tell it again."""
    with web.parts().database.transaction() as session:
        if form("to") == "on":
            row = webhooks.enable(session, actor(), webhook_id)
        else:
            row = deliveries.disable(session, actor(), webhook_id)
    flash(f"The webhook {row.name} is {'disabled' if row.disabled_at else 'enabled'}.", "ok")
    return redirect(url_for("admin_webhooks.show", webhook_id=webhook_id), code=303)


@door.get("/webhooks/<int:webhook_id>/remove")
@needs("admin")
def confirm_remove(webhook_id: int) -> Response:
    """Ask whether the webhook may really go."""
    with web.parts().database.reading() as session:
        row = webhooks.get_webhook(session, webhook_id)
    return page("webhooks/remove.html", row=row)


@door.post("/webhooks/<int:webhook_id>/remove")
@needs("admin")
def remove(webhook_id: int) -> AnyResponse:
    """Remove a webhook with what it was told."""
    with web.parts().database.transaction() as session:
        row = webhooks.remove(session, actor(), webhook_id)
    flash(f"The webhook {row.name} is removed.", "ok")
    return redirect(url_for("admin_webhooks.index"), code=303)
