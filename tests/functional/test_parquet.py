"""Parquet in and out, by a server with the extra package: in an environment of its own, for pandas uses it, too."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.functional.server import Server
from tests.functional.test_batch import finished

ROOT = Path(__file__).parent.parent.parent
MIMETYPE = "application/vnd.apache.parquet"
AGES = [35, 17, None, 44]
COLUMNS = {"age": AGES, "income": [52_000.5, 4.0, 5.0, float("nan")], "credit_score": [690, 600, 610, 620]}
# A table by its columns, written by another program than the product; "kind" makes what is no table of the model's.
WRITE = """
import json, sys
import pyarrow as pa
from pyarrow import parquet
columns, options = json.load(sys.stdin)
table = pa.table({name: pa.array(cells) for name, cells in columns.items()})
if options.get("dictionary"):
    table = table.set_column(0, "age", table["age"].dictionary_encode())
parquet.write_table(table, sys.argv[1], row_group_size=options["group"], compression=options["by"])
"""
READ = """
import json, sys
from pyarrow import parquet
read = parquet.ParquetFile(sys.argv[1])
rows = read.read().to_pylist()
print(json.dumps({"types": {field.name: str(field.type) for field in read.schema_arrow}, "rows": rows}, default=str))
"""
# Whose every value is the same long text: a small file that would fill the memory of whoever decodes it.
BOMB = """
import sys
import pyarrow as pa
from pyarrow import parquet
cells = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array(["x" * 1_000_000]))
columns = {"age": pa.array([30] * 1_000_000), "income": cells, "credit_score": pa.array([600] * 1_000_000)}
parquet.write_table(pa.table(columns), sys.argv[1], row_group_size=1_000_000)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the packages of the tests, and with pyarrow."""
    folder = tmp_path_factory.mktemp("parquet") / "env"
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/*/site-packages")
    # What is installed here is looked for here first; the .pth files there lead on to the checkout.
    (packages / "tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    lock = ROOT / "requirements" / "parquet.txt"
    command = [folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def server(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server on these packages."""
    made = Server(tmp_path_factory.mktemp("parquet") / "data", rate_limit="1000000/minute", max_upload_bytes=10_000_000)
    made.python = python
    made.demo()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """A key that may run batches."""
    return server.key()


def ran(python: str, program: str, path: Path, given: object = None) -> str:
    """Run a program of the test's own on a file."""
    command = [python, "-c", program, str(path)]
    return subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True).stdout


@pytest.fixture
def table(python: str, tmp_path: Path) -> Any:
    """Give a function that writes a table."""

    def write(columns: dict[str, list[Any]], **options: object) -> bytes:
        ran(python, WRITE, tmp_path / "table.parquet", (columns, {"group": 1000, "by": "snappy", **options}))
        return (tmp_path / "table.parquet").read_bytes()

    return write


def read(python: str, content: bytes, folder: Path) -> dict[str, Any]:
    (folder / "read.parquet").write_bytes(content)
    found: dict[str, Any] = json.loads(ran(python, READ, folder / "read.parquet"))
    return found


def post(server: Server, key: str, content: bytes) -> requests.Response:
    headers = {"X-API-Key": key, "Content-Type": MIMETYPE}
    return requests.post(f"{server.url}/predict/batch", data=content, headers=headers, timeout=120)


