"""A real Redis for tests: a server of its own on a socket in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from redis import Redis

from tests.conftest import eventually


class Server:
    """Debian's redis-server; without it tests are skipped, and where CI=true they fail."""

    def __init__(self, folder: Path) -> None:
        """Start it, with nothing in it and nothing on the disk."""
        self._program = shutil.which("redis-server")
        if self._program is None:
            reason = "redis-server is missing; scripts/test_packages.sh installs it or says how."
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        self._socket = folder / "redis"
        self.url = f"unix://{self._socket}"
        self.client = Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        """Start it, empty."""
        options = ("--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no")
        assert self._program is not None
        self.process = subprocess.Popen([self._program, *options], stdout=subprocess.DEVNULL, cwd=self._socket.parent)
        eventually(self._socket.exists)

    def kill(self) -> None:
        """End it at once, as a fault does."""
        self.process.kill()
        self.process.wait()
        self._socket.unlink(missing_ok=True)

    def close(self) -> None:
        """End it for good."""
        self.client.close()
        self.kill()
