"""The JSON API: one module per subject. Every route needs a key and names the scope it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint

from webapp import web

View = TypeVar("View", bound=Callable[..., Any])


def blueprint(name: str) -> Blueprint:
    """Make a blueprint whose routes are closed unless they say which scope opens them."""
    made = Blueprint(name, __name__)
    made.before_request(web.guard)
    return made


def requires(scope: str) -> Callable[[View], View]:
    """Name the scope that a route asks for."""

    def mark(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined] # read by the guard
        return view

    return mark
