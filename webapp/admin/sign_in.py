"""Pages of signing in and out: by password, by a link that works once, with a one-time code where one is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Blueprint, Response, flash, redirect, request, session, url_for
from flask_login import current_user, login_user, logout_user
from limits import parse
from werkzeug.wrappers import Response as AnyResponse

from webapp import passwords, second_factor, users, web
from webapp.admin.guard import ANYONE, Person, blueprint, form, me, needs, own_path
from webapp.admin.pages import page
from webapp.audit import Actor
from webapp.db import Session
from webapp.errors import Refusal, TooMany, Unauthenticated
from webapp.users import User

door: Blueprint = blueprint("sign_in", prefix="")

# Wrong passwords and codes for one name from one address; another address still lets the rightful person in.
FAILURES = parse("5/15minute")
WRONG = "The name or the password is wrong."
# From the password to the code.
HALFWAY_SECONDS = 300


@door.get("/login")
@needs(ANYONE)
def show() -> AnyResponse:
    """Ask for name and password."""
    if current_user.is_authenticated:
        return redirect(_wanted(), code=303)
    return _page("sign_in/show.html")


@door.post("/login")
@needs(ANYONE)
def by_password() -> AnyResponse:
    """Let in who knows a password."""
    name, password = form("name").lower(), request.form.get("password", "")
    try:
        check_failures(name)
        with web.parts().database.reading() as reading:
            user = users.find_user(reading, name)
        _check_password(user, password)
        return _let_in(lambda transaction: users.get_user(transaction, name), "password")
    except (Unauthenticated, TooMany) as refusal:
        return _page("sign_in/show.html", name, refusal)


def _check_password(user: User | None, password: str) -> None:
    # Outside of any transaction: it takes a while, for an unknown user as for a wrong password.
    if not passwords.fits(user.password if user else None, password):
        raise Unauthenticated("sign_in_refused", WRONG)


@door.get("/login/<token>")
@needs(ANYONE)
def link(token: str) -> Response:
    """Show whom a sign-in link lets in; it is used up by the button, not by looking."""
    with web.parts().database.reading() as reading:
        user = users.link_user(reading, token)
    return page("sign_in/link.html", user=user, token=token, insecure=_is_insecure())


@door.post("/login/<token>")
@needs(ANYONE)
def by_link(token: str) -> AnyResponse:
    """Let in who holds a sign-in link, once."""
    return _let_in(lambda transaction: users.use_link(transaction, token), "link")


@door.get("/login/code")
@needs(ANYONE)
def code() -> AnyResponse:
    """Ask who knew the password for a one-time code."""
    if _halfway() is None:
        return redirect(url_for("admin_sign_in.show"), code=303)
    return _page("sign_in/code.html")


@door.post("/login/code")
@needs(ANYONE)
def by_code() -> AnyResponse:
    """Let in who knew the password and has the code."""
    name = _halfway()
    if name is None:
        flash("That took too long; begin again.", "warn")
        return redirect(url_for("admin_sign_in.show"), code=303)
    way = session["halfway"]["way"]
    try:
        check_failures(name)
        return _begin(lambda transaction: _with_code(transaction, name), f"{way} and code")
    except (Unauthenticated, TooMany) as refusal:
        return _page("sign_in/code.html", name, refusal)


def _with_code(transaction: Session, name: str) -> User:
    """Give the user when the code that came is right, and use it up."""
    user, pepper = users.get_user(transaction, name), web.parts().settings.derive(second_factor.PEPPER)
    given = form("code").replace(" ", "")
    if given.isdecimal() and user.second_factor is not None:
        step = second_factor.step_of(second_factor.secret_of(pepper, user.second_factor), given, user.last_step)
        if step is not None and users.use_step(transaction, user, step):
            return user
    elif users.use_recovery(transaction, _actor(user), user, second_factor.digest(pepper, given)):
        return user
    raise Unauthenticated("sign_in_refused", "This code is wrong or was used; wait for the next one.")


def _halfway() -> str | None:
    """Give the name of who knew the password a moment ago."""
    held = session.get("halfway")
    return held["name"] if held and time.time() - held["at"] < HALFWAY_SECONDS else None


def _let_in(find: Callable[[Session], User], way: str) -> AnyResponse:
    """Begin a session, or ask for a code first where the user has a second factor."""
    # Whoever was signed in here is not any more. Asked before the transaction: that session's use may be noted.
    replaced = me().digest if current_user.is_authenticated else ""
    with web.parts().database.transaction() as transaction:
        user = find(transaction)
        users.end(transaction, replaced)
    if user.second_factor is None:
        return _begin(lambda transaction: users.get_user(transaction, user.name), way)
    wanted = _wanted()
    session.clear()
    session["halfway"] = {"name": user.name, "at": time.time(), "way": way}
    return redirect(url_for("admin_sign_in.code", next=wanted), code=303)


def _begin(find: Callable[[Session], User], way: str) -> AnyResponse:
    """Begin a session in place of whatever this browser brought."""
    with web.parts().database.transaction() as transaction:
        user = find(transaction)
        token = users.begin(transaction, _actor(user), user, request.headers.get("User-Agent", ""), way)
        transaction.flush()
        facts = users.signed_in(transaction, token)
    assert facts is not None
    wanted = _wanted()
    session.clear()
    login_user(Person(facts, token))
    return redirect(wanted, code=303)


def _actor(user: User) -> Actor:
    return web.actor(f"user:{user.name}")


# --- What every way in shares -------------------------------------------------------------------------------


def _failures_of(name: str) -> tuple[str, str]:
    return "refused passwords", f"{name} {web.peer()}"


def check_failures(name: str) -> None:
    """Refuse who gave too many wrong passwords or codes for a name from this address."""
    if not web.parts().strategy.test(FAILURES, *_failures_of(name)):
        detail = "Too many wrong passwords for this name from here. Wait a quarter of an hour, or use a sign-in link."
        raise TooMany("sign_in_limited", detail, retry_after_seconds=FAILURES.get_expiry())


def note_failure(name: str) -> None:
    """Count a wrong password or code."""
    web.parts().strategy.hit(FAILURES, *_failures_of(name))


def _page(template: str, name: str = "", refusal: Refusal | None = None) -> Response:
    """Show a form of the way in; what was wrong counts, and stands above it."""
    if isinstance(refusal, Unauthenticated):
        note_failure(name)
    status = 200 if refusal is None else web.STATUS[type(refusal)]
    answer = page(template, status, name=name, refusal=refusal, wanted=_wanted(), insecure=_is_insecure())
    if isinstance(refusal, TooMany):
        answer.headers["Retry-After"] = str(refusal.retry_after_seconds)
    return answer


def _is_insecure() -> bool:
    return web.needs_tls() and not request.is_secure


def _wanted() -> str:
    return own_path(request.values.get("next"), url_for("admin_dashboard.show"))


@door.post("/logout")
@needs("viewer")
def sign_out() -> AnyResponse:
    """End this session: a copy of its cookie is worth nothing."""
    with web.parts().database.transaction() as transaction:
        users.end(transaction, me().digest)
    logout_user()
    session.clear()
    flash("You are signed out.", "ok")
    return redirect(url_for("admin_sign_in.show"), code=303)
