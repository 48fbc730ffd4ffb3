"""Sending a webhook: one request to an address that was looked at first, in bounded time; nothing is followed."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from webapp.errors import Invalid

LIMIT_SECONDS = 10.0
# So much of an answer is kept: enough for the sentence that says what is wrong.
MOST_ANSWER_CHARACTERS = 200
MOST_URL_CHARACTERS = 2000
PORTS = {"https": 443, "http": 80}
# Addresses that a gateway turns into ones of IPv4, which are their last four bytes (RFC 6052).
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
SETTING = "MODELPORT_WEBHOOK_PRIVATE=on"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt; without a status there was no answer, and `text` says why."""

    status: int | None
    text: str
    retry_after_seconds: int = 0

    @property
    def taken(self) -> bool:
        """Whether the receiver has it."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - HTTP's success


class _NotSent(Exception):  # noqa: N818 - it names the fact
    """Why nothing was sent."""


# --- Addresses ------------------------------------------------------------------------------------------------


def check_url(url: str, *, private: bool) -> None:
    """Raise `Invalid` unless a webhook can be at this address; `private` takes places of one's own network, too."""
    if problem := _problem(url, private=private):
        raise Invalid("webhook_url_unusable", problem)


def _problem(url: str, *, private: bool) -> str:
    parts = _split(url)
    if parts is None:
        return "That is no address; write one such as https://example.com/hooks/modelport, without spaces."
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        return f"The address must begin with https://. Where {SETTING} is set, http:// is taken, too."
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "The address must hold no user name, password or #fragment."
    literal = _literal(parts.hostname or "")
    if literal and not private and not is_public(literal):
        return f"{literal} is an address of a private network; such are only taken where {SETTING} is set."
    return ""


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        # Asking for the port is what checks it.
        usable = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        return None
    return parts if usable and url.isascii() and url.isprintable() and " " not in url else None


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether an address is one that anybody on the internet reaches, whatever it is written in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def _addresses(host: str, port: int, *, private: bool) -> list[str]:
    """Resolve a name to where one may connect to; raise `_NotSent` where that is nowhere."""
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise _NotSent(f"The name {host} cannot be resolved ({error.strerror}).") from None
    allowed = sorted(each for each in found if private or is_public(ipaddress.ip_address(each.partition("%")[0])))
    if not allowed:
        raise _NotSent(f"{host} leads into a private network; such are only sent to where {SETTING} is set.")
    return allowed


# --- One request ----------------------------------------------------------------------------------------------


def post(url: str, headers: Mapping[str, str], body: bytes, *, private: bool) -> Answer:
    """Send once and give what came of it. Redirects are answers like any other, and proxies are not asked."""
    try:
        if problem := _problem(url, private=private):
            raise _NotSent(problem)  # noqa: TRY301 - one way to say that nothing was sent
        return _exchange(urlsplit(url), headers, body, private=private)
    except _NotSent as reason:
        return Answer(None, str(reason))
    except TimeoutError:
        return Answer(None, f"No answer within {LIMIT_SECONDS:.0f} seconds.")
    except ssl.SSLError as error:
        return Answer(None, f"No TLS connection ({getattr(error, 'verify_message', '') or error.reason}).")
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, f"No answer ({getattr(error, 'strerror', None) or type(error).__name__}).")


def _exchange(parts: SplitResult, headers: Mapping[str, str], body: bytes, *, private: bool) -> Answer:
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    addresses = _addresses(host, port, private=private)
    until = time.monotonic() + LIMIT_SECONDS
    with closing(_connected(addresses, port)) as plain, _ending(plain, until) as ended:
        try:
            stream = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if _is_tls(parts) else plain
            return _ask(stream, parts, headers, body)
        except (OSError, http.client.HTTPException):
            if ended.is_set():
                raise TimeoutError from None
            raise


def _is_tls(parts: SplitResult) -> bool:
    return parts.scheme == "https"


def _connected(addresses: list[str], port: int) -> socket.socket:
    """Connect to the first address that takes it: the very ones that were looked at, no name is resolved again."""
    *others, last = addresses
    for each in others:
        with suppress(OSError):
            return socket.create_connection((each, port), LIMIT_SECONDS / len(addresses))
    return socket.create_connection((last, port), LIMIT_SECONDS / len(addresses))


@contextmanager
def _ending(stream: socket.socket, until: float) -> Iterator[threading.Event]:
    """End an exchange that takes too long as a whole: a time-out of each read lets a slow receiver go on for ever."""
    ended = threading.Event()
    stream.settimeout(LIMIT_SECONDS)

    # The connection by another descriptor: TLS takes over the first one.
    with closing(stream.dup()) as other:

        def end() -> None:
            ended.set()
            with suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(0.0, until - time.monotonic()), end)
        timer.daemon = True
        timer.start()
        try:
            yield ended
        finally:
            timer.cancel()
            timer.join()


def _ask(stream: socket.socket, parts: SplitResult, headers: Mapping[str, str], body: bytes) -> Answer:
    kind = http.client.HTTPSConnection if _is_tls(parts) else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port)
    # It has its connection, and makes none by itself.
    connection.sock = stream
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with closing(connection):
        connection.request("POST", target, body, dict(headers))
        response = connection.getresponse()
        text = response.read(4 * MOST_ANSWER_CHARACTERS).decode(errors="replace")
        return Answer(response.status, _shortened(text), _seconds(response.getheader("Retry-After", "")))


def _shortened(text: str) -> str:
    """Give the beginning of an answer on one line, of what can be shown."""
    return "".join(each if each.isprintable() else " " for each in text).strip()[:MOST_ANSWER_CHARACTERS]


def _seconds(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0  # noqa: PLR2004 - eleven days
