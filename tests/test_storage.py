"""Tests of where files are kept: a folder and S3 over real HTTP behave alike, and faults are told in words."""

from __future__ import annotations

import hashlib
import io
import itertools
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests import object_store
from tests.object_store import BUCKET, KEY, SECRET
from webapp import storage
from webapp.errors import NotFound, Refusal, Unavailable
from webapp.storage import PIECE_BYTES, Folder, Storage

HOUR = timedelta(hours=1)
# Two whole pieces and a bit: what is stored in parts.
LARGE = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"the end"


@pytest.fixture(scope="module")
def server() -> Iterator[object_store.Server]:
    """S3 of this machine."""
    made = object_store.Server()
    yield made
    made.end()


@pytest.fixture
def remote(server: object_store.Server, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty place in S3."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.clear()
    return storage.made(f"s3://{BUCKET}/some/where")


@pytest.fixture(params=["folder", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty place of each kind."""
    if request.param == "folder":
        return storage.made(tmp_path / "store")
    if request.param == "memory":
        return storage.made(f"memory://{tmp_path}")
    made: Storage = request.getfixturevalue("remote")
    return made


def put(place: Storage, name: str, content: bytes = b"content") -> None:
    place.put(name, io.BytesIO(content))


class Broken(io.BytesIO):
    """A source that ends in the middle with an error of its own."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        if not content:
            raise ConnectionResetError
        return content


# --- What every kind does -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"a few bytes", LARGE], ids=["empty", "small", "large"])
def test_what_was_stored_is_read_whole_and_piece_by_piece(place: Storage, content: bytes) -> None:
    put(place, "batches/7/0001", content)
    assert place.get("batches/7/0001") == content
    with place.open("batches/7/0001") as opened:
        pieces = list(iter(lambda: opened.read(100_000), b""))
    assert b"".join(pieces) == content


def test_lines_are_read_one_by_one(place: Storage) -> None:
    put(place, "lines", b"one\ntwo\nthree")
    with place.open("lines") as opened:
        assert list(opened) == [b"one\n", b"two\n", b"three"]


def test_to_store_again_replaces(place: Storage) -> None:
    put(place, "results/1", b"first and longer")
    put(place, "results/1", b"second")
    assert place.get("results/1") == b"second"


def test_names_are_those_below_a_folder(place: Storage) -> None:
    assert list(place.names()) == list(place.names("nothing")) == []
    for name in ("ab/abcd", "batches/7/0002", "batches/7/0001", "batches/70/0001"):
        put(place, name)
    assert list(place.names("batches/7")) == ["batches/7/0001", "batches/7/0002"]
    assert list(place.names()) == ["ab/abcd", "batches/7/0001", "batches/7/0002", "batches/70/0001"]
    assert list(place.names(older_than=HOUR)) == []


def test_what_is_removed_is_gone_and_can_be_removed_again(place: Storage) -> None:
    put(place, "batches/7/0001")
    put(place, "batches/7/0002")
    assert place.exists("batches/7/0001")
    for _ in range(2):
        place.delete("batches/7/0001")
    assert not place.exists("batches/7/0001")
    assert list(place.names()) == ["batches/7/0002"]


def test_what_is_not_there_is_named(place: Storage) -> None:
    for ask in (place.get, place.open):
        with pytest.raises(NotFound, match="batches/7 is not in the store"):
            ask("batches/7")


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/passwd", "", "a//b"])
def test_no_name_leads_elsewhere(place: Storage, name: str) -> None:
    for ask in (place.get, place.open, place.exists, place.delete):
        with pytest.raises((ValueError, Refusal)):
            ask(name)
    with pytest.raises((ValueError, Refusal)):
        put(place, name)


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
@pytest.mark.parametrize("content", [b"half", LARGE], ids=["small", "large"])
def test_a_source_that_breaks_off_leaves_nothing_and_tells_its_own_error(place: Storage, content: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        place.put("half", Broken(content))
    assert list(place.names()) == []
    put(place, "half", b"whole")
    with pytest.raises(ConnectionResetError):
        place.put("half", Broken(content))
    assert place.get("half") == b"whole"


# --- A folder -----------------------------------------------------------------------------------------------


def test_files_are_read_only_in_a_private_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "store")
    put(folder, "batches/7/0001")
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("store", "store/batches/7/0001")]
    assert modes == [0o700, 0o400]
    folder.delete("batches/7/0001")
    assert list((tmp_path / "store").iterdir()) == []


def test_processes_that_store_and_remove_beside_one_another_lose_nothing(tmp_path: Path) -> None:
    """The last file of a folder goes, and the folder with it, at the moment when another file comes."""
    program = """
import io, sys
from pathlib import Path
from webapp.storage import Folder

folder, own = Folder(Path(sys.argv[1])), sys.argv[2]
for number in range(200):
    folder.put(f"batches/7/{own}", io.BytesIO(own.encode()))
    assert folder.get(f"batches/7/{own}") == own.encode()
    folder.delete(f"batches/7/{own}")
"""
    processes = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "store", own]) for own in ("a", "b")]
    assert [process.wait() for process in processes] == [0, 0]
    assert list((tmp_path / "store").iterdir()) == []


