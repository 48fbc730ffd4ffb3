"""Ports and processes of this machine, for what starts programs: the cluster, the benchmarks, the tests."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path


def free_port() -> int:
    """Give a port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children(pid: int) -> list[int]:
    """Give the children of a process, whichever of its threads started them; none when it has ended."""
    found: list[int] = []
    # A thread may end between being named and being asked.
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def descendants(pid: int) -> set[int]:
    """Give a process and all that came of it."""
    return {pid}.union(*(descendants(child) for child in children(pid)))
