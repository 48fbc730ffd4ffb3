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
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter
from gunicorn.http.errors import ParseException
from limits.strategies import RateLimiter
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp import errors, metrics
from webapp.artifacts import ArtifactStore
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Malformed, Refusal, TooLarge, TooMany
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
# Far more than any instance needs, far less than Python's own readers and writers of JSON can take.
MOST_LEVELS = 100
# A sign and the digits of the largest number that a float can hold.
MOST_INTEGER_CHARACTERS = 310
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_KEY_IN_QUERY = re.compile(rb"mp_(live|test)_|(^|&)(x-)?api[-_]?key=", re.IGNORECASE)
_NUL = re.compile(r"(?<!\\)(?:\\\\)*(\\u0000)")


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
    if _KEY_IN_QUERY.search(unquote_to_bytes(request.query_string)):
        raise Malformed("key_in_url", "A key never travels in a URL; send it in a header, and replace this one.")
    if "\0" in request.path:
        raise Malformed("nul_in_url", "The path holds the character NUL; no name here does.")


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
    # Werkzeug's name: the phrase of a status differs between versions of Python.
    code = re.sub(r"[^a-z]+", "_", error.name.lower())
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
    """Read the body as JSON (RFC 8259, and I-JSON where that is silent); raise `Malformed` naming the place.

    What the body is called (Content-Type) does not matter: clients say anything.
    """
    text = _text(_body())
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_float=_float, parse_int=_integer, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        raise Malformed("json_malformed", f"The body is not JSON: {error.msg} at {_place(error)}.") from None
    except RecursionError:
        raise _too_deep() from None
    # Counted first: most bodies have fewer brackets than they may have levels.
    if text.count("[") + text.count("{") > MOST_LEVELS:
        _refuse_depth(document)
    if "\\u" in text:
        _refuse_characters(text, document)
    return document


def _body() -> bytes:
    if request.headers.get("Content-Encoding", "").lower() not in {"", "identity"}:
        raise UnsupportedMediaType("The body is compressed; send it as it is, without Content-Encoding.")
    most = parts().settings.max_body_bytes
    # One more than may come: of a body in chunks, which states no length, no more than this is read.
    request.max_content_length = most + 1
    try:
        content = request.get_data()
    except RequestEntityTooLarge:
        raise _too_large(most) from None
    except ParseException:
        # Gunicorn reads the chunks of a body when it is asked for them.
        raise Malformed("body_malformed", "The body's chunks are not as HTTP wants them.") from None
    if len(content) > most:
        raise _too_large(most)
    return content


def _too_large(most: int) -> TooLarge:
    return TooLarge("body_too_large", f"The body may have at most {most} bytes.")


def _text(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed("json_not_utf8", f"The body is not UTF-8 (byte {error.start}).") from None
    if "\0" in text[:2]:
        # UTF-16 and UTF-32 without a mark are UTF-8 too, full of NULs.
        raise Malformed("json_not_utf8", f"The body is not UTF-8 (byte {content.index(0)}).")
    return text


def _place(error: json.JSONDecodeError) -> str:
    return f"line {error.lineno}, column {error.colno}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        # Not checked yet: half of a surrogate pair could not be written into the answer.
        shown = twice[:100].encode(errors="backslashreplace").decode()
        raise Malformed("json_duplicate_name", f"The name “{shown}” stands twice in one object.")
    return document


def _float(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise _out_of_range(literal)
    return number


def _integer(literal: str) -> int:
    if len(literal) > MOST_INTEGER_CHARACTERS:
        raise _out_of_range(literal)
    return int(literal)


def _out_of_range(literal: str) -> Malformed:
    shown = literal if len(literal) <= 40 else f"{literal[:40]}…"  # noqa: PLR2004 - enough to find it
    return Malformed("json_number_out_of_range", f"{shown} is beyond the range of numbers (about ±1.8e308).")


def _no_constant(literal: str) -> NoReturn:
    raise Malformed("json_malformed", f"{literal} is not JSON; a missing value is null.")


def _too_deep() -> Malformed:
    return Malformed("json_too_deep", f"The body is nested more than {MOST_LEVELS} levels deep.")


def _refuse_depth(document: object) -> None:
    levels, level = 0, [document]
    while parents := [each for each in level if isinstance(each, dict | list)]:
        levels += 1
        if levels > MOST_LEVELS:
            raise _too_deep()
        level = [child for parent in parents for child in (parent.values() if isinstance(parent, dict) else parent)]


def _refuse_characters(text: str, document: object) -> None:
    if "\\u0000" in text and (nul := _NUL.search(text)):
        place = _place(json.JSONDecodeError("", text, nul.start(1)))
        raise Malformed("json_nul", f"A string holds the character NUL at {place}.")
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise Malformed("json_lone_surrogate", f"A string holds {half}, one half of a surrogate pair.") from None


def has_body() -> bool:
    """Whether the request brought anything to read."""
    return bool(_body())
