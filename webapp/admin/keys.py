"""Pages of API keys: who may call, how often, with which models; made, changed, rolled and revoked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import keys, registry, web
from webapp.admin.calls import example
from webapp.admin.guard import actor, blueprint, form, needs
from webapp.admin.pages import page
from webapp.errors import Invalid
from webapp.keys import ApiKey
from webapp.predictions import traffic

door: Blueprint = blueprint("keys")

STATES = ("live", "expired", "revoked", "all")
LIVES = ((30, "30 days"), (90, "90 days"), (365, "1 year"), (1825, "5 years"))
OVERLAPS = ((0, "at once"), (1, "in 1 hour"), (24, "in 24 hours"), (168, "in 7 days"))
SCOPE_TEXTS = {
    "predict": "single requests",
    "batch": "large files, answered later",
    "feedback": "tell what turned out to be true",
    "models:read": "list models and versions",
    "models:write": "upload versions",
    "models:activate": "activate and roll back",
}
UNUSED = timedelta(days=90)
MOST_PAGES = 10_000
MOST_DAYS = LIVES[-1][0]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a form says of a key."""

    name: str
    owner: str
    scopes: list[str]
    # `every` or `some` of the models.
    reach: str
    models: list[str]
    rate_limit: str | None

    def check(self) -> None:
        """Raise `Invalid` unless it says clearly which models the key may use."""
        if self.reach == "some" and not self.models:
            raise Invalid("models_missing", "Tick at least one model, or choose “Every model”.")
        if self.reach == "every" and self.models:
            ticked = ", ".join(self.models)
            raise Invalid("models_unclear", f"“Every model” is chosen, and {ticked} is ticked; choose one of the two.")


def _terms() -> Terms:
    return Terms(
        name=form("name", 100),
        owner=form("owner", 100),
        scopes=request.form.getlist("scopes"),
        reach="some" if form("reach") == "some" else "every",
        models=request.form.getlist("models"),
        rate_limit=_limit(form("rate_limit")),
    )


def _limit(text: str) -> str | None:
    """Give a limit as it was meant: a number alone is per minute."""
    return f"{text}/minute" if text.isdecimal() else text or None


@door.get("/keys")
@needs("viewer")
def index() -> Response:
    """List keys, the newest first."""
    text, state = request.args.get("q", "").strip()[:200], request.args.get("state", "live")
    number = min(max(request.args.get("page", 0, int), 0), MOST_PAGES)
    with web.parts().database.reading() as reading:
        found = keys.search(reading, text, state, number)
        since = datetime.now(UTC) - timedelta(hours=24)
        calls_24h = traffic.by_key(reading, [row.id for row in found.rows], since)
        live = keys.count_live(reading)
    return page(
        "keys/index.html",
        rows=found.rows,
        calls=calls_24h,
        live=live,
        text=text,
        state=state,
        states=STATES,
        newer=url_for("admin_keys.index", q=text or None, state=state, page=number - 1 or None) if number else None,
        older=url_for("admin_keys.index", q=text or None, state=state, page=number + 1) if found.more else None,
        default_limit=web.parts().settings.rate_limit,
        unused_before=datetime.now(UTC) - UNUSED,
        soon=datetime.now(UTC) + timedelta(days=14),
    )


@door.get("/keys/new")
@needs("admin")
def new() -> Response:
    """Show the form of a new key."""
    # The form carries the id of its key: sent again by a reload or a double click, it makes no other one.
    return _form_page("keys/new.html", Terms("", "", ["predict"], "every", [], None), key_id=keys.new_id())


def _form_page(template: str, terms: Terms, errors: dict[str, str] | None = None, **more: object) -> Response:
    with web.parts().database.reading() as reading:
        models = [(line.name, line.name, "") for line in registry.model_lines(reading)]
    return page(
        template,
        422 if errors else 200,
        terms=terms,
        models=models,
        scopes=[(scope, scope, SCOPE_TEXTS[scope]) for scope in keys.SCOPES],
        lives=LIVES,
        default_limit=web.parts().settings.rate_limit,
        errors=errors or {},
        **more,
    )


@door.post("/keys")
@needs("admin")
def create() -> AnyResponse:
    """Make a key and show it, this once."""
    key_id, terms = form("key_id"), _terms()
    try:
        terms.check()
        with web.parts().database.transaction() as transaction:
            row, key = keys.create(
                transaction,
                actor(),
                web.parts().settings.derive(keys.PEPPER),
                terms.name,
                owner=terms.owner,
                scopes=terms.scopes,
                models=terms.models,
                rate_limit=terms.rate_limit,
                life=timedelta(days=min(max(request.form.get("days", 365, int), 0), MOST_DAYS)),
                test=bool(form("test")),
                key_id=key_id,
            )
    except Invalid as refusal:
        return _form_page("keys/new.html", terms, _errors(refusal), key_id=key_id)
    return _shown_once(row, key, "created")


