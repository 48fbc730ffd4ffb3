"""Probes and metrics: open doors that load balancers and Prometheus knock at."""

from __future__ import annotations

import hmac
import ipaddress

import sqlalchemy.exc
from flask import Blueprint, Response, jsonify, request

from webapp import generation, metrics, web
from webapp.errors import Forbidden

door = Blueprint("health", __name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@door.get("/health")
def health() -> Response:
    """Answer the guide's probe."""
    active = web.parts().runtime.catalog.active_versions()
    return jsonify(status="healthy", model_loaded=bool(active), models={each.model: each.shown for each in active})


@door.get("/livez")
def live() -> Response:
    """Say that the process answers."""
    return jsonify(status="live")


@door.get("/readyz")
def ready() -> tuple[Response, int]:
    """Say whether predictions can be answered: what is active is loaded and the log has room."""
    made = web.parts()
    reasons = []
    if not made.runtime.serves_all():
        reasons.append("an active version is not loaded")
    if made.spool.full:
        reasons.append("the spool is full")
    degraded = [] if _database_answers() else ["database"]
    if reasons:
        return jsonify(status="not ready", reasons=reasons, degraded=degraded), 503
    return jsonify(status="ready", degraded=degraded), 200


def _database_answers() -> bool:
    try:
        with web.parts().database.reading() as session:
            generation.current(session)
    except sqlalchemy.exc.SQLAlchemyError:
        return False
    return True


@door.get("/metrics")
def exposition() -> Response:
    """Give the metrics of all workers of this host, to who holds the token or sits on this machine."""
    settings = web.parts().settings
    if settings.metrics_token is None:
        allowed = ipaddress.ip_address(request.remote_addr or "0.0.0.0").is_loopback  # noqa: S104 - no peer known
    else:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        allowed = hmac.compare_digest(given.encode(), settings.metrics_token.encode())
    if not allowed:
        raise Forbidden("metrics_closed", "Metrics need the token, or a peer on this machine where none is set.")
    return Response(metrics.exposition(settings.run_dir / "metrics"), content_type=CONTENT_TYPE)
