"""Tests of the prediction log: whatever was appended is in SQL exactly once, whoever dies on the way."""

from __future__ import annotations

import fcntl
import itertools
import json
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import settings as rules
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tests import databases
from tests.conftest import eventually
from webapp import log_writer, metrics
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import NotFound, Unavailable
from webapp.log_writer import PIECE_RECORDS, LogWriter
from webapp.predictions import log, spool
from webapp.predictions.log import Prediction, SpoolPosition
from webapp.predictions.spool import Origin, Spool
from webapp.serving.loaded import LoadedVersion
from webapp.serving.predictor import Predictor, assemble
from webapp.signature.check import Checker
from webapp.signature.learn import learn

HOST = "this-host"
ROOMY = 1024**3
AT = 1_772_366_400.25  # 2026-03-01T12:00:00.25Z

# Appends records one after the other, says each one's id when its append has returned, and never ends by itself.
APPENDS_FOR_EVER = """
import itertools, json, sys
from pathlib import Path
from webapp.predictions.spool import Spool

folder, name, template = sys.argv[1:]
spool = Spool(Path(folder), max_bytes=2**30, refuse_when_full=False, on_drop=print)
spool.start()
for number in itertools.count():
    record = {**json.loads(template), "id": f"{name}-{number}"}
    spool.append([record])
    print(record["id"], flush=True)
"""

# May write files of some bytes only, as on a disk that fills up in the middle of a line.
APPENDS_WITH_LITTLE_ROOM = """
import json, resource, sys
from pathlib import Path
from webapp.predictions.spool import Spool

folder, template, most = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
dropped = []
spool = Spool(Path(folder), max_bytes=2**30, refuse_when_full=False, on_drop=dropped.append)
spool.start()
for request in range(20):
    spool.append([{**json.loads(template), "id": f"{request}-{row}"} for row in range(3)])
spool.stop()
print(sum(dropped))
"""


def truth_of(prediction_id: str, value: object, **more: Any) -> dict[str, Any]:
    """Give what turned out to be true for a prediction, as a row of the database."""
    moments = dict.fromkeys(("at", "observed_at", "told_at"), datetime.now(UTC))
    whose = {"model": "credit", "version": 1, "source": "api"}
    return {"prediction_id": prediction_id, "value": value, **whose, **moments, **more}


def record(number: object, **more: object) -> dict[str, Any]:
    return {
        "id": f"r-{number}",
        "at": AT,
        "model": "churn",
        "version": 3,
        "model_version": "spring",
        "key_id": "key1",
        "request_id": "r",
        "source": "api",
        "client_id": None,
        "instance": {"age": 35.0, "colour": None},
        "prediction": "yes",
        "probability": 0.75,
        "probabilities": {"no": 0.25, "yes": 0.75},
        "warnings": [],
        "latency_seconds": 0.001,
        "cached": False,
        **more,
    }


@pytest.fixture
def folder(settings: Settings) -> Path:
    return settings.spool_dir


@pytest.fixture
def writer(database: Database, folder: Path) -> LogWriter:
    return LogWriter(database, folder, HOST)


@pytest.fixture
def dropped() -> list[int]:
    """How many records each loss was said to be."""
    return []


@pytest.fixture
def new_spool(folder: Path, dropped: list[int]) -> Iterator[Callable[..., Spool]]:
    """Make spools; they are stopped after the test. Not started: when they measure, the test says."""
    folder.mkdir()
    made: list[Spool] = []

    def make(max_bytes: int = ROOMY, *, refuse: bool = False) -> Spool:
        made.append(Spool(folder, max_bytes=max_bytes, refuse_when_full=refuse, on_drop=dropped.append))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def ids(database: Database) -> list[str]:
    """The id of every logged prediction, in the order of insertion."""
    with database.reading() as session:
        return list(session.scalars(sa.text(f"SELECT id FROM predictions ORDER BY {databases.INSERTED}")))


def places(database: Database) -> dict[str, int]:
    with database.reading() as session:
        return log.positions(session, HOST)


# --- Lines ------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=8,
)


@rules(deadline=None)
@given(st.dictionaries(TEXT, JSON, max_size=4))
@example({"client_id": "two\nlines\r\n\u2028\u2029\x85\x0c and “ünïcödé” 🙂"})
def test_a_record_comes_back_from_its_one_line_as_it_was(made: dict[str, Any]) -> None:
    line = spool.encode(made)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert spool.decode(line[:-1]) == made


