"""The refusals of a `.skops` file: a code, and findings with name, meaning and place."""

from __future__ import annotations

from webapp.errors import Invalid
from webapp.intake.reading.findings import NOTHING_RAN, shown
from webapp.intake.reading.findings import refused as _refused

Finding = dict[str, str | int]


def refusal(code: str, detail: str, *findings: Finding) -> Invalid:
    """Make the refusal of a file."""
    return _refused(code, f"{detail} {NOTHING_RAN}", *findings)


def finding(name: str, meaning: str, place: str) -> Finding:
    """Say what is wrong; `place` is a member of the zip, or a JSON pointer into its schema."""
    return {"name": shown(name), "meaning": meaning, "place": shown(place)}


def damaged(place: str, meaning: str) -> Invalid:
    """Make the refusal of a file that is no zip of skops' any more."""
    return refusal("model_damaged", f"The .skops file is damaged. {meaning}", finding(place, meaning, place))


def truncated() -> Invalid:
    """Make the refusal of a file without an end."""
    meaning = "The zip's directory, which stands at its end, is missing."
    return refusal("model_truncated", "The .skops file ends too early.", finding("", meaning, ""))


def too_large(place: str, meaning: str) -> Invalid:
    """Make the refusal of a file that would need more memory than there is for one."""
    return refusal("model_unpacks_too_large", meaning, finding(place, meaning, place))


def malformed(place: str, meaning: str) -> Invalid:
    """Make the refusal of a file that describes what skops does not write."""
    return refusal("model_structure_invalid", meaning, finding(place, meaning, place))
