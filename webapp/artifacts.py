"""Stored bytes, named by their SHA-256 and verified at every read; the only place that loads an estimator from them."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from webapp import names
from webapp.errors import NotFound, Unavailable

# What is being stored; a process that ends in the middle leaves one behind.
INCOMING = "incoming-"
CHUNK_BYTES = 1024 * 1024


class ArtifactStore:
    """A folder of read-only files: `ab/abcdef…`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when the first artifact is stored."""
        self._folder = folder

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def put(self, content: bytes | IO[bytes]) -> str:
        """Store `content`, or what a file still holds, and give its name.

        Whole or not at all, and on the disk when this returns. However large it is, only a piece of it is in memory.
        """
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=INCOMING, delete=False) as file:
            incoming = Path(file.name)
            try:
                digest = _copy(source, file)
                os.fchmod(file.fileno(), 0o400)
                os.fsync(file.fileno())
            except BaseException:
                incoming.unlink()
                raise
        path = self._path(digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # In place of one of the same name, too: should that have been damaged, it is whole again.
        incoming.rename(path)
        _sync_folder(path.parent)
        return digest

    def get(self, digest: str) -> bytes:
        """Read an artifact; raise `Unavailable` when its bytes are no longer those that were stored."""
        try:
            content = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound("artifact_missing", f"The artifact {digest[:12]} is not in the store.") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise Unavailable("artifact_damaged", f"The artifact {digest[:12]} is not what was stored.")
        return content


def _copy(source: IO[bytes], file: IO[bytes]) -> str:
    """Write everything and give its SHA-256."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        file.write(chunk)
    file.flush()
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
