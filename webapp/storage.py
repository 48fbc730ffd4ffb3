"""Where named bytes are kept: a folder, or a place that fsspec knows by its URL, such as `s3://bucket/prefix`."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from webapp.errors import NotFound, Unavailable

# What is being stored; a process that ends in the middle leaves one behind.
INCOMING = "incoming-"
# No smaller: S3 takes no smaller parts.
PIECE_BYTES = 5 * 1024 * 1024
# Of a folder that others empty at the same time.
MOST_TRIES = 20
# Why a refusal is nobody's fault and passes: the store, not what is kept in it.
AWAY = frozenset({"store_unavailable", "store_refused"})
S3 = frozenset({"s3", "s3a"})
# What hangs is given up; who asked can go on with what it has.
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 3, 5, 2


class Source(Protocol):
    """What can be read piece by piece."""

    def read(self, size: int = -1, /) -> bytes:
        """Give so many bytes or, at the end, fewer."""


class Storage(Protocol):
    """Bytes under names such as `batches/7/0001`. Each is whole or not there; to store it again replaces it."""

    # As it may stand in messages: without a password, and without options.
    place: str

    def put(self, name: str, source: Source) -> None:
        """Store what `source` still holds; however large it is, only a piece of it is in memory."""

    def open(self, name: str) -> IO[bytes]:
        """Read piece by piece; raise `NotFound` when there is no such name, `Unavailable` when the store is away."""

    def get(self, name: str) -> bytes:
        """Read all; raise as `open` does."""

    def exists(self, name: str) -> bool:
        """Whether there is such a name."""

    def names(self, folder: str = "", *, older_than: timedelta = timedelta()) -> Iterator[str]:
        """Every name below `folder`, or those that were stored so long ago."""

    def delete(self, name: str) -> None:
        """Remove what has this name, if it is there."""


def made(place: str | Path) -> Storage:
    """Make the storage of a folder or a URL. Nothing is opened before it is asked for."""
    text = str(place)
    if text.startswith("file://"):
        return Folder(Path(urlsplit(text).path))
    return Remote(text) if "://" in text else Folder(Path(text))


def _checked(name: str) -> str:
    """Give the name back; one that would lead elsewhere is a fault of the caller."""
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise ValueError(name)
    return name


def _missing(name: str) -> NotFound:
    return NotFound("file_missing", f"{name} is not in the store.")


# --- A folder ---------------------------------------------------------------------------------------------


class Folder:
    """A folder of read-only files."""

    def __init__(self, path: Path) -> None:
        """`path` is made when the first file is stored."""
        self.path = path
        self.place = str(path)

    def put(self, name: str, source: Source) -> None:
        """Store a file; it is on the disk when this returns."""
        self.put_as(lambda: name, source)

    def put_as(self, named: Callable[[], str], source: Source) -> None:
        """As `put`, for a name that is known when all of `source` was read."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.path, prefix=INCOMING, delete=False) as file:
            incoming = Path(file.name)
            try:
                shutil.copyfileobj(source, file, PIECE_BYTES)
                file.flush()
                os.fchmod(file.fileno(), 0o400)
                os.fsync(file.fileno())
                # In place of one of the same name, too: should that have been damaged, it is whole again.
                self._move(incoming, self.path / _checked(named()))
            except BaseException:
                incoming.unlink(missing_ok=True)
                raise

    def _move(self, incoming: Path, path: Path) -> None:
        for left in reversed(range(MOST_TRIES)):
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                incoming.rename(path)
                break
            except (FileExistsError, FileNotFoundError):
                # Another process has just removed the last file of this folder, and the folder with it.
                if not left:
                    raise
        for folder in itertools.takewhile(lambda each: each != self.path.parent, path.parents):
            _sync_folder(folder)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        try:
            return (self.path / _checked(name)).open("rb")
        except FileNotFoundError:
            raise _missing(name) from None

    def get(self, name: str) -> bytes:
        """Read a file."""
        with self.open(name) as file:
            return file.read()

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / _checked(name)).is_file()

    def names(self, folder: str = "", *, older_than: timedelta = timedelta()) -> Iterator[str]:
        """Every file below a folder, or those that are so old."""
        before = datetime.now(UTC) - older_than
        for path in sorted((self.path / folder).rglob("*")):
            with suppress(FileNotFoundError):
                if not path.is_file() or path.name.startswith(INCOMING):
                    continue
                if datetime.fromtimestamp(path.stat().st_mtime, UTC) <= before:
                    yield path.relative_to(self.path).as_posix()

    def delete(self, name: str) -> None:
        """Remove a file, and the folders that were made for it alone."""
        path = self.path / _checked(name)
        path.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in itertools.takewhile(lambda each: each != self.path, path.parents):
                folder.rmdir()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- A place elsewhere ------------------------------------------------------------------------------------


