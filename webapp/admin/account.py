"""Pages of one's own account: password, one-time codes, sessions, theme."""

from __future__ import annotations

from flask import Blueprint, Response, flash, make_response, redirect, request, session, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from webapp import passwords, second_factor, users, web
from webapp.admin.guard import ANYONE, actor, blueprint, form, me, needs, own_path
from webapp.admin.pages import THEMES, page
from webapp.admin.sign_in import check_failures, note_failure
from webapp.errors import Conflict, Invalid
from webapp.web import YEAR_SECONDS

door: Blueprint = blueprint("account", prefix="/admin")


@door.get("/account")
@needs("viewer")
def show() -> Response:
    """Show one's own password, one-time codes and sessions."""
    return _account_page()


def _account_page(errors: dict[str, str] | None = None) -> Response:
    with web.parts().database.reading() as reading:
        user = users.get_user(reading, me().name)
        sessions = users.sessions(reading, user)
    return page("account/show.html", 422 if errors else 200, user=user, sessions=sessions, errors=errors or {})


@door.post("/account/password")
@needs("viewer")
def set_password() -> AnyResponse:
    """Set one's own password; other sessions end."""
    present, chosen = request.form.get("present", ""), request.form.get("chosen", "")
    database = web.parts().database
    with database.reading() as reading:
        user = users.get_user(reading, me().name)
    if user.password is not None:
        # A session that was stolen is no place to try out passwords.
        check_failures(user.name)
    if user.password is not None and not passwords.fits(user.password, present):
        note_failure(user.name)
        return _account_page({"present": "This is not your present password."})
    if chosen != request.form.get("again", ""):
        return _account_page({"again": "The two are not the same; type the new password twice."})
    try:
        passwords.check(chosen, (user.name,))
    except Invalid as refusal:
        return _account_page({"chosen": refusal.detail})
    stored = passwords.hashed(chosen)
    with database.transaction() as transaction:
        user = users.get_user(transaction, me().name)
        users.set_password(transaction, actor(), user, stored)
        users.end_all(transaction, user, but=me().digest)
    flash("Your password is set. Your other sessions have ended.", "ok")
    return redirect(url_for("admin_account.show"), code=303)


@door.post("/account/sessions")
@needs("viewer")
def end_other_sessions() -> AnyResponse:
    """Sign out everywhere else."""
    with web.parts().database.transaction() as transaction:
        users.end_all(transaction, users.get_user(transaction, me().name), but=me().digest)
    flash("You are signed out everywhere else.", "ok")
    return redirect(url_for("admin_account.show"), code=303)


# --- One-time codes -----------------------------------------------------------------------------------------


@door.get("/account/codes")
@needs("viewer")
def set_up_codes() -> Response:
    """Show the secret of a new second factor, to be scanned and proved by a code."""
    # In the cookie, which is signed: nothing is stored before a code proves that the app has it.
    session.setdefault("second_factor", second_factor.new_nonce())
    return _codes_page({})


def _pepper() -> bytes:
    return web.parts().settings.derive(second_factor.PEPPER)


def _codes_page(errors: dict[str, str]) -> Response:
    secret = second_factor.secret_of(_pepper(), session["second_factor"])
    picture = Markup(second_factor.picture(second_factor.address(secret, me().name)))  # noqa: S704 - drawn here, from our own text
    return page("account/codes.html", 422 if errors else 200, secret=secret, picture=picture, errors=errors)


@door.post("/account/codes")
@needs("viewer")
def turn_on_codes() -> AnyResponse:
    """Ask for codes from now on, when the first one is right; shows the recovery codes, this once."""
    if me().has_second_factor:
        raise Conflict("second_factor_on", "One-time codes are on already; turn them off first, by a code.")
    nonce = session.get("second_factor")
    if nonce is None:
        return redirect(url_for("admin_account.set_up_codes"), code=303)
    step = second_factor.step_of(second_factor.secret_of(_pepper(), nonce), form("code").replace(" ", ""), after=0)
    if step is None:
        return _codes_page({"code": "This is not the code of now; is the clock of the device right?"})
    codes = second_factor.new_recovery_codes()
    digests = [second_factor.digest(_pepper(), code) for code in codes]
    with web.parts().database.transaction() as transaction:
        user = users.get_user(transaction, me().name)
        users.set_second_factor(transaction, actor(), user, nonce, step, digests)
        users.end_all(transaction, user, but=me().digest)
    del session["second_factor"]
    return page("account/recovery.html", codes=codes)


@door.post("/account/codes/off")
@needs("viewer")
def turn_off_codes() -> AnyResponse:
    """Ask for codes no more, when one is right."""
    given = form("code").replace(" ", "")
    check_failures(me().name)
    with web.parts().database.transaction() as transaction:
        user = users.get_user(transaction, me().name)
        secret = second_factor.secret_of(_pepper(), user.second_factor or "")
        step = second_factor.step_of(secret, given, user.last_step) if user.second_factor else None
        if step is not None:
            users.drop_second_factor(transaction, actor(), user)
    if step is None:
        note_failure(me().name)
        return _account_page({"code": "This code is wrong or was used; wait for the next one."})
    flash("One-time codes are off.", "ok")
    return redirect(url_for("admin_account.show"), code=303)


@door.post("/theme")
@needs(ANYONE)
def switch_theme() -> AnyResponse:
    """Remember whether pages are light or dark, in this browser."""
    theme = form("theme")
    if theme not in THEMES:
        raise Invalid("unknown_theme", "There is a light and a dark theme.")
    answer = make_response(redirect(own_path(request.form.get("back"), url_for("admin_dashboard.show")), code=303))
    answer.set_cookie("theme", theme, max_age=YEAR_SECONDS, samesite="Lax", httponly=True, secure=web.needs_tls())
    return answer
