"""The guide's model within the guide's limits, 1 GiB and one CPU: what it takes there, and how fast it answers.

`python -m benchmarks.confined` as root, on Linux with control groups of either version. The kernel enforces both limits
on `modelport serve` and all its processes; the load comes from outside of them. What is mapped is what each process has
mapped of libraries, too; what several share counts once, and a share of it where others beside the group have it.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sklearn.ensemble import RandomForestClassifier

from benchmarks import load, models, servers
from benchmarks.installation import Installation, installed
from benchmarks.load import Asked
from benchmarks.models import Case
from benchmarks.others import Other
from scripts.processes import free_port

CONTROL = Path("/sys/fs/cgroup")
MIB = 1024**2
MEMORY_BYTES, CPUS, PERIOD_MICROSECONDS = 1024 * MIB, 1, 100_000
CONNECTIONS = 8
# Another version of the same.
AGAIN = replace(
    models.GUIDE, make=lambda: models.scaled(RandomForestClassifier(n_estimators=100, random_state=models.SEED + 1))
)
# Enters the group before it becomes the server, so that all of it is counted.
ENTER = """
import os, sys
for file in sys.argv[1].split(":"):
    with open(file, "w") as entry:
        entry.write(str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Group:
    """A control group with both limits, of version 2 or of two hierarchies of version 1."""

    memory: Path
    cpu: Path

    @property
    def entries(self) -> str:
        """The files that a process writes its id into."""
        return ":".join(str(folder / "cgroup.procs") for folder in dict.fromkeys((self.memory, self.cpu)))

    def peak_bytes(self) -> int:
        """Give the most that was counted at once, with what the files it read take in the cache."""
        name = "memory.peak" if self.memory == self.cpu else "memory.max_usage_in_bytes"
        return int((self.memory / name).read_text())

    def private_bytes(self) -> int:
        """Give what its processes have written to: what no pressure can take from them."""
        name = "anon" if self.memory == self.cpu else "total_rss"
        return _entry(self.memory / "memory.stat", name) + _entry(self.memory / "memory.stat", self._shared)

    @property
    def _shared(self) -> str:
        return "shmem" if self.memory == self.cpu else "total_shmem"

    def killed(self) -> int:
        """Count the processes that the kernel has ended for want of memory."""
        name = "memory.events" if self.memory == self.cpu else "memory.oom_control"
        return _entry(self.memory / name, "oom_kill")

    def pids(self) -> list[int]:
        """Give its processes."""
        return [int(line) for line in (self.memory / "cgroup.procs").read_text().split()]


def _entry(file: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", file.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


@contextmanager
def limited() -> Iterator[Group]:
    """Make a group with both limits, and remove it when all its processes have ended."""
    name = f"modelport-{os.getpid()}"
    if (CONTROL / "cgroup.controllers").exists():
        group = Group(CONTROL / name, CONTROL / name)
        limits = {"memory.max": MEMORY_BYTES, "cpu.max": f"{CPUS * PERIOD_MICROSECONDS} {PERIOD_MICROSECONDS}"}
        limits["memory.swap.max"] = 0
    else:
        group = Group(CONTROL / "memory" / name, CONTROL / "cpu" / name)
        limits = {"memory.limit_in_bytes": MEMORY_BYTES, "cpu.cfs_period_us": PERIOD_MICROSECONDS}
        limits["cpu.cfs_quota_us"] = CPUS * PERIOD_MICROSECONDS
    for folder in {group.memory, group.cpu}:
        folder.mkdir()
    try:
        for limit, value in limits.items():
            ((group.memory if limit.startswith("memory") else group.cpu) / limit).write_text(str(value))
        yield group
    finally:
        for folder in {group.memory, group.cpu}:
            folder.rmdir()


def proportional_bytes(pids: list[int]) -> int:
    """Sum up what processes have mapped; what several share counts once."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += _entry_kib(Path(f"/proc/{pid}/smaps_rollup"))
    return total


def _entry_kib(file: Path) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB$", file.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def measure(made: Installation, case: Case, key: str, *, workers: int, alone: bool, seconds: int) -> None:
    """Serve, ask, switch to another version under load, and print what was found."""
    port = free_port()
    options = ["--no-worker"] if alone else []
    serve = [sys.executable, "-m", "webapp.cli", "serve", "--bind", f"127.0.0.1:{port}", *options]
    environment = made.environment(WORKERS=str(workers))
    asked = Asked(case, Other("modelport", _never, path=f"/models/{case.name}/predict"), {"X-API-Key": key})
    with limited() as group:
        command = [sys.executable, "-c", ENTER, group.entries, *serve]
        with servers.running(
            "confined", command, port, "/readyz", environment=environment, folder=made.folder
        ) as server:
            found = load.closed_loop(server, asked, CONNECTIONS, seconds)
            after_load = proportional_bytes(group.pids()), group.private_bytes()
            switching = threading.Thread(target=made.modelport, args=("models", "activate", case.name, "2"))
            switching.start()
            during = load.closed_loop(server, asked, CONNECTIONS, seconds)
            switching.join()
            made.modelport("models", "activate", case.name, "1")
            what = f"{workers} web worker{'s'[: workers > 1]}, log writer" + ("" if alone else ", worker")
            print(
                f"{what}: ready after {server.start_seconds:.1f} s;"
                f" {found.per_second:,.0f}/s, p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms;"
                f" during a switch {during.per_second:,.0f}/s, p99 {during.p99_ms:.1f} ms;"
                f" failed {found.failed + during.failed:.0%};"
                f" memory {after_load[0] / MIB:,.0f} MiB mapped, {after_load[1] / MIB:,.0f} MiB private,"
                f" peak with files {group.peak_bytes() / MIB:,.0f} of {MEMORY_BYTES / MIB:,.0f} MiB;"
                f" killed {group.killed()}",
                flush=True,
            )


def _never(_folder: Path, _case: Case) -> AbstractContextManager[servers.Server]:
    raise NotImplementedError


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of one round")
    given = parser.parse_args()
    load.wrk_or_how()
    if os.geteuid() != 0:
        raise SystemExit("Only root may make control groups.")
    # So that the server is ended and the group is removed, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        made = installed(Path(folder))
        made.upload(models.GUIDE)
        made.upload(AGAIN, activate=False)
        key = made.make_key()
        for workers, alone in ((1, True), (2, True), (2, False)):
            measure(made, models.GUIDE, key, workers=workers, alone=alone, seconds=given.seconds)


if __name__ == "__main__":
    main()
