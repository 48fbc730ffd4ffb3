"""Quality over HTTP: how good a model's predictions turned out to be."""

from __future__ import annotations

from flask import Response, g, jsonify, request

from webapp import web
from webapp.api import blueprint, requires
from webapp.monitoring import quality_report

door = blueprint("quality")


@door.get("/models/<name>/quality")
@requires("models:read")
def quality(name: str) -> Response:
    """Report on the versions of a model over a window, by when they predicted."""
    g.key.require_model(name)
    made = web.parts()
    within = quality_report.window(request.args.get("window", "30d"), made.settings.retention_days)
    with made.database.reading() as session:
        found = quality_report.report(session, name, within)
    return jsonify(quality_report.describe(found))