# Which field a refusal is about.
_FIELDS = {
    "key_name_missing": "name",
    "scope_missing": "scopes",
    "unknown_scope": "scopes",
    "models_missing": "models",
    "models_unclear": "models",
    "rate_limit_unreadable": "rate_limit",
    "expiry_in_the_past": "days",
}


def _errors(refusal: Invalid) -> dict[str, str]:
    return {_FIELDS.get(refusal.code, ""): refusal.detail}


def _shown_once(row: ApiKey, key: str, act: str, old: ApiKey | None = None) -> Response:
    with web.parts().database.reading() as reading:
        first_call = example(reading, row.models)
    return page("keys/shown_once.html", row=row, key=key, act=act, old=old, example=first_call, facts=_facts(row))


def _facts(row: ApiKey) -> list[tuple[str, Any]]:
    default = f"{web.parts().settings.rate_limit} (default)"
    return [
        ("Owner", row.owner or "not said"),
        ("Scopes", ", ".join(row.scopes)),
        ("Models", ", ".join(row.models or ["every model"])),
        ("Limit", row.rate_limit or default),
        *([("Kind", "test key: stays out of statistics")] if row.test else []),
    ]


@door.get("/keys/<key_id>")
@needs("viewer")
def show(key_id: str) -> Response:
    """Show a key with what it may do and how it is used."""
    return _key_page(key_id)


def _key_page(key_id: str, errors: dict[str, str] | None = None, typed: Terms | None = None) -> Response:
    with web.parts().database.reading() as reading:
        row = keys.get_key(reading, key_id)
        since = datetime.now(UTC) - timedelta(hours=24)
        count = traffic.by_key(reading, [key_id], since).get(key_id, 0)
    reach = "some" if row.models else "every"
    terms = typed or Terms(row.name, row.owner, row.scopes, reach, row.models or [], row.rate_limit)
    return _form_page("keys/show.html", terms, errors, row=row, calls=count, facts=_facts(row), overlaps=OVERLAPS)


@door.post("/keys/<key_id>")
@needs("admin")
def edit(key_id: str) -> AnyResponse:
    """Change what a key may do."""
    terms = _terms()
    try:
        terms.check()
        with web.parts().database.transaction() as transaction:
            row = keys.edit(
                transaction,
                actor(),
                key_id,
                name=terms.name,
                owner=terms.owner,
                scopes=terms.scopes,
                models=terms.models,
                rate_limit=terms.rate_limit,
            )
    except Invalid as refusal:
        return _key_page(key_id, _errors(refusal), terms)
    flash(f"The key {row.name} is changed; it holds within a second.", "ok")
    return redirect(url_for("admin_keys.show", key_id=key_id), code=303)


@door.post("/keys/<key_id>/roll")
@needs("admin")
def roll(key_id: str) -> AnyResponse:
    """Make a successor and show it, this once; the old key works on for a while."""
    overlap = timedelta(hours=min(max(request.form.get("hours", 24, int), 0), 24 * 30))
    with web.parts().database.transaction() as transaction:
        row, key = keys.roll(transaction, actor(), web.parts().settings.derive(keys.PEPPER), key_id, overlap)
        old = keys.get_key(transaction, key_id)
    return _shown_once(row, key, "rolled", old)


@door.get("/keys/<key_id>/revoke")
@needs("admin")
def confirm_revoke(key_id: str) -> Response:
    """Ask whether the key may really end."""
    return _revoke_page(key_id)


def _revoke_page(key_id: str, errors: dict[str, str] | None = None) -> Response:
    with web.parts().database.reading() as reading:
        row = keys.get_key(reading, key_id)
        count = traffic.by_key(reading, [key_id], datetime.now(UTC) - timedelta(hours=24)).get(key_id, 0)
    return page("keys/revoke.html", 422 if errors else 200, row=row, calls=count, errors=errors or {})


@door.post("/keys/<key_id>/revoke")
@needs("admin")
def revoke(key_id: str) -> AnyResponse:
    """End a key for good, when its name was typed."""
    with web.parts().database.reading() as reading:
        row = keys.get_key(reading, key_id)
    if form("name").casefold() != row.name.strip().casefold():
        return _revoke_page(key_id, {"name": f"Type the key's name, {row.name}, as it stands here."})
    with web.parts().database.transaction() as transaction:
        keys.revoke(transaction, actor(), key_id)
    flash(f"The key {row.title} is revoked. Requests with it are refused from now on.", "ok")
    return redirect(url_for("admin_keys.index"), code=303)
