"""Activation on a running server, in its quick form; the long one is `make faults`."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pytest
import requests

from tests.conftest import eventually
from tests.functional.server import Server
from tests.functional.switching import (
    MODEL,
    TESTER,
    Stock,
    activate,
    flipped,
    key_of,
    raced,
    refused_under_load,
    small,
    switched_under_load,
)
from tests.functional.test_alerts import WEBHOOK_POINTS
from tests.functional.test_batch import BATCH_POINTS
from tests.functional.test_log_writer import LOG_POINTS
from webapp import activation, config, faults, uploads
from webapp.activation import Asked
from webapp.artifacts import ArtifactStore
from webapp.db import Database
from webapp.intake import Upload
from webapp.serving.runtime import Runtime
from webapp.uploads import Desk, Wish, sweeping, waiting

# Where a process is killed that activates version 2, and the version that is active then: nothing between the two.
ACTIVATION_POINTS = {
    "activation.asked": 1,
    "activation.prepared": 1,
    "activation.committing": 1,
    "activation.committed": 2,
}
UPLOAD_POINTS = ("upload.inspected", "upload.stored", "upload.registering")
# Where a web worker is killed while it prepares: the next one in its slot tries again.
WORKER_POINTS = ("runtime.load", "preparation.taken", "preparation.loaded")
# Where a process of the server is killed during an upload over HTTP.
SERVER_POINTS = ("upload.saved", "upload.ended")


@pytest.fixture
def fire(new_server: Callable[..., Server]) -> Iterator[tuple[Server, Stock]]:
    """A server with three versions, not yet started; the first is active."""
    server = new_server(workers=2, threads=4, rate_limit="10000000/minute")
    stock = Stock(server.data_dir)
    for _ in range(3):
        stock.add()
    stock.activate(1)
    yield server, stock
    stock.close()


def test_versions_are_switched_raced_for_and_refused_under_load_and_nobody_notices(
    fire: tuple[Server, Stock], tmp_path: Path
) -> None:
    server, stock = fire
    last, armed = stock.add(), tmp_path / "armed"
    # Of one worker only, whichever comes first.
    server.environment[faults.VARIABLE] = f"runtime.load:memory@{armed}"
    server.start()
    key = key_of(server)
    print("\n" + switched_under_load(server, key, [2, 1]))
    print(flipped(server, key, 5))
    print(raced(server, key, 3))
    activate(server, key, 1)
    damaged = {how: stock.add() for how in ("missing", "truncated", "flipped", "with its row")}
    print(refused_under_load(server, key, stock, damaged))
    armed.touch()
    turn = activate(server, key, last)
    assert [each["reason"] for each in turn.body["failures"]] == ["MemoryError"]
    assert activate(server, key, last).status == 200


def test_processes_of_a_server_that_are_killed_in_the_middle_leave_the_old_state_or_the_new_one(
    fire: tuple[Server, Stock], tmp_path: Path
) -> None:
    server, stock = fire
    points = (*WORKER_POINTS, *SERVER_POINTS)
    server.environment[faults.VARIABLE] = ",".join(f"{point}:exit@{tmp_path / point}" for point in points)
    stock.add()
    server.start()
    key = server.key("--scope", "models:activate", "--scope", "models:write")
    for number, point in enumerate(WORKER_POINTS, start=2):
        (tmp_path / point).touch()
        # The worker that is killed may be the one that would have answered.
        came_of_it = attempt(partial(activate, server, key, number))
        assert not (tmp_path / point).exists()
        assert stock.state()[0] in {number - 1, number}
        eventually(partial(is_active, server, key, number))
        print(f"\nkilled at {point}: {getattr(came_of_it, 'status', came_of_it)}")
    joblib.dump(small(5), tmp_path / "5.joblib")
    (tmp_path / "upload.saved").touch()
    assert isinstance(attempt(partial(upload, server, key, tmp_path / "5.joblib")), str)
    assert server.rows("SELECT id FROM uploads") == []
    (tmp_path / "upload.ended").touch()
    eventually(lambda: attempt(partial(upload, server, key, tmp_path / "5.joblib")) == 202)
    ended = partial(server.rows, "SELECT version FROM uploads WHERE done_at IS NOT NULL")
    assert eventually(ended, within_seconds=120) == [(5,)]
    eventually(lambda: not (tmp_path / "upload.ended").exists())
    # Of both attempts the files are left; they are removed when they are old.
    assert len(list((server.data_dir / "quarantine").iterdir())) == 2


def attempt(act: Callable[[], Any]) -> Any:
    """Try it; give what came of it."""
    try:
        return act()
    except OSError as error:  # what `requests` raises is one, too
        return type(error).__name__


def is_active(server: Server, key: str, number: int) -> bool:
    came_of_it = attempt(partial(activate, server, key, number))
    return getattr(came_of_it, "status", None) == 200 or getattr(came_of_it, "body", {}).get("code") == "already_active"


def upload(server: Server, key: str, path: Path) -> int:
    with path.open("rb") as file:
        url, headers = f"{server.url}/models/{MODEL}/versions", {"X-API-Key": key}
        return requests.post(url, files={"file": file}, headers=headers, timeout=60).status_code


# --- Processes of their own -------------------------------------------------------------------------------


@pytest.fixture
def desk(settings: config.Settings, database: Database) -> Iterator[tuple[Desk, Stock]]:
    """An installation with three versions where nothing runs; the first is active."""
    stock = Stock(settings.data_dir)
    for _ in range(3):
        stock.add()
    stock.activate(1)
    yield Desk(settings, database, ArtifactStore(settings.artifacts_dir)), stock
    stock.close()


def killed(point: str, desk: Desk, act: Callable[[Desk], object]) -> None:
    """Act in a process that is killed at a fault point."""
    child = os.fork()
    if child == 0:
        os.environ[faults.VARIABLE] = f"{point}:exit"
        try:
            # What is open belongs to the parent.
            act(Desk(desk.settings, Database(desk.settings.sqlalchemy_url), desk.artifacts))
        except BaseException:  # noqa: BLE001 - a child must not go on with the parent's tests
            traceback.print_exc()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), point
    assert os.WTERMSIG(status) == signal.SIGKILL


def activated(number: int, desk: Desk) -> None:
    runtime = Runtime(desk.artifacts, desk.settings.derive("versions"))
    activation.activate(desk.database, runtime.prepare, TESTER, Asked(MODEL, number))


def uploaded(path: Path, desk: Desk) -> int:
    return int(uploads.upload(desk, TESTER, Wish(MODEL), Upload(path)).version["version"])


def test_whoever_is_killed_while_activating_leaves_the_old_state_or_the_new_one(desk: tuple[Desk, Stock]) -> None:
    made, stock = desk
    for point, active in ACTIVATION_POINTS.items():
        killed(point, made, partial(activated, 2))
        assert stock.state()[0] == active
    # Nothing stands in the way of the next one.
    activated(3, made)
    assert stock.state() == (3, 3)


def test_an_upload_that_is_killed_at_any_step_can_be_repeated(desk: tuple[Desk, Stock], tmp_path: Path) -> None:
    made, stock = desk
    joblib.dump(small(4), tmp_path / "4.joblib")
    for point in UPLOAD_POINTS:
        killed(point, made, partial(uploaded, tmp_path / "4.joblib"))
        assert not stock.has(4)
    assert uploaded(tmp_path / "4.joblib", made) == 4


def test_what_nobody_needs_is_removed_when_it_is_old_and_nothing_else(desk: tuple[Desk, Stock]) -> None:
    made, stock = desk
    unnamed = stock.folder / "ab" / made.artifacts.put(b"named by no row")
    unnamed = next(stock.folder.glob(f"??/{unnamed.name}"))
    half, kept = stock.folder / "incoming-1", stock.path(1)
    left = made.scratch() / "0123"
    coming = waiting.receive(made, TESTER, Wish(MODEL), {"file": ("a.joblib", lambda path: path.touch())})
    half.touch()
    left.mkdir()
    (left / "file").touch()
    assert sweeping.sweep(made) == []
    for path in (unnamed, half, left, made.folder(coming), *stock.folder.glob("??/*")):
        os.utime(path, (0, 0))
    assert set(sweeping.sweep(made)) == {unnamed.name, half.name, left.name}
    assert [path.exists() for path in (unnamed, half, left)] == [False] * 3
    assert kept.exists()
    assert made.folder(coming).exists()
    activated(2, made)


def test_every_fault_point_is_passed_by_a_test() -> None:
    files = (Path(__file__).parents[2] / "webapp").rglob("*.py")
    points = {
        piece.partition('"')[0]
        for file in files
        for piece in file.read_text(encoding="utf-8").split('faults.point("')[1:]
    }
    here = {*ACTIVATION_POINTS, *UPLOAD_POINTS, *WORKER_POINTS, *SERVER_POINTS}
    assert points == {*here, *BATCH_POINTS, *LOG_POINTS, *WEBHOOK_POINTS}
