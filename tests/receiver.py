"""A receiver of webhooks on loopback: it keeps what it is sent, and answers as a test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from webapp.webhooks import signing


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str, within_seconds: float = 300) -> bool:
        """Check what a receiver checks: one of the signatures, and that the attempt is no old one."""
        timestamp = int(self.headers["webhook-timestamp"])
        expected = signing.signature(secret, self.headers["webhook-id"], timestamp, self.body)
        fresh = abs(time.time() - timestamp) < within_seconds
        return fresh and expected in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """Answers with the statuses of `answers`, one after the other, then with 200."""

    url: str
    answers: list[int] = field(default_factory=list)
    more: dict[str, str] = field(default_factory=dict)
    said: str = "thank you"
    received: list[Received] = field(default_factory=list)
    # Waited for before each answer.
    go_on: threading.Event = field(default_factory=threading.Event)


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(self.path, headers, body))
            receiver.go_on.wait()
            self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
            for name, value in receiver.more.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(receiver.said.encode())

        def log_message(self, *_about: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def receiver(port: int = 0) -> Iterator[Receiver]:
    """Run one."""
    made = Receiver("")
    made.go_on.set()
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(made))
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
