"""Tests of batches as files: cut while they come, read row by row, computed wherever that is, fetched in order."""

from __future__ import annotations

import csv
import io
import json
import os
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
import skops.io
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from webapp import artifacts, jobs
from webapp.batches import Form, backends, cutting, reading, receiving, results, rows_name
from webapp.batches.backends import Backend, NotComputed, Processes, Threads, compute_elsewhere, model_of
from webapp.batches.computing import Computed, Task, compute
from webapp.batches.cutting import CHUNK_ROWS, Piece
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Invalid, Malformed, Refusal
from webapp.jobs import Done, Job, Order
from webapp.predictions.spool import decode
from webapp.serving.loaded import LoadedVersion
from webapp.serving.loading import Loader
from webapp.serving.predictor import assemble
from webapp.signature import Feature, Output, Signature
from webapp.signature.learn import learn
from webapp.storage import Folder, Storage

FRAME = pd.DataFrame({"age": [20.0, 30.0, 40.0, 50.0], "income": [1.0, 2.0, 3.0, 4.0]})
MODEL = LogisticRegression().fit(FRAME, ["no", "no", "yes", "yes"])
SIGNATURE = learn(MODEL, assemble, reference=FRAME, declared=[{"name": "age", "minimum": 18}]).signature
TEXTS = Signature((Feature("text", "string"),), "text", "classification", (Output("y"),))
TASK = Task("f" * 32, "key1", "batch", "csv", 0)
ORDER = Order("key1", test=False, model="credit", version=1, form="csv")


def table(content: bytes, signature: Signature = SIGNATURE) -> list[Piece]:
    return list(cutting.table(signature, io.BytesIO(content)))


def cells_of(pieces: list[Piece]) -> list[list[str]]:
    """Give the rows of all pieces, as anyone reads them."""
    rows = []
    for piece in pieces:
        read = list(csv.reader(io.StringIO(piece.content.decode(), newline=""), strict=True))
        assert len(read) == piece.row_count + 1
        rows += read[1:]
    return rows


def refusal(content: bytes, signature: Signature = SIGNATURE) -> Refusal:
    with pytest.raises(Refusal) as caught:
        table(content, signature)
    return caught.value


# --- Cutting ------------------------------------------------------------------------------------------------