# --- Elsewhere ----------------------------------------------------------------------------------------------


def test_nothing_is_imported_or_reached_before_it_is_asked_for() -> None:
    program = """
import sys
from webapp import storage
storage.made("s3://bucket/where?endpoint_url=http://127.0.0.1:1")
assert not {"fsspec", "s3fs"} & sys.modules.keys(), "imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_options_can_stand_in_the_url_and_are_never_told(
    server: object_store.Server, remote: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in server.environment:
        monkeypatch.delenv(name)
    url = f"s3://{BUCKET}/other?endpoint_url={server.environment['AWS_ENDPOINT_URL']}&key={KEY}&secret={SECRET}"
    place = storage.made(url.replace("+", "%2B"))
    put(place, "one")
    assert server.names() == ["other/one"]
    assert place.place == f"s3://{BUCKET}/other"


def test_a_password_in_the_url_is_never_told() -> None:
    assert storage.made("sftp://ann:hush@files.example.com/where/").place == "sftp://files.example.com/where"


def test_what_another_machine_stores_is_there_at_once(remote: Storage) -> None:
    other = storage.made(f"s3://{BUCKET}/some/where")
    assert list(remote.names("ab")) == []
    put(other, "ab/abcd")
    assert list(remote.names("ab")) == ["ab/abcd"]
    other.delete("ab/abcd")
    assert not remote.exists("ab/abcd")


def faults(place: Storage) -> Iterator[str]:
    """Ask for everything that can be asked for; give what was said each time."""
    asked: tuple[Callable[[], object], ...] = (
        lambda: place.get("one"),
        lambda: place.open("one"),
        lambda: place.exists("one"),
        lambda: list(place.names()),
        lambda: place.delete("one"),
        lambda: put(place, "two"),
        lambda: put(place, "three", LARGE),
    )
    for ask in asked:
        with pytest.raises(Unavailable) as caught:
            ask()
        assert caught.value.code in storage.AWAY
        yield str(caught.value)


def test_a_store_that_refuses_connections_is_told_in_words(server: object_store.Server, remote: Storage) -> None:
    put(remote, "one")
    with server.way.closed():
        said = list(faults(remote))
    assert all(f"s3://{BUCKET}/some/where cannot be reached" in each for each in said)
    assert not any(word in each for each, word in itertools.product(said, (KEY, SECRET, "Traceback")))
    assert remote.get("one") == b"content"
    assert remote.exists("two") is remote.exists("three") is False


def test_a_store_that_hangs_is_given_up(server: object_store.Server, remote: Storage) -> None:
    put(remote, "one")
    started = time.monotonic()
    with server.way.hanging(), pytest.raises(Unavailable, match="does not answer"):
        remote.get("one")
    print(f"given up after {time.monotonic() - started:.1f} s")
    assert remote.get("one") == b"content"


def test_a_store_that_goes_away_while_it_is_read_is_told_there(server: object_store.Server, remote: Storage) -> None:
    put(remote, "large", LARGE)
    with remote.open("large") as opened:
        assert opened.read(5) == LARGE[:5]
        with server.way.closed(), pytest.raises(Unavailable, match="cannot be reached"):
            opened.read()


def test_a_store_that_goes_away_in_the_middle_keeps_nothing(server: object_store.Server, remote: Storage) -> None:
    class Slow(io.BytesIO):
        """A source during whose last piece the store goes away."""

        way = server.way.closed()

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == 2 * PIECE_BYTES:
                self.way.__enter__()
            return super().read(size)

    source = Slow(LARGE)
    with pytest.raises(Unavailable):
        remote.put("large", source)
    source.way.__exit__(None, None, None)
    assert list(remote.names()) == []


def test_a_bucket_that_is_not_there_is_told(remote: Storage) -> None:
    place = storage.made("s3://no-such-bucket/where")
    for ask in (lambda: put(place, "one"), lambda: put(place, "one", LARGE), lambda: list(place.names())):
        with pytest.raises(Unavailable, match="There is no store s3://no-such-bucket/where"):
            ask()


def test_large_files_pass_in_pieces(remote: Storage, tmp_path: Path) -> None:
    """Twenty pieces are stored and read by a process that may not hold more than a few of them."""
    program = """
import hashlib, re, sys
from webapp import storage

place = storage.made(sys.argv[1])
list(place.names())

def most_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = most_kib()
with open(sys.argv[2], "rb") as source:
    place.put("large", source)
digest = hashlib.sha256()
with place.open("large") as opened:
    while piece := opened.read(100_000):
        digest.update(piece)
print(digest.hexdigest(), (most_kib() - before) // 1024)
"""
    file = tmp_path / "large"
    file.write_bytes(LARGE * 10)
    url = f"s3://{BUCKET}/some/where"
    done = subprocess.run([sys.executable, "-c", program, url, file], check=True, stdout=subprocess.PIPE, text=True)
    digest, grown = done.stdout.split()
    assert digest == hashlib.sha256(LARGE * 10).hexdigest()
    print(f"{file.stat().st_size // 2**20} MiB, the process grew by {grown} MiB")
    assert int(grown) < 64
