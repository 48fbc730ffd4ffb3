"""A cluster on this machine: nginx in front of replicas, a worker, PostgreSQL and Redis, all of Debian's packages.

`make cluster` runs it until Ctrl-C. What it keeps is in one folder, and the next start goes on with what is there.
Everything listens on 127.0.0.1. The tests of several machines use the same classes.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from scripts.cluster.nginx import Nginx
from scripts.cluster.part import ADDRESS, PACKAGES, Part, kept, require
from scripts.cluster.replicas import Replica, Worker
from scripts.cluster.stores import PostgreSQL, RedisServer
from scripts.processes import free_port

REPLICAS = 3


class Cluster:
    """All parts. Made, it has started nothing."""

    def __init__(self, folder: Path, *, replicas: int = REPLICAS, port: int | None = None, **settings: object) -> None:
        """`settings` are those of every replica, without their prefix, in lower case."""
        require(PACKAGES)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.postgresql = PostgreSQL(self.folder)
        self.redis = RedisServer(self.folder)
        kept(self.folder / "secret-key", secrets.token_urlsafe(48))
        port = port or free_port()
        self.shared = {
            "SECRET_KEY_FILE": str(self.folder / "secret-key"),
            "DATABASE_URL_FILE": self._written("database-url", self.postgresql.url),
            "REDIS_URL_FILE": self._written("redis-url", self.redis.url),
            "ARTIFACT_STORE": str(self.folder / "artifacts"),
            "TRUSTED_PROXIES": "1",
            "PUBLIC_URL": f"http://{ADDRESS}:{port}",
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        names = [f"replica-{number}" for number in range(1, replicas + 1)]
        self.replicas = [Replica(name, self.folder, self.shared) for name in names]
        self.worker = Worker("worker", self.folder, self.shared)
        self.nginx = Nginx(self.folder, [each.address for each in self.replicas], port=port)

    def _written(self, name: str, content: str) -> str:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(content, encoding="ascii")
        return str(path)

    @property
    def parts(self) -> list[Part]:
        """Everything, in the order of starting."""
        return [self.postgresql, self.redis, *self.replicas, self.worker, self.nginx]

    @property
    def url(self) -> str:
        """Where clients knock."""
        return self.nginx.url

    def prepare(self) -> None:
        """Start what replicas need, and give the database its tables."""
        self.postgresql.start()
        self.redis.start()
        self.replicas[0].cli("db", "upgrade")
        for each in (*self.replicas, self.worker):
            each.data_dir.mkdir(mode=0o700, exist_ok=True)

    def serve(self) -> None:
        """Start the replicas together, then nginx."""
        for each in self.replicas:
            each.begin()
        for each in self.replicas:
            each.await_answer()
        self.nginx.start()

    def work(self) -> None:
        """Start the worker."""
        self.worker.start()

    def stop(self) -> None:
        """Stop everything in order: what was answered is in the database before that ends."""
        self.nginx.stop()
        for each in (*self.replicas, self.worker):
            each.ask_to_end()
        for part in (*self.replicas, self.worker, self.redis, self.postgresql):
            part.stop()

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database; values stand for %s."""
        with self.postgresql.connect() as connection:
            return connection.execute(statement.encode(), values).fetchall()

    @property
    def key(self) -> str:
        """The demo's key."""
        return (self.replicas[0].data_dir / "demo-key").read_text(encoding="ascii")