def test_a_table_is_cut_into_chunks_that_each_begin_with_its_names() -> None:
    lines = [b"%d,%d\n" % (row, row * 2) for row in range(2 * CHUNK_ROWS + 3)]
    pieces = table(b"age,income\n" + b"".join(lines))
    assert [piece.row_count for piece in pieces] == [CHUNK_ROWS, CHUNK_ROWS, 3]
    assert b"".join(piece.content.removeprefix(b"age,income\n") for piece in pieces) == b"".join(lines)


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), min_size=1, max_size=40),
    # Where lines end in LF alone, Python's writer does not quote a CR.
    st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL)]),
    st.integers(1, 30),
)
def test_whatever_cells_hold_the_rows_stay_whole(texts: list[str], style: tuple[str, Any], block: int) -> None:
    file = io.StringIO(newline="")
    written = csv.writer(file, lineterminator=style[0], quoting=style[1])
    # Beside another cell none is an empty line.
    written.writerows([["text", "id"], *([text, str(row)] for row, text in enumerate(texts))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "BLOCK_BYTES", block)
        patch.setattr(cutting, "CHUNK_ROWS", 7)
        pieces = table(file.getvalue().encode(), TEXTS)
    assert cells_of(pieces) == [[text, str(row)] for row, text in enumerate(texts)]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_empty_lines_at_the_end_are_no_rows_and_others_are(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(cutting, "BLOCK_BYTES", block)
    pieces = table(b"age,income\n1,2\n\n3,4\n\r\n\n\n")
    assert [piece.row_count for piece in pieces] == [3]
    assert cells_of(pieces) == [["1", "2"], [], ["3", "4"]]


def test_a_table_that_never_ends_is_cut_without_being_held() -> None:
    class Endless(io.RawIOBase):
        left = 40 * 1024 * 1024

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            text = (b"age,income\n" if self.left == Endless.left else b"") + b"12.5,30000.25\n" * (
                len(buffer) // 14 - 2
            )
            self.left -= len(text)
            buffer[: len(text)] = text
            return len(text) if self.left > 0 else 0

    tracemalloc.start()
    count = sum(piece.row_count for piece in cutting.table(SIGNATURE, io.BufferedReader(Endless(), 65536)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count > 2_900_000
    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", "csv_empty", "line of names"),
        (b"\n1,2\n", "csv_empty", "line of names"),
        (b"age,income\n", "no_instances", "one row"),
        (b"age,income\n\n\r\n", "no_instances", "one row"),
        (b"age,age\n1,2\n", "csv_duplicate_name", "“age” stands twice"),
        (b"age,income,colour\n1,2,red\n", "columns_not_the_models", "age, income"),
        (b"age\n1\n", "columns_not_the_models", "age, income"),
        (b"id\n1\n", "columns_not_the_models", "age, income"),
        (b'age,income\n1,2\n3,"4\n', "csv_malformed", "line 3"),
        (b'age,income\n1,2\n3,"4"5\n', "csv_malformed", "line 3"),
        (b"age,income\n1,2\r3,4\n", "csv_malformed", "line 2"),
        (b"age,income\n1,2\n3,\xff\n", "batch_not_utf8", "Row 2"),
        ("age,income\n1,2\n".encode("utf-16"), "batch_not_utf8", "first line"),
        ("age,income\n1,2\n".encode("utf-16-le"), "batch_not_utf8", "first line"),
        (b"age,income\n1," + b"2" * 200_000 + b"\n", "csv_malformed", "line 2"),
        (b"age,income\n1,2\n1," + b"2" * cutting.MOST_ROW_BYTES * 2, "row_too_long", "Line 3"),
    ],
)
def test_what_is_no_table_of_the_models_is_refused_with_the_place(content: bytes, code: str, said: str) -> None:
    refused = refusal(content)
    assert refused.code == code
    assert said in refused.detail


def test_every_column_that_is_wrong_is_named() -> None:
    refused = refusal(b"colour,age,id\nred,1,x\n")
    assert [(each.pointer, each.code) for each in refused.problems] == [
        ("/colour", "unknown_field"),
        ("/income", "required"),
    ]


def test_a_mark_at_the_beginning_is_no_part_of_a_name() -> None:
    assert cells_of(table(b"\xef\xbb\xbfage,income\r\n1,2\r\n")) == [["1", "2"]]


def test_json_lines_are_cut_as_they_are() -> None:
    lines = [b'{"age": %d, "income": 5}\n' % row for row in range(CHUNK_ROWS + 1)]
    pieces = list(cutting.objects(io.BytesIO(b"".join(lines) + b"\n\n")))
    assert [piece.row_count for piece in pieces] == [CHUNK_ROWS, 1]
    assert b"".join(piece.content for piece in pieces) == b"".join(lines)


def test_what_does_not_begin_with_an_object_is_no_json_lines() -> None:
    with pytest.raises(Malformed, match="jsonl_malformed"):
        list(cutting.objects(io.BytesIO(b"age,income\n1,2\n")))
    with pytest.raises(Invalid, match="no_instances"):
        list(cutting.objects(io.BytesIO(b"")))


def test_long_rows_make_chunks_of_fewer() -> None:
    text = b"word " * 20_000
    pieces = table(b"text\n" + (text + b"\n") * 100, TEXTS)
    assert sum(piece.row_count for piece in pieces) == 100
    assert max(len(piece.content) for piece in pieces) < cutting.CHUNK_BYTES + cutting.BLOCK_BYTES + len(text)


# --- Reading ------------------------------------------------------------------------------------------------


def codes(rows: reading.Rows) -> dict[int, str]:
    return {row: invalid.code for row, invalid in rows.refused.items()}


def test_a_row_with_other_cells_than_columns_is_refused_in_its_place() -> None:
    rows = reading.read("csv", SIGNATURE, b"age,income\n1,2\n3\n\n5,6,7\n8,9\n")
    assert codes(rows) == dict.fromkeys((1, 2, 3), "csv_malformed")
    assert [rows.instances[row] for row in (0, 4)] == [{"age": 1.0, "income": 2.0}, {"age": 8.0, "income": 9.0}]


def test_ids_are_taken_from_a_column_or_an_entry_of_that_name() -> None:
    rows = reading.read("csv", SIGNATURE, b"id,age,income\nx 1,2,3\n" + b"y" * 201 + b",4,5\n")
    assert (rows.ids, codes(rows)) == (["x 1", None], {1: "ids_unusable"})
    lines = b'{"id": "x 1", "age": 2}\n{"age": 3}\n{"id": 5, "age": 4}\n{"id": "\\u0000", "age": 4}\n'
    rows = reading.read("jsonl", SIGNATURE, lines)
    assert (rows.ids, codes(rows)) == (["x 1", None, None, None], {2: "ids_unusable", 3: "ids_unusable"})
    assert rows.instances[:2] == [{"age": 2}, {"age": 3}]


def test_an_id_that_is_a_feature_stays_one() -> None:
    signature = replace(SIGNATURE, features=(*SIGNATURE.features, Feature("id")))
    assert reading.read("csv", signature, b"id,age,income\n1,2,3\n").instances == [
        {"id": 1.0, "age": 2.0, "income": 3.0}
    ]
    assert reading.read("jsonl", signature, b'{"id": 1}\n').instances == [{"id": 1}]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", "json_malformed"),
        (b"{", "json_malformed"),
        (b'{"age": 1}, {"age": 2}', "json_malformed"),
        (b'{"age": NaN}', "json_malformed"),
        (b'{"age": 1, "age": 2}', "json_malformed"),
        (b'{"age": {"b": 1, "b": 2}}', "json_malformed"),
        (b'{"age": "\\ud800"}', "json_malformed"),
        (b"[" * 100_000, "json_malformed"),
        (b'{"age": ' + b"1" * 5000 + b"}", "json_malformed"),
    ],
)
def test_a_line_that_is_not_json_is_refused_in_its_place(line: bytes, code: str) -> None:
    rows = reading.read("jsonl", SIGNATURE, b'{"age": 1}\n' + line + b'\r\n{"age": 2}\n')
    assert codes(rows) == {1: code}
    assert [rows.instances[0], rows.instances[2]] == [{"age": 1}, {"age": 2}]


