"""How pages are made: the template environment, what every page shows, security headers, errors for people."""

from __future__ import annotations

import functools
import hashlib
import json
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from flask import Flask, Response, current_app, make_response, render_template, request, url_for
from flask_login import LoginManager, current_user
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import BadRequest

from webapp import parquet, quality, web
from webapp.admin.guard import csrf, load_person, me
from webapp.audit import AuditRecord
from webapp.config import Settings
from webapp.errors import Malformed, Unavailable
from webapp.users import SignedIn
from webapp.web import YEAR_SECONDS

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
THEMES = ("light", "dark")
# Where a number does not apply.
NONE = "\N{EN DASH}"
# Role, endpoint, label, icon.
MENU = (
    ("", (("viewer", "admin_dashboard.show", "Dashboard", "home"),)),
    (
        "Serve",
        (
            ("viewer", "admin_registry.index", "Models", "model"),
            ("operator", "admin_try_it.choose", "Try it", "play"),
            ("viewer", "admin_jobs.index", "Jobs", "jobs"),
            ("viewer", "admin_docs.show", "API docs", "book"),
        ),
    ),
    (
        "Watch",
        (
            ("viewer", "admin_predictions.index", "Predictions", "list"),
            ("viewer", "admin_drift.show", "Drift", "drift"),
            ("viewer", "admin_quality.show", "Quality", "target"),
            ("viewer", "admin_latency.show", "Latency and traffic", "clock"),
            ("viewer", "admin_alerts.index", "Alerts", "bell"),
            ("admin", "admin_webhooks.index", "Webhooks", "hook"),
        ),
    ),
    (
        "Manage",
        (
            ("viewer", "admin_keys.index", "API keys", "key"),
            ("admin", "admin_users.index", "Users", "users"),
            ("operator", "admin_audit.index", "Audit log", "audit"),
            ("viewer", "admin_system.show", "System", "cog"),
        ),
    ),
)


def install(app: Flask, settings: Settings) -> None:
    """Give an application what its pages rely on."""
    app.secret_key = settings.derive("cookies")
    app.session_interface = web.CookieSessions()
    app.config |= {
        "SESSION_COOKIE_NAME": "modelport",
        "SESSION_COOKIE_SAMESITE": "Lax",
        # A form lives as long as its session, not an hour.
        "WTF_CSRF_TIME_LIMIT": None,
        "WTF_CSRF_CHECK_DEFAULT": False,
        "SEND_FILE_MAX_AGE_DEFAULT": YEAR_SECONDS,
    }
    csrf.init_app(app)
    app.register_error_handler(CSRFError, _form_of_another_session)
    # Pages know who it is from `_shared`.
    manager = LoginManager(app, add_context_processor=False)
    # The session's row decides how long it lasts; the library's own ways to keep or end it are off.
    manager.session_protection = None
    manager.user_loader(load_person)
    app.jinja_env.undefined = jinja2.StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals |= {"asset": asset, "writes_parquet": parquet.is_there()}
    app.jinja_env.filters |= {
        "ago": ago,
        "iso": iso,
        "utc": utc,
        "who": who,
        "change": change,
        "number": number,
        "size": size,
        "seconds": seconds,
        "plain": plain,
        "span": span,
        "score": lambda found: quality.shown(found.name, found.value),
        "interval": interval,
        "stated": lambda name, card: quality.shown(name, card.get(name)),
    }
    app.context_processor(_shared)
    app.extensions[web.ERROR_PAGE] = _error_page


def _shared() -> dict[str, Any]:
    """Give what every page shows."""
    person = _person()
    return {
        "me": person,
        "may": person.may if person else lambda _role: False,
        "menu": _menu() if person else [],
        "theme": theme if (theme := request.cookies.get("theme", "")) in THEMES else "",
        "here": request.full_path.rstrip("?") if request.method == "GET" else url_for("admin_dashboard.show"),
    }


def _person() -> SignedIn | None:
    try:
        return me() if current_user.is_authenticated else None
    except Unavailable:
        # Then the page says that the database is away, to whoever it is.
        return None


def _menu() -> list[dict[str, Any]]:
    room = (request.endpoint or "").partition(".")[0]
    sections = []
    for caption, entries in MENU:
        shown = [
            {"label": label, "icon": icon, "href": url_for(endpoint), "current": endpoint.startswith(f"{room}.")}
            for needed, endpoint, label, icon in entries
            if me().may(needed)
        ]
        sections.append({"caption": caption, "entries": [{"count": None, **entry} for entry in shown]})
    return sections


def asset(name: str) -> str:
    """Give the address of a static file, which changes with its content."""
    return url_for("static", filename=name, v=_fingerprint(Path(current_app.static_folder or "") / name))


@functools.cache
def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def page(template: str, status: int = HTTPStatus.OK, /, **facts: object) -> Response:
    """Render a page under `templates/admin/`."""
    made = make_response(render_template(f"admin/{template}", **facts), status)
    made.headers.extend(HEADERS)
    return made


def is_page() -> bool:
    """Whether a person waits for this answer, not a program."""
    return request.path.startswith(("/admin", "/docs", "/login", "/logout"))


# --- Answers ----------------------------------------------------------------------------------------------


