"""A disk of a few MiB, a tmpfs, that a test can fill up to its last page and give room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import eventually

MIB = 1024 * 1024
PAGE_BYTES = 4096


class SmallDisk:
    """One that is mounted; what it holds is gone with it."""

    def __init__(self, folder: Path, size_bytes: int = 512 * MIB) -> None:
        """`size_bytes` is what fits on it: memory is taken by what is there, and by no more."""
        self.folder = folder
        self._size_bytes = size_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._mount(f"mode=700,size={size_bytes}").check_returncode()

    def _mount(self, options: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @property
    def used_bytes(self) -> int:
        """What is taken."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def fill(self, left_bytes: int = 0) -> None:
        """Leave so much room: its size becomes what is taken, and no memory is needed for that."""
        # What is written meanwhile takes more. No size at all would be no limit.
        eventually(lambda: self._mount(f"remount,size={self.used_bytes + left_bytes or PAGE_BYTES}").returncode == 0)

    def make_room(self) -> None:
        """Let it be as large as it was."""
        self._mount(f"remount,size={self._size_bytes}").check_returncode()

    @contextmanager
    def full(self, left_bytes: int = 0) -> Iterator[None]:
        """Have it full for a while."""
        self.fill(left_bytes)
        try:
            yield
        finally:
            self.make_room()

    def close(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def mounted(folder: Path) -> SmallDisk:
    """Mount one; where this process may not, the test is skipped and says why."""
    try:
        return SmallDisk(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        pytest.skip(f"it has to mount a small disk (as root, or by `unshare -rm make test`): {said}".strip())