def test_a_line_with_colons_in_its_texts_is_read_as_any_other() -> None:
    rows = reading.read("jsonl", TEXTS, '{"text": "at 12:30: ä"}\n{"text": "\\u00e4"}\n'.encode())
    assert rows.instances == [{"text": "at 12:30: ä"}, {"text": "ä"}]


# --- Computing ----------------------------------------------------------------------------------------------


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return artifacts.opened(settings).storage


@pytest.fixture
def loaded(settings: Settings) -> LoadedVersion:
    """A version that was loaded from the store of these settings, its seal made with their secret."""
    store = artifacts.opened(settings)
    digest, secret = store.put(skops.io.dumps(MODEL)), settings.derive("versions")
    seal = artifacts.seal(secret, "credit", 1, digest, SIGNATURE.as_dict())
    return Loader(store, secret, None).load(ServedVersion("credit", 1, "1.0", digest, seal, SIGNATURE.as_dict()))


def lines_of(computed: Computed) -> list[Any]:
    return [json.loads(line) for line in computed.results.splitlines()]


def test_each_row_has_a_line_and_each_answer_a_line_of_the_log(loaded: LoadedVersion) -> None:
    content = b"id,age,income\na,20,1\nb,17,1\nc,50\nd,50,4\n"
    computed = compute(loaded, replace(TASK, first_row=100), content)
    first, second, third, fourth = lines_of(computed)
    probability = MODEL.predict_proba(FRAME.iloc[[0]]).tolist()[0]
    assert first == {
        "id": "a",
        "prediction": "no",
        "probability": probability[0],
        "probabilities": {"no": probability[0], "yes": probability[1]},
        "model": "credit",
        "model_version": "1.0",
        "prediction_id": f"{TASK.job_id}-100",
    }
    assert (second["id"], second["error"]["errors"][0]["pointer"]) == ("b", "/instances/101/age")
    assert third["error"]["code"] == "csv_malformed"
    assert (fourth["prediction"], fourth["prediction_id"]) == ("yes", f"{TASK.job_id}-103")
    assert (computed.row_count, computed.failed_rows) == (4, 2)
    logged = [decode(line) for line in computed.logged.splitlines()]
    assert [(each["id"], each["client_id"], each["source"]) for each in logged if each] == [
        (f"{TASK.job_id}-100", "a", "batch"),
        (f"{TASK.job_id}-103", "d", "batch"),
    ]


