"""Pages of models and versions: what is active, what a version takes, activating, rolling back, editing a signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import activation, fleet, registry, web
from webapp.activation import Asked, Back, Convergence, Switched
from webapp.admin import calls
from webapp.admin.guard import actor, blueprint, form, needs, small_number
from webapp.admin.pages import page, plain
from webapp.admin.signature_form import KINDS, Draft
from webapp.db import Session
from webapp.errors import Conflict, Invalid
from webapp.intake import report
from webapp.predictions import traffic
from webapp.registry import Activation, Model, Version, WayBack
from webapp.serving import trial
from webapp.signature import Signature, from_dict, keeping
from webapp.signature.compare import Difference, differences
from webapp.uploads import waiting

door: Blueprint = blueprint("registry")

DAY = timedelta(hours=24)
# Mostly the workers have followed by then, and the page has nothing to wait for.
FOLLOW_SECONDS = 2.0


@door.get("/models")
@needs("viewer")
def index() -> Response:
    """List models with what is active and how much they are asked."""
    with web.parts().database.reading() as session:
        lines = registry.model_lines(session)
        totals = {total.model: total for total in traffic.totals(session, datetime.now(UTC) - DAY)}
        uploads = [*waiting.under_way(session), *waiting.lately_refused(session)]
    return page("registry/index.html", lines=lines, totals=totals, uploads=uploads)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a model stands: what every page about it shows."""

    model: Model
    history: list[Activation]
    way_back: WayBack | None
    back_to: int | None
    workers: Convergence


def _standing(session: Session, name: str) -> Standing:
    model = registry.get_model(session, name)
    history = registry.history(session, model)
    ways = registry.ways_back(session, [name])
    back_to = registry.previous_active(history)
    return Standing(model, history, ways[0] if ways else None, back_to, activation.present(session))


@door.get("/models/<name>")
@needs("viewer")
def model(name: str) -> Response:
    """Show a model with its versions and the history of the active one."""
    with web.parts().database.reading() as session:
        standing = _standing(session, name)
        lines = registry.version_lines(session, standing.model, below=small_number("below"))
        counts = traffic.by_version(session, name, datetime.now(UTC) - DAY)
        active = _active(session, standing.model)
        call = calls.to_version(active, active=True) if active else None
    oldest = lines[-1].number if lines else 1
    older = url_for("admin_registry.model", name=name, below=oldest) if oldest > 1 else None
    return page("registry/model.html", standing=standing, lines=lines, counts=counts, call=call, older=older)


def _active(session: Session, model: Model) -> Version | None:
    number = model.active_number
    return None if number is None else registry.get_version(session, model, number)


@door.get("/models/<name>/versions/<int:number>")
@needs("viewer")
def version(name: str, number: int) -> Response:
    """Show a version: its inspection report, signature, environment, history, and how to call it."""
    with web.parts().database.reading() as session:
        standing = _standing(session, name)
        found = registry.get_version(session, standing.model, number)
        is_active = standing.model.active_number == number
        signature = from_dict(found.signature)
        against = _against(session, standing.model, number)
        facts = {
            "standing": standing,
            "version": found,
            "active": is_active,
            "frozen": registry.was_active(session, found),
            "signature": signature,
            "hides": bool(keeping.hidden(signature)),
            "in_log": {each.name: ", ".join(keeping.describe(each)) or "kept" for each in signature.features},
            "checks": report.checks(found.report, signature),
            "versions": found.report["versions"],
            "card": _card(found.card),
            "call": calls.to_version(found, active=is_active),
            "calls_24h": traffic.by_version(session, name, datetime.now(UTC) - DAY),
            "holdings": fleet.holding(session, name, number),
        }
    return page("registry/version.html", **facts, **_compared(against, signature))


