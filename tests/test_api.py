"""Every route of the web application: open to anyone by name, or closed by a scope or a role."""

from __future__ import annotations

from flask import Flask

from webapp.api import blueprint
from webapp.app import OPEN_ENDPOINTS, create_app
from webapp.config import Settings
from webapp.keys import SCOPES
from webapp.web import ANY_SCOPE


def scopes(app: Flask) -> dict[str, str | None]:
    """Give the scope that each endpoint declares."""
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
    return {name: getattr(app.view_functions[name], "scope", None) for name in endpoints}


def test_every_route_is_open_by_name_or_declares_a_scope_or_a_role(settings: Settings) -> None:
    app = create_app(settings)
    declared = scopes(app)
    assert declared.keys() >= OPEN_ENDPOINTS, "an endpoint that is open does not exist"
    with_role = {name for name in declared if hasattr(app.view_functions[name], "role")}
    pages = {name for name in declared if name.startswith("admin_")}
    assert with_role == pages | {"openapi.show"}, "only pages have roles"
    assert {name for name, scope in declared.items() if scope is None} - with_role == OPEN_ENDPOINTS
    assert {scope for scope in declared.values() if scope} <= {*SCOPES, ANY_SCOPE}
    assert {name for name, scope in declared.items() if scope == ANY_SCOPE} == {"openapi.show", "admin_docs.show"}


def test_every_route_with_a_scope_belongs_to_a_door_that_asks_for_it(settings: Settings) -> None:
    app = create_app(settings)
    closed = {name.partition(".")[0] for name, scope in scopes(app).items() if scope}
    assert closed
    for door in closed:
        guards = [guard.__name__ for guard in app.before_request_funcs[door]]
        assert guards == ["guard"], door


def test_a_route_that_declares_nothing_is_open_to_nobody(settings: Settings) -> None:
    app = create_app(settings)
    door = blueprint("forgetful")
    door.add_url_rule("/forgotten", "forgotten", lambda: "secret")
    app.register_blueprint(door)

    response = app.test_client().get("/forgotten")

    assert response.status_code == 403
    assert response.get_json()["code"] == "no_scope"
    assert "secret" not in response.get_data(as_text=True)
