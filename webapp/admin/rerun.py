"""Page that asks a version what another one was asked: a logged prediction and a second answer, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, g

from webapp import registry, web
from webapp.admin.guard import blueprint, needs, small_number
from webapp.admin.pages import page
from webapp.admin.predictions import signature_of
from webapp.errors import Conflict, NotFound, Refusal, Unavailable
from webapp.predictions import search
from webapp.predictions.log import Prediction
from webapp.signature import Signature, keeping

door: Blueprint = blueprint("rerun")

# More to choose from than anyone scrolls through.
MOST_CHOICES = 200


@dataclass(frozen=True, slots=True)
class Share:
    """A class with its probability then and now; None where one version does not know it."""

    name: str
    then: float | None
    now: float | None

    @property
    def change(self) -> float | None:
        """By how much it is more now."""
        return None if self.then is None or self.now is None else self.now - self.then


@dataclass(frozen=True, slots=True)
class Asked:
    """What a version says now of what was logged."""

    answer: Mapping[str, Any]
    same: bool
    # Of a number, by how much it is more now.
    change: float | None
    shares: list[Share]


@door.get("/predictions/<prediction_id>/rerun")
@needs("operator")
def show(prediction_id: str) -> Response:
    """Ask a version what a logged prediction was made of, and show both answers; it is not logged."""
    made, number = web.parts(), small_number("version")
    with made.database.reading() as session:
        found = search.get(session, prediction_id)
        signature = signature_of(session, found)
        model = registry.get_model(session, found.model)
        lines = registry.version_lines(session, model, most=MOST_CHOICES)
        active = model.active_number
    number = number or (active if active and active != found.version else found.version)
    asked, refusal = None, None
    try:
        require_whole(signature)
        loaded = made.follower.served(found.model, number)
        [answer] = loaded.predict([found.instance], [""], [f"{g.request_id}-0"])
        asked = _compared(found, answer.document)
    except Refusal as caught:
        refusal = caught
    choices = [(line.number, _called(line.number, line.label, active)) for line in lines]
    # That a version does not take this is what was asked for; that there is none, or none in memory, is not.
    status = next((web.STATUS[kind] for kind in (NotFound, Unavailable) if isinstance(refusal, kind)), HTTPStatus.OK)
    return page("rerun/show.html", status, row=found, number=number, asked=asked, refusal=refusal, choices=choices)


def require_whole(signature: Signature | None) -> None:
    """Refuse to ask again what the log has not as it was sent."""
    if signature and (hidden := keeping.hidden(signature)):
        names = ", ".join(hidden)
        raise Conflict("instance_not_kept", f"The log has not all that was sent: hashed or not kept are {names}.")


def _called(number: int, label: str | None, active: int | None) -> str:
    return f"v{number}{f' ({label})' if label else ''}{', active' if number == active else ''}"


def _compared(row: Prediction, answer: Mapping[str, Any]) -> Asked:
    then, now = row.prediction, answer["prediction"]
    change = now - then if _is_number(then) and _is_number(now) and row.probabilities is None else None
    return Asked(answer, then == now, change, _shares(row.probabilities, answer.get("probabilities")))


def _shares(then: object, now: object) -> list[Share]:
    """Give the probability of each class, of each output where there are several."""
    before, after = _flat(then), _flat(now)
    return [Share(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]


def _flat(probabilities: object, prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in probabilities.items() if isinstance(probabilities, dict) else ():
        found |= _flat(value, f"{prefix}{name} ") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return {name: value for name, value in found.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
