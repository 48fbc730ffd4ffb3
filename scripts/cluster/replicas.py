"""What serves and works: each command of Modelport with a data directory of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.cluster.part import ADDRESS, ROOT, Part, Trouble
from scripts.processes import free_port


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


def answers(url: str) -> bool:
    """Whether a GET is answered well. Not through a proxy, whatever the environment says: it is this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5):
            return True
    except OSError:
        # A refusal is one, too.
        return False
