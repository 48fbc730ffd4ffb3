"""The composition root: makes every part, hands each to who needs it, and nothing else. Opens and reads nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, redirect, request, url_for
from flask.globals import request_ctx
from flask_limiter import Limiter
from prometheus_flask_exporter import PrometheusMetrics
from werkzeug.wrappers import Response as AnyResponse

from webapp import artifacts, body, health, keys, metrics, web
from webapp.admin import (
    account,
    alerts,
    audit,
    comparing,
    dashboard,
    drift,
    exports,
    jobs,
    latency,
    pages,
    predictions,
    quality,
    rerun,
    sign_in,
    subjects,
    system,
    try_it,
    uploads,
    users,
    webhooks,
)
from webapp.admin import keys as admin_keys
from webapp.admin import registry as admin_registry
from webapp.api import alerts as alerts_door
from webapp.api import batch, feedback, native
from webapp.api import drift as drift_door
from webapp.api import quality as quality_door
from webapp.api import registry as registry_door
from webapp.config import Settings, shipped
from webapp.db import Database
from webapp.follower import Follower
from webapp.generation import Signal
from webapp.keys import KeyRing
from webapp.limits import MmapStorage
from webapp.limits.shared import SharedStorage
from webapp.openapi import doors as openapi_doors
from webapp.openapi import pages as openapi_pages
from webapp.predictions.spool import Spool
from webapp.serving.cache import PredictionCache
from webapp.serving.runtime import Runtime
from webapp.serving.turn import Turn
from webapp.serving.verdicts import Verdicts
from webapp.signature import keeping
from webapp.web import Application, Parts

# What anyone may ask without a key; everything else is closed.
OPEN_ENDPOINTS = frozenset({"health.health", "health.live", "health.ready", "health.exposition", "root", "static"})
ADMIN_DOORS = tuple(
    each.door
    for each in (
        account,
        alerts,
        admin_keys,
        admin_registry,
        audit,
        comparing,
        dashboard,
        drift,
        exports,
        jobs,
        latency,
        openapi_pages,
        predictions,
        quality,
        rerun,
        sign_in,
        subjects,
        system,
        try_it,
        uploads,
        users,
        webhooks,
    )
)
DEFAULT_LIMITS = ["600/minute"]


def make_parts(settings: Settings, cache: PredictionCache | None = None) -> Parts:
    """Make the parts of one process from complete settings (`config.prepare`); a `cache` where many callers ask."""
    signal = Signal(settings.run_dir / "generation")
    # Half of the threads may wait for a database that hangs; the others go on predicting.
    database = Database(settings.sqlalchemy_url, announce=signal.send, threads=max(4, settings.threads // 2))
    store = artifacts.opened(settings)
    runtime = Runtime(
        store,
        settings.derive("versions"),
        on_load=lambda loaded: metrics.MODEL_LOAD.observe(loaded.load_seconds),
        turn=Turn(settings.run_dir / "load.lock").taken,
        most_extra_bytes=settings.max_extra_bytes,
        cache=cache,
        verdicts=Verdicts(settings.run_dir / "proofs", settings.derive("proofs")),
        log_key=settings.derive(keeping.KEY),
    )
    ring = KeyRing(settings.derive(keys.PEPPER))
    return Parts(
        settings=settings,
        database=database,
        artifacts=store,
        runtime=runtime,
        ring=ring,
        spool=Spool(
            settings.spool_dir,
            max_bytes=settings.spool_max_bytes,
            refuse_when_full=settings.spool_full == "refuse",
            on_drop=metrics.LOG_DROPPED.inc,
            on_measure=metrics.SPOOL_FILLED.set,
        ),
        follower=Follower(database, runtime, ring, signal, settings.rate_limit, settings.replica),
        limiter=Limiter(
            key_func=_limited_by,
            **_counted_in(settings),
            strategy="moving-window",
            default_limits=DEFAULT_LIMITS,  # type: ignore[arg-type] # a list of strings is what it documents
        ),
    )


def create_app(settings: Settings) -> Flask:
    """Make the web application from complete settings (`config.prepare`)."""
    cache = PredictionCache(
        settings.derive("cache"), settings.cache_ttl_seconds, settings.cache, redis_url=settings.redis_url
    )
    parts = make_parts(settings, cache)
    app = Application("webapp", static_folder=shipped("static"), template_folder=shipped("templates"))
    app.request_class = body.Request
    app.config["TRUSTED_HOSTS"] = list(settings.trusted_hosts) or None
    web.install(app, parts)
    pages.install(app, settings)
    app.add_url_rule("/", "root", root)
    watching = (alerts_door.door, drift_door.door, quality_door.door)
    doors = (health.door, native.door, batch.door, feedback.door, registry_door.door, *watching)
    # The description is for people, too: their addresses have a limit.
    for door in (*doors, openapi_doors.door, *ADMIN_DOORS):
        app.register_blueprint(door)
    parts.limiter.exempt(app.view_functions["static"])
    parts.limiter.init_app(app)
    _spare(app, frozenset(door.name for door in doors))
    PrometheusMetrics(
        app,
        path=None,
        group_by="url_rule",
        defaults_prefix="modelport",
        buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        registry=metrics.REGISTRY,
    )
    return app


def root() -> AnyResponse:
    """Say what answers here; a person goes to the admin UI."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        return redirect(url_for("admin_dashboard.show"), code=303)
    response: Response = jsonify(name="modelport", predict="/predict", models="/models", health="/health")
    return response


def _spare(app: Flask, names: frozenset[str]) -> None:
    """Keep the library's hooks, the last ones that were added, away from the doors of these names.

    What needs a key counts against that key's own limit, on the same storage, and probes are never refused. To find
    out that a route is exempt costs the library more than counting does.
    """
    for hooks in (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs):
        hooks[None][-1] = _for_others(names, hooks[None][-1])


def _for_others(names: frozenset[str], hook: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:  # noqa: ANN401 - nothing, a response or an error: what Flask gives such a hook
        return next(iter(given), None) if request_ctx.request.blueprint in names else hook(*given)

    return call


def _counted_in(settings: Settings) -> dict[str, Any]:
    """Say where limits are counted: in a file of this host, or in the Redis, with the file while that is away."""
    path = (settings.run_dir / "limits").absolute()
    if settings.redis_url is None:
        return {"storage_uri": f"{MmapStorage.STORAGE_SCHEME[0]}://{path}"}
    options = {"redis_url": settings.redis_url, "secret": settings.derive("limits")}
    return {"storage_uri": f"{SharedStorage.STORAGE_SCHEME[0]}://{path}", "storage_options": options}


def _limited_by() -> str:
    # Never empty: the library takes an empty name for "no limit".
    return web.peer()
