"""A server that is asked to stop: whoever comes is answered or refused at once, and nobody is cut off."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from tests.conftest import eventually
from tests.functional.server import Server

CLIENTS = 8


class Callers:
    """Clients that connect anew for each request, until nobody listens."""

    def __init__(self, server: Server) -> None:
        self.port = server.port
        self.outcomes: Counter[str] = Counter()
        self.longest_seconds = 0.0
        self._gone = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while not self._gone.is_set():
            began = time.monotonic()
            outcome = self._outcome()
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            self.outcomes[outcome] += 1
            if outcome == "refused":
                self._gone.set()

    def _outcome(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.connect()
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "cut off"
        try:
            connection.request("GET", "/health")
            return str(connection.getresponse().status)
        except (OSError, http.client.HTTPException):
            return "cut off"
        finally:
            connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_whoever_connects_while_a_server_stops_is_answered_or_refused_at_once(
    new_server: Callable[..., Server],
) -> None:
    server = new_server(workers=2).start()
    # Kept alive, as a proxy's: such a connection keeps a worker from ending at once.
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    kept.request("GET", "/health")
    kept.getresponse().read()
    callers = Callers(server)
    eventually(lambda: callers.outcomes["200"] > 100)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    callers.join()
    server.stop()
    kept.close()
    print(f"\n{dict(callers.outcomes)}; the longest took {callers.longest_seconds:.2f} s")
    assert callers.outcomes["cut off"] == 0
    assert callers.outcomes["refused"] > 0
