"""What the HTTP doors share: request ids, credentials, strict JSON, one error shape, headers, the access log."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
import re
import secrets
import time
import traceback
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter
from limits.strategies import RateLimiter
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp import errors, metrics
from webapp.artifacts import ArtifactStore
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Malformed, Refusal, TooMany
from webapp.follower import Follower
from webapp.keys import KeyRecord, KeyRing
from webapp.predictions.spool import Spool
from webapp.serving.runtime import Runtime

LOG = logging.getLogger(__name__)

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
}
MOST_PROBLEMS = 20
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_KEY_IN_QUERY = re.compile(rb"mp_(live|test)_|(^|&)(x-)?api[-_]?key=", re.IGNORECASE)


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
    def strategy(self) -> RateLimiter:
        """The limit strategy itself, for the prediction path."""
        return self.limiter.limiter


def parts() -> Parts:
    """Give the parts of the application that handles this request."""
    made: Parts = current_app.extensions["modelport"]
    return made


def install(app: Flask, made: Parts) -> None:
    """Give an application what every HTTP door relies on."""
    app.extensions["modelport"] = made
    app.config["MAX_CONTENT_LENGTH"] = made.settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined] # the default provider has it
    app.json.compact = True  # type: ignore[attr-defined] # the default provider has it
    if hops := made.settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    app.before_request(_begin)
    app.after_request(_end)
    app.register_error_handler(Refusal, _refusal)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(Exception, _unexpected)


def _begin() -> None:
    g.started = time.perf_counter()
    g.facts = {}
    given = request.environ.get("HTTP_X_REQUEST_ID", "") if parts().settings.trusted_proxies else ""
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    if _KEY_IN_QUERY.search(request.query_string):
        raise Malformed("key_in_url", "A key never travels in a URL; send it in a header, and replace this one.")


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    if "limit" in g:
        _add_limit_headers(response)
    rule = request.url_rule
    LOG.info(
        "request",
        extra={
            "request_id": g.request_id,
            "method": request.method,
            # The rule, not the path: a path can hold what should not be in a log.
            "route": rule.rule if rule else None,
            "status": response.status_code,
            "duration_s": round(time.perf_counter() - g.started, 6),
            **g.facts,
        },
    )
    return response


def _add_limit_headers(response: Response) -> None:
    item, identifiers = g.limit
    reset, remaining = parts().strategy.get_window_stats(item, *identifiers)
    window = item.get_expiry()
    wait = max(0, math.ceil(reset - time.time()))
    response.headers["RateLimit-Policy"] = f'"key";q={item.amount};w={window}'
    response.headers["RateLimit"] = f'"key";r={remaining};t={min(wait, window)}'


# --- Errors -----------------------------------------------------------------------------------------------


def problem(status: HTTPStatus, code: str, detail: str, **more: object) -> Response:
    """Answer with RFC 9457 problem details."""
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
    return Response(json.dumps(document, ensure_ascii=False), status.value, mimetype="application/problem+json")


def _refusal(refusal: Refusal) -> Response:
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
    code = re.sub(r"[^a-z]+", "_", status.phrase.lower())
    response = problem(status, code, error.description or status.phrase)
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    # Not the message: it may hold what the caller sent. The place is enough to find the fault.
    places = "".join(traceback.format_tb(error.__traceback__))
    LOG.error("unexpected", extra={"request_id": g.get("request_id"), "kind": type(error).__name__, "places": places})
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong here; it has been logged.")


# --- Credentials ------------------------------------------------------------------------------------------


def authenticate() -> KeyRecord:
    """Give the record of the one key that came with the request."""
    key, made = _presented_key(), parts()
    try:
        return made.ring.find(key)
    except errors.Unauthenticated:
        if not made.follower.catch_up():
            raise
        return made.ring.find(key)


def _presented_key() -> str:
    environ = request.environ
    presented = [environ["HTTP_X_API_KEY"]] if "HTTP_X_API_KEY" in environ else []
    scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "bearer":
        presented.append(value.strip())
    elif scheme.lower() == "basic":
        presented.append(_password(value))
    # Gunicorn joins a header that is repeated with a comma, which no key contains.
    if len(presented) > 1 or any("," in key for key in presented):
        raise Malformed("several_credentials", "Send exactly one credential.")
    return presented[0] if presented else ""


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("ascii").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def spend(key: KeyRecord, amount: int = 1) -> None:
    """Count a request against the key's limit; every answer then says what is left."""
    strategy, identifiers = parts().strategy, ("key", key.id)
    g.limit = (key.limit, identifiers)
    if not strategy.hit(key.limit, *identifiers, cost=amount):
        metrics.RATE_LIMITED.labels("key").inc()
        wait = max(1, math.ceil(strategy.get_window_stats(key.limit, *identifiers)[0] - time.time()))
        raise TooMany("rate_limited", f"This key may make {key.limit}.", retry_after_seconds=wait)


# --- Strict JSON ------------------------------------------------------------------------------------------


def read_json() -> Any:  # noqa: ANN401 - any JSON value
    """Read the body as JSON (RFC 8259, and I-JSON where that is silent); raise `Malformed` naming the place."""
    content = request.get_data()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed("json_not_utf8", f"The body is not UTF-8 (byte {error.start}).") from None
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if "\\u" in text:
            _refuse_surrogates(document)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Malformed("json_malformed", f"The body is not JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise Malformed("json_too_deep", "The body is nested too deeply.") from None
    except UnicodeEncodeError:
        raise Malformed("json_lone_surrogate", "A string holds half of a surrogate pair (\\ud800-\\udfff).") from None
    except ValueError:
        # Python reads no integers of more than 4,300 digits.
        raise Malformed("json_number_too_long", "The body holds a number with thousands of digits.") from None
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in document if names.count(name) > 1)
        raise Malformed("json_duplicate_name", f"The name “{twice[:100]}” stands twice in one object.")
    return document


def _no_constant(literal: str) -> NoReturn:
    raise Malformed("json_malformed", f"{literal} is not JSON; a missing value is null.")


def _refuse_surrogates(document: object) -> None:
    json.dumps(document, ensure_ascii=False).encode()


def has_body() -> bool:
    """Whether the request brought anything to read."""
    return bool(request.get_data(cache=True))
