"""The JSON API: one module per subject. Every route needs a key and names the scope it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, current_app, g, request

from webapp import web
from webapp.errors import Forbidden

View = TypeVar("View", bound=Callable[..., Any])


def blueprint(name: str) -> Blueprint:
    """Make a blueprint whose routes are closed unless they say which scope opens them."""
    made = Blueprint(name, __name__)
    made.before_request(_guard)
    return made


def requires(scope: str) -> Callable[[View], View]:
    """Name the scope that a route asks for."""

    def mark(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined] # read by the guard
        return view

    return mark


def _guard() -> None:
    scope = getattr(current_app.view_functions[request.endpoint or ""], "scope", None)
    if scope is None:
        raise Forbidden("no_scope", "This route is open to nobody.")
    key = web.authenticate()
    g.key = key
    g.facts["key_id"] = key.id
    key.require_scope(scope)
    web.spend(key)
