"""Feedback: callers tell what turned out to be true; each item is taken or refused by itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy.orm import Session

from webapp import registry, signature
from webapp.db import now
from webapp.errors import Invalid, NotFound
from webapp.predictions import truth
from webapp.predictions.log import Prediction
from webapp.signature import Output, Signature

FIELDS = {"prediction_id", "id", "outcome", "observed_at"}
MOST_ID_CHARACTERS = 200
# Clocks differ a little.
AHEAD = timedelta(minutes=5)
IDS = ("prediction_id", "id")
UNKNOWN = "No prediction of this key has this id; one just made is in the log within a second."
UNKNOWN_OF_ALL = "No prediction has this id; an “id” of a caller's own needs the key that it belongs to."
STATUSES = ("accepted", "changed", "unchanged", "unknown", "refused")


@dataclass(frozen=True, slots=True)
class Item:
    """What is told of the predictions that have an id: ours, or the caller's own."""

    field: str
    id: str
    outcome: Any
    observed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one item."""

    status: str
    # Of which predictions it was told.
    predictions: int = 0
    code: str = ""
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Give the public form; a reason only where there is one."""
        shown: dict[str, Any] = {"status": self.status, "predictions": self.predictions}
        return shown | ({"code": self.code, "message": self.message} if self.code else {})


def take(session: Session, key_id: str | None, items: Sequence[object]) -> list[Answer]:
    """Keep what items tell of the predictions of a key, or with None of all keys; give one answer for each.

    The last word on a prediction counts, within one request too. Sent again, it changes nothing.
    """
    read = [_read(item) for item in items]
    named = {field: [each.id for each in read if isinstance(each, Item) and each.field == field] for field in IDS}
    found = {
        "prediction_id": truth.by_id(session, key_id, named["prediction_id"]),
        # What callers call theirs means nothing without them.
        "id": {} if key_id is None else truth.by_client_id(session, key_id, named["id"]),
    }
    unknown = UNKNOWN if key_id is not None else UNKNOWN_OF_ALL
    taking = _Taking(session, [row for rows in found.values() for each in rows.values() for row in each], unknown)
    answers = [
        each if isinstance(each, Answer) else taking.take(each, found[each.field].get(each.id, [])) for each in read
    ]
    truth.put(session, list(taking.kept.values()))
    return answers


def counted(answers: Sequence[Answer]) -> dict[str, int]:
    """Count items by what became of them."""
    by_status = Counter(each.status for each in answers)
    return {status: by_status[status] for status in STATUSES}


class _Taking:
    """Outcomes on their way into the database, by prediction."""

    def __init__(self, session: Session, predictions: Sequence[Prediction], unknown: str) -> None:
        self._moment = now()
        self._unknown = unknown
        self._values = {id_: row.value for id_, row in truth.known(session, [row.id for row in predictions]).items()}
        self._signature = cache(lambda model, version: _signature(session, model, version))
        self.kept: dict[str, dict[str, Any]] = {}

    def take(self, item: Item, predictions: Sequence[Prediction]) -> Answer:
        """Take what one item tells, of all predictions or of none."""
        if not predictions:
            return Answer("unknown", code="unknown_prediction", message=self._unknown)
        try:
            values = [_true_value(self._signature(row.model, row.version), item.outcome) for row in predictions]
        except Invalid as invalid:
            return Answer("refused", code=invalid.code, message=invalid.detail)
        statuses = [self._keep(row, value, item) for row, value in zip(predictions, values, strict=True)]
        return Answer(min(statuses, key=STATUSES.index), len(predictions))

    def _keep(self, prediction: Prediction, value: object, item: Item) -> str:
        known, before = prediction.id in self._values, self._values.get(prediction.id)
        if known and before == value:
            return "unchanged"
        self._values[prediction.id] = value
        observed_at = item.observed_at or self._moment
        told = {"value": value, "observed_at": observed_at, "told_at": self._moment}
        copied = {name: getattr(prediction, name) for name in ("model", "version", "at", "source")}
        self.kept[prediction.id] = {"prediction_id": prediction.id, **told, **copied}
        return "changed" if known else "accepted"


def _signature(session: Session, model: str, version: int) -> Signature | None:
    """Give what a version answers with; None where it is gone."""
    try:
        found = registry.get_version(session, registry.get_model(session, model), version)
    except NotFound:
        return None
    return signature.from_dict(found.signature)


# --- Reading an item --------------------------------------------------------------------------------------


def _read(item: object) -> Item | Answer:
    try:
        return _item(item)
    except Invalid as invalid:
        return Answer("refused", code=invalid.code, message=invalid.detail)


def _item(item: object) -> Item:
    if not isinstance(item, dict):
        raise Invalid("not_an_object", "An item is an object with “prediction_id” or “id”, and “outcome”.")
    if strangers := sorted(set(item) - FIELDS):
        raise Invalid(
            "unknown_field", f"An item has no field “{strangers[0]}”; there are: {', '.join(sorted(FIELDS))}."
        )
    given = [field for field in IDS if item.get(field) is not None]
    if len(given) != 1:
        raise Invalid("id_missing", "An item has either a “prediction_id” or an “id” of your own.")
    (field,) = given
    if not isinstance(item[field], str) or not 0 < len(item[field]) <= MOST_ID_CHARACTERS:
        raise Invalid("id_unusable", f"“{field}” is a text of at most {MOST_ID_CHARACTERS} characters.")
    if item.get("outcome") is None:
        raise Invalid("outcome_missing", "“outcome” says what was true: a class or a number, as predictions have it.")
    return Item(field, item[field], item["outcome"], _moment(item.get("observed_at")))


def _moment(text: object) -> datetime | None:
    """Read when something turned out to be true; in UTC where no zone is said."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text) if isinstance(text, str) else None
        moment = read and (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise Invalid("observed_at_unreadable", "“observed_at” is a date and time such as 2026-03-03T12:00:00Z.")
    if moment > now() + AHEAD:
        raise Invalid("observed_at_ahead", "“observed_at” lies in the future.")
    return moment


def _true_value(answers: Signature | None, outcome: object) -> Any:  # noqa: ANN401 - a JSON value
    """Give an outcome as predictions of the version have it; raise `Invalid` where none could be so."""
    if answers is None:
        raise Invalid("unknown_version", "The version that made this prediction is not there any more.")
    if not answers.multi_output:
        return _of_output(answers.outputs[0], outcome)
    names = [output.name for output in answers.outputs]
    if not isinstance(outcome, dict) or set(outcome) != set(names):
        raise Invalid("outcome_not_the_models", f"The outcome is an object with {', '.join(names)}.")
    return {output.name: _of_output(output, outcome[output.name]) for output in answers.outputs}


def _of_output(output: Output, outcome: object) -> Any:  # noqa: ANN401 - a JSON value
    # Whoever keeps outcomes in a table has texts.
    if output.classes is None:
        return _number(outcome)
    for label in output.classes:
        if str(label) == str(outcome) or (label == outcome and isinstance(label, bool) == isinstance(outcome, bool)):
            return label
    there = ", ".join(map(str, output.classes[:20]))
    raise Invalid("outcome_not_a_class", f"The outcome is none of the classes of this model: {there}.")


def _number(outcome: object) -> float:
    number = math.nan
    if isinstance(outcome, int | float | str) and not isinstance(outcome, bool):
        with suppress(ValueError, OverflowError):
            number = float(outcome)
    if not math.isfinite(number):
        raise Invalid("outcome_not_a_number", "This model predicts numbers; the outcome is one.")
    return number
