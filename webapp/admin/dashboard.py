"""The dashboard: how things are, what needs a person, what happened last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request

from webapp import activation, alerts, audit, fleet, jobs, keys, registry, web
from webapp.admin import drawing
from webapp.admin.drawing import Columns
from webapp.admin.guard import blueprint, me, needs
from webapp.admin.pages import page
from webapp.audit import AuditRecord
from webapp.db import Session
from webapp.predictions import traffic
from webapp.predictions.traffic import Series
from webapp.uploads import waiting

door: Blueprint = blueprint("dashboard")

SPANS = {"24h": ("24 h", timedelta(hours=24)), "7d": ("7 d", timedelta(days=7)), "30d": ("30 d", timedelta(days=30))}
SOON = timedelta(days=14)
SILENT = timedelta(seconds=35)
LAST_CHANGES = 6


def _chart(series: Series) -> Columns:
    """Draw what all models predicted together."""
    bars = [sum(counts) for counts in zip(*series.counts.values(), strict=True)] if series.counts else []
    return drawing.columns(series.start, series.step, bars)


@door.get("")
@needs("viewer")
def show() -> Response:
    """Show it."""
    span = request.args.get("span", "24h")
    span = span if span in SPANS else "24h"
    moment = datetime.now(UTC)
    since = moment - SPANS[span][1]
    with web.parts().database.reading() as session:
        facts: dict[str, Any] = {
            "total": traffic.overall(session, since),
            "totals": {each.model: each for each in traffic.totals(session, since)},
            "chart": _chart(traffic.series(session, since, moment)),
            "lines": registry.model_lines(session),
            "ways_back": registry.ways_back(session),
            "standing": activation.present(session),
            "expiring": keys.expiring(session, SOON),
            "live_keys": keys.count_live(session),
            "alerts": alerts.count_by_state(session),
            "silent": [each for each in fleet.heartbeats(session) if each.seen_at < moment - SILENT],
            "changes": _changes(session) if me().may("operator") else [],
            **_running(session),
        }
    return page("dashboard/show.html", **facts, span=span, spans=SPANS, now=moment)


def _changes(session: Session) -> list[AuditRecord]:
    """Give the last changes of what is served and to whom; who came in is in the audit log."""
    found = audit.search(session, audit.Wanted())
    return [each for each in found if not each.action.startswith("users.")][:LAST_CHANGES]


def _running(session: Session) -> dict[str, Any]:
    lines = [line for line in jobs.lines(session, 20) if line.progress.status == "processing"]
    return {"jobs": lines, "uploads": waiting.under_way(session)}