def test_the_same_rows_have_the_same_results_in_every_form(loaded: LoadedVersion) -> None:
    lines = b'{"id": "a", "age": 20, "income": 1}\n{"id": "b", "age": 50, "income": 4}\n'
    body = {"instances": [{"age": 20, "income": 1}, {"age": 50, "income": 4}], "ids": ["a", "b"]}
    contents: dict[Form, bytes] = {
        "csv": b"age,id,income\n20,a,1\n50,b,4\n",
        "jsonl": lines,
        "json": json.dumps(body).encode(),
    }
    found = {compute(loaded, replace(TASK, form=form), content).results for form, content in contents.items()}
    assert len(found) == 1


def test_where_nothing_is_logged_there_are_no_lines_of_the_log(loaded: LoadedVersion) -> None:
    assert compute(loaded, replace(TASK, source=None), b"age,income\n20,1\n").logged == b""


def finished(backend: Backend, loaded: LoadedVersion, contents: list[bytes]) -> list[bytes]:
    """Compute chunks at once; give their results."""
    assert backend.room() > 0
    under_way: list[Future[Computed]] = [backend.submit(loaded, TASK, content) for content in contents]
    found = [each.result(120).results for each in under_way]
    backend.close()
    return found


def test_threads_and_processes_give_the_same_bytes(settings: Settings, loaded: LoadedVersion) -> None:
    chunks = [b"age,income\n%d,%d\n%d,7\n" % (20 + number, number, number) for number in range(6)]
    here = [compute(loaded, TASK, chunk).results for chunk in chunks]
    assert finished(Threads(), loaded, chunks) == here
    assert finished(Processes(settings), loaded, chunks) == here


def test_another_process_is_told_no_secret_of_the_installation(settings: Settings, loaded: LoadedVersion) -> None:
    model = model_of(loaded, str(settings.artifacts_dir))
    told = repr(model)
    assert str(settings.secret_key) not in told
    assert loaded.version.seal not in told
    assert compute_elsewhere(model, TASK, b"age,income\n20,1\n").row_count == 1


def test_another_process_answers_by_the_same_plan_without_proving_it_again(
    settings: Settings, loaded: LoadedVersion
) -> None:
    elsewhere = backends._loaded(model_of(loaded, str(settings.artifacts_dir)))
    # A proof holds the times that it took: no two are equal.
    assert elsewhere.proof == loaded.proof is not None
    assert elsewhere.predictor.plan is not None
    without = replace(loaded, predictor=loaded.predictor.by(None))
    assert backends._loaded(model_of(without, str(settings.artifacts_dir))).predictor.plan is None


def test_another_process_verifies_what_it_loads(settings: Settings, loaded: LoadedVersion) -> None:
    model = model_of(loaded, str(settings.artifacts_dir))
    kept = Folder(settings.artifacts_dir)
    name = artifacts.name_of(loaded.version.artifact)
    kept.put(name, io.BytesIO(kept.get(name)[:-1] + b"?"))
    with pytest.raises(NotComputed, match="is not what was stored"):
        compute_elsewhere(model, TASK, b"age,income\n20,1\n")


