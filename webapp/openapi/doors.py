"""The description as a document: for who brings a key, and for who is signed in."""

from __future__ import annotations

import hashlib

from flask import Blueprint, Response, current_app, g, jsonify, request
from flask_login import current_user
from werkzeug.wrappers import Response as AnyResponse

from webapp import __version__, web
from webapp.admin import guard as people
from webapp.api import requires
from webapp.catalog import ServedVersion
from webapp.openapi import document


def guard() -> AnyResponse | None:
    """Let pass who brings a key, whatever its scopes, or who is signed in; without either, ask for a key."""
    if web.brings_key() or not current_user.is_authenticated:
        web.guard()
        return None
    return people.guard()


door = Blueprint("openapi", __name__)
door.before_request(guard)


@door.get("/openapi.json")
@requires(web.ANY_SCOPE)
@people.needs("viewer")
def show() -> Response:
    """Describe this API in OpenAPI 3.1, with the models that the caller may use."""
    versions = usable()
    tag = _tag(versions)
    if request.if_none_match.contains(tag):
        response = current_app.response_class(status=304)
    else:
        made = web.parts()
        response = jsonify(document.describe(current_app, versions, made.settings.max_instances))
    response.set_etag(tag)
    # It may be kept, and is asked for anew each time.
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Authorization, Cookie, X-API-Key"
    return response


def usable() -> list[ServedVersion]:
    """Give what answers for each model that the caller may use, as this process has it in memory."""
    key = g.get("key")
    allowed = None if key is None else key.models
    active = web.parts().runtime.active_versions()
    return [version for version in active if allowed is None or version.model in allowed]


def _tag(versions: list[ServedVersion]) -> str:
    """Give what changes whenever the document may."""
    made = web.parts()
    shown = sorted((version.model, version.number) for version in versions)
    facts = (__version__, made.runtime.catalog.generation, made.settings.max_instances, shown)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
