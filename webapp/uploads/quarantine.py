"""Where received files wait to be inspected: in a folder of this machine, or in the store that replicas share."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from webapp.errors import Invalid, NoRoom, Unavailable
from webapp.storage import Storage
from webapp.uploads import Desk

PLACE = "quarantine"
CHUNK_BYTES = 1024 * 1024


def hand_over(desk: Desk, upload_id: str) -> None:
    """Give what was received to the store that replicas share: any of their workers may inspect it.

    The names tell the SHA-256, so that nobody inspects other bytes than those that came. Without such a store the files
    wait where they are.
    """
    if not desk.shares_files:
        return
    folder = desk.folder(upload_id)
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            desk.artifacts.storage.put(f"{PLACE}/{upload_id}/{path.name}.{digest}", file)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def files(desk: Desk, upload_id: str, most_bytes: int) -> Iterator[Path]:
    """Give the folder of an upload's files, each under the name of its part, for as long as it is inspected."""
    if not desk.shares_files:
        yield desk.folder(upload_id)
        return
    with tempfile.TemporaryDirectory(dir=desk.scratch(), prefix=f"{upload_id}-", ignore_cleanup_errors=True) as folder:
        try:
            _bring(desk.artifacts.storage, upload_id, Path(folder), most_bytes)
        except OSError as error:
            raise NoRoom(f"The worker cannot keep this upload ({error.strerror}).") from None
        yield Path(folder)


def _bring(storage: Storage, upload_id: str, folder: Path, most_bytes: int) -> None:
    for name in storage.names(f"{PLACE}/{upload_id}"):
        part, _, digest = name.rpartition("/")[2].partition(".")
        with storage.open(name) as source, (folder / part).open("xb") as file:
            most_bytes -= _copied(source, file, digest, most_bytes)


def _copied(source: IO[bytes], file: IO[bytes], digest: str, most_bytes: int) -> int:
    """Copy a file that must have this digest and no more bytes; give how many it has."""
    sha256, size = hashlib.sha256(), 0
    while size <= most_bytes and (chunk := source.read(CHUNK_BYTES)):
        sha256.update(chunk)
        size += len(chunk)
        file.write(chunk)
    if sha256.hexdigest() != digest:
        detail = "What was uploaded was damaged while it waited to be inspected. Upload again."
        raise Invalid("upload_files_damaged", detail)
    return size


def discard(desk: Desk, upload_id: str) -> None:
    """Remove the files of an upload. Those that cannot be reached now are swept later."""
    shutil.rmtree(desk.folder(upload_id), ignore_errors=True)
    if desk.shares_files:
        with suppress(Unavailable):
            for name in list(desk.artifacts.storage.names(f"{PLACE}/{upload_id}")):
                desk.artifacts.storage.delete(name)


def sweep(desk: Desk, kept: Container[str], older_than: timedelta) -> list[str]:
    """Remove what waits in the shared store for uploads that there are not; give the names of what was removed."""
    if not desk.shares_files:
        return []
    storage = desk.artifacts.storage
    left = [name for name in storage.names(PLACE, older_than=older_than) if name.split("/")[1] not in kept]
    for name in left:
        storage.delete(name)
    return left
