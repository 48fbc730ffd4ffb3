"""Checks that every package that Modelport runs on has a licence that can be shipped with it."""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata
from pathlib import Path

PERMISSIVE = re.compile(r"MIT|BSD|Apache|Python Software Foundation|PSF|ISC|MPL|0BSD|CC0|Zlib")
LOCK = Path(__file__).parent.parent / "requirements" / "run.txt"
# Packages that name their licence nowhere but in their LICENSE file, which was read.
READ = {"skops": "MIT"}
# The LGPL lets anybody use a library as it is and replace it, which an installed Python package is open to.
LIBRARIES = {"psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}


def licence(package: str) -> str:
    """Give what an installed package says of its licence."""
    about = metadata(package)
    classifiers = [each for each in about.get_all("Classifier") or [] if each.startswith("License ::")]
    said = [value for name in ("License-Expression", "License") for value in about.get_all(name) or []]
    return " ".join([*said, *classifiers, READ.get(package, "")])


def _may_be_shipped(package: str) -> bool:
    said = licence(package)
    return bool(PERMISSIVE.search(said)) or LIBRARIES.get(package) == said.strip()


def main() -> int:
    """Name the packages whose licence is another; give the exit code."""
    shipped = [line.split("==")[0] for line in LOCK.read_text().splitlines() if re.match(r"[a-z0-9]", line)]
    strange = [package for package in shipped if not _may_be_shipped(package)]
    for package in strange:
        print(f"{package}: {licence(package).strip() or 'no licence named'}")
    print(f"{len(shipped)} shipped packages, {len(strange)} with a licence that has not been accepted.")
    return 1 if strange else 0


if __name__ == "__main__":
    sys.exit(main())
