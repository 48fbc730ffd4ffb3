"""Tests of uploads on their way: leases, attempts, what becomes of the files, and what is told of each."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import joblib
import pytest
import sqlalchemy as sa
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests import databases
from webapp import app as composition
from webapp import registry
from webapp.artifacts import ArtifactStore
from webapp.audit import Actor, AuditRecord
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Invalid, NotFound, Unavailable
from webapp.uploads import Desk, Wish, waiting
from webapp.uploads.waiting import LEASE, MOST_ATTEMPTS, PendingUpload
from webapp.worker.uploads import Inspector

ANN = Actor("user:ann", "192.0.2.7", "request-of-ann")
EARLY = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE, OTHER = "host/1", "host/2"
SECOND = timedelta(seconds=1)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.time = EARLY

    def __call__(self) -> datetime:
        return self.time

    def wait(self, span: timedelta) -> None:
        self.time += span


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of leases."""
    made = Clock()
    monkeypatch.setattr(waiting, "now", made)
    return made


@pytest.fixture
def desk(settings: Settings, database: Database) -> Desk:
    """Where uploads are taken in."""
    return Desk(settings, database, ArtifactStore(settings.artifacts_dir))


def writes(content: bytes) -> Callable[[Path], None]:
    """Give what saves a file that came."""

    def save(path: Path) -> None:
        path.write_bytes(content)

    return save


def receive(desk: Desk, content: bytes = b"", model: str = "churn", name: str = "model.joblib", **parts: bytes) -> str:
    """Take in a file; an empty one is refused without opening it."""
    files = {"file": (name, writes(content))} | {part: (part, writes(given)) for part, given in parts.items()}
    return waiting.receive(desk, ANN, Wish(model), files)


def claim(desk: Desk, owner: str = ONE) -> str | None:
    """Take the next lease; give the id of the upload."""
    with desk.database.transaction() as session:
        pending = waiting.claim(session, owner)
        return pending.id if pending else None


def row(desk: Desk, upload_id: str) -> PendingUpload:
    with desk.database.reading() as session:
        return waiting.get_upload(session, upload_id)


def work(desk: Desk, upload_id: str) -> PendingUpload:
    """Work on a claimed upload; give what became of it."""
    waiting.work(desk, row(desk, upload_id))
    return row(desk, upload_id)


def versions(desk: Desk, model: str = "churn") -> list[int]:
    with desk.database.reading() as session:
        return [each.number for found in registry.all_models(session) if found.name == model for each in found.versions]


def quarantined(desk: Desk) -> list[str]:
    """Give what lies in quarantine."""
    folder = desk.settings.quarantine_dir
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@contextmanager
def database_away(desk: Desk) -> Iterator[None]:
    """Take the database away for a while."""
    with databases.away(desk.settings.data_dir, desk.database):
        yield


# --- Taking in ----------------------------------------------------------------------------------------------


def test_files_wait_under_the_names_of_their_parts(desk: Desk) -> None:
    upload_id = receive(desk, b"a model", name="../../../etc/cron.d/evil", reference=b"a table")
    assert quarantined(desk) == [upload_id, f"{upload_id}/file", f"{upload_id}/reference"]
    assert (desk.folder(upload_id) / "file").read_bytes() == b"a model"
    assert stat.S_IMODE(desk.folder(upload_id).stat().st_mode) == 0o700
    found = row(desk, upload_id)
    assert found.names == {"file": "../../../etc/cron.d/evil", "reference": "reference"}
    assert (found.actor, found.address, found.request_id) == (ANN.name, ANN.address, ANN.request_id)
    assert waiting.describe(found) == {
        "id": upload_id,
        "model": "churn",
        "status": "processing",
        "stage": "waiting",
        "version": None,
        "not_activated": None,
        "error": None,
    }


def test_what_cannot_be_saved_leaves_nothing(desk: Desk) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        waiting.receive(desk, ANN, Wish("churn"), {"file": ("m", writes(b"x")), "scaler": ("s", full)})
    with database_away(desk), pytest.raises(Unavailable):
        receive(desk)
    assert quarantined(desk) == []
    with desk.database.reading() as session:
        assert waiting.under_way(session) == []


