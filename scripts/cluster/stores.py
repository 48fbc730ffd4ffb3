"""PostgreSQL and Redis, of Debian's packages, in a folder of the cluster's own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from scripts.cluster.part import ADDRESS, Part, Trouble, kept, program
from scripts.processes import free_port

DATABASE = USER = "modelport"


class PostgreSQL(Part):
    """A database cluster in a folder of its own; root runs it as another user, since PostgreSQL refuses root."""

    # It breaks connections off and closes its files; SIGTERM would wait for those who are connected.
    end = signal.SIGINT

    def __init__(self, folder: Path) -> None:
        """Make what is missing; nothing is started."""
        super().__init__("postgresql", folder)
        self.data = folder / "postgresql"
        self.port = free_port()
        self._password = kept(folder / "postgresql-password", secrets.token_urlsafe(24))
        self._account = _account() if os.getuid() == 0 else None
        if not (self.data / "data" / "PG_VERSION").exists():
            self._initialise()

    @property
    def url(self) -> str:
        """The URL that replicas are given."""
        return f"postgresql+psycopg://{USER}:{self._password}@{ADDRESS}:{self.port}/{DATABASE}"

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        secret = self.data / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password, encoding="ascii")
        if self._account:
            _let_pass(self.data)
            for path in (self.data, secret):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        who = [f"--username={USER}", f"--pwfile={secret}", "--auth=scram-sha-256"]
        ways = [*who, "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
        self._run("initdb", f"--pgdata={self.data / 'data'}", *ways)
        secret.unlink()

    def _as_account(self) -> list[str]:
        if self._account is None:
            return []
        who = self._account
        return ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups", "--pdeathsig=INT"]

    def _run(self, name: str, *arguments: str) -> None:
        command = [*self._as_account(), str(program(name)), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")  # noqa: S603 - our own
        if done.returncode:
            raise Trouble(f"{name} failed: {done.stderr.strip()}")

    def command(self) -> list[str]:
        """Listen on loopback only, without a socket in a folder that others can reach."""
        options = {"listen_addresses": ADDRESS, "port": self.port, "unix_socket_directories": self.data}
        # Three replicas, a worker and their log writers, with what each keeps open.
        options |= {"max_connections": 200}
        given = [f"-c{name}={value}" for name, value in options.items()]
        return [*self._as_account(), str(program("postgres")), "-D", str(self.data / "data"), *given]

    def connect(self, database: str = DATABASE) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the replicas do, each statement on its own."""
        place = {"host": ADDRESS, "port": self.port, "user": USER, "password": self._password}
        return psycopg.connect(dbname=database, connect_timeout=5, autocommit=True, **place)  # type: ignore[arg-type] # by name

    def answers(self) -> bool:
        """Whether somebody can connect."""
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def start(self) -> None:
        """Start it, with the database that replicas use."""
        super().start()
        with self.connect("postgres") as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")


def _account() -> pwd.struct_passwd:
    """Give the user that a database may run as."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _let_pass(folder: Path) -> None:
    """Let others reach what they own inside; what is there they can neither list nor read."""
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if parent.owner() == "root" and not mode & 0o001:
            parent.chmod((mode & 0o777) | 0o011)


class RedisServer(Part):
    """A Redis that keeps nothing on the disk."""

    def __init__(self, folder: Path) -> None:
        """Nothing is started."""
        super().__init__("redis", folder)
        self.port = free_port()
        self._password = kept(folder / "redis-password", secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The URL that replicas are given."""
        return f"redis://:{self._password}@{ADDRESS}:{self.port}/0"

    def command(self) -> list[str]:
        """Its settings are read from the standard input: a command line can be seen by everyone."""
        return [str(program("redis-server")), "-"]

    def begin(self, given: bytes = b"") -> None:
        """Start it, empty."""
        lines = [f"bind {ADDRESS}", f"port {self.port}", f"requirepass {self._password}", 'save ""', "appendonly no"]
        super().begin("\n".join([*lines, f"dir {self.folder}", ""]).encode() + given)

    def answers(self) -> bool:
        """Whether it says PONG."""
        with Redis.from_url(self.url, socket_timeout=2) as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False
