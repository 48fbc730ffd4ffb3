"""Pages of alerts: what needs a person, what to do about it, and what people have said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import alerts, audit, watching, web
from webapp.admin.guard import actor, blueprint, form, needs, small_number
from webapp.admin.pages import page, utc
from webapp.alerts import ITSELF, PAGE_ROWS, Alert
from webapp.audit import AuditRecord
from webapp.db import Session
from webapp.watching import Kind

door: Blueprint = blueprint("alerts")

GROUPS = {
    "open": ("Open", ("open",)),
    "handled": ("Acknowledged and snoozed", ("acknowledged", "snoozed")),
    "resolved": ("Resolved", ("resolved",)),
}
SPANS = (("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"))

ACTS = {
    "acknowledge": (alerts.acknowledge, "It is noted that you look after this alert."),
    "resolve": (alerts.resolve, "The alert is resolved. As long as it goes on being so, it opens no other one."),
    "reopen": (alerts.reopen, "The alert is open again."),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of an alert's story."""

    text: str
    at: datetime
    # Nobody where it happened by itself.
    who: str = ""


@door.get("/alerts")
@needs("viewer")
def index() -> Response:
    """List alerts, the newest first."""
    group = request.args.get("state", "open")
    group = group if group in GROUPS else "open"
    with web.parts().database.reading() as session:
        rows = alerts.search(session, GROUPS[group][1], before=small_number("before"))
        counts = alerts.count_by_state(session)
    counted = {name: sum(counts[state] for state in states) for name, (_, states) in GROUPS.items()}
    older = url_for("admin_alerts.index", state=group, before=rows[-1].id) if len(rows) == PAGE_ROWS else None
    return page(
        "alerts/index.html", rows=rows, group=group, groups=GROUPS, counted=counted, titles=_titles(rows), older=older
    )


def _titles(rows: list[Alert]) -> dict[str, str]:
    """Give what kinds are called; one that is looked at no more keeps its name."""
    return {row.kind: kind.title if (kind := watching.BY_NAME.get(row.kind)) else row.kind for row in rows}


@door.get("/alerts/<int:alert_id>")
@needs("viewer")
def show(alert_id: int) -> Response:
    """Show an alert with its story and what to do about it."""
    with web.parts().database.reading() as session:
        alert = alerts.get_alert(session, alert_id)
        story = _story(session, alert)
    kind = watching.BY_NAME.get(alert.kind)
    return page(
        "alerts/show.html",
        alert=alert,
        title=_titles([alert])[alert.kind],
        kind=kind,
        place=_place(alert, kind),
        story=story,
        spans=SPANS,
    )


def _story(session: Session, alert: Alert) -> list[Line]:
    """Give what happened to an alert, the newest first."""
    lines = [Line(_said(row), row.at, row.actor) for row in audit.about(session, alert.name)]
    if alert.ended_at is not None:
        by_itself = alert.resolved_by == ITSELF
        lines.insert(
            0, Line("Resolved by itself: it is so no more" if by_itself else "It is so no more", alert.ended_at)
        )
    return [*lines, Line("Seen for the first time", alert.opened_at)]


def _said(row: AuditRecord) -> str:
    if row.action == "alerts.snooze":
        return f"Snoozed until {utc(datetime.fromisoformat(row.detail['until']))}"
    return {"alerts.acknowledge": "Acknowledged", "alerts.resolve": "Resolved", "alerts.reopen": "Opened again"}.get(
        row.action, row.action
    )


def _place(alert: Alert, kind: Kind | None) -> tuple[str, str] | None:
    """Give the page where one can see what an alert is about, and what leads there."""
    places: dict[str, Callable[[], tuple[str, str]]] = {
        "model": lambda: (url_for("admin_registry.model", name=alert.model), f"See {alert.model}"),
        "version": lambda: (
            url_for("admin_registry.version", name=alert.model, number=int(alert.subject)),
            f"See {alert.model} v{alert.subject}",
        ),
        "key": lambda: (url_for("admin_keys.show", key_id=alert.subject), "See the key"),
        "jobs": lambda: (url_for("admin_jobs.index"), "See jobs"),
        "predictions": lambda: (url_for("admin_predictions.index", model=alert.model), "See predictions"),
        "drift": lambda: (url_for("admin_drift.show", model=alert.model), f"See drift of {alert.model}"),
        "quality": lambda: (url_for("admin_quality.show", model=alert.model), f"See quality of {alert.model}"),
        "system": lambda: (url_for("admin_system.show"), "See system"),
    }
    return places[kind.shown_at]() if kind else None


@door.post("/alerts/<int:alert_id>/<any(acknowledge, snooze, resolve, reopen):act>")
@needs("operator")
def change(alert_id: int, act: str) -> AnyResponse:
    """Acknowledge, snooze, resolve or re-open an alert."""
    with web.parts().database.transaction() as session:
        if act == "snooze":
            alerts.snooze(session, actor(), alert_id, span := form("span"))
            said = f"The alert tells nobody for {dict(SPANS)[span]}."
        else:
            do, said = ACTS[act]
            do(session, actor(), alert_id)
    flash(said, "ok")
    return redirect(url_for("admin_alerts.show", alert_id=alert_id), code=303)
