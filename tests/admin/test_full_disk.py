"""The admin UI on a full disk: it shows what there is, and each form says in one sentence why nothing was done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.conftest import DEEDS, Clock, House, Page
from tests.small_disk import SmallDisk, mounted

SENTENCES = (
    "The disk of the database is full, so nothing was changed; try again when there is room on it.",
    "The server's disk has no room for this upload; nothing was kept of it. Try again when there is.",
)
# They write nothing but a cookie.
LOOKING = {"try a version": 200, "switch the theme": 303}
pytestmark = pytest.mark.sqlite("the disk of the data directory is the database's")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """The disk on which the house will stand."""
    made = mounted(tmp_path / "house-0")
    yield made
    made.close()


def test_every_form_says_so_and_changes_nothing(disk: SmallDisk, lived_in: House) -> None:
    browsers = {name: deed.browser(lived_in) for name, deed in DEEDS.items()}
    before, said = lived_in.state(), {}
    with disk.full():
        for name, deed in DEEDS.items():
            answer = deed.do(lived_in, browsers[name])
            said[name] = (answer.status_code, any(each in Page(answer.text).text for each in SENTENCES))
    assert said == {name: (LOOKING.get(name, 507), name not in LOOKING) for name in DEEDS}
    assert lived_in.state() == before


def test_pages_are_shown_and_forms_work_again_when_there_is_room(disk: SmallDisk, house: House, clock: Clock) -> None:
    # Long enough for its use to be noted with the next page.
    admin = house.admin
    clock.wait(minutes=10)
    with disk.full():
        assert [admin.get(path).status_code for path in ("/admin/keys", "/admin/system", "/admin/models")] == [200] * 3
    assert admin.send("/admin/users", "/admin/users", name="mara", role="viewer").status_code in {200, 303}
    assert house.person("mara").role == "viewer"
