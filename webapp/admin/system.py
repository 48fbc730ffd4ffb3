"""Page of the system: processes, database, prediction log, disk, versions and settings."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response

from webapp import __version__, activation, config, db, fleet, generation, web
from webapp.admin.guard import blueprint, needs
from webapp.admin.pages import page
from webapp.predictions import log, spool

door: Blueprint = blueprint("system")

PACKAGES = ("scikit-learn", "numpy", "pandas", "skops", "Flask", "SQLAlchemy", "gunicorn")
# Processes beat every ten seconds.
SILENT = timedelta(seconds=35)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What this host's spool holds that is not in the database yet."""

    bytes: int
    segments: int


@door.get("/system")
@needs("viewer")
def show() -> Response:
    """Show how the installation stands."""
    made = web.parts()
    started = time.perf_counter()
    with made.database.reading() as session:
        facts: dict[str, Any] = {
            "generation": generation.current(session),
            "workers": fleet.live(session),
            "heartbeats": fleet.heartbeats(session),
            "standing": activation.present(session),
        }
        answer_seconds = time.perf_counter() - started
        places = log.positions(session, made.settings.replica)
    present, needed = db.revisions(made.database)
    return page(
        "system/show.html",
        **facts,
        answer_seconds=answer_seconds,
        place=made.database.place.removeprefix("The database "),
        schema=f"{present} (this release: {needed})",
        waiting=_waiting(places),
        disk=shutil.disk_usage(made.settings.data_dir),
        packages=_packages(),
        settings=_settings(),
        silent_before=datetime.now(UTC) - SILENT,
    )


def _waiting(places: dict[str, int]) -> Waiting:
    segments = spool.segments(web.parts().settings.spool_dir)
    sizes = {path.name: path.stat().st_size for path in segments if path.exists()}
    return Waiting(sum(max(size - places.get(name, 0), 0) for name, size in sizes.items()), len(sizes))


def _packages() -> list[tuple[str, str]]:
    own = [("Modelport", __version__), ("Python", platform.python_version())]
    return own + [(name, version(name)) for name in PACKAGES]


def _settings() -> list[dict[str, Any]]:
    return [{"name": name, **shown} for name, shown in config.describe(os.environ).items()]
