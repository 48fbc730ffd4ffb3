"""A cluster on this machine: nginx in front of replicas, a worker, PostgreSQL and Redis, all of Debian's packages.

`make cluster` runs it until Ctrl-C. What it keeps is in one folder, and the next start goes on with what is there.
Everything listens on 127.0.0.1. The tests of several machines use the same classes.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis
from redis.exceptions import RedisError

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "deploy" / "nginx"
START_SECONDS = 120.0
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.05
REPLICAS = 3
DATABASE = USER = "modelport"
# Which package brings each program.
PACKAGES = {"nginx": "nginx", "redis-server": "redis-server", "postgres": "postgresql"}
ADDRESS = "127.0.0.1"


class Trouble(Exception):  # noqa: N818 - it names the fact
    """The cluster cannot be started, or a part of it ended; the sentence says what to do."""


def free_port() -> int:
    """Give a port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> Path | None:
    """Find a program, also where Debian keeps those that are not on everyone's path."""
    releases = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    # The newest release first: its programs must fit each other.
    places = os.pathsep.join([*map(str, reversed(releases)), os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(name, path=places)
    return Path(found) if found else None


def require(names: Iterable[str]) -> None:
    """Raise `Trouble` that names the packages which are missing."""
    missing = [PACKAGES[name] for name in names if program(name) is None]
    if missing:
        raise Trouble(f"Missing: {', '.join(missing)}. On Debian: apt-get install {' '.join(missing)}")


def descendants(pid: int) -> set[int]:
    """Give the process ids of a process and all its children that live."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {pid}.union(*(descendants(int(child)) for child in children))


def await_that(happens: Any, seconds: float, otherwise: str) -> None:  # noqa: ANN401 - a question without arguments
    """Look again and again until it is so."""
    until = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > until:
            raise Trouble(otherwise)
        time.sleep(LOOK_SECONDS)


def kept(path: Path, content: str) -> str:
    """Give what a file holds; where it is missing, write it, for its owner only."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(content, encoding="ascii")
    return path.read_text(encoding="ascii")


class Part:
    """One program of the cluster. It ends with the thread that started it, however that ends."""

    # How it is asked to end in order.
    end = signal.SIGTERM

    def __init__(self, name: str, folder: Path) -> None:
        """Its log is kept in `folder`, under its name."""
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Give its command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Give its environment."""
        return {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}

    def answers(self) -> bool:
        """Whether it does what it is for."""
        raise NotImplementedError

    def begin(self, given: bytes = b"") -> None:
        """Start it; `given` is what it reads from its standard input."""
        # A session of its own: Ctrl-C reaches the one who started everything, who stops it in order.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command lines
                ["setpriv", f"--pdeathsig={self.end.name[3:]}", *self.command()],  # noqa: S607 - of every Debian
                env=self.environment(),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(given)

    def await_answer(self) -> None:
        """Wait until it answers; raise `Trouble` when it ends instead."""
        await_that(self._answers_or_ended, START_SECONDS, f"{self.name} does not answer; see {self.log}")

    def _answers_or_ended(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            raise Trouble("\n".join([f"{self.name} ended; its log ({self.log}) says:", *last]))
        return self.answers()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.begin()
        self.await_answer()

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def ask_to_end(self) -> None:
        """Have it end in order, and do not wait."""
        if self.process is not None and self.lives:
            self.process.send_signal(self.end)

    def stop(self) -> None:
        """End it in order, or at once when that takes too long."""
        self.ask_to_end()
        if self.process is not None:
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def kill(self) -> None:
        """End all of its processes at once, as a machine that loses its power does."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self.process = None

    def send(self, number: signal.Signals) -> set[int]:
        """Send a signal to each of its processes, those that start the others first; give who they are."""
        everyone = descendants(self.process.pid) if self.process is not None else set()
        for pid in sorted(everyone):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return everyone

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Take connections and never answer: none of its processes gets any time."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)


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


class Modelport(Part):
    """A command of Modelport that goes on until it is stopped, with a data directory of its own."""

    def __init__(self, name: str, folder: Path, shared: Mapping[str, str], **settings: object) -> None:
        """`shared` is what all replicas are given; `settings` are its own, without their prefix, in lower case."""
        super().__init__(name, folder)
        self.data_dir = folder / name
        self.settings = dict(shared) | {"DATA_DIR": str(self.data_dir)}
        self.settings |= {key.upper(): str(value) for key, value in settings.items()}

    def environment(self) -> dict[str, str]:
        """Give the settings as it reads them, and nobody else's."""
        return super().environment() | {f"MODELPORT_{name}": value for name, value in self.settings.items()}

    def cli(self, *arguments: object) -> Any:  # noqa: ANN401 - what the command answers
        """Run a command with these settings; give its answer."""
        command = [sys.executable, "-m", "webapp.cli", *map(str, arguments), "--json"]
        done = subprocess.run(command, env=self.environment(), cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        if done.returncode:
            raise Trouble(f"modelport {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return json.loads(done.stdout)


class Replica(Modelport):
    """One `modelport serve`."""

    def __init__(self, name: str, folder: Path, shared: Mapping[str, str], **settings: object) -> None:
        """It takes a free port."""
        self.port = free_port()
        self.address = f"{ADDRESS}:{self.port}"
        self.url = f"http://{self.address}"
        super().__init__(name, folder, shared, bind=self.address, **settings)

    def command(self) -> list[str]:
        """Serve, and leave batches to the worker."""
        return [sys.executable, "-m", "webapp.cli", "serve", "--no-worker"]

    def answers(self) -> bool:
        """Whether it is ready."""
        return answers(f"{self.url}/readyz")


class Worker(Modelport):
    """The worker: it has no door to knock at, and answers for as long as it lives."""

    def command(self) -> list[str]:
        """Work."""
        return [sys.executable, "-m", "webapp.cli", "worker"]

    def answers(self) -> bool:
        """Whether it lives."""
        return self.lives


class WorkersLog(Worker):
    """The log writer of the worker's data directory: what batches predict is logged there."""

    def command(self) -> list[str]:
        """Move the spool into the database."""
        return [sys.executable, "-m", "webapp.cli", "log-writer"]


def answers(url: str) -> bool:
    """Whether a GET is answered well. Not through a proxy, whatever the environment says: it is this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5):
            return True
    except OSError:
        # A refusal is one, too.
        return False


class Nginx(Part):
    """nginx with deploy/nginx/modelport.conf, its ports, replicas and folders filled in."""

    # It answers what it has begun to answer.
    end = signal.SIGQUIT

    def __init__(self, folder: Path, addresses: list[str], *, port: int | None = None) -> None:
        """`addresses` are the replicas', as HOST:PORT. Without a port it takes a free one."""
        super().__init__("nginx", folder)
        self.own = folder / "nginx"
        self.own.mkdir(mode=0o700, exist_ok=True)
        self.port = port or free_port()
        self.url = f"http://{ADDRESS}:{self.port}"
        self.access_log = self.own / "access.log"
        temporary = "".join(
            f" {kind}_temp_path {self.own / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        types = "include /etc/nginx/mime.types;"
        self.changes = {
            "/var/log/nginx/error.log": str(self.own / "error.log"),
            "/var/log/nginx/access.log": str(self.access_log),
            "listen 80 default_server;": f"listen {ADDRESS}:{self.port} default_server;",
            "root /usr/share/modelport;": f"root {ROOT};",
            types: types + temporary,
        }
        self.write(addresses)

    def write(self, addresses: list[str]) -> None:
        """Write the configuration for these replicas; each thing to change must stand there once."""
        text = (CONFIGURATION / "modelport.conf").read_text(encoding="utf-8")
        for old, new in self.changes.items():
            if text.count(old) != 1:
                raise Trouble(f"deploy/nginx/modelport.conf has this {text.count(old)} times: {old}")
            text = text.replace(old, new)
        (self.own / "modelport.conf").write_text(text, encoding="utf-8")
        example = (CONFIGURATION / "replicas.conf").read_text(encoding="utf-8")
        lines = [line for line in example.splitlines() if line.startswith("server replica-1:8000 ")]
        filled = [line.replace("replica-1:8000", address) for line in lines for address in addresses]
        (self.own / "replicas.conf").write_text("\n".join([*filled, ""]), encoding="utf-8")

    def command(self) -> list[str]:
        """Run in the foreground, with nothing in the folders of the system's nginx."""
        here = f"daemon off; pid {self.own / 'pid'};"
        if os.getuid() == 0:
            # The files it serves may lie where only their owner can read.
            here += " user root;"
        given = ["-c", str(self.own / "modelport.conf"), "-e", str(self.own / "error.log"), "-p", str(self.own)]
        return [str(program("nginx")), *given, "-g", here]

    def answers(self) -> bool:
        """Whether it answers at all; it does so without replicas, too."""
        with suppress(OSError), socket.create_connection((ADDRESS, self.port), timeout=2):
            return True
        return False

    def entries(self) -> list[dict[str, Any]]:
        """Give the lines of the access log."""
        return [json.loads(line) for line in self.access_log.read_text(encoding="utf-8").splitlines()]


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
        self.workers_log = WorkersLog("worker-log", self.folder, self.worker.settings, data_dir=self.worker.data_dir)
        self.nginx = Nginx(self.folder, [each.address for each in self.replicas], port=port)

    def _written(self, name: str, content: str) -> str:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(content, encoding="ascii")
        return str(path)

    @property
    def parts(self) -> list[Part]:
        """Everything, in the order of starting."""
        return [self.postgresql, self.redis, *self.replicas, self.worker, self.workers_log, self.nginx]

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
        self.workers_log.start()

    def stop(self) -> None:
        """Stop everything in order: what was answered is in the database before that ends."""
        self.nginx.stop()
        for each in (*self.replicas, self.worker):
            each.ask_to_end()
        for each in (*self.replicas, self.worker, self.workers_log, self.redis, self.postgresql):
            each.stop()

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database; values stand for %s."""
        with self.postgresql.connect() as connection:
            return connection.execute(statement.encode(), values).fetchall()

    @property
    def key(self) -> str:
        """The demo's key."""
        return (self.replicas[0].data_dir / "demo-key").read_text(encoding="ascii")


def _welcome(cluster: Cluster) -> None:
    first = cluster.replicas[0]
    environment = cluster.folder / "environment"
    lines = [f"export MODELPORT_{name}={shlex.quote(value)}" for name, value in first.settings.items()]
    environment.write_text("\n".join([*lines, ""]), encoding="utf-8")
    curl = first.cli("demo")["curl"].replace(first.address, f"{ADDRESS}:{cluster.nginx.port}")
    print(f"\nModelport serves on {cluster.url}, by {len(cluster.replicas)} replicas behind nginx")
    print(f"\nThe key: {cluster.key}\n\nA first prediction:\n\n  {curl}")
    print(f"\nThe admin UI: {cluster.url}/admin. A sign-in link, as every other command of this cluster:")
    print(f"\n  . {environment}; {Path(sys.executable).parent / 'modelport'} users reset-password admin")
    print(f"\nLogs and data: {cluster.folder}. Ctrl-C stops everything.", flush=True)


def _watch(cluster: Cluster) -> None:
    """Say of each part that ends by itself that it did; the others go on, as they should."""
    ended: set[str] = set()
    while True:
        time.sleep(LOOK_SECONDS)
        for part in cluster.parts:
            if not part.lives and part.name not in ended:
                ended.add(part.name)
                print(f"{part.name} has ended; its log is {part.log}", file=sys.stderr, flush=True)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "cluster", help="default: data/cluster")
    parser.add_argument("--port", type=int, default=8080, help="nginx's; 0 takes a free one; default: 8080")
    parser.add_argument("--replicas", type=int, default=REPLICAS)
    parser.add_argument("--workers", type=int, default=1, help="web workers of each replica; default: 1")
    given = parser.parse_args()
    # Both as Ctrl-C does, also where a shell that starts this in the background has it ignore that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    os.umask(0o077)
    cluster = None
    try:
        cluster = Cluster(given.folder, replicas=given.replicas, port=given.port or None, workers=given.workers)
        print("Starting PostgreSQL, Redis, the replicas, a worker and nginx …", flush=True)
        cluster.prepare()
        cluster.replicas[0].cli("demo")
        cluster.serve()
        cluster.work()
        _welcome(cluster)
        _watch(cluster)
    except Trouble as trouble:
        print(f"cluster: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        if cluster is not None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            print("Stopping …", flush=True)
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