class Remote:
    """A place that fsspec knows; what its options are stands in the query of its URL, or in the environment."""

    def __init__(self, url: str) -> None:
        """Nothing is imported or reached before the first name is asked for."""
        parts = urlsplit(url)
        self._url = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
        self._protocol = parts.scheme
        self._given = dict(parse_qsl(parts.query))
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        self._connecting = threading.Lock()
        self._connected: tuple[Any, str] | None = None

    def _connect(self) -> tuple[Any, str]:
        """Give the file system, and what stands before every name in it."""
        with self._connecting:
            if self._connected is None:
                # Here, because most installations keep files in a folder, and after the fork, because of its thread.
                from fsspec.core import url_to_fs  # noqa: PLC0415

                # What other machines store is there at once, and no other user of the library changes this one.
                options = {"use_listings_cache": False, "skip_instance_cache": True, **_patience(self._protocol)}
                filesystem, root = url_to_fs(self._url, **options, **self._given)
                if self._protocol in S3:
                    # The library below tries again, too: each would multiply the other's patience.
                    filesystem.retries = 1
                self._connected = filesystem, root.rstrip("/")
            return self._connected

    @contextmanager
    def _asked_for(self, name: str = "") -> Iterator[None]:
        """Say in words what goes wrong between here and the store; never the words of others, which may tell a key."""
        try:
            yield
        except FileNotFoundError:
            if name:
                raise _missing(name) from None
            detail = f"There is no store {self.place}: its bucket is missing."
            raise Unavailable("store_unavailable", detail) from None
        except PermissionError:
            detail = f"The store {self.place} refuses access; look at its credentials and what they allow."
            raise Unavailable("store_refused", detail) from None
        except Exception as error:  # noqa: BLE001 - each protocol's library has errors of its own
            detail = f"The store {self.place} cannot be reached or does not answer ({type(error).__name__})."
            raise Unavailable("store_unavailable", detail) from None

    def put(self, name: str, source: Source) -> None:
        """Store what `source` still holds: by one request where it is small, else in parts that appear together."""
        # Read outside of what is caught: what is wrong with the source is not the store's fault.
        pieces = _pieces(source)
        first, second = next(pieces, b""), next(pieces, b"")
        with self._asked_for():
            filesystem, root = self._connect()
            path = f"{root}/{_checked(name)}"
            if not second:
                filesystem.pipe_file(path, first)
                return
            file = filesystem.open(path, "wb", block_size=PIECE_BYTES, autocommit=False)
        self._put_parts(file, itertools.chain([first, second], pieces))

    def _put_parts(self, file: Any, pieces: Iterator[bytes]) -> None:  # noqa: ANN401 - as fsspec gives it
        try:
            for piece in pieces:
                with self._asked_for():
                    file.write(piece)
            with self._asked_for():
                file.close()
                file.commit()
        except BaseException:
            # The parts are of no use, and closing such a file would make what came so far the whole.
            with suppress(Exception):
                file.discard()
            with suppress(AttributeError):
                file.closed = True
            raise

    def open(self, name: str) -> IO[bytes]:
        """Read piece by piece; what goes wrong on the way is told like what goes wrong at the beginning."""
        with self._asked_for(name):
            filesystem, root = self._connect()
            opened = filesystem.open(f"{root}/{_checked(name)}", "rb", block_size=PIECE_BYTES, cache_type="readahead")
        return io.BufferedReader(_Opened(opened, lambda: self._asked_for(name)), 1024 * 1024)

    def get(self, name: str) -> bytes:
        """Read all at once."""
        with self._asked_for(name):
            filesystem, root = self._connect()
            content: bytes = filesystem.cat_file(f"{root}/{_checked(name)}")
        return content

    def exists(self, name: str) -> bool:
        """Whether there is such a name."""
        try:
            with self._asked_for(name):
                filesystem, root = self._connect()
                filesystem.info(f"{root}/{_checked(name)}")
        except NotFound:
            return False
        return True

    def names(self, folder: str = "", *, older_than: timedelta = timedelta()) -> Iterator[str]:
        """Every name below a folder, or those that were stored so long ago."""
        with self._asked_for():
            filesystem, root = self._connect()
            found = filesystem.find(f"{root}/{folder}".rstrip("/"))
        before = datetime.now(UTC) - older_than
        for path in sorted(found):
            if not older_than or self._stored_at(filesystem, path) <= before:
                yield path[len(root) + 1 :]

    def _stored_at(self, filesystem: Any, path: str) -> datetime:  # noqa: ANN401 - as fsspec gives it
        try:
            with self._asked_for(path):
                at: datetime = filesystem.modified(path)
        except NotFound:
            # Removed meanwhile: whoever asks has nothing to do with it any more.
            return datetime.max.replace(tzinfo=UTC)
        return at if at.tzinfo else at.replace(tzinfo=UTC)

    def delete(self, name: str) -> None:
        """Remove what has this name, if it is there."""
        with suppress(NotFound), self._asked_for(name):
            filesystem, root = self._connect()
            filesystem.rm_file(f"{root}/{_checked(name)}")


def _pieces(source: Source) -> Iterator[bytes]:
    """Read to the end, in pieces of one size whatever the source gives at once."""
    piece = bytearray()
    while content := source.read(PIECE_BYTES - len(piece)):
        piece += content
        if len(piece) == PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


class _Opened(io.RawIOBase):
    """What fsspec opened, as a file whose errors are ours."""

    def __init__(self, opened: Any, asked_for: Callable[[], Any]) -> None:  # noqa: ANN401 - as fsspec gives it
        self._opened = opened
        self._asked_for = asked_for

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - io's own
        with self._asked_for():
            content = self._opened.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def _patience(protocol: str) -> dict[str, Any]:
    """How long the store is waited for, in the words of the protocol's library."""
    if protocol not in S3:
        return {}
    retries = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
    return {"config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": retries}}
