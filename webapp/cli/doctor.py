"""`modelport doctor`: looks at everything that must hold, changes nothing, and says what to do where it does not."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import click

from webapp import __version__, artifacts, audit, config, db, fleet, installation, lock, registry
from webapp.artifacts import ArtifactStore
from webapp.cli import Command, Console, pass_console, require_schema
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Refusal

MIB, GIB = 1024**2, 1024**3
# Below the first people should know; below the second no upload is taken in.
LITTLE_FREE_BYTES, TOO_LITTLE_FREE_BYTES = 5 * GIB, GIB // 4
PACKAGES = ("numpy", "pandas", "skops", "joblib")
# Processes beat every ten seconds.
SILENT = timedelta(seconds=35)
PROCESSES = ("worker", "log writer")
# How the file of a database begins, and what stands in it where it has a write-ahead log.
SQLITE_MAGIC, WAL = b"SQLite format 3\0", b"\2"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, ok or warn or bad, what was found, and what to do about it."""

    name: str
    state: str
    finding: str
    remedy: str = ""


@click.command(cls=Command)
@pass_console
def doctor(console: Console) -> None:
    """Look at what must hold here, from the kernel to the stored models; exit 1 when something is bad."""
    checks = list(examine(config.load(os.environ)))
    healthy = all(check.state != "bad" for check in checks)
    document = {"healthy": healthy, "checks": [asdict(check) for check in checks]}
    console.answer(document, "\n".join(map(_line, checks)))
    if not healthy:
        sys.exit(1)


def _line(check: Check) -> str:
    remedy = f"\n      → {check.remedy}" if check.remedy else ""
    return f"{check.state:<4}  {check.name}: {check.finding}{remedy}"


def examine(settings: Settings) -> Iterator[Check]:
    """Make every check; what needs something that is not there is left out."""
    yield _lock()
    yield _versions()
    if not settings.data_dir.exists():
        finding = f"There is none yet at {settings.data_dir.absolute()} (MODELPORT_DATA_DIR)."
        yield Check("Data directory", "bad", finding, "Go where it is, or begin here with `modelport db upgrade`.")
        return
    yield _data_directory(settings)
    yield _disk(settings)
    yield _secret(settings)
    yield from _database(settings)


def _lock() -> Check:
    there = lock.support()
    if there.complete:
        return Check("Lock", "ok", f"Model files are opened behind Landlock (version {there.landlock}) and seccomp.")
    finding = " ".join([*there.missing, "Over HTTP only .skops files are taken."])
    remedy = "Use a kernel that has both; what is trusted can be imported here with `modelport models import --trust`."
    return Check("Lock", "warn", finding, remedy)


def _versions() -> Check:
    table = json.loads((Path(config.__file__).parent / "names.json").read_text(encoding="utf-8"))
    wanted, present = table["scikit-learn"], version("scikit-learn")
    others = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    finding = f"Modelport {__version__}, Python {platform.python_version()}, scikit-learn {present}, {others}."
    if present.split(".")[:2] == wanted.split("."):
        return Check("Versions", "ok", finding)
    finding += f" The table of names is that of scikit-learn {wanted}."
    return Check("Versions", "bad", finding, f"Install scikit-learn {wanted}, or the release for the present one.")


def _data_directory(settings: Settings) -> Check:
    folder = settings.data_dir
    mode = stat.S_IMODE(folder.stat().st_mode)
    shown = folder.absolute()
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        finding = f"{shown} is no folder that this user can write to."
        return Check("Data directory", "bad", finding, "Run as the user it belongs to, or give it to this one.")
    if mode & 0o077:
        return Check("Data directory", "warn", f"{shown} is open to others (mode {mode:04o}).", f"chmod 700 {shown}")
    return Check("Data directory", "ok", f"{shown}, private to its user.")


def _disk(settings: Settings) -> Check:
    free = shutil.disk_usage(settings.data_dir).free
    finding = f"{free / GIB:.1f} GiB are free for the data directory."
    if free >= LITTLE_FREE_BYTES:
        return Check("Disk", "ok", finding)
    return Check("Disk", "warn" if free > TOO_LITTLE_FREE_BYTES else "bad", finding, "Make room, or use a larger disk.")


def _secret(settings: Settings) -> Check:
    file = settings.data_dir / "secret-key"
    if settings.secret_key:
        return Check("Secret key", "ok", "Given by MODELPORT_SECRET_KEY.")
    if not file.exists():
        remedy = "Put it back from a backup: without it no key and no stored version is known. Else it is made anew."
        return Check("Secret key", "bad", f"{file.absolute()} is not there.", remedy)
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        finding = f"{file.absolute()} can be read by others (mode {mode:04o})."
        return Check("Secret key", "bad", finding, f"chmod 600 {file.absolute()}, and think about who has read it.")
    return Check("Secret key", "ok", "Kept in the data directory, private to its user.")


# --- the database and what it tells -----------------------------------------------------------------------