def test_a_process_with_other_packages_does_not_answer(settings: Settings, loaded: LoadedVersion) -> None:
    model = replace(model_of(loaded, str(settings.artifacts_dir)), libraries=("numpy 1.0",))
    with pytest.raises(NotComputed, match=r"needed: numpy 1\.0"):
        compute_elsewhere(model, TASK, b"age,income\n20,1\n")


# --- Receiving and fetching ---------------------------------------------------------------------------------


def receive(database: Database, storage: Storage, content: bytes, order: Order = ORDER) -> Job:
    pieces = cutting.table(SIGNATURE, io.BytesIO(content))
    return receiving.receive(database, storage, order, pieces, lambda: str(hash(content)))


def test_a_batch_is_accepted_with_all_its_rows_or_not_at_all(database: Database, storage: Storage) -> None:
    good = b"age,income\n" + b"20,1\n" * (CHUNK_ROWS + 1)
    job = receive(database, storage, good)
    assert list(storage.names("batches")) == [rows_name(job.id, 0), rows_name(job.id, 1)]
    with pytest.raises(Malformed):
        receive(database, storage, good + b'"')
    assert len(list(storage.names("batches"))) == 2
    with database.reading() as session:
        assert [line.job.id for line in jobs.lines(session)] == [job.id]


def test_a_request_that_comes_again_stores_nothing(database: Database, storage: Storage) -> None:
    order, content = replace(ORDER, idempotency_key="once"), b"age,income\n20,1\n"
    job = receive(database, storage, content, order)
    assert receive(database, storage, content, order).id == job.id
    with pytest.raises(Invalid, match="idempotency_key_reused"):
        receive(database, storage, content + b"21,1\n", order)
    assert list(storage.names("batches")) == [rows_name(job.id, 0)]


def test_of_requests_that_come_at_once_one_is_the_job_and_the_other_leaves_nothing(
    database: Database, storage: Storage
) -> None:
    order, content = replace(ORDER, idempotency_key="once"), b"age,income\n20,1\n"
    first: list[Job] = []

    def meanwhile() -> Iterator[Piece]:
        yield from cutting.table(SIGNATURE, io.BytesIO(content))
        first.append(receive(database, storage, content, order))

    second = receiving.receive(database, storage, order, meanwhile(), lambda: str(hash(content)))
    assert second.id == first[0].id
    assert list(storage.names("batches")) == [rows_name(second.id, 0)]


def test_what_a_request_left_behind_is_swept_when_it_is_old(database: Database, storage: Storage) -> None:
    job = receive(database, storage, b"age,income\n20,1\n")
    stray = rows_name(jobs.new_id(), 0)
    storage.put(stray, io.BytesIO(b"age,income\n"))
    assert receiving.sweep(database, storage) == 0
    assert isinstance(storage, Folder)
    long_ago = (receiving.LEFT_BEHIND + timedelta(hours=1)).total_seconds()
    for name in (stray, rows_name(job.id, 0)):
        before = (storage.path / name).stat().st_mtime - long_ago
        os.utime(storage.path / name, (before, before))
    assert receiving.sweep(database, storage) == 1
    assert list(storage.names("batches")) == [rows_name(job.id, 0)]


def test_results_from_before_there_were_files_are_read_as_well(storage: Storage) -> None:
    chunks = [Done(0, 1, [{"prediction": "ä"}, {"prediction": "\ud800"}])]
    assert list(results.rows(storage, "f" * 32, chunks)) == [{"prediction": "ä"}, {"prediction": "\ud800"}]


def test_a_job_that_was_accepted_before_there_were_files_keeps_its_rows(database: Database) -> None:
    with database.transaction() as session:
        job = jobs.accept(session, replace(ORDER, form="json"), jobs.new_id(), [2])
        session.flush()
        session.execute(sa.update(jobs.Chunk).values(instances=[{"age": 20}, 5], ids=["a", None]))
    with database.transaction() as session:
        claimed = jobs.claim(session, "a")
    assert claimed is not None
    assert (claimed[0].id, claimed[1].instances, claimed[1].ids) == (job.id, [{"age": 20}, 5], ["a", None])