@pytest.mark.parametrize("wish", [Wish("No Name"), Wish("../up"), Wish("churn", label="a b"), Wish("churn", label="7")])
def test_a_wish_that_cannot_come_true_is_refused_before_anything_is_saved(desk: Desk, wish: Wish) -> None:
    with pytest.raises(Invalid):
        waiting.receive(desk, ANN, wish, {"file": ("m", writes(b"x"))})
    assert not desk.settings.quarantine_dir.exists()


def test_an_upload_is_there_for_its_own_model(desk: Desk) -> None:
    upload_id = receive(desk)
    with desk.database.reading() as session:
        assert waiting.get_upload(session, upload_id, "churn").id == upload_id
        for asked in ((upload_id, "pricing"), ("nothing", None), ("../x", None)):
            with pytest.raises(NotFound):
                waiting.get_upload(session, *asked)


# --- Leases -------------------------------------------------------------------------------------------------


def test_uploads_are_claimed_in_their_order_each_by_one(desk: Desk, clock: Clock) -> None:
    first = receive(desk)
    clock.wait(SECOND)
    second = receive(desk)
    assert [claim(desk, ONE), claim(desk, OTHER), claim(desk, "host/3")] == [first, second, None]
    assert [(row(desk, each).leased_by, row(desk, each).attempts) for each in (first, second)] == [(ONE, 1), (OTHER, 1)]


def test_without_uploads_there_is_nothing_to_claim(desk: Desk) -> None:
    assert claim(desk) is None


def test_a_lease_that_ran_out_is_taken_over(desk: Desk, clock: Clock) -> None:
    upload_id = receive(desk)
    assert claim(desk, ONE) == upload_id
    clock.wait(LEASE)
    assert claim(desk, OTHER) is None
    clock.wait(SECOND)
    assert claim(desk, OTHER) == upload_id
    assert (row(desk, upload_id).leased_by, row(desk, upload_id).attempts) == (OTHER, 2)


def test_a_lease_is_renewed_by_its_owner_only(desk: Desk, clock: Clock) -> None:
    upload_id = receive(desk)
    claim(desk, ONE)
    for owner, until in ((OTHER, EARLY + LEASE), (ONE, EARLY + LEASE + 20 * SECOND)):
        clock.time = EARLY + 20 * SECOND
        with desk.database.transaction() as session:
            waiting.renew(session, upload_id, owner)
        assert row(desk, upload_id).leased_until == until
    clock.time = EARLY + LEASE + SECOND
    assert claim(desk, OTHER) is None


def test_a_file_that_ends_its_worker_is_given_up_after_three_times(desk: Desk, clock: Clock) -> None:
    upload_id = receive(desk, b"a bomb")
    for _ in range(MOST_ATTEMPTS):
        assert claim(desk) == upload_id
        clock.wait(LEASE + SECOND)
    assert claim(desk) == upload_id
    found = waiting.describe(work(desk, upload_id))
    assert (found["status"], found["error"]["code"]) == ("refused", "model_trial_failed")
    assert "3 times" in found["error"]["detail"]
    assert (versions(desk), quarantined(desk), claim(desk)) == ([], [], None)


# --- Working ------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_version_and_leaves_quarantine(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "iris.joblib"
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), file)
    files = {
        "file": ("iris (final).joblib", writes(file.read_bytes())),
        "metadata": ("m", writes(b'{"accuracy": 0.9}')),
    }
    upload_id = waiting.receive(desk, ANN, Wish("iris", label="spring", activate=True), files)
    assert claim(desk) == upload_id

    found = work(desk, upload_id)

    assert waiting.describe(found)["status"] == "stored"
    assert (found.version, found.refusal, found.done_at) == (1, None, EARLY)
    assert quarantined(desk) == []
    assert claim(desk) is None
    with desk.database.reading() as session:
        assert waiting.under_way(session) == []
        model = registry.get_model(session, "iris")
        version = registry.get_version(session, model, 1)
        assert (model.active_number, version.label, version.card) == (1, "spring", {"accuracy": 0.9})
        assert version.report["file"]["name"] == "iris (final).joblib"
        noted = [(each.action, each.actor, each.address, each.request_id) for each in session.query(AuditRecord)]
    assert noted == [(act, *(ANN.name, ANN.address, ANN.request_id)) for act in ("models.upload", "models.activate")]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an empty file": ({"content": b""}, "model_format_unknown"),
    "no model at all": ({"content": b"MZ\x90 not a model"}, "model_format_unknown"),
    "metadata that is no JSON": ({"content": b"x", "metadata": b"{"}, "metadata_unreadable"),
    "metadata with a wrong accuracy": ({"content": b"x", "metadata": b'{"accuracy": "high"}'}, "metadata_unreadable"),
    "a label in the metadata that is none": ({"content": b"x", "metadata": b'{"version": "a b"}'}, "label_not_allowed"),
}


