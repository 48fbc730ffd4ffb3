"""Tests of parts on a full disk: nothing is left half done, nothing ends a process, and room is found by itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.mmap_dict import MmapedDict
from sqlalchemy.exc import IntegrityError

from tests import databases
from tests.small_disk import MIB, SmallDisk, mounted
from tests.test_predictions import record
from webapp import db, errors, metrics
from webapp.catalog import ServedVersion
from webapp.db import Database
from webapp.errors import NoRoom, Unavailable
from webapp.generation import Signal
from webapp.limits import MmapStorage
from webapp.predictions import spool
from webapp.predictions.spool import Spool
from webapp.serving.proof import Proof
from webapp.serving.verdicts import Verdicts


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    made = mounted(tmp_path / "disk")
    yield made
    made.close()


# --- Mapped files -------------------------------------------------------------------------------------------


def values_in(path: Path) -> dict[str, float]:
    """Give what a scrape would read."""
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path))}  # type: ignore[no-untyped-call]


def fill_up(counted: metrics._Reserved, names: list[str]) -> dict[str, float]:
    for number, name in enumerate(names):
        counted.write_value(name, float(number), 0.0)
    return dict(zip(names, map(float, range(len(names))), strict=True))


def test_counters_that_have_no_room_are_kept_in_memory_until_there_is_some(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LOOK_SECONDS", 0.0)
    path = disk.folder / "counter_1.db"
    counted = metrics._Reserved(str(path))
    counted.write_value("first", 7.0, 0.0)
    # More than the file is as long as at first.
    names = [f"{number}-{'n' * 200}" for number in range(1000)]
    with disk.full():
        expected = {"first": 7.0, **fill_up(counted, names)}
        assert values_in(path).items() < expected.items()
        assert counted.read_value(names[-1])[0] == 999.0
    counted.write_value("last", 1.0, 0.0)
    expected["last"] = 1.0
    assert values_in(path) == expected
    counted.close()
    # The next process in the slot goes on with it.
    following = metrics._Reserved(str(path))
    assert following.read_value(names[-1])[0] == 999.0
    following.close()


def test_a_process_that_begins_on_a_full_disk_counts_all_the_same(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LOOK_SECONDS", 0.0)
    path = disk.folder / "counter_1.db"
    with disk.full():
        counted = metrics._Reserved(str(path))
        counted.write_value("name", 1.0, 0.0)
    counted.write_value("name", 2.0, 0.0)
    assert values_in(path) == {"name": 2.0}
    counted.close()


def test_limits_are_counted_for_all_on_a_disk_that_is_full_by_now(disk: SmallDisk) -> None:
    storage = MmapStorage(f"mmap://{disk.folder / 'limits'}")
    assert storage.acquire_entry("known", 2, 60)
    with disk.full():
        assert [storage.acquire_entry("known", 2, 60) for _ in range(2)] == [True, False]
        assert all(storage.acquire_entry(f"new-{number}", 2, 60) for number in range(1000))


def take_new(storage: MmapStorage) -> None:
    for number in range(1000):
        storage.acquire_entry(f"new-{number}", 2, 60)


def test_limits_that_were_never_given_room_refuse_new_keys_and_count_the_others(disk: SmallDisk) -> None:
    storage = MmapStorage(f"mmap://{disk.folder / 'limits'}")
    with disk.full(MIB):
        assert storage.acquire_entry("known", 2, 60)
    with disk.full():
        assert [storage.acquire_entry("known", 2, 60) for _ in range(2)] == [True, False]
        with pytest.raises(NoRoom), errors.having_room():
            take_new(storage)
    assert all(storage.acquire_entry(f"new-{number}", 2, 60) for number in range(1000))


# --- The spool ----------------------------------------------------------------------------------------------


def test_lines_that_have_no_room_are_counted_and_leave_no_files_behind(disk: SmallDisk) -> None:
    dropped: list[int] = []
    made = Spool(disk.folder, max_bytes=2**30, refuse_when_full=False, on_drop=dropped.append)
    made.append([record(0)])
    with disk.full():
        # As many as the last page takes, one of them torn, and then none.
        for number in range(1, 101):
            made.append([record(number)])
        assert made.half_full
        assert len(spool.segments(disk.folder)) <= 2
    made.append([record(101)])
    made._measure()
    assert not made.half_full
    made.stop()
    found = [spool.decode(line) for path in spool.segments(disk.folder) for line, _ in spool.lines_from(path, 0)]
    assert len(found) + sum(dropped) == 102
    assert found[-1] == record(101)
    assert [path for path in disk.folder.iterdir() if path.suffix != spool.SUFFIX] == []


def code_of(made: Spool, number: int) -> str:
    """Append a record; give the code of the refusal, or nothing."""
    try:
        made.append([record(number)])
    except Unavailable as refusal:
        return refusal.code
    return ""


def test_where_nothing_may_be_lost_it_refuses_until_there_is_room(disk: SmallDisk) -> None:
    dropped: list[int] = []
    made = Spool(disk.folder, max_bytes=2**30, refuse_when_full=True, on_drop=dropped.append)
    made.append([record("first")])
    with disk.full():
        codes = [code_of(made, number) for number in range(100)]
        made._measure()
        assert made.full
    made._measure()
    assert not made.full
    made.append([record("last")])
    made.stop()
    lines = [line for path in spool.segments(disk.folder) for line, _ in spool.lines_from(path, 0)]
    assert (len(lines), dropped) == (codes.count("") + 2, [])
    assert set(codes[-50:]) == {"spool_full"}


# --- The database -------------------------------------------------------------------------------------------


@pytest.mark.sqlite("it is full in another way")
def test_a_database_that_cannot_grow_says_so_and_keeps_nothing_of_the_transaction(
    database: Database, tmp_path: Path
) -> None:
    @sa.event.listens_for(database.engine, "connect")
    def _limit(connection: object, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # type: ignore[attr-defined] # as many as it has

    with pytest.raises(NoRoom, match="disk_full: The disk of the database is full"), database.transaction() as session:
        session.execute(sa.text("CREATE TABLE large AS SELECT randomblob(1000000)"))
    assert databases.execute(tmp_path / "data", "SELECT name FROM sqlite_master WHERE name = 'large'") == []


@pytest.mark.postgresql("it says so itself")
def test_a_server_without_room_is_told_from_one_that_is_away(database: Database) -> None:
    full = "DO $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$"
    with pytest.raises(NoRoom, match="disk_full: The disk of the database is full"), database.transaction() as session:
        session.execute(sa.text(full))


def test_other_mistakes_are_what_they_were(database: Database) -> None:
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(sa.text("INSERT INTO generation (id, number) SELECT id, number FROM generation"))


@pytest.mark.sqlite("the file is what lies on the disk")
def test_a_schema_is_not_made_by_halves(disk: SmallDisk) -> None:
    with disk.full(16_384), pytest.raises(NoRoom):
        db.upgrade(f"sqlite:///{disk.folder}/new.db")
    db.upgrade(f"sqlite:///{disk.folder}/new.db")


# --- Others -------------------------------------------------------------------------------------------------


def test_what_is_committed_is_not_undone_because_nobody_can_be_woken(database: Database, tmp_path: Path) -> None:
    signal = Signal(tmp_path / "no such folder" / "generation")
    woken = Database(str(database.engine.url.render_as_string(hide_password=False)), announce=signal.send)
    with woken.transaction() as session:
        session.info["advanced"] = True
        session.execute(sa.text("UPDATE generation SET number = number + 1"))
    woken.engine.dispose()
    assert signal.sent() == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_in_words_and_nothing_else_is(number: int) -> None:
    with pytest.raises(NoRoom), errors.having_room():
        raise OSError(number, "no room")
    with pytest.raises(PermissionError), errors.having_room():
        raise PermissionError(errno.EACCES, "no")


def test_a_proof_that_cannot_be_kept_leaves_nothing(disk: SmallDisk) -> None:
    verdicts, version = Verdicts(disk.folder / "proofs", b"secret"), ServedVersion("churn", 1, "1", "", "", {})
    proof = Proof(**dict.fromkeys((each.name for each in fields(Proof)), ""))
    # Or the one page would be free that is there at least.
    (disk.folder / "others").write_bytes(b"taken")
    with disk.full():
        verdicts.keep(version, proof)
    assert list((disk.folder / "proofs").iterdir()) == []
    verdicts.keep(version, proof)
    assert verdicts.of(version) == proof
