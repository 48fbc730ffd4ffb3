"""The description as a page, to read and to try."""

from __future__ import annotations

from flask import Blueprint, Response
from werkzeug.wrappers import Response as AnyResponse

from webapp import web
from webapp.admin import guard as people
from webapp.admin.pages import page
from webapp.api import requires
from webapp.openapi import doors

door = Blueprint("admin_docs", __name__)


@door.before_request
def guard() -> AnyResponse | None:
    """Let pass who brings a key, or who is signed in; without either, a person is led to sign in."""
    return doors.guard() if web.brings_key() else people.guard()


@door.get("/docs")
@requires(web.ANY_SCOPE)
@people.needs("viewer")
def show() -> Response:
    """Show what the API takes and answers, for each model."""
    return page("docs/show.html", versions=sorted(doors.usable(), key=lambda version: version.model))
