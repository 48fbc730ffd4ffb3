"""Probes and metrics: open doors that load balancers and Prometheus knock at."""

from __future__ import annotations

import hmac
import ipaddress

from flask import Blueprint, Response, jsonify, request

from webapp import metrics, web
from webapp.errors import Forbidden, Unavailable
from webapp.limits.shared import is_alone

door = Blueprint("health", __name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@door.get("/health")
def health() -> Response:
    """Answer the guide's probe."""
    active = web.parts().runtime.active_versions()
    return jsonify(status="healthy", model_loaded=bool(active), models={each.model: each.shown for each in active})


@door.get("/livez")
def live() -> Response:
    """Say that the process answers."""
    return jsonify(status="live")


@door.get("/readyz")
def ready() -> Response:
    """Say whether predictions can be answered: what is active is loaded and the log has room."""
    made = web.parts()
    reasons = [] if made.follower.informed else ["the committed state has not been read yet"]
    if not made.runtime.serves_all():
        reasons.append("an active version is not loaded")
    if made.spool.full:
        reasons.append("the spool is full")
    if reasons:
        raise Unavailable("not_ready", f"Not ready: {'; '.join(reasons)}.")
    # Without them, predictions go on: not less ready, but worth knowing.
    missing = {"database": not made.follower.database_answers, "redis": is_alone(made.strategy.storage)}
    return jsonify(status="ready", degraded=[name for name, away in missing.items() if away])


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


@door.get("/metrics")
def exposition() -> Response:
    """Give the metrics of all workers of this host, to who holds the token or sits on this machine."""
    settings = web.parts().settings
    if settings.metrics_token is None:
        allowed = _is_loopback(request.remote_addr)
    else:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        allowed = hmac.compare_digest(given.encode(), settings.metrics_token.encode())
    if not allowed:
        raise Forbidden("metrics_closed", "Metrics need the token, or a peer on this machine where none is set.")
    active = web.parts().runtime.active_versions()
    served = [
        {"model": each.model, "model_version": each.shown, "version": str(each.number), "sha256": each.artifact}
        for each in active
    ]
    return Response(metrics.exposition(settings.run_dir / "metrics", served), content_type=CONTENT_TYPE)