@rules(deadline=None)
@given(st.dictionaries(TEXT, JSON, min_size=1, max_size=3), st.data())
def test_a_line_with_one_wrong_bit_is_no_record(made: dict[str, Any], data: st.DataObject) -> None:
    line = bytearray(spool.encode(made)[:-1])
    # Of the checksum, the case of its letters does not matter: only the text is damaged here.
    position = data.draw(st.integers(9, len(line) - 1))
    line[position] ^= 1 << data.draw(st.integers(0, 7))
    assert spool.decode(bytes(line)) is None


@rules(deadline=None)
@given(st.binary(max_size=60))
def test_reading_any_bytes_as_a_line_is_no_error(line: bytes) -> None:
    assert spool.decode(line) is None


def by_python(made: dict[str, Any]) -> bytes:
    """A line as earlier releases wrote it."""
    text = json.dumps(made, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %b" % (zlib.crc32(text), text)


USUAL = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=8,
)


@rules(deadline=None)
@given(st.dictionaries(TEXT, USUAL, max_size=4))
@example({"a": [-0.0, 1e16, 1e-7, 5e-324, 1.7976931348623157e308, 2**63, 1e22, 123456789.123456789]})
def test_a_line_of_an_earlier_release_says_the_same_to_the_last_bit(made: dict[str, Any]) -> None:
    assert repr(spool.decode(by_python(made))) == repr(spool.decode(spool.encode(made)[:-1])) == repr(made)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**40])
def test_an_integer_of_many_digits_stays_one(number: int) -> None:
    made = record(0, prediction=number)
    assert repr(spool.decode(spool.encode(made)[:-1])) == repr(made)


@pytest.mark.parametrize(
    "wrong", [{"client_id": "\ud83d"}, {"prediction": object()}, {"prediction": [2**64, float("nan")]}]
)
def test_what_json_cannot_say_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        spool.encode(record(0, **wrong))


# --- From spool to SQL ------------------------------------------------------------------------------------


