"""Rows that a version refused in a time, beside the days before: they never reach the log, and may be all that drifts.

Whatever version of the model was asked, callers were the same: a version that takes less than the one before it is seen
on its first day.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from webapp.drift import rule
from webapp.drift.rule import Share
from webapp.predictions import refusals
from webapp.predictions.counts import DriftReference
from webapp.predictions.traffic import DAY
from webapp.signature.refused import Tally

# Days before, which say what is usual; so few say nothing of how much days differ.
USUAL_DAYS, FEWEST_CALIBRATING = 30, 5
# So many reasons are named.
MOST_REASONS = 10

# A version and a day.
Place = tuple[int, datetime]


@dataclass(frozen=True, slots=True)
class Reason:
    """A field and a rule, with the part of the refused rows that they are the reason of, here and before (1 is all)."""

    field: str
    code: str
    part: float
    part_before: float


@dataclass(frozen=True, slots=True)
class Refused:
    """How many rows were asked and refused, here and on the days before that were well, and why."""

    asked: int
    refused: int
    asked_before: int
    refused_before: int
    reasons: tuple[Reason, ...]

    @property
    def share(self) -> float:
        """The part of the rows that was refused."""
        return self.refused / self.asked if self.asked else 0.0

    @property
    def share_before(self) -> float | None:
        """The part that was refused on the days before; None where nothing was asked."""
        return self.refused_before / self.asked_before if self.asked_before else None

    def as_dict(self) -> dict[str, Any]:
        """Give the public form."""
        return asdict(self) | {"share": self.share, "share_before": self.share_before}


# What a rule that refuses a value says of it, behind the name of its field.
SAID = {
    "required": "missing",
    "null_not_allowed": "null",
    "out_of_bounds": "outside its bounds",
    "number_out_of_range": "too large for a number",
    "not_allowed": "none of the allowed values",
    "not_a_number": "not a number",
    "not_an_integer": "not a whole number",
    "not_a_boolean": "not true or false",
    "not_a_string": "not a text",
    "character_not_allowed": "with a character that is not allowed",
    "unknown_field": "not of the model",
    "not_an_object": "not an object",
    "model_refused_input": "refused by the model itself",
}


def said(reason: Reason) -> str:
    """Say what was wrong with a field; by its code where there are no words for it."""
    return SAID.get(reason.code, reason.code.replace("_", " "))


def in_words(found: Refused) -> str:
    """Say how much was refused, how much that was before, and the first reason."""
    usual = "" if found.share_before is None else f", {found.share_before:.1%} on the days before"
    first = next(iter(found.reasons), None)
    why = f"; {first.field} was {said(first)} in {first.part:.0%} of them" if first else ""
    return f"{found.share:.1%} of the rows were refused{usual}{why}"


def from_dict(document: dict[str, Any]) -> Refused:
    """Read what `asdict` gives."""
    return Refused(**{**document, "reasons": tuple(Reason(**each) for each in document["reasons"])})


@dataclass(frozen=True, slots=True)
class Beside:
    """A time and the days before it, and how much their shares differ anyway."""

    here: Tally
    before: Tally
    dispersion: float
    days: int

    @property
    def refused(self) -> Refused:
        """Say it for people."""
        reasons = sorted(self._reasons(), key=lambda each: (-each.part, each.field, each.code))
        totals = (self.here.asked, self.here.refused, self.before.asked, self.before.refused)
        return Refused(*totals, tuple(reasons[:MOST_REASONS]))

    def _reasons(self) -> Iterable[Reason]:
        for field, codes in self.here.fields.items():
            for code, rows in codes.items():
                usual = self.before.fields.get(field, {}).get(code, 0)
                parts = rows / max(self.here.refused, 1), usual / max(self.before.refused, 1)
                yield Reason(field, code, *(round(each, 4) for each in parts))

    def compared(self, tolerance: float, level: float) -> rule.Comparison:
        """Compare the shares: whether more is refused than before."""
        before, here = (Share(each.refused, each.asked) for each in (self.before, self.here))
        return rule.grown(before, here, tolerance=tolerance, dispersion=self.dispersion, level=level)


def beside(
    session: Session, reference: DriftReference, since: datetime, until: datetime, unwell: Collection[Place]
) -> Beside | None:
    """Give what was refused in a time and before it, without `unwell` days; None where nothing was refused at all."""
    model, version = reference.model, reference.version
    here = _sum(refusals.by_day(session, model, since, until), version)
    if reference.since is not None and reference.until is not None:
        usual = [_sum(refusals.by_day(session, model, reference.since, reference.until), version)]
    else:
        by_day = refusals.by_day(session, model, since - USUAL_DAYS * DAY, since)
        usual = [tally for place, tally in sorted(by_day.items()) if place not in unwell]
    before = sum(usual, Tally())
    if not here.refused and not before.refused:
        return None
    return Beside(here, before, _dispersion(usual), (until - since).days)


def _sum(by_day: dict[Place, Tally], version: int) -> Tally:
    return sum((tally for (number, _), tally in by_day.items() if number == version), Tally())


def _dispersion(days: Collection[Tally]) -> float:
    if len(days) < FEWEST_CALIBRATING:
        return 1.0
    return rule.dispersion([np.array([each.asked - each.refused, each.refused]) for each in days])


def asked(session: Session, reference: DriftReference, since: datetime, until: datetime) -> dict[datetime, int]:
    """Give how many rows a version was asked about on each day."""
    by_day = refusals.by_day(session, reference.model, since, until)
    return {day: tally.asked for (number, day), tally in by_day.items() if number == reference.version}
