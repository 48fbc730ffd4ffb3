"""An object store for tests: moto's S3 over real HTTP, behind a way that can be closed or made to hang."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

KEY, SECRET = "AKIAOFTHETESTS000000", "the+secret/of+the+tests"
BUCKET = "models"


class Way:
    """Passes bytes between clients and a server, until it is closed or hangs."""

    def __init__(self, to: tuple[str, int]) -> None:
        """Listen on a free port of this machine."""
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._hangs = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._guard = threading.RLock()
        self._ended = False
        self._watch(self._listening)
        threading.Thread(target=self._run, name="way", daemon=True).start()

    def _watch(self, each: socket.socket) -> None:
        self._selector.register(each, selectors.EVENT_READ)

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.02):
                with self._guard, suppress(KeyError, OSError):
                    self._pass_on(key.fileobj)  # type: ignore[arg-type] # only sockets are watched

    def _pass_on(self, ready: socket.socket) -> None:
        if ready is self._listening:
            self._connect()
            return
        if self._hangs.is_set():
            return
        content = ready.recv(65_536)
        if content:
            self._pairs[ready].sendall(content)
        else:
            self._cut(ready)

    def _connect(self) -> None:
        client, _ = self._listening.accept()
        server = socket.create_connection(self._to)
        self._pairs |= {client: server, server: client}
        self._watch(client)
        self._watch(server)

    def _cut(self, each: socket.socket) -> None:
        for end in (each, self._pairs.pop(each)):
            self._pairs.pop(end, None)
            self._selector.unregister(end)
            end.close()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Refuse connections for a while; those that there are end."""
        with self._guard:
            self._selector.unregister(self._listening)
            self._listening.close()
            for each in list(self._pairs):
                if each in self._pairs:
                    self._cut(each)
        yield
        with self._guard:
            self._listening = socket.create_server(("127.0.0.1", self.port))
            self._watch(self._listening)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Take connections and requests for a while, and answer none."""
        self._hangs.set()
        yield
        self._hangs.clear()

    def end(self) -> None:
        """Close everything."""
        self._ended = True
        with self._guard:
            for each in [self._listening, *self._pairs]:
                each.close()


class Server:
    """S3 of this machine, with one bucket; without moto tests are skipped, and where CI=true they fail."""

    def __init__(self) -> None:
        """Start it, with an empty bucket."""
        try:
            import boto3  # noqa: PLC0415 - it is missing where tests are skipped
            from moto.server import ThreadedMotoServer  # noqa: PLC0415 - as boto3
        except ImportError as error:
            reason = f"{error.name} is missing; `make setup` installs it."
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.way = Way((host, port))
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.way.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        # Past the way, for looking and for damaging.
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=BUCKET)

    def names(self, prefix: str = "") -> list[str]:
        """Every object's name."""
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [each["Key"] for each in found]

    def clear(self) -> None:
        """Remove every object."""
        for name in self.names():
            self.client.delete_object(Bucket=BUCKET, Key=name)

    def end(self) -> None:
        """End it."""
        self.way.end()
        self.client.close()
        self._server.stop()