def _database(settings: Settings) -> Iterator[Check]:
    database = Database(settings.sqlalchemy_url)
    file = _sqlite_file(database)
    if file and (unusable := _unusable(file)):
        yield unusable
        return
    try:
        require_schema(database)
        if settings.secret_key or (settings.data_dir / "secret-key").exists():
            with database.reading() as session:
                installation.check_secret(session, config.prepare(settings))
        present, _ = db.revisions(database)
        yield Check("Database", "ok", f"{database.place} answers and has this release's schema ({present}).")
        if file:
            yield _sqlite(file)
        yield _trail(database)
        yield from _processes(database)
        yield from _artifacts(settings, database)
    except Refusal as refusal:
        yield Check("Database", "bad", refusal.detail)
    finally:
        database.engine.dispose()


def _sqlite_file(database: Database) -> Path | None:
    url = database.engine.url
    return Path(url.database) if url.drivername.startswith("sqlite") and url.database else None


def _unusable(file: Path) -> Check | None:
    """Look before connecting, which would make a file that is not there."""
    if not file.exists():
        return Check("Database", "bad", f"{file} is not there.", "Put it back, or begin with `modelport db upgrade`.")
    with file.open("rb") as opened:
        head = opened.read(len(SQLITE_MAGIC))
    if head and head != SQLITE_MAGIC:
        return Check("Database", "bad", f"{file} is damaged: it is no SQLite database.", "Put it back from a backup.")
    return None


def _sqlite(file: Path) -> Check:
    with file.open("rb") as opened:
        # The version of the format for writing tells the two kinds of journal apart.
        opened.seek(18)
        journal = "write-ahead log" if opened.read(1) == WAL else "rollback journal"
    return Check("SQLite", "ok", f"Version {sqlite3.sqlite_version}, with a {journal}.")


def _trail(database: Database) -> Check:
    with database.reading() as session:
        trail = audit.verify(session)
    if trail.broken is None:
        return Check("Audit trail", "ok", trail.sentence)
    return Check(
        "Audit trail", "bad", trail.sentence, "Somebody has written the database by other ways than Modelport."
    )


def _processes(database: Database) -> Iterator[Check]:
    with database.reading() as session:
        workers, heartbeats = fleet.live(session), fleet.heartbeats(session)
    failed = [f"{each.host}/{each.slot}: {each.failure}" for each in workers if each.failure]
    if failed:
        remedy = "They go on with what they served before; upload or activate a version that loads."
        yield Check("Web workers", "bad", " ".join(failed), remedy)
    elif workers:
        hosts = {each.host for each in workers}
        most = max(sum(version["memory_bytes"] for version in each.held) for each in workers)
        finding = (
            f"{len(workers)} live on {', '.join(sorted(hosts))}; versions take up to {most / MIB:,.0f} MiB in each."
        )
        yield Check("Web workers", "ok", finding)
    else:
        yield Check("Web workers", "warn", "None is live.", "Start them with `modelport serve`.")
    lately = {each.process for each in heartbeats if each.seen_at > db.now() - SILENT}
    for process in PROCESSES:
        name = process.capitalize()
        if process in lately:
            yield Check(name, "ok", "Heard of in the last half minute.")
        else:
            remedy = "`modelport serve` starts it; where it runs, its log says why it is silent."
            yield Check(name, "bad" if workers else "warn", "Not heard of lately.", remedy)


def _artifacts(settings: Settings, database: Database) -> Iterator[Check]:
    store = artifacts.opened(settings)
    away = _away(store) if settings.artifact_store else ""
    if away:
        remedy = "Running workers keep what they have; nothing can be uploaded. Look at MODELPORT_ARTIFACT_STORE."
        yield Check("Artifact store", "bad", away, remedy)
    elif settings.artifact_store:
        yield Check("Artifact store", "ok", f"{store.storage.place} answers.")
    with database.reading() as session:
        active = registry.catalog(session).active_versions()
    if not active:
        yield Check("Artifacts", "warn", "No model is active.", "`modelport models upload FILE --name NAME --activate`")
        return
    # What a store has that answers; of one that is away, the copies that are here.
    get = store.get if away else store.stored
    damaged = [
        f"{each.model} version {each.number}: {wrong}"
        for each in active
        for digest in filter(None, (each.artifact, each.golden))
        if (wrong := _wrong(get, digest))
    ]
    if damaged:
        remedy = "Put the files back from a backup, or upload the models again; running workers keep what they have."
        yield Check("Artifacts", "bad", " ".join(damaged), remedy)
    else:
        yield Check("Artifacts", "ok", f"What {len(active)} active versions need is there, as it was stored.")


def _away(store: ArtifactStore) -> str:
    try:
        next(store.storage.names("quarantine"), None)
    except Refusal as refusal:
        return refusal.detail
    return ""


def _wrong(get: Callable[[str], bytes], digest: str) -> str:
    try:
        get(digest)
    except Refusal as refusal:
        return refusal.detail
    except OSError as error:
        return f"The artifact {digest[:12]} cannot be read ({error.strerror})."
    return ""
