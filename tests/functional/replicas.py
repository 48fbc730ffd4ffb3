"""A cluster for tests: real nginx, PostgreSQL and Redis, and replicas whose answers show which version gave them."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from scripts.cluster import Cluster
from scripts.cluster.part import PACKAGES
from scripts.cluster.replicas import Replica
from scripts.processes import descendants
from tests.conftest import eventually
from tests.functional.switching import MODEL, REGISTRY, TESTER, Stock, Traffic
from tests.nginx_server import needed
from webapp import artifacts, config, keys
from webapp.db import Database

# Both shorter than they are, and the proxy's still the shorter one.
SHORT = {
    "keepalive_timeout 60s;": "keepalive_timeout 1s;",
    "proxy_send_timeout 10s;\n            proxy_read_timeout 10s;": "proxy_read_timeout 1s;",
    "proxy_next_upstream_timeout 15s;": "proxy_next_upstream_timeout 1500ms;",
}
KEPT_SECONDS = 3
LOGGED_SECONDS = 30


class Registered(Stock):
    """Puts versions and keys into a cluster's registry, as its first replica would."""

    def __init__(self, replica: Replica) -> None:
        self.settings = config.prepare(config.load(replica.environment()))
        self.secret = self.settings.derive("versions")
        self.database = Database(self.settings.sqlalchemy_url)
        self.store = artifacts.opened(self.settings)
        self.folder = self.settings.artifacts_dir

    def key(self, **terms: Any) -> tuple[str, str]:
        """Make a key; give its id and the key."""
        with self.database.transaction() as session:
            row, key = keys.create(
                session, TESTER, self.settings.derive(keys.PEPPER), "test", **{"scopes": REGISTRY, **terms}
            )
            return row.id, key

    def revoke(self, key_id: str) -> None:
        with self.database.transaction() as session:
            keys.revoke(session, TESTER, key_id)


class Machines(Cluster):
    """A cluster with some versions, the first of them active, and a key for everything."""

    def __init__(self, folder: Path, changes: dict[str, str] | None = None, **settings: object) -> None:
        """`changes` are made to nginx's configuration."""
        super().__init__(folder, **settings)
        self.nginx.changes |= changes or {}
        self.nginx.write([each.address for each in self.replicas])
        self.stock: Registered
        self.key_for_all = ""

    def fill(self, *estimators: Any) -> None:
        """Start what replicas need, and register these versions."""
        self.prepare()
        self.stock = Registered(self.replicas[0])
        for each in estimators:
            self.stock.add(each)
        self.stock.activate(1)
        _, self.key_for_all = self.stock.key(rate_limit="10000000/minute")

    def post(self, path: str, body: object, key: str | None = None, **more: Any) -> requests.Response:
        """Send JSON to nginx with a key."""
        headers = {"X-API-Key": key or self.key_for_all, **more}
        return requests.post(self.url + path, json=body, headers=headers, timeout=60)

    def followed(self) -> bool:
        """Whether every replica serves what is committed: what was made a moment ago, too."""
        return self.rows("SELECT 1 FROM web_workers, generation WHERE generation < number") == []

    def make_key(self, **terms: Any) -> tuple[str, str]:
        """Make a key, and wait until all replicas know it; give its id and the key."""
        made = self.stock.key(**terms)
        eventually(self.followed)
        return made

    def ask(self, replica: Replica, key: str | None = None) -> requests.Response:
        """Have one replica predict."""
        headers = {"X-API-Key": key or self.key_for_all}
        return requests.post(f"{replica.url}/models/{MODEL}/predict", json={"x": 1}, headers=headers, timeout=60)

    def logged(self, since: float = 0.0) -> dict[str, str]:
        """Give the request of each logged prediction that was made since a moment."""
        chosen = "SELECT id, request_id FROM predictions WHERE model = %s AND at >= to_timestamp(%s)"
        return dict(self.rows(chosen, MODEL, since))  # type: ignore[arg-type] # pairs

    def count(self, since: float) -> int:
        """Tell how many predictions were logged that were made since a moment."""
        ((count,),) = self.rows(
            "SELECT count(*) FROM predictions WHERE model = %s AND at >= to_timestamp(%s)", MODEL, since
        )
        return int(count)

    def close(self) -> None:
        """Stop everything and leave nothing."""
        self.stop()
        if hasattr(self, "stock"):
            self.stock.close()
        shutil.rmtree(self.folder)


@contextmanager
def machines(changes: dict[str, str] | None = None, **settings: object) -> Iterator[Machines]:
    """Make a cluster in a folder of its own, not yet started; skipped with the reason where a program is missing."""
    needed(*PACKAGES)
    # Not in pytest's folder: nobody but its owner may go through that, and the database belongs to another user.
    made = Machines(Path(tempfile.mkdtemp(prefix="modelport-")), changes, **settings)
    try:
        yield made
    except BaseException:
        for part in made.parts:
            lines = part.log.read_text(errors="replace").splitlines() if part.log.exists() else []
            print(f"\n{part.name}:", *[line for line in lines if '"INFO"' not in line][-15:], sep="\n  ")
        raise
    finally:
        made.close()


@dataclass
class Noting(Traffic):
    """Traffic that also notes which prediction each answer names."""

    ids: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)

    def _note(self, sent: float, answer: requests.Response) -> None:
        super()._note(sent, answer)
        if answer.status_code == 200:
            self.ids.append(answer.json()["prediction_id"])
        else:
            print(f"\n{answer.status_code}: {answer.text}")

    def check(self, cluster: Machines, within_seconds: float = LOGGED_SECONDS) -> str:
        """Nothing failed, and what was answered is in the log, once, and nothing else; gives the figures."""
        assert (dict(self.failures), self.wrong) == ({}, 0)
        answered, ended = set(self.ids), time.monotonic()
        eventually(lambda: cluster.count(self.began) >= len(answered), within_seconds=within_seconds)
        seconds, rows = time.monotonic() - ended, cluster.logged(self.began)
        # A request is one row: neither its prediction nor that of a second replica is there twice.
        assert len(set(rows.values())) == len(rows) == len(self.ids)
        assert set(rows) == answered
        return (
            f"{len(self.ids)} answered, 0 failed, 0 wrong; {len(rows)} rows after {seconds:.1f} s: none lost or twice"
        )


def gunicorn(replica: Replica) -> int:
    """Give the process id of a replica's Gunicorn."""
    assert replica.process is not None
    return min(pid for pid in descendants(replica.process.pid) if "gunicorn" in _command(pid))


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def events(replica: Replica) -> list[dict[str, Any]]:
    """Give what a replica has logged."""
    lines = replica.log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
