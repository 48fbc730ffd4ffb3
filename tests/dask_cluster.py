"""A real Dask cluster on loopback for tests: a scheduler and workers, each a process that can be killed."""

from __future__ import annotations

import subprocess
import sys

from distributed import Client

from scripts.processes import free_port

START_SECONDS = 120


class Cluster:
    """One scheduler and two workers of one thread each, as `dask scheduler` and `dask worker` start them."""

    def __init__(self) -> None:
        """Choose the address; nothing is started yet."""
        self._port = free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> Cluster:
        """Start it, and wait until both workers are there."""
        scheduler = ["dask_scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard"]
        worker = ["dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        # Should the tests be ended before they end it, it ends by itself.
        worker += ["--death-timeout", str(START_SECONDS)]
        for name, *options in (scheduler, worker, worker):
            command = [sys.executable, "-m", f"distributed.cli.{name}", *options]
            self._processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        with Client(self.address, timeout=START_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=START_SECONDS)
        return self

    def kill(self) -> None:
        """End all of it at once."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []
