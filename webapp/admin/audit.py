"""Page of the audit log: who changed what, when, from where."""

from __future__ import annotations

from flask import Blueprint, Response, request, url_for

from webapp import audit, web
from webapp.admin.guard import blueprint, needs, small_number
from webapp.admin.pages import page
from webapp.audit import Wanted

door: Blueprint = blueprint("audit")


@door.get("/audit")
@needs("operator")
def index() -> Response:
    """List changes, the newest first."""
    text = request.args.get("q", "").strip()[:200]
    actor, action = (request.args.get(name, "").strip()[:100] for name in ("actor", "action"))
    with web.parts().database.reading() as session:
        found = audit.search(session, Wanted(text, actor, action), before=small_number("before"))
        actions = audit.actions(session)
    older = found[-1].id if len(found) == audit.PAGE_ROWS else None
    return page(
        "audit/index.html",
        rows=found,
        text=text,
        actor=actor,
        action=action,
        actions=[("", "All"), *((each, each) for each in actions)],
        older=url_for("admin_audit.index", q=text or None, actor=actor or None, action=action or None, before=older)
        if older
        else None,
    )
