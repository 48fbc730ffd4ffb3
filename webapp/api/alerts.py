"""Alerts over HTTP: what needs a person, for programs that watch."""

from __future__ import annotations

from flask import Response, g, jsonify, request

from webapp import alerts, web
from webapp.api import blueprint, requires
from webapp.db import MOST_ID
from webapp.errors import Invalid

door = blueprint("alerts")

MOST = 200


@door.get("/alerts")
@requires("models:read")
def index() -> Response:
    """List alerts in a state, the newest first; a key for some models sees the alerts of these."""
    state = request.args.get("state", "open")
    alerts.check_state(state)
    before = request.args.get("before", str(MOST_ID))
    if not (before.isascii() and before.isdecimal() and len(before) <= len(str(MOST_ID))):
        raise Invalid("before_unreadable", "“before” is the id of an alert.", more={"parameter": "before"})
    with web.parts().database.reading() as session:
        found = alerts.search(session, [state], models=g.key.models, before=min(int(before), MOST_ID), most=MOST)
        return jsonify(alerts=[alerts.describe(each) for each in found])