def _form_of_another_session(_error: CSRFError) -> Response:
    detail = "This form was opened in another session. Go back, load the page again, and send it once more."
    return web.refused(Malformed("form_expired", detail))


def _error_page(problem: dict[str, Any]) -> Response | None:
    """Say to a person what a problem document says to a program."""
    # A page is full of addresses, and where the host is none of ours, none can be made.
    if not is_page() or isinstance(request.routing_exception, BadRequest):
        return None
    return page("error.html", problem["status"], problem=problem)


# --- Values as people read them ---------------------------------------------------------------------------


def iso(moment: datetime) -> str:
    """Give a moment as `<time datetime>` wants it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(moment: datetime) -> str:
    """Give a moment in full."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# Up to so many of a unit: its length in seconds, and how it is written.
_SPANS = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (30 * 86_400, 86_400, "days"))


def ago(moment: datetime) -> str:
    """Give a moment as it lies from now, up to a month; a date beyond."""
    seconds_away = (moment - datetime.now(UTC)).total_seconds()
    distance = abs(seconds_away)
    if distance < 1:
        return "now"
    for below, length, unit in _SPANS:
        if distance < below:
            count = int(distance // length)
            shown = f"{count} {unit.removesuffix('s') if unit == 'days' and count == 1 else unit}"
            return f"in {shown}" if seconds_away > 0 else f"{shown} ago"
    return f"{moment.day} {moment:%b %Y}"


def who(name: str) -> str:
    """Give an actor as people call them: `mara`, `key b81XqZ0a`, `root (terminal)`."""
    kind, _, rest = name.partition(":")
    return {"user": rest, "key": f"key {rest}", "cli": f"{rest} (terminal)"}.get(kind, name)


# What an audit record says, with its subject; the detail's names may stand in it.
_CHANGES = {
    "models.upload": "{subject} uploaded",
    "models.activate": "{subject} v{to_number} activated",
    "models.rollback": "{subject} rolled back to v{to_number}",
    "models.upload_refused": "Upload of {subject} refused",
    "models.edit_signature": "Signature of {subject} edited",
    "models.plan_off": "Plan of {subject} switched off",
    "models.plan_on": "Plan of {subject} allowed again",
    "keys.create": "Key {subject} created",
    "keys.edit": "Key {subject} changed",
    "keys.roll": "Key {subject} rolled",
    "keys.revoke": "Key {subject} revoked",
    "feedback.tell": "Ground truth of {subject} told",
    "jobs.cancel": "Job {subject} cancelled",
    "alerts.acknowledge": "Acknowledged {subject}",
    "alerts.snooze": "Snoozed {subject}",
    "alerts.resolve": "Resolved {subject}",
    "alerts.reopen": "Opened {subject} again",
    "webhooks.create": "Webhook {subject} added",
    "webhooks.edit": "Webhook {subject} changed",
    "webhooks.roll": "Secret of webhook {subject} rolled",
    "webhooks.disable": "Webhook {subject} disabled",
    "webhooks.enable": "Webhook {subject} enabled",
    "webhooks.remove": "Webhook {subject} removed",
    "predictions.export": "Predictions exported as {form}",
    "predictions.delete_subject": "Predictions about a subject deleted ({subject})",
    "predictions.remove_export": "Export {subject} removed",
    "users.create": "User {subject} made",
    "users.role": "Role of {subject} changed",
    "users.disable": "User {subject} disabled",
    "users.enable": "User {subject} enabled",
    "users.sign_out": "{subject} signed out everywhere",
    "users.password": "Password of {subject} set",
    "users.reset_password": "Password of {subject} reset",
    "users.sign_in": "{subject} signed in",
    "users.second_factor": "One-time codes of {subject} turned {after}",
    "users.recovery_code": "{subject} used a recovery code",
}


def change(record: AuditRecord) -> str:
    """Give an audit record as a sentence."""
    # Made by one `format` of our own text: what the record holds is put in, and never read as a format itself.
    # A version is written `churn/2` there, and `churn v2` to people.
    subject = record.subject.replace("/", " v")
    facts = {"name": subject, "to_number": "", "after": "", "form": "", **record.detail, "subject": subject}
    return _CHANGES.get(record.action, "{subject} changed").format(**facts)


def number(value: float | None) -> str:
    """Give a number with its thousands apart, and no more digits than say something."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.4g}"  # noqa: PLR2004 - thousands


def size(count: float) -> str:
    """Give a number of bytes."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:  # noqa: PLR2004 - decimal units, as disks are sold
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def seconds(value: float | None) -> str:
    """Give a span of time."""
    if value is None:
        return NONE
    span = timedelta(seconds=value)
    if span < timedelta(seconds=1):
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s"


# The longest unit that fits, and how it is written.
_UNITS = ((86_400, "days"), (3600, "h"), (60, "min"))


def span(value: float | None) -> str:
    """Give a span of time that may be long."""
    if value is None:
        return NONE
    for length, unit in _UNITS:
        if value >= length:
            return f"{value / length:.3g} {unit}"
    return seconds(max(0.0, value))


def interval(found: quality.Score) -> str:
    """Give the interval of a score; nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{quality.shown(found.name, found.low)} to {quality.shown(found.name, found.high)}"


def plain(value: object) -> str:
    """Give a value of an instance or an answer as a person would type it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)
