"""Keeps the proofs of plans that hold, so that a host's other processes, and those after them, need not make them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import platform
import tempfile
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from webapp import __version__
from webapp.catalog import ServedVersion
from webapp.serving.proof import Proof

# What computes on both sides of a proof.
LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy")
# Where what makes plans, proves them and makes up rows is written.
CODE = ("serving", "signature")
# Another one after each start of the machine: what its processor computes is no other machine's.
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Verdicts:
    """One file for each version: a code that only this installation can make, then the proof as JSON.

    What was written by other code, for other libraries, on another machine or by somebody else counts as absent.
    """

    def __init__(self, folder: Path, secret: bytes) -> None:
        """`folder` need not exist yet; `secret` makes the codes.

        The code that runs is read here, at the start of a process: later, a newer one might stand in its place.
        """
        self._folder = folder
        self._secret = secret
        self._here = [__version__, platform.python_version(), *map(metadata.version, LIBRARIES), _code()]

    def of(self, version: ServedVersion) -> Proof | None:
        """Give the proof that was kept of a version's plan, or None."""
        try:
            code, _, body = self._path(version).read_bytes().partition(b"\n")
            if not hmac.compare_digest(code, self._code(version, body)):
                return None
        except OSError:
            return None
        return Proof(**json.loads(body))

    def keep(self, version: ServedVersion, proof: Proof) -> None:
        """Keep a proof that holds. A reason against a plan may have been one of the moment, and is kept by nobody."""
        body = json.dumps(asdict(proof)).encode()
        # It only saves others some time: where it cannot be written, nothing is lost.
        with suppress(OSError):
            code = self._code(version, body)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(code + b"\n" + body)
                Path(name).replace(self._path(version))
            except OSError:
                Path(name).unlink()

    def forget(self, version: ServedVersion) -> None:
        """Let go of a proof whose plan was switched off: should it be allowed again, it is proven again."""
        with suppress(OSError):
            self._path(version).unlink(missing_ok=True)

    def _path(self, version: ServedVersion) -> Path:
        return self._folder / f"{version.model}-{version.number}"

    def _code(self, version: ServedVersion, body: bytes) -> bytes:
        facts = [*self._here, BOOT.read_text(encoding="ascii"), version.seal, version.reference]
        return hmac.digest(self._secret, json.dumps(facts).encode() + b"\n" + body, hashlib.sha256).hex().encode()


def _code() -> str:
    """Give the digest of the code that proofs speak of."""
    here, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(path for name in CODE for path in (here / name).rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
