"""A way to a database that can be made slow: a TCP proxy that holds back what clients say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HOST = "127.0.0.1"
PIECE_BYTES = 65_536


class SlowWay:
    """Listens on a port of its own, and passes everything on to a port of this machine."""

    def __init__(self, target: int) -> None:
        """`target` need not be listened on: who cannot be reached refuses."""
        self._target = target
        self._delay_seconds = 0.0
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Hold back each statement for so long."""
        self._delay_seconds = seconds
        yield
        self._delay_seconds = 0.0

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        # Until it is closed.
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((HOST, self._target))
        except OSError:
            client.close()
            return
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._pass_on, args=(server, client), daemon=True).start()
        self._pass_on(client, server, held_back=True)

    def _pass_on(self, source: socket.socket, target: socket.socket, *, held_back: bool = False) -> None:
        try:
            while piece := source.recv(PIECE_BYTES):
                if held_back and self._delay_seconds:
                    threading.Event().wait(self._delay_seconds)
                target.sendall(piece)
        except OSError:
            # One of the two is gone: what the other one waits for will not come.
            pass
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