def _card(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give what the metadata says beside the features, which the signature shows."""
    return [(str(name).replace("_", " "), plain(value)) for name, value in card.items() if name != "features"]


def _against(session: Session, model: Model, number: int) -> Version | None:
    """Give the version that a page compares with: the active one."""
    active = model.active_number
    return None if active in {None, number} else registry.get_version(session, model, active or 0)


def _compared(against: Version | None, signature: Signature) -> dict[str, Any]:
    found: list[Difference] = [] if against is None else differences(from_dict(against.signature), signature)
    by_feature: dict[str, list[Difference]] = {}
    for each in found:
        by_feature.setdefault(each.feature, []).append(each)
    return {"against": against.number if against else None, "differences": found, "by_feature": by_feature}


@door.get("/models/<name>/versions/<int:number>/artifact")
@needs("operator")
def artifact(name: str, number: int) -> AnyResponse:
    """Give the canonical file to download."""
    with web.parts().database.reading() as session:
        found = registry.get_version(session, registry.get_model(session, name), number)
    return web.artifact(found.artifact, f"{name}-{number}.skops")


# --- Switching ----------------------------------------------------------------------------------------------


@door.post("/models/<name>/versions/<int:number>/activate")
@needs("operator")
def activate(name: str, number: int) -> AnyResponse:
    """Make a version the active one; the version's page then shows the workers following."""
    made = web.parts()
    asked = Asked(name, number, form("reason"), form("confirm"), form("accept_trained_with"))
    return _switch(
        name,
        lambda: activation.activate(made.database, made.runtime.prepare, actor(), asked, FOLLOW_SECONDS),
        refused=url_for("admin_registry.version", name=name, number=number),
    )


@door.post("/models/<name>/rollback")
@needs("operator")
def rollback(name: str) -> AnyResponse:
    """Return to the version that the button named."""
    expected, reason = request.form.get("to", None, int), form("reason")
    if expected is None:
        raise Invalid("target_missing", "The form does not say which version to return to; load the page again.")
    made, back = web.parts(), Back(name, reason, expected)
    return _switch(
        name,
        lambda: activation.rollback(made.database, made.runtime.prepare, actor(), back, FOLLOW_SECONDS),
        refused=url_for("admin_registry.model", name=name),
    )


def _switch(name: str, change: Callable[[], Switched], *, refused: str) -> AnyResponse:
    try:
        done = change()
    except Conflict as refusal:
        flash(refusal.detail, "bad")
        # What has become active meanwhile is seen on the model's page.
        overtaken = refusal.code in {"already_active", "activation_lost_race"}
        return redirect(url_for("admin_registry.model", name=name) if overtaken else refused, code=303)
    number, followed = done.activation["version"], done.workers
    said = "is active" if done.activation["act"] == "activate" else "is active again"
    if followed.switched == followed.total:
        flash(f"{name} v{number} {said}. Requests from now on get it.", "ok")
    else:
        flash(f"{name} v{number} {said}; the workers follow one after another.", "info")
    return redirect(url_for("admin_registry.version", name=name, number=number), code=303)


@door.get("/models/<name>/workers")
@needs("viewer")
def workers(name: str) -> Response:
    """Give how many workers follow, as a fragment of the version's page."""
    with web.parts().database.reading() as session:
        standing = _standing(session, name)
    return page("registry/workers.html", standing=standing)


# --- Plan -----------------------------------------------------------------------------------------------------


@door.post("/models/<name>/versions/<int:number>/plan")
@needs("operator")
def allow_plan(name: str, number: int) -> AnyResponse:
    """Let a version be computed by its plan again, which was switched off."""
    page_of_version = url_for("admin_registry.version", name=name, number=number)
    try:
        with web.parts().database.transaction() as session:
            registry.allow_plan(session, actor(), name, number, form("reason"))
    except Conflict as refusal:
        flash(refusal.detail, "info")
    else:
        flash("The plan is allowed again. Each worker proves it once more before it uses it.", "ok")
    return redirect(page_of_version, code=303)


# --- Signature ----------------------------------------------------------------------------------------------


@door.get("/models/<name>/versions/<int:number>/signature")
@needs("operator")
def signature(name: str, number: int) -> Response:
    """Show the form of a version's rules."""
    return _signature_page(name, number)


def _signature_page(name: str, number: int, draft: Draft | None = None) -> Response:
    with web.parts().database.reading() as session:
        found = registry.get_version(session, registry.get_model(session, name), number)
        frozen = registry.was_active(session, found)
    draft = draft or Draft.of(from_dict(found.signature))
    return page(
        "registry/signature.html",
        422 if draft.errors else 200,
        name=name,
        number=number,
        frozen=frozen,
        draft=draft,
        kinds=[(kind, kind) for kind in KINDS],
    )


@door.post("/models/<name>/versions/<int:number>/signature")
@needs("operator")
def edit_signature(name: str, number: int) -> AnyResponse:
    """Store a version's rules, when they agree with one another and the estimator can keep them."""
    made = web.parts()
    with made.database.reading() as session:
        found = registry.get_version(session, registry.get_model(session, name), number)
    draft = Draft.read(from_dict(found.signature), request.form)
    edited = draft.signature()
    if edited is None:
        return _signature_page(name, number, draft)
    draft.note_refused(trial.refused(made.follower.served(name, number), edited))
    if draft.errors:
        return _signature_page(name, number, draft)
    with made.database.transaction() as session:
        stored = registry.get_version(session, registry.get_model(session, name), number)
        kept = registry.edit_signature(session, actor(), made.settings.derive("versions"), stored, edited.as_dict())
        session.flush()
        kept_number = kept.number
    said = "The signature is stored." if kept_number == number else f"Stored as v{kept_number}, with the same artifact."
    flash(f"{said} It is enforced from the next request on.", "ok")
    return redirect(url_for("admin_registry.version", name=name, number=kept_number), code=303)
