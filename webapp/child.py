"""Runs a module of ours in a child process, where what strangers sent is read: it inherits what it works with, no more.

The child closes itself in (`lock`) before it reads; here is its parent's side.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import IO

# Nothing of this process's environment goes along: it may hold secrets.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
SECONDS = 600


def command(module: str) -> tuple[str, ...]:
    """Say how a module is run by itself, past what a user's own settings of Python would import."""
    return sys.executable, "-I", "-m", module


@contextmanager
def running(
    arguments: Sequence[str],
    stdin: IO[bytes] | int,
    descriptors: Collection[int] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[subprocess.Popen[bytes]]:
    """Have a child while the block lasts, with its answer as `stdout`; besides `stdin` it gets the `descriptors`."""
    with subprocess.Popen(  # noqa: S603 - our own module
        arguments,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=descriptors,
        cwd="/",
        env={**ENVIRONMENT, **environment},
    ) as child:
        # Its own limit of CPU time ends a child that computes; this one ends a child that waits.
        overdue = threading.Timer(SECONDS, child.kill)
        overdue.start()
        try:
            yield child
        finally:
            overdue.cancel()
            child.kill()
