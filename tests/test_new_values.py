"""New values by name: what categories hold that the reference has not, within bounds, and as the log has it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_counts import reference
from webapp.drift import bins
from webapp.drift.layout import Layout, Variable
from webapp.monitoring import new_values
from webapp.monitoring.new_values import MOST_CHARACTERS, MOST_VALUES

REGION, NOTE = "input:region", "input:note"
# More values than there are cells: the last ones are known, too.
KNOWN = [f"region {number}" for number in range(40)]
LAYOUT = Layout(
    (
        Variable("input", "region", bins.of_categories(KNOWN)),
        Variable("input", "note", bins.of_lengths(["a note", "another one"])),
    )
)


def named(*regions: Any) -> list[tuple[str, float]]:
    records = [{"instance": {"region": region, "note": "a secret"}} for region in regions]
    found = new_values.named(reference(LAYOUT), records, {REGION, NOTE})
    assert NOTE not in found, "a free text is told apart by nobody"
    return [(each.value, each.share) for each in found.get(REGION, ())]


def test_new_values_are_named_the_most_frequent_first() -> None:
    assert named("XK", "region 1", "XK", "YU", None, *KNOWN[:5]) == [("XK", 0.2), ("YU", 0.1)]


def test_what_the_reference_has_is_not_new_though_it_has_no_cell_of_its_own() -> None:
    assert named(*KNOWN, None) == []
    assert named() == []


def test_many_new_values_are_named_up_to_a_number_and_long_ones_are_cut() -> None:
    found = named(*(f"{number} {'x' * 500}" for number in range(200)))
    assert len(found) == MOST_VALUES
    assert {len(value) for value, _ in found} == {MOST_CHARACTERS}


@pytest.mark.parametrize(("value", "shown"), [(True, "true"), (7, "7"), (7.0, "7"), (7.5, "7.5"), ("", "")])
def test_values_are_written_as_they_are_told_apart(value: Any, shown: str) -> None:
    assert named(value) == [(shown, 1.0)]


def test_only_what_is_asked_for_is_named() -> None:
    records = [{"instance": {"region": "XK"}}]
    assert new_values.named(reference(LAYOUT), records, set()) == {}