@pytest.mark.parametrize(("files", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_why_and_leaves_quarantine(desk: Desk, files: dict[str, Any], code: str) -> None:
    upload_id = receive(desk, **files)
    claim(desk)
    found = waiting.describe(work(desk, upload_id))
    assert (found["status"], found["error"]["code"], found["version"]) == ("refused", code, None)
    assert isinstance(found["error"]["findings"], list)
    assert found["error"]["detail"]
    assert json.dumps(found)
    assert quarantined(desk) == []
    assert (versions(desk), claim(desk)) == ([], None)


def test_without_the_database_an_upload_waits_for_another_attempt(desk: Desk, clock: Clock) -> None:
    upload_id = receive(desk)
    claim(desk)
    pending = row(desk, upload_id)
    with database_away(desk), pytest.raises(Unavailable):
        waiting.work(desk, pending)
    assert quarantined(desk) == [upload_id, f"{upload_id}/file"]
    assert row(desk, upload_id).done_at is None
    assert claim(desk) is None
    clock.wait(LEASE + SECOND)
    assert claim(desk, OTHER) == upload_id
    assert work(desk, upload_id).refusal


def test_who_lost_the_lease_does_not_end_the_upload(desk: Desk, clock: Clock) -> None:
    """As when a worker was stopped for a while: meanwhile another one works on the file."""
    upload_id = receive(desk)
    claim(desk, ONE)
    pending = row(desk, upload_id)
    clock.wait(LEASE + SECOND)
    claim(desk, OTHER)
    with pytest.raises(Unavailable, match="lease_lost"):
        waiting.work(desk, pending)
    assert row(desk, upload_id).done_at is None
    assert quarantined(desk) == [upload_id, f"{upload_id}/file"]


def test_files_that_are_gone_do_not_end_the_inspector(desk: Desk, settings: Settings) -> None:
    """As when who had lost the lease was faster, or somebody tidied up: the thread inspects no upload after that."""
    upload_id = receive(desk)
    (desk.folder(upload_id) / "file").unlink()
    parts = composition.make_parts(settings)
    try:
        assert Inspector(parts, "host").work_once()
    finally:
        parts.database.engine.dispose()
    assert row(desk, upload_id).refusal


def test_the_inspector_works_on_one_upload_at_a_time(desk: Desk, settings: Settings, clock: Clock) -> None:
    first = receive(desk)
    clock.wait(SECOND)
    second = receive(desk)
    parts = composition.make_parts(settings)
    inspector = Inspector(parts, "host")
    assert inspector.work_once()
    assert (row(desk, first).done_at, row(desk, second).done_at) == (EARLY + SECOND, None)
    assert [inspector.work_once(), inspector.work_once()] == [True, False]
    assert row(desk, second).done_at
    with desk.database.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).where(PendingUpload.done_at.is_(None))) == 0
    parts.database.engine.dispose()


def test_of_uploads_that_come_at_once_no_more_wait_than_have_room(desk: Desk) -> None:
    content, room, count = b"x" * 100, 6, 10
    desk = replace(desk, settings=replace(desk.settings, max_waiting_bytes=room * len(content) + 50))
    all_are_there = threading.Barrier(count)

    def save(path: Path) -> None:
        path.write_bytes(content)
        all_are_there.wait(60)

    def send(number: int) -> str:
        try:
            waiting.receive(desk, ANN, Wish(f"model-{number}"), {"file": ("m", save)})
        except Unavailable as refusal:
            return refusal.code
        return "taken"

    with ThreadPoolExecutor(count) as pool:
        answers = sorted(pool.map(send, range(count)))
    assert answers == ["quarantine_full"] * (count - room) + ["taken"] * room