def test_a_batch_comes_as_parquet_and_its_results_go_as_parquet(
    server: Server, key: str, table: Any, python: str, tmp_path: Path
) -> None:
    content = table({"id": ["a", "b", "c", "d"], **COLUMNS})
    accepted = post(server, key, content)
    assert (accepted.status_code, accepted.json()["total_instances"]) == (202, 4)
    state = finished(server, key, accepted.json()["status_url"])
    assert (state["done"], state["failed"]) == (4, 1)
    results = server.get(f"{state['results_url']}?format=parquet", key)
    assert results.headers["Content-Type"] == MIMETYPE
    found = read(python, results.content, tmp_path)
    assert found["types"]["prediction"] == "int64"
    assert found["types"]["probability"] == "double"
    assert [row["id"] for row in found["rows"]] == ["a", "b", "c", "d"]
    same = ("prediction", "probability")
    for number, row in enumerate(found["rows"]):
        instance = {name: cells[number] for name, cells in COLUMNS.items()}
        # What is no number is missing, as everywhere.
        instance["income"] = None if number == 3 else instance["income"]
        single = server.post("/predict", instance, key).json()
        assert [row[name] for name in same] == [single.get(name) for name in same], number
    assert found["rows"][1]["error"] == "/instances/1/age: Must be from 18 to 100."


def test_a_file_of_a_form_is_told_by_how_it_begins_and_columns_may_be_packed_in_any_way(
    server: Server, key: str, table: Any
) -> None:
    columns = {name: [cells[0]] * 12_000 for name, cells in COLUMNS.items()}
    content = table(columns, dictionary=True, group=7000, by="zstd")
    accepted = requests.post(
        f"{server.url}/predict/batch",
        files={"file": ("rows", content)},
        headers={"X-API-Key": key, "Idempotency-Key": "one"},
        timeout=60,
    )
    assert (accepted.status_code, accepted.json()["total_instances"]) == (202, 12_000)
    assert finished(server, key, accepted.json()["status_url"])["failed"] == 0


def test_what_is_no_table_of_the_models_is_refused_with_the_way_out(server: Server, key: str, table: Any) -> None:
    good = table(COLUMNS)
    for content, status, code in (
        (table({**COLUMNS, "colour": [1, 2, 3, 4]}), 422, "columns_not_the_models"),
        (table({"age": [35], "income": [4.0]}), 422, "columns_not_the_models"),
        (table({**COLUMNS, "income": [[1.0], [2.0], [3.0], [4.0]]}), 400, "parquet_unusable"),
        (table({name: [] for name in COLUMNS}), 422, "no_instances"),
        (good[:-20], 400, "parquet_unusable"),
        (b"PAR1", 400, "parquet_unusable"),
        (b"", 400, "parquet_unusable"),
        (good[:40] + bytes(len(good) - 1000 - 40) + good[-1000:], 400, "parquet_unreadable"),
    ):
        refused = post(server, key, content)
        assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text
    assert server.rows("SELECT count(*) FROM jobs WHERE total = 0") == [(0,)]


def test_a_small_file_that_would_fill_the_memory_ends_a_child_and_nothing_else(
    server: Server, key: str, python: str, tmp_path: Path
) -> None:
    ran(python, BOMB, tmp_path / "bomb.parquet")
    content = (tmp_path / "bomb.parquet").read_bytes()
    assert len(content) < 100_000
    before = server.worker_pids()
    refused = post(server, key, content)
    assert refused.status_code in {400, 413}, refused.text
    assert server.worker_pids() == before
    assert server.get("/readyz").ok


def test_the_log_is_exported_as_parquet(server: Server, key: str, python: str, tmp_path: Path) -> None:
    single = server.post("/predict", {"age": 35, "income": 52_000.5, "credit_score": 690}, key).json()
    server.logged(single["prediction_id"])
    server.cli("predictions", "export", "--format", "parquet", "--output", tmp_path / "log.parquet")
    found = read(python, (tmp_path / "log.parquet").read_bytes(), tmp_path)
    assert found["types"]["at"] == "timestamp[us, tz=UTC]"
    [row] = [row for row in found["rows"] if row["prediction_id"] == single["prediction_id"]]
    assert row["probability"] == single["probability"]
    assert json.loads(row["instance"])["income"] == 52_000.5


def test_tests_run_without_parquet(python: str) -> None:
    # Where it is installed, pandas uses it: what the other tests show is shown without it.
    assert python != sys.executable
    with pytest.raises(ModuleNotFoundError):
        __import__("pyarrow")
