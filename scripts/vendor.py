"""Keeps the front-end files of others that stand in this repository as they were published.

`check` compares the tree with static/vendor/vendor.toml. `update` fetches what the manifest names, as published, with
`npm pack`, and writes the hashes. For a new version, change `version` and `here` in the manifest and the addresses in
templates/, run `update`, and remove the old folder.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
MANIFEST = Path("static/vendor/vendor.toml")
# Nothing may stand here that the manifest does not name.
FOLDERS = (Path("static/vendor"), Path("tests/vendor"))
LICENCE = "LICENSE"
HEADER = "# Front-end files of others, as published. `scripts/vendor.py` checks them and fetches them anew.\n"


class Entry(NamedTuple):
    """One file: the npm package and version that it is from, its path in there and here, its hash and licence."""

    package: str
    version: str
    inside: str
    here: str
    sha256: str
    licence: str

    def __str__(self) -> str:
        """Give the entry as the manifest holds it."""
        return "\n[[file]]\n" + "".join(f'{name} = "{value}"\n' for name, value in self._asdict().items())


def entries(root: Path) -> list[Entry]:
    """Read the manifest."""
    return [Entry(**each) for each in tomllib.loads((root / MANIFEST).read_text())["file"]]


def sha256(content: bytes) -> str:
    """Give the hash that the manifest holds of a file."""
    return hashlib.sha256(content).hexdigest()


def problems(root: Path) -> list[str]:
    """Tell what the tree and its manifest do not agree about."""
    listed = entries(root)
    found = []
    for each in listed:
        path = root / each.here
        if not path.is_file():
            found.append(f"{each.here}: is missing")
        elif sha256(path.read_bytes()) != each.sha256:
            found.append(f"{each.here}: is not the file that {each.package} {each.version} published")
    names = {each.here for each in listed}
    folders = sorted({str(Path(name).parent) for name in names})
    found += [f"{folder}: has no {LICENCE} in the manifest" for folder in folders if f"{folder}/{LICENCE}" not in names]
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*")) if not path.is_dir()]
    known = {root / name for name in (*names, str(MANIFEST))}
    return found + [f"{path.relative_to(root)}: is not in the manifest" for path in files if path not in known]


def published(package: str, version: str) -> dict[str, bytes]:
    """Fetch a package and give its files by their paths in it."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("`update` needs npm; `check` does not.")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", folder, f"{package}@{version}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the manifest is ours
        (archive,) = Path(folder).iterdir()
        with tarfile.open(archive) as packed:
            members = [(member.name.partition("/")[2], packed.extractfile(member)) for member in packed]
            return {name: file.read() for name, file in members if file}


def update(root: Path) -> None:
    """Fetch every file of the manifest, put it in its place, and write down its hash."""
    listed = entries(root)
    packages = {(each.package, each.version) for each in listed}
    files = {each: published(*each) for each in sorted(packages)}
    fresh = []
    for each in listed:
        content = files[each.package, each.version][each.inside]
        path = root / each.here
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        fresh.append(each._replace(sha256=sha256(content)))
    (root / MANIFEST).write_text(HEADER + "".join(map(str, fresh)))


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Check or update; give the exit code."""
    if arguments not in (["check"], ["update"]):
        print("usage: scripts/vendor.py check|update")
        return 2
    if arguments == ["update"]:
        update(root)
    found = problems(root)
    print("\n".join([*found, f"{len(entries(root))} vendored files, {len(found)} problems."]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
