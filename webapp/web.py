"""What the HTTP doors share: request ids, credentials, one error shape, headers, the access log."""

from __future__ import annotations

import base64
import binascii
import io
import ipaddress
import logging
import math
import re
import secrets
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

from flask import Flask, Request, Response, current_app, g, jsonify, request, send_file
from flask.globals import app_ctx, request_ctx
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from flask_limiter import Limiter, RateLimitExceeded
from limits import RateLimitItem, parse
from limits.strategies import RateLimiter
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, MethodNotAllowed, SecurityError
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import Response as AnyResponse

from webapp import errors, metrics
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Forbidden, Malformed, Refusal, TooMany
from webapp.follower import Follower
from webapp.keys import KeyRecord, KeyRing
from webapp.limits import Spent, spend
from webapp.predictions.spool import Spool
from webapp.serving.runtime import Runtime
from webapp.uploads import Desk

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOG = logging.getLogger(__name__)

# What a route asks for that any key opens.
ANY_SCOPE = "any"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

STATUS: dict[type[Refusal], HTTPStatus] = {
    errors.Malformed: HTTPStatus.BAD_REQUEST,
    errors.Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NoRoom: HTTPStatus.INSUFFICIENT_STORAGE,
}
MOST_PROBLEMS = 20
# Requests with a key that is none, from one address.
FAILURES = parse("120/minute")
# The extension that gives a page in place of a problem document, or None where a program waits.
ERROR_PAGE = "modelport error page"
ErrorPage = Callable[[dict[str, Any]], Response | None]
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
YEAR_SECONDS = 365 * 24 * 3600
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
# W3C Trace Context: version, trace, parent, flags. Later versions may add to it, behind another dash; `ff` is none.
_TRACEPARENT = re.compile(
    r"(?!ff|00.{53}.)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
_KEY_IN_QUERY = re.compile(rb"mp_(live|test)_[0-9A-Za-z]+_|(^|&)(x-)?api[-_]?key=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the composition root made, for the doors to use."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    runtime: Runtime
    ring: KeyRing
    spool: Spool
    follower: Follower
    limiter: Limiter

    @property
    def desk(self) -> Desk:
        """Where uploads are taken in."""
        return Desk(self.settings, self.database, self.artifacts)

    @property
    def strategy(self) -> RateLimiter:
        """The limit strategy itself."""
        return self.limiter.limiter


def parts() -> Parts:
    """Give the parts of the application that handles this request."""
    made: Parts = current_app.extensions["modelport"]
    return made


def install(app: Flask, made: Parts) -> None:
    """Give an application what every HTTP door relies on."""
    app.extensions["modelport"] = made
    app.config["MAX_CONTENT_LENGTH"] = made.settings.max_body_bytes
    app.config["FILES_FOLDER"] = made.settings.quarantine_dir
    app.json.sort_keys = False  # type: ignore[attr-defined] # the default provider has it
    app.json.compact = True  # type: ignore[attr-defined] # the default provider has it
    if hops := made.settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    app.wsgi_app = _known_methods(app.wsgi_app)  # type: ignore[assignment, method-assign]
    app.before_request(_begin)
    app.after_request(_end)
    app.register_error_handler(Refusal, refused)
    app.register_error_handler(RateLimitExceeded, _crowded)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(OSError, _failed)
    app.register_error_handler(Exception, _unexpected)


def _known_methods(wsgi_app: WSGIApplication) -> WSGIApplication:
    """Call every method that HTTP does not have by one name: each would make metrics of its own."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in METHODS:
            environ["REQUEST_METHOD"] = "UNKNOWN"
        return wsgi_app(environ, start_response)

    return call


class Application(Flask):
    """Flask without what no request here needs."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Give the function itself: none here is a coroutine, so none is looked at on each call."""
        return func


class CookieSessions(SecureCookieSessionInterface):
    """Flask's cookie, which travels over TLS only; on loopback, where nobody listens, also without.

    A program brings no cookie and is given none: nothing is signed or looked up for it.
    """

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Read the cookie, where there is one."""
        return super().open_session(app, request) if "HTTP_COOKIE" in request.environ else self.session_class()

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Give the cookie back, where there is anything to keep or to forget."""
        if session or session.modified:
            super().save_session(app, session, response)

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002 - Flask's interface
        """Whether the browser must keep the cookie to TLS."""
        return needs_tls()


def needs_tls() -> bool:
    """Whether this request came from where cookies must not travel in the clear."""
    try:
        return request.is_secure or urlsplit(f"//{request.host}").hostname not in LOOPBACK
    except SecurityError:
        # The host is not trusted: the answer says so, and holds nothing to keep.
        return True


def artifact(digest: str, name: str) -> AnyResponse:
    """Give an artifact to download, under a name of its own."""
    content = io.BytesIO(parts().artifacts.get(digest))
    return send_file(content, "application/octet-stream", as_attachment=True, download_name=name, max_age=0)


def peer() -> str:
    """The address that a request came from; of IPv6 the network, since one machine has all its addresses."""
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def actor(name: str) -> Actor:
    """Give who this request's changes are noted for."""
    return Actor(name, request.remote_addr or "", g.request_id)


# In what every request passes, the object itself is taken once: each look through a proxy finds it anew.


def _begin() -> None:
    asked, notes = request_ctx.request, app_ctx.g
    notes.started = time.perf_counter()
    notes.facts = {}
    given = ""
    if parts().settings.trusted_proxies:
        given = asked.environ.get("HTTP_X_REQUEST_ID", "")
        notes.sent = asked.environ.get("HTTP_X_REQUEST_START", "")
    notes.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    if "HTTP_TRACEPARENT" in asked.environ and (found := _TRACEPARENT.fullmatch(asked.environ["HTTP_TRACEPARENT"])):
        notes.facts["trace_id"] = found["trace"]
    query = asked.query_string
    if query and _KEY_IN_QUERY.search(unquote_to_bytes(query)):
        raise Malformed("key_in_url", "A key never travels in a URL; send it in a header, and replace this one.")
    if "\0" in asked.path:
        raise Malformed("nul_in_url", "The path holds the character NUL; no name here does.")


def _end(response: Response) -> Response:
    asked, notes, headers = request_ctx.request, app_ctx.g, response.headers
    headers["X-Request-ID"] = notes.request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")
    if asked.is_secure:
        headers["Strict-Transport-Security"] = f"max-age={YEAR_SECONDS}"
    if "limit" in notes:
        _add_limit_headers(headers, *notes.limit)
    rule = asked.url_rule
    LOG.info(
        "request",
        extra={
            "request_id": notes.request_id,
            "method": asked.method,
            # The rule, not the path: a path can hold what should not be in a log.
            "route": rule.rule if rule else None,
            "status": response.status_code,
            "duration_s": round(time.perf_counter() - notes.started, 6),
            **notes.facts,
        },
    )
    return response


def _add_limit_headers(headers: Headers, item: RateLimitItem, spent: Spent) -> None:
    window = item.get_expiry()
    wait = max(0, math.ceil(spent.reset - time.time()))
    headers["RateLimit-Policy"] = f'"key";q={item.amount};w={window}'
    headers["RateLimit"] = f'"key";r={spent.remaining};t={min(wait, window)}'


# --- Errors -----------------------------------------------------------------------------------------------


def problem(status: HTTPStatus, code: str, detail: str, **more: object) -> Response:
    """Answer with RFC 9457 problem details, or with a page where a person waits."""
    document = {
        "type": f"urn:modelport:problem:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
        "request_id": g.get("request_id"),
        **more,
    }
    g.setdefault("facts", {})["code"] = code
    as_page: ErrorPage | None = current_app.extensions.get(ERROR_PAGE)
    if as_page and (page := as_page(document)):
        return page
    response = jsonify(document)
    response.status_code, response.mimetype = status, "application/problem+json"
    return response


def refused(refusal: Refusal) -> Response:
    """Answer with a refusal, in the status of its kind and the headers that go with it."""
    status = next(STATUS[kind] for kind in type(refusal).__mro__ if kind in STATUS)
    more: dict[str, object] = dict(refusal.more)
    if refusal.problems:
        shown = refusal.problems[:MOST_PROBLEMS]
        more["errors"] = [{"pointer": each.pointer, "code": each.code, "message": each.message} for each in shown]
        if rest := len(refusal.problems) - len(shown):
            more["more"] = rest
    response = problem(status, refusal.code, refusal.detail, **more)
    if isinstance(refusal, TooMany):
        response.headers["Retry-After"] = str(refusal.retry_after_seconds)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _http_exception(error: HTTPException) -> Response:
    """Give the framework's own refusals (404, 405, 413, …) our shape, keeping headers such as Allow."""
    status = HTTPStatus(error.code or 500)
    # Werkzeug's name: the phrase of a status differs between versions of Python.
    code = re.sub(r"[^a-z]+", "_", error.name.lower())
    response = problem(status, code, _explained(error) or error.description or status.phrase)
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def _explained(error: HTTPException) -> str:
    """Say in words what the framework says of an address; it takes whoever asks for a person with a keyboard."""
    if error.code == HTTPStatus.NOT_FOUND:
        return "There is nothing at this address. The API is described at /docs."
    if isinstance(error, MethodNotAllowed):
        usual = sorted({*(error.valid_methods or ())} - {"HEAD", "OPTIONS"})
        return f"This address takes {' or '.join(usual)}, not {request.method}."
    return ""


def _crowded(error: RateLimitExceeded) -> Response:
    """Give the library's refusal, which names no time, as our own."""
    limiter = parts().limiter
    asked = limiter.current_limit
    if asked is None:
        return _http_exception(error)
    spent = Spent(admitted=False, reset=asked.window.reset_time, remaining=0)
    return refused(_limited(spent, "address", f"From one address {asked.limit} are answered."))


def _failed(error: OSError) -> Response:
    """Say that the disk is full, wherever somebody came upon that."""
    return refused(errors.NoRoom()) if errors.is_no_room(error) else _unexpected(error)


def _unexpected(error: Exception) -> Response:
    # Not the message: it may hold what the caller sent. The place is enough to find the fault.
    places = "".join(traceback.format_tb(error.__traceback__))
    whose = {"request_id": g.get("request_id"), "trace_id": g.get("facts", {}).get("trace_id")}
    LOG.error("unexpected", extra={**whose, "kind": type(error).__name__, "places": places})
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong here; it has been logged.")


# --- Credentials ------------------------------------------------------------------------------------------


def brings_key() -> bool:
    """Whether a request brings what could be a key."""
    environ = request_ctx.request.environ
    return "HTTP_X_API_KEY" in environ or "HTTP_AUTHORIZATION" in environ


def guard() -> None:
    """Let a request pass that brings a key with the scope its route asks for; default deny."""
    asked, notes = request_ctx.request, app_ctx.g
    scope = getattr(current_app.view_functions[asked.endpoint or ""], "scope", None)
    if scope is None:
        raise Forbidden("no_scope", "This route is open to nobody.")
    made = parts()
    key = notes.key = _authenticated(made, asked.environ)
    notes.facts["key_id"] = key.id
    if scope != ANY_SCOPE:
        key.require_scope(scope)
    made.ring.note_use(key, asked.remote_addr or "")
    spent = spend(made.strategy.storage, key.limit, "key", key.id)
    # Every answer says what is left.
    notes.limit = (key.limit, spent)
    if not spent.admitted:
        raise _limited(spent, "key", f"This key may make {key.limit}.")


def _authenticated(made: Parts, environ: WSGIEnvironment) -> KeyRecord:
    """Give the record of the one key that came with the request."""
    key = _presented_key(environ)
    try:
        return made.ring.find(key)
    except errors.Unauthenticated:
        if not made.follower.informed:
            detail = "The server has not been able to read its keys yet; try again."
            raise errors.Unavailable("state_unknown", detail) from None
        _count_failure()
        made.follower.catch_up(loaded=False)
        return made.ring.find(key)


def _count_failure() -> None:
    """Slow down who tries keys: by address, and without asking the database."""
    spent = spend(parts().strategy.storage, FAILURES, "refused keys", peer())
    if not spent.admitted:
        raise _limited(spent, "address", f"Keys are refused {FAILURES} at most.")


def _limited(spent: Spent, scope: str, refusal: str) -> TooMany:
    """Give the refusal of what has no room in a limit, with the time after which it has."""
    metrics.RATE_LIMITED.labels(scope).inc()
    wait = max(1, math.ceil(spent.reset - time.time()))
    return TooMany("rate_limited", refusal, retry_after_seconds=wait)


def _presented_key(environ: WSGIEnvironment) -> str:
    presented = [environ["HTTP_X_API_KEY"]] if "HTTP_X_API_KEY" in environ else []
    scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if (scheme := scheme.lower()) in {"bearer", "basic"}:
        presented.append(value.strip())
    # Gunicorn joins a header that is repeated with a comma, which neither a key nor base64 contains.
    if len(presented) > 1 or any("," in each for each in presented):
        raise Malformed("several_credentials", "Send exactly one credential.")
    if not presented:
        return ""
    return _password(presented[0]) if scheme == "basic" else presented[0]


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("ascii").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
