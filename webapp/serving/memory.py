"""How much memory this process has in use, as the kernel counts it."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Give the process's resident memory; what it shares with the others of the host is counted, too."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
