"""Who may see which page: roles, sessions, and proof that a change was meant."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from flask import Blueprint, current_app, flash, redirect, request, url_for
from flask_login import UserMixin, current_user
from flask_wtf import CSRFProtect
from werkzeug.wrappers import Response as AnyResponse

from webapp import body, users, web
from webapp.audit import Actor
from webapp.errors import Forbidden, Malformed, Unavailable
from webapp.registry import MOST_NUMBER
from webapp.uploads import waiting
from webapp.users import SignedIn

View = TypeVar("View", bound=Callable[..., Any])

# What a route asks for that nobody need be signed in for.
ANYONE = "anyone"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# What a browser says of a request that one of our own pages made, or a person without any page.
OWN_SITES = frozenset({"same-origin", "none"})
# What a person may do who has to set up one-time codes first.
SET_UP_ENDPOINTS = frozenset(
    {
        "admin_account.set_up_codes",
        "admin_account.turn_on_codes",
        "admin_account.switch_theme",
        "admin_sign_in.sign_out",
    }
)
_OWN_PATH = re.compile(r"/(?:admin|docs)(?:[/?#][^\\]*)?")
csrf = CSRFProtect()


class Person(UserMixin):  # type: ignore[misc] # the library has no types
    """Who is signed in, in the form that Flask-Login wants."""

    def __init__(self, facts: SignedIn, token: str) -> None:
        """`token` is the session's id, which the cookie holds."""
        self.facts = facts
        self.token = token

    def get_id(self) -> str:
        """Give what the cookie holds."""
        return self.token


def me() -> SignedIn:
    """Give who is signed in."""
    facts: SignedIn = current_user.facts
    return facts


def actor() -> Actor:
    """Give who this request's changes are noted for."""
    return web.actor(f"user:{me().name}")


def load_person(token: str) -> Person | None:
    """Give who holds a session, and note now and then that it is in use."""
    database = web.parts().database
    with database.reading() as session:
        facts = users.signed_in(session, token)
    if facts is None:
        return None
    if facts.stale:
        # A page that only shows needs no database that can be written: on a full disk least of all.
        with suppress(Unavailable), database.transaction() as session:
            users.touch(session, facts.digest)
    return Person(facts, token)


def blueprint(name: str, prefix: str = "/admin") -> Blueprint:
    """Make a blueprint whose routes are closed unless they say which role opens them."""
    made = Blueprint(f"admin_{name}", __name__, url_prefix=prefix)
    made.before_request(guard)
    return made


def needs(role: str) -> Callable[[View], View]:
    """Name the role that a route asks for, or `ANYONE`."""

    def mark(view: View) -> View:
        view.role = role  # type: ignore[attr-defined] # read by the guard
        return view

    return mark


def takes_files(view: View) -> View:
    """Say of a route that its form brings files, which may be larger than any other body."""
    view.takes_files = True  # type: ignore[attr-defined] # read by the guard
    return view


def guard() -> AnyResponse | None:
    """Let a request pass whose person has the role that its route asks for; default deny."""
    view = current_app.view_functions[request.endpoint or ""]
    role = getattr(view, "role", None)
    if role is None:
        raise Forbidden("no_role", "This page is open to nobody.")
    if role != ANYONE:
        if not current_user.is_authenticated:
            return _to_sign_in()
        if _must_set_up():
            flash("This server asks for one-time codes: set them up below, then go on.", "info")
            return redirect(url_for("admin_account.set_up_codes"), code=303)
        if not me().may(role):
            detail = f"This needs the role {role}; yours is {me().role}. An admin can change it under Users."
            raise Forbidden("role_missing", detail)
    if request.method not in SAFE_METHODS:
        _check_own_site()
        if hasattr(view, "takes_files"):
            # Before the token is looked for, which reads the form.
            waiting.check_room(web.parts().desk, request.content_length or 0)
            body.admit(web.parts().settings.max_upload_bytes)
        csrf.protect()
    _check_characters()
    return None


def _must_set_up() -> bool:
    """Whether this person has to set up one-time codes before anything else."""
    required = web.parts().settings.second_factor == "required" and not me().has_second_factor
    return required and request.endpoint not in SET_UP_ENDPOINTS


def _to_sign_in() -> AnyResponse:
    # Only a page can be come back to: a form that was sent would be sent again.
    wanted = request.full_path.rstrip("?") if request.method == "GET" else ""
    place = url_for("admin_sign_in.show", next=wanted or None)
    response = redirect(place, code=303)
    if "HX-Request" in request.headers:
        # A fragment of a page is not the place to sign in.
        response = current_app.response_class(status=204, headers={"HX-Redirect": url_for("admin_sign_in.show")})
    return response


def _check_own_site() -> None:
    """Refuse a change that another site's page sent (Fetch Metadata, else Origin), whatever token it holds."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    foreign = site not in OWN_SITES if site else origin not in {None, request.host_url.rstrip("/")}
    if foreign:
        raise Forbidden("foreign_site", "This came from a page of another site; open the admin UI and do it there.")


def _check_characters() -> None:
    """Refuse NUL, as the API does: no name here has it, and PostgreSQL keeps no text with it."""
    for name, text in (*request.args.items(multi=True), *request.form.items(multi=True)):
        if "\0" in text:
            raise Malformed("nul_in_field", f"The field “{name}” holds the character NUL; nothing here does.")


def own_path(text: str | None, otherwise: str) -> str:
    """Give a path of the admin UI to go to, whatever came in a request."""
    wanted = text or ""
    return wanted if _OWN_PATH.fullmatch(wanted) and wanted.isprintable() else otherwise


def small_number(name: str) -> int | None:
    """Give a number of the query, if there is one that a database can compare with."""
    value = request.args.get(name, None, int)
    return value if value is not None and abs(value) <= MOST_NUMBER else None


def form(name: str, most: int = 500) -> str:
    """Give a field of the form without spaces around it; raise `Malformed` when it is absurdly long."""
    text = request.form.get(name, "").strip()
    if len(text) > most:
        raise Malformed("field_too_long", f"The field “{name}” holds {len(text)} characters; at most {most} are taken.")
    return text
