"""Pages of users: who may come in, as what, and keeping them out."""

from __future__ import annotations

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import users, web
from webapp.admin.guard import actor, blueprint, form, needs
from webapp.admin.pages import page
from webapp.errors import Conflict, Invalid
from webapp.users import ROLES, User

door: Blueprint = blueprint("users")

ROLE_TEXTS = {
    "viewer": "sees models, predictions and keys",
    "operator": "also uploads, activates, rolls back and tries models",
    "admin": "also manages keys and users",
}


@door.get("/users")
@needs("admin")
def index() -> Response:
    """List who may come in."""
    return _users_page()


def _users_page(errors: dict[str, str] | None = None) -> Response:
    with web.parts().database.reading() as reading:
        found = users.all_users(reading)
    return page("users/index.html", 422 if errors else 200, users=found, roles=_roles(), errors=errors or {})


def _roles() -> list[tuple[str, str]]:
    return [(role, f"{role}: {ROLE_TEXTS[role]}") for role in ROLES]


@door.post("/users")
@needs("admin")
def create() -> AnyResponse:
    """Make a user and show the link that lets them in."""
    try:
        with web.parts().database.transaction() as transaction:
            user = users.create(transaction, actor(), form("name").lower(), form("role"))
            token = users.make_link(transaction, user)
    except (Invalid, Conflict) as refusal:
        return _users_page({"name": refusal.detail})
    return _link_page(user, token)


def _link_page(user: User, token: str) -> Response:
    place = request.host_url.rstrip("/") + url_for("admin_sign_in.link", token=token)
    return page("users/new_link.html", user=user, place=place)


@door.get("/users/<name>")
@needs("admin")
def show(name: str) -> Response:
    """Show a user with what can be done about them."""
    return _user_page(name)


def _user_page(name: str, errors: dict[str, str] | None = None) -> Response:
    with web.parts().database.reading() as reading:
        found = users.get_user(reading, name)
        sessions = users.sessions(reading, found)
    return page(
        "users/show.html", 422 if errors else 200, user=found, sessions=sessions, roles=_roles(), errors=errors or {}
    )


@door.post("/users/<name>/<any('role', 'disable', 'enable', 'sign-out'):act>")
@needs("admin")
def change(name: str, act: str) -> AnyResponse:
    """Change a user's role, keep them out, let them in again, or end their sessions."""
    try:
        with web.parts().database.transaction() as transaction:
            if act == "role":
                users.set_role(transaction, actor(), name, form("role"))
            else:
                acts = {"disable": users.disable, "enable": users.enable, "sign-out": users.sign_out}
                acts[act](transaction, actor(), name)
    except Conflict as refusal:
        return _user_page(name, {"": refusal.detail})
    flash(
        {
            "role": f"{name} has the role {form('role')} now.",
            "disable": f"{name} is kept out from now on.",
            "enable": f"{name} may come in again.",
            "sign-out": f"{name} is signed out everywhere.",
        }[act],
        "ok",
    )
    return redirect(url_for("admin_users.show", name=name), code=303)


@door.post("/users/<name>/link")
@needs("admin")
def new_link(name: str) -> AnyResponse:
    """Forget a user's password and show the link that lets them in."""
    try:
        with web.parts().database.transaction() as transaction:
            token = users.reset_password(transaction, actor(), name)
            found = users.get_user(transaction, name)
    except Conflict as refusal:
        return _user_page(name, {"": refusal.detail})
    return _link_page(found, token)
