"""Stored bytes, named by their SHA-256 and verified at every read; the only place that loads an estimator from them."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from webapp import names
from webapp.config import Settings
from webapp.errors import NotFound, Unavailable
from webapp.storage import Folder, Storage, made


class ArtifactStore:
    """Files named `ab/abcdef…`, in a folder; or elsewhere, with a copy here of what was stored or asked for here."""

    def __init__(self, storage: Storage | Path, cache: Folder | None = None) -> None:
        """Without a `cache`, the storage is a folder and what is in it needs no copy."""
        self.storage = Folder(storage) if isinstance(storage, Path) else storage
        if cache is None and not isinstance(self.storage, Folder):
            raise ValueError(cache)
        self._cache = cache

    @property
    def _here(self) -> Folder:
        here = self._cache or self.storage
        assert isinstance(here, Folder)
        return here

    def put(self, content: bytes | IO[bytes]) -> str:
        """Store `content`, or what a file still holds, and give its name.

        Whole or not at all, and on the disk when this returns. However large it is, only a piece of it is in memory.
        """
        source = _Digesting(io.BytesIO(content) if isinstance(content, bytes) else content)
        self._here.put_as(lambda: name_of(source.digest), source)
        if self._cache:
            with self._cache.open(name_of(source.digest)) as copy:
                self.storage.put(name_of(source.digest), copy)
        return source.digest

    def get(self, digest: str) -> bytes:
        """Read an artifact; raise `Unavailable` when its bytes are no longer those that were stored."""
        if self._cache is None:
            return self.stored(digest)
        with suppress(NotFound, Unavailable, OSError):
            return _verified(self._cache, digest)
        content = self.stored(digest)
        # A copy only makes the next start quicker: what came is right without it, also where the disk is full.
        with suppress(OSError):
            self._cache.put(name_of(digest), io.BytesIO(content))
        return content

    def get_small(self, digest: str, most: int) -> bytes | None:
        """As `get`, but None for one of more bytes than that; no more of it is read."""
        source = self._cache if self._cache and self._cache.exists(name_of(digest)) else self.storage
        with source.open(name_of(digest)) as file:
            content = file.read(most + 1)
        return None if len(content) > most else _same(content, digest)

    def stored(self, digest: str) -> bytes:
        """As `get`, from the storage itself and no copy of it."""
        return _verified(self.storage, digest)


def opened(settings: Settings) -> ArtifactStore:
    """Give the store that the settings name."""
    here = Folder(settings.artifacts_dir)
    if settings.artifact_store is None:
        return ArtifactStore(here)
    storage = made(settings.artifact_store)
    return ArtifactStore(storage, None if isinstance(storage, Folder) else here)


def name_of(digest: str) -> str:
    """Give the name under which a storage has an artifact."""
    return f"{digest[:2]}/{digest}"


def copy(source: ArtifactStore, target: Storage, digest: str) -> bool:
    """Store an artifact in another storage, too; tells whether it was missing or damaged there."""
    with suppress(NotFound):
        if hashlib.sha256(target.get(name_of(digest))).hexdigest() == digest:
            return False
    target.put(name_of(digest), io.BytesIO(source.get(digest)))
    return True


def _verified(storage: Storage, digest: str) -> bytes:
    try:
        content = storage.get(name_of(digest))
    except NotFound:
        raise NotFound("artifact_missing", f"The artifact {digest[:12]} is not in the store.") from None
    return _same(content, digest)


def _same(content: bytes, digest: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise Unavailable("artifact_damaged", f"The artifact {digest[:12]} is not what was stored.")
    return content


class _Digesting:
    """A source that knows the SHA-256 of what was read from it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        piece = self._source.read(size)
        self._sha256.update(piece)
        return piece


def seal(  # noqa: PLR0913 - everything that a version must not lose
    secret: bytes,
    model: str,
    number: int,
    digest: str,
    signature: Mapping[str, Any],
    *,
    golden: str | None = None,
    report_sha256: str | None = None,
) -> str:
    """Bind a version to its artifact, signature, golden rows and report: a changed row is noticed like a changed file.

    Versions from before golden rows were kept have neither them nor a digest of the report.
    """
    proven = [golden, report_sha256] if golden or report_sha256 else []
    text = json.dumps([model, number, digest, signature, *proven], sort_keys=True)
    return hmac.digest(secret, text.encode(), hashlib.sha256).hex()


def load(content: bytes) -> Any:  # noqa: ANN401 - an estimator of any kind
    """Build the estimator from a canonical `.skops` file; only names of the server's own table may stand in it."""
    # Here, because it imports all of scikit-learn: commands that load nothing start in a fraction of the time.
    import skops.io.exceptions  # noqa: PLC0415

    try:
        return skops.io.loads(content, trusted=sorted(names.SKOPS))
    except skops.io.exceptions.UntrustedTypesFoundException as error:
        raise Unavailable("artifact_not_loadable", f"The artifact names what is not served: {error}") from None
