"""Tests of fair workers: who holds more lets others go first, and nobody waits for who is not there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from webapp import fair


@pytest.fixture(autouse=True)
def nobody() -> Iterator[None]:
    """No worker is known before and after a test."""
    for slot in range(fair.MOST_SLOTS):
        fair.leave(slot)
    yield
    for slot in range(fair.MOST_SLOTS):
        fair.leave(slot)


def test_the_only_worker_waits_for_nobody() -> None:
    assert not fair.is_ahead(100, 1)


@pytest.mark.parametrize(("own", "ahead"), [(0, False), (3, False), (4, True), (100, True)])
def test_who_holds_more_than_another_is_ahead(own: int, *, ahead: bool) -> None:
    fair.note(2, 3)
    fair.note(3, 7)
    assert fair.is_ahead(own, 1) is ahead


def test_what_a_slot_held_before_does_not_count_for_its_own_worker() -> None:
    fair.note(1, 0)
    assert not fair.is_ahead(5, 1)


def test_a_worker_that_has_left_is_not_waited_for() -> None:
    fair.note(2, 0)
    assert fair.is_ahead(1, 1)
    fair.leave(2)
    assert not fair.is_ahead(1, 1)
