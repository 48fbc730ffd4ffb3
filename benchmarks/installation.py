"""A fresh installation of Modelport: its folder, its settings, a key, and its models, all by the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.models import Case
from benchmarks.servers import Server
from scripts.processes import free_port

# Counted for every request and never reached.
RATE_LIMIT = "4000000000/minute"


@dataclass(frozen=True, slots=True)
class Installation:
    """A data directory, and how `modelport` runs on it."""

    folder: Path

    def environment(self, **settings: str) -> dict[str, str]:
        """Give what a process of this installation is started with."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
        given = {f"MODELPORT_{name}": value for name, value in settings.items()}
        return {**others, "MODELPORT_DATA_DIR": str(self.folder / "data"), **given}

    def modelport(self, *arguments: str) -> str:
        """Run a command to its end; give what it printed."""
        done = subprocess.run(  # noqa: S603 - our own command lines
            [sys.executable, "-m", "webapp.cli", *arguments],
            env=self.environment(),
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            message = f"modelport {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise RuntimeError(message)
        return done.stdout

    def upload(self, case: Case, *, activate: bool = True) -> None:
        """Upload a model as people do."""
        files = case.write(self.folder)
        arguments = ["models", "upload", str(files.model), "--name", case.name, "--reference", str(files.reference)]
        arguments += ["--metadata", str(files.metadata)] if files.metadata else []
        self.modelport(*arguments, *(["--activate"] if activate else []))

    def make_key(self) -> str:
        """Make a key whose limit is counted and never reached."""
        scopes = ("--scope", "predict", "--scope", "models:activate")
        asked = ("keys", "create", "bench", "--rate-limit", RATE_LIMIT, *scopes, "--json")
        made: str = json.loads(self.modelport(*asked))["key"]
        return made

    def copied(self, folder: Path) -> Installation:
        """Give another installation that holds the same; nothing may run on this one."""
        shutil.copytree(self.folder / "data", folder / "data")
        shutil.rmtree(folder / "data" / "run", ignore_errors=True)
        return Installation(folder)

    @contextmanager
    def serving(self, *, name: str = "modelport", workers: int = 2, **settings: str) -> Iterator[Server]:
        """Run `modelport serve` as people do, all of it on."""
        port = free_port()
        command = [sys.executable, "-m", "webapp.cli", "serve", "--bind", f"127.0.0.1:{port}"]
        environment = self.environment(WORKERS=str(workers), **settings)
        with servers.running(name, command, port, "/readyz", environment=environment, folder=self.folder) as server:
            yield server


def installed(folder: Path) -> Installation:
    """Make the database in a folder that is empty."""
    made = Installation(folder)
    made.modelport("db", "upgrade")
    return made
