"""Removes what uploads left behind whose process ended in the middle."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from webapp import fleet, registry
from webapp.storage import INCOMING, Folder
from webapp.uploads import Desk, quarantine
from webapp.uploads.waiting import under_way

# What no row names after so long belongs to nobody.
LEFT_BEHIND = timedelta(hours=1)


def sweep(desk: Desk) -> list[str]:
    """Remove what a process left behind that ended in the middle; give the names of what was removed.

    Only what is old: what is young may belong to an upload whose row is about to be written.
    """
    with desk.database.transaction() as session:
        fleet.forget(session)
    with desk.database.reading() as session:
        kept = {pending.id for pending in under_way(session)} | registry.every_artifact(session)
    here, storage = desk.settings.artifacts_dir, desk.artifacts.storage
    found = [*desk.settings.quarantine_dir.glob("*"), *here.glob(f"{INCOMING}*"), *here.glob("??/*")]
    if isinstance(storage, Folder) and storage.path != here:
        # What others may know of that share this folder stays; what was never whole belongs to nobody.
        found += storage.path.glob(f"{INCOMING}*")
    left = [path for path in found if path.name not in kept and _is_old(path)]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return [path.name for path in left] + quarantine.sweep(desk, kept, LEFT_BEHIND)


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - LEFT_BEHIND.total_seconds()
    except FileNotFoundError:
        return False
