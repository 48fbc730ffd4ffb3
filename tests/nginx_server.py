"""A real nginx for tests, with deploy/nginx/modelport.conf, and replicas that do as a test wants."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.cluster.nginx import Nginx
from scripts.cluster.part import Trouble, require
from tests.conftest import eventually

ANSWER = b'{"answered":true}'


def server(folder: Path, addresses: list[str], changes: dict[str, str] | None = None) -> Nginx:
    """Start Debian's nginx; without it tests are skipped, and where CI=true they fail.

    `changes` are made to the configuration beside its ports and folders, such as a shorter time limit.
    """
    needed("nginx")
    made = Nginx(folder, addresses)
    made.changes |= changes or {}
    made.write(addresses)
    made.start()
    return made


def needed(*programs: str) -> None:
    """Skip the test, or fail where CI=true, when a program is missing."""
    try:
        require(programs)
    except Trouble as trouble:
        reason = f"{trouble} (scripts/test_packages.sh)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def logged(nginx: Nginx, count: int) -> list[dict[str, Any]]:
    """Give the lines of the access log once there are so many: one is written after its answer was sent."""
    return eventually(lambda: entries if len(entries := nginx.entries()) >= count else [])


@dataclass
class Seen:
    """A request as a replica got it."""

    method: str
    path: str
    headers: dict[str, str]
    size: int = 0


@dataclass
class Replica:
    """A web server in place of a replica: it notes each request, and answers it as `behave` says."""

    # Given the handler after the body was read; answers by itself, or gives False to leave that to the replica.
    behave: Callable[[BaseHTTPRequestHandler], bool] = lambda _handler: False
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start it on a free port."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                seen = Seen(self.command, self.path, dict(self.headers.items()))
                replica.seen.append(seen)
                left = int(self.headers.get("Content-Length", 0))
                while left and (piece := self.rfile.read1(min(left, 65536))):
                    left -= len(piece)
                    seen.size += len(piece)
                # nginx may have gone to another one meanwhile.
                with suppress(BrokenPipeError):
                    if not replica.behave(self):
                        self.answer(200, ANSWER)

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the library's names

            def answer(self, status: int, content: bytes, kind: str = "application/json") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_about: object) -> None:
                """Say nothing."""

        return Handler

    def close(self) -> None:
        """End it: whoever comes now is refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def hang_up(handler: BaseHTTPRequestHandler) -> bool:
    """Close the connection without an answer, as a replica does that is killed over a request."""
    handler.close_connection = True
    return True