def test_every_appended_record_is_in_the_log_exactly_once(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    appending = new_spool()
    appending.append([record(0), record(1)])
    assert writer.drain() == 2
    appending.append([record(2)])
    assert writer.drain() == 1
    assert writer.drain() == 0
    assert ids(database) == ["r-0", "r-1", "r-2"]


def test_a_logged_prediction_has_everything_that_was_answered(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    frame = pd.DataFrame({"age": [20.0, 30.0, 40.0, 50.0]})
    model = LogisticRegression().fit(frame, ["no", "no", "yes", "yes"])
    learned = learn(model, assemble, reference=frame, declared=()).signature
    version = ServedVersion("churn", 3, "spring", "", "", {})
    loaded = LoadedVersion(version, learned, Checker(learned), Predictor(model, learned), 0.0)
    [answer] = loaded.predict([{"age": 99}], [""], ["r-0"])
    origin = Origin(AT, "key1", "r", "test", 0.002)
    new_spool().append([spool.record(origin, loaded, answer, "order 7\nline 2 “ü”")])
    writer.drain()
    with database.reading() as session:
        found = log.describe(log.get_prediction(session, "r-0", "key1"))
        assert session.scalars(sa.select(Prediction.version)).all() == [3]
    assert found == {
        "prediction_id": "r-0",
        "id": "order 7\nline 2 “ü”",
        "at": "2026-03-01T12:00:00.250000+00:00",
        "model": "churn",
        "model_version": "spring",
        "instance": {"age": 99.0},
        "prediction": "yes",
        "probability": answer.document["probability"],
        "probabilities": answer.document["probabilities"],
        "warnings": list(answer.document["warnings"]),
        "source": "test",
        "latency_seconds": 0.002,
        "timings": None,
        "trace_id": None,
        "cached": False,
    }


def test_the_log_tells_which_answers_came_from_the_cache(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    older = {name: value for name, value in record(2).items() if name != "cached"}
    new_spool().append([record(0, cached=True), record(1), older])
    writer.drain()
    with database.reading() as session:
        found = [log.describe(log.get_prediction(session, f"r-{number}", "key1"))["cached"] for number in range(3)]
    assert found == [True, False, False]


def test_a_prediction_is_shown_to_its_own_key_only(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    new_spool().append([record(0)])
    writer.drain()
    with database.reading() as session:
        assert log.get_prediction(session, "r-0", "key1").id == "r-0"
        for prediction_id, key in (("r-0", "key2"), ("r-1", "key1")):
            with pytest.raises(NotFound, match="unknown_prediction"):
                log.get_prediction(session, prediction_id, key)


def test_what_clients_write_into_strings_survives(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    text = 'a\nb\r\nc\u2028d\x85e\tf\\n “quoted” "g" 🙂 \x7f'
    new_spool().append([record(0, client_id=text, instance={text: text}, prediction=text)])
    writer.drain()
    with database.reading() as session:
        found = log.get_prediction(session, "r-0", "key1")
        assert (found.client_id, found.instance, found.prediction) == (text, {text: text}, text)


def test_threads_that_append_while_the_log_writer_drains_lose_nothing(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    appending = new_spool()

    def append(thread: int) -> None:
        for number in range(50):
            appending.append([record(f"{thread}-{number}-{row}") for row in range(2)])

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(append, thread) for thread in range(4)]
        while not all(each.done() for each in running):
            writer.drain()
    writer.drain()
    expected = {f"r-{thread}-{number}-{row}" for thread in range(4) for number in range(50) for row in range(2)}
    found = ids(database)
    assert len(found) == len(expected) == 400
    assert set(found) == expected


def test_a_segment_with_more_records_than_one_transaction_takes_is_inserted_whole(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    count = 2 * PIECE_RECORDS + 1
    appending = new_spool()
    appending.append([record(number) for number in range(count)])
    appending.stop()
    assert writer.drain() == count
    assert ids(database) == [f"r-{number}" for number in range(count)]


def test_a_segment_that_has_grown_large_is_followed_by_another(
    new_spool: Callable[..., Spool], folder: Path, writer: LogWriter, database: Database
) -> None:
    appending = new_spool()
    appending.append([record("large", client_id="x" * spool.SEGMENT_BYTES)])
    appending.append([record("next")])
    large, following = spool.segments(folder)
    assert spool.is_complete(large)
    assert not spool.is_complete(following)
    writer.drain()
    assert ids(database) == ["r-large", "r-next"]
    assert spool.segments(folder) == [following]


def test_the_log_writer_inserts_what_was_appended_before_it_was_stopped(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    appending = new_spool()
    running = threading.Thread(target=writer.run)
    running.start()
    appending.append([record(0)])
    appending.stop()
    writer.stop()
    running.join()
    assert ids(database) == ["r-0"]


@contextmanager
def away(database: Database) -> Iterator[None]:
    """Have no statement on the log succeed."""
    rename = "ALTER TABLE {} RENAME TO {}"
    with database.transaction() as session:
        session.execute(sa.text(rename.format("spool_positions", "hidden")))
    yield
    with database.transaction() as session:
        session.execute(sa.text(rename.format("hidden", "spool_positions")))


def test_a_stop_waits_for_a_database_that_is_away(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    appending = new_spool()
    appending.append([record(0)])
    appending.stop()
    writer.stop()
    running = threading.Thread(target=writer.run)
    with away(database):
        running.start()
        eventually(lambda: "log.unavailable" in caplog.messages)
    running.join()
    assert ids(database) == ["r-0"]


def test_a_stop_does_not_wait_for_ever(
    new_spool: Callable[..., Spool],
    folder: Path,
    writer: LogWriter,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_writer, "LAST_SECONDS", 0.0)
    appending = new_spool()
    appending.append([record(0)])
    appending.stop()
    writer.stop()
    with away(database):
        writer.run()
    # For the next start.
    assert len(spool.segments(folder)) == 1


# --- Segments ---------------------------------------------------------------------------------------------


def test_a_segment_is_kept_as_long_as_its_process_may_append(
    new_spool: Callable[..., Spool], folder: Path, writer: LogWriter, database: Database
) -> None:
    appending = new_spool()
    appending.append([record(0)])
    [segment] = spool.segments(folder)
    for _ in range(2):
        writer.drain()
        assert spool.segments(folder) == [segment]
    assert places(database) == {segment.name: segment.stat().st_size}

    appending.stop()
    writer.drain()
    assert list(folder.iterdir()) == []
    writer.drain()
    assert places(database) == {}
    assert ids(database) == ["r-0"]


def test_a_segment_that_nobody_appended_to_is_removed(
    new_spool: Callable[..., Spool], folder: Path, writer: LogWriter
) -> None:
    appending = new_spool()
    appending.start()
    assert len(spool.segments(folder)) == 1
    appending.stop()
    assert writer.drain() == 0
    assert list(folder.iterdir()) == []


def test_segments_are_drained_the_oldest_first(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    for number in range(3):
        appending = new_spool()
        appending.append([record(number)])
        appending.stop()
    writer.drain()
    assert ids(database) == ["r-0", "r-1", "r-2"]


def test_two_segments_of_two_spools_are_both_inserted(
    new_spool: Callable[..., Spool], folder: Path, writer: LogWriter, database: Database
) -> None:
    first, second = new_spool(), new_spool()
    first.append([record("a0")])
    second.append([record("b0")])
    writer.drain()
    second.append([record("b1")])
    first.append([record("a1")])
    first.stop()
    writer.drain()
    assert sorted(ids(database)) == ["r-a0", "r-a1", "r-b0", "r-b1"]
    assert len(spool.segments(folder)) == 1


def test_hosts_with_one_database_keep_their_places_apart(
    new_spool: Callable[..., Spool], folder: Path, writer: LogWriter, database: Database, tmp_path: Path
) -> None:
    appending = new_spool()
    appending.append([record(0)])
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    writer.drain()
    assert LogWriter(database, elsewhere, "another-host").drain() == 1
    LogWriter(database, elsewhere, "another-host").drain()
    assert len(places(database)) == 1
    assert ids(database) == ["r-0"]


def passed_over(reason: str) -> float:
    """Give how many lines were counted so."""
    return metrics.REGISTRY.get_sample_value("modelport_log_passed_over_total", {"reason": reason}) or 0.0


def segment_of(folder: Path, content: bytes, number: int = 0) -> Path:
    """Write a complete segment by hand."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:020d}-1-0{spool.SUFFIX}"
    path.write_bytes(content)
    return path


def test_a_torn_last_line_is_passed_over(folder: Path, writer: LogWriter, database: Database) -> None:
    torn = spool.encode(record(2))[:-20]
    segment = segment_of(folder, spool.encode(record(0)) + spool.encode(record(1)) + torn)
    before = passed_over("torn")
    assert writer.drain() == 2
    assert passed_over("torn") == before + 1
    assert ids(database) == ["r-0", "r-1"]
    assert not segment.exists()


def test_a_last_line_without_its_end_is_waited_for_while_its_process_lives(
    folder: Path, writer: LogWriter, database: Database
) -> None:
    whole = spool.encode(record(1))
    segment = segment_of(folder, spool.encode(record(0)) + whole[:-20])
    with segment.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert writer.drain() == 1
        file.write(whole[-20:])
        file.flush()
        assert writer.drain() == 1
    assert ids(database) == ["r-0", "r-1"]


@pytest.mark.parametrize(
    "damaged",
    [
        b"nothing like a line\n",
        b"\n",
        b"\xff\x00\xfe\n",
        spool.encode(record("x"))[:-30] + b"\n",
        spool.encode(record("x")).replace(b"35.0", b"36.0"),
        b"00000000" + spool.encode(record("x"))[8:],
    ],
)
def test_a_damaged_line_is_passed_over_and_the_rest_is_inserted(
    folder: Path, writer: LogWriter, database: Database, damaged: bytes
) -> None:
    segment_of(folder, spool.encode(record(0)) + damaged + spool.encode(record(1)) + spool.encode(record(2)))
    before = passed_over("damaged")
    assert writer.drain() == 3
    assert passed_over("damaged") == before + 1
    assert ids(database) == ["r-0", "r-1", "r-2"]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "refused",
    [{"version": None}, {"model": "\ud800"}, {"at": "yesterday"}],
    ids=["a value is missing", "no text", "no moment"],
)
def test_what_the_database_will_never_take_is_set_aside_and_the_rest_is_inserted(
    folder: Path, writer: LogWriter, database: Database, refused: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    text = json.dumps({**record("x"), **refused}).encode()
    line = b"%08x %b\n" % (zlib.crc32(b" " + text), b" " + text)
    lines = [spool.encode(record(number)) for number in range(7)]
    segment_of(folder, b"".join([*lines[:3], line, *lines[3:]]))
    before = passed_over("refused")
    writer.drain()
    assert passed_over("refused") == before + 1
    assert ids(database) == [f"r-{number}" for number in range(7)]
    assert "log.refused_line" in caplog.messages
    (kept,) = folder.iterdir()
    assert kept.read_bytes() == line
    assert kept.stat().st_mode & 0o777 == 0o600
    assert writer.drain() == 0


def test_a_segment_that_vanishes_is_no_error(folder: Path, writer: LogWriter) -> None:
    segment = segment_of(folder, spool.encode(record(0)))
    segment.unlink()
    assert spool.is_complete(segment)
    assert list(spool.lines_from(segment, 0)) == []
    assert writer.drain() == 0


# --- Exactly once -----------------------------------------------------------------------------------------


def test_a_crash_after_the_insertion_and_before_the_segment_was_deleted_duplicates_nothing(
    folder: Path, writer: LogWriter, database: Database
) -> None:
    content = b"".join(spool.encode(record(number)) for number in range(5))
    segment = segment_of(folder, content)
    assert writer.drain() == 5
    # As if the process had ended right before the file was removed: its place is in the database.
    segment.write_bytes(content)
    assert LogWriter(database, folder, HOST).drain() == 0
    assert not segment.exists()
    assert ids(database) == [f"r-{number}" for number in range(5)]


def test_a_segment_that_comes_back_after_its_place_was_forgotten_duplicates_nothing(
    folder: Path, writer: LogWriter, database: Database
) -> None:
    content = b"".join(spool.encode(record(number)) for number in range(5))
    segment = segment_of(folder, content)
    writer.drain()
    writer.drain()
    assert places(database) == {}
    segment.write_bytes(content + spool.encode(record(5)))
    writer.drain()
    assert ids(database) == [f"r-{number}" for number in range(6)]


def test_a_crash_before_the_commit_leaves_neither_records_nor_place(
    folder: Path, writer: LogWriter, database: Database
) -> None:
    segment = segment_of(folder, spool.encode(record(0)))

    def interrupted() -> None:
        with database.transaction() as session:
            log.insert(session, log.Piece(HOST, segment.name, [record(0)], segment.stat().st_size))
            session.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (ids(database), places(database)) == ([], {})
    assert writer.drain() == 1
    assert ids(database) == ["r-0"]


def test_the_same_prediction_sent_twice_is_one_row_and_the_first_one_stays(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database
) -> None:
    first, second = new_spool(), new_spool()
    first.append([record(0, prediction="first"), record(1), record(0, prediction="again")])
    writer.drain()
    second.append([record(0, prediction="from another worker"), record(2)])
    writer.drain()
    assert ids(database) == ["r-0", "r-1", "r-2"]
    with database.reading() as session:
        assert log.get_prediction(session, "r-0", "key1").prediction == "first"


def test_the_place_of_a_segment_is_kept_once(folder: Path, writer: LogWriter, database: Database) -> None:
    segment = segment_of(folder, spool.encode(record(0)))
    with segment.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for number in (1, 2):
            writer.drain()
            file.write(spool.encode(record(number)))
            file.flush()
        writer.drain()
        with database.reading() as session:
            [place] = session.scalars(sa.select(SpoolPosition)).all()
            assert (place.host, place.segment, place.offset) == (HOST, segment.name, segment.stat().st_size)


# --- Processes that die -----------------------------------------------------------------------------------


@contextmanager
def started(script: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run a script in a process of its own; give it and what it says. It is killed at the end if it still runs."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child, child.stdout
        finally:
            child.kill()


def test_whatever_was_appended_by_killed_processes_is_in_the_log(
    folder: Path, writer: LogWriter, database: Database
) -> None:
    template = json.dumps(record(0))
    with (
        started(APPENDS_FOR_EVER, folder, "a", template) as (one, from_one),
        started(APPENDS_FOR_EVER, folder, "b", template) as (other, from_other),
    ):
        said = [*itertools.islice(from_one, 30), *itertools.islice(from_other, 30)]
        # Drained while they live: nothing of theirs is deleted under their feet.
        writer.drain()
        assert len(spool.segments(folder)) == 2
        one.kill()
        other.kill()
        said += [*from_one, *from_other]
    # The last words of a killed process may be cut off; what it appended is not.
    appended = {line.strip() for line in said if line.endswith("\n")}
    writer.drain()
    found = ids(database)
    assert len(found) == len(set(found))
    assert appended <= set(found)
    assert spool.segments(folder) == []


def test_records_that_did_not_fit_on_the_disk_are_counted_exactly(
    folder: Path, writer: LogWriter, database: Database
) -> None:
    # Of the three lines of the fourth request one fits, one is torn, one is not there at all.
    room = 10 * len(spool.encode(record(0))) + 100
    with started(APPENDS_WITH_LITTLE_ROOM, folder, json.dumps(record(0)), room) as (_, said):
        lost = int(said.read())
    assert 0 < lost < 60
    # After each torn line the process went on in a fresh segment.
    assert len(spool.segments(folder)) > 2
    writer.drain()
    found = ids(database)
    assert len(found) == len(set(found)) == 60 - lost
    assert list(folder.iterdir()) == []


# --- When there is no room --------------------------------------------------------------------------------


def test_a_spool_that_cannot_be_opened_loses_records_and_no_request(folder: Path, dropped: list[int]) -> None:
    appending = Spool(folder, max_bytes=ROOMY, refuse_when_full=False, on_drop=dropped.append)
    appending.append([record(0), record(1)])
    assert dropped == [2]
    folder.mkdir()
    appending.append([record(2)])
    appending.stop()
    [segment] = spool.segments(folder)
    assert [spool.decode(line) for line, _ in spool.lines_from(segment, 0)] == [record(2)]
    assert dropped == [2]


def test_a_spool_that_cannot_be_opened_refuses_where_nothing_may_be_lost(folder: Path, dropped: list[int]) -> None:
    appending = Spool(folder, max_bytes=ROOMY, refuse_when_full=True, on_drop=dropped.append)
    assert not appending.full
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            appending.append([record(0)])
        assert caught.value.code == "spool_full"
        assert appending.full
    folder.mkdir()
    appending._measure()
    assert not appending.full
    appending.append([record(1)])
    appending.stop()
    # Nothing was answered unlogged, so nothing was lost.
    assert dropped == []


def test_a_full_spool_refuses_until_the_log_writer_has_made_room(
    new_spool: Callable[..., Spool], writer: LogWriter, database: Database, dropped: list[int]
) -> None:
    # Two processes, each of them holding a segment that alone fills the spool.
    both = [new_spool(1000, refuse=True) for _ in range(2)]
    for each in both:
        each.append([record(f"{id(each)}-{number}") for number in range(10)])
    for each in both:
        each._measure()
        assert each.full
        with pytest.raises(Unavailable, match="spool_full"):
            each.append([record("refused")])

    writer.drain()
    for each in both:
        each._measure()
        assert not each.full
        each.append([record(f"{id(each)}-new")])
    writer.drain()
    assert set(ids(database)) == {f"r-{id(each)}-{last}" for each in both for last in (*range(10), "new")}
    assert dropped == []


def test_a_started_spool_finds_out_by_itself_that_it_is_full(new_spool: Callable[..., Spool]) -> None:
    appending = new_spool(1, refuse=True)
    appending.start()
    appending.append([record(0)])
    eventually(lambda: appending.full)


def test_a_full_spool_that_may_lose_drops_its_oldest_segment_and_counts(
    new_spool: Callable[..., Spool], folder: Path, writer: LogWriter, database: Database, dropped: list[int]
) -> None:
    for segment in range(3):
        appending = new_spool()
        appending.append([record(f"{segment}-{row}") for row in range(segment + 1)])
        appending.stop()
    oldest, *others = spool.segments(folder)
    appending = new_spool(sum(path.stat().st_size for path in others))
    appending.append([record("new")])

    appending._measure()
    assert not oldest.exists()
    assert dropped == [1]
    appending._measure()
    assert dropped == [1, 2]
    appending._measure()
    assert dropped == [1, 2]
    assert not appending.full
    writer.drain()
    assert ids(database) == ["r-2-0", "r-2-1", "r-2-2", "r-new"]


def test_a_segment_that_is_still_written_is_never_dropped(
    new_spool: Callable[..., Spool], folder: Path, writer: LogWriter, database: Database, dropped: list[int]
) -> None:
    quiet = new_spool()
    quiet.append([record("early")])
    busy = new_spool(1)
    busy.append([record("busy")])
    for _ in range(3):
        busy._measure()
    quiet.append([record("late")])
    # Its own one, which it ended for that.
    assert dropped == [1]
    writer.drain()
    assert ids(database) == ["r-early", "r-late"]


def test_a_dropped_segment_is_counted_by_one_process_only(
    new_spool: Callable[..., Spool], folder: Path, dropped: list[int]
) -> None:
    left = new_spool()
    left.append([record(number) for number in range(4)])
    left.stop()
    [segment] = spool.segments(folder)
    first, second = new_spool(1), new_spool(1)
    first._drop(segment)
    second._drop(segment)
    assert dropped == [4]
