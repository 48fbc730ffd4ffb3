"""Finds logged predictions: page by page, all of them in a stream, or one with its neighbours."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.db import Moment
from webapp.errors import Invalid, NotFound
from webapp.predictions.log import CALLED, Prediction
from webapp.predictions.traffic import TRIALS
from webapp.predictions.truth import Outcome

# A page looks at no more rows than this: a condition that nothing meets must not read the whole log.
MOST_LOOKED_AT = 10_000
MOST_VERSION = 2**31 - 1

EPOCH = datetime.fromtimestamp(0, UTC)
END = datetime.max.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

POSITION = sa.tuple_(Prediction.at, Prediction.id)
UPWARD = (Prediction.at, Prediction.id)
DOWNWARD = (Prediction.at.desc(), Prediction.id.desc())

Condition = sa.ColumnElement[bool] | sa.TextClause
# What is known of the truth: that, nothing, or that the answer was another.
Truth = Literal["told", "untold", "wrong"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; a prediction meets every condition that is set.

    `outcome` and `value` are written as people write them: `35` finds 35.0, `true` and `null` find JSON's. Of several
    outputs, one with this outcome is enough; such a prediction has no one probability, and is found by none.
    `since` belongs to the time, `until` does not.
    """

    model: str | None = None
    version: int | None = None
    key_id: str | None = None
    # What the caller calls the instance.
    client_id: str | None = None
    # The trace that the caller's request belonged to.
    trace_id: str | None = None
    source: str | None = None
    outcome: str | None = None
    probability_from: float | None = None
    probability_to: float | None = None
    since: datetime | None = None
    until: datetime | None = None
    # The instance has this feature; with a value, just that one.
    feature: str | None = None
    value: str | None = None
    warned: bool = False
    truth: Truth | None = None


def moment_from(text: str, *, is_end: bool = False) -> datetime:
    """Read a date, which as an end is meant to its end, or a date and time; in UTC where no zone is said."""
    with suppress(ValueError, OverflowError):
        if len(text) <= len("2026-03-03"):
            begins = datetime.combine(date.fromisoformat(text), time.min, UTC)
            return begins + timedelta(days=1) if is_end else begins
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    detail = f"A time is a date such as 2026-03-03, or a date and time such as 2026-03-03T12:00:00Z, not “{text}”."
    raise Invalid("time_unreadable", detail)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the log, which is ordered by time and then by id."""

    at: datetime
    id: str

    @property
    def text(self) -> str:
        """The place as it may stand in a URL."""
        written = f"{(self.at - EPOCH) // MICROSECOND} {self.id}".encode()
        return base64.urlsafe_b64encode(written).decode().rstrip("=")


def place_from(text: str) -> Place:
    """Read what `Place.text` wrote."""
    with suppress(ValueError, OverflowError):
        written = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        microseconds, _, prediction_id = written.partition(" ")
        place = Place(EPOCH + int(microseconds) * MICROSECOND, prediction_id)
        # Only one spelling of a place is ours. No id holds a NUL, and PostgreSQL would not take it.
        if place.text == text and "\0" not in prediction_id:
            return place
    raise Invalid("cursor_unreadable", "This place in the log cannot be read; begin with the newest predictions.")


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the predictions that were looked for, the newest first."""

    rows: list[Prediction]
    # Where to go on (`after=newer`, `before=older`); None where there is nothing more.
    newer: Place | None
    older: Place | None
    # Of a full page, only its own rows.
    looked_at: int
    # False when only the number of rows looked at ended the page: there may be more to find behind it.
    complete: bool


def search(
    session: Session, wanted: Wanted, *, size: int = 50, before: Place | None = None, after: Place | None = None
) -> Page:
    """Give the newest page, or the next older one `before` a place, or the next newer one `after` it."""
    way = _Way(session, wanted, before, after)
    conditions = list(_conditions(wanted))
    last, beyond = way.edge() if conditions else (None, None)
    found = way.walk(size + 1, beyond, conditions)
    if len(found) > size:
        found.pop()
        last = _place(found[-1])
    full = len(found) == size
    looked_at = way.length() if conditions and not full else len(found)
    newer, older = None, last
    if before is not None:
        newer = way.first() or Place(before.at, "")
    elif after is not None:
        newer, older = last, way.first() or Place(END, "")
        found.reverse()
    return Page(found, newer, older, looked_at, complete=full or beyond is None)


@dataclass(frozen=True, slots=True)
class Slowest:
    """The slowest predictions among the newest that were looked at, the slowest first."""

    rows: list[Prediction]
    # All that there are, unless it was too many.
    looked_at: int
    complete: bool


def slowest(session: Session, wanted: Wanted, most: int) -> Slowest:
    """Give the slowest predictions; trials and what nobody waited for are looked at, and left out."""
    way = _Way(session, wanted, None, None)
    _, beyond = way.edge()
    conditions = [*_conditions(wanted), Prediction.source.not_in(TRIALS), Prediction.latency_seconds > 0]
    return Slowest(way.slowest(most, beyond, conditions), way.length(), complete=beyond is None)


def get(session: Session, prediction_id: str) -> Prediction:
    """Give a logged prediction, whoever asked for it."""
    found = session.get(Prediction, prediction_id)
    if found is None:
        raise NotFound("unknown_prediction", "No prediction has this id; one just made is in the log within a second.")
    return found


def beginning(session: Session, text: str) -> str | None:
    """Give the id that is this text, or the only one that begins so."""
    if not text or "\0" in text:
        return None
    # A range of the primary key: no id holds a character above these.
    begins = sa.select(Prediction.id).where(Prediction.id >= text, Prediction.id < f"{text}\U0010ffff")
    found = list(session.scalars(begins.order_by(Prediction.id).limit(2)))
    return found[0] if found and (len(found) == 1 or found[0] == text) else None


def is_trace(session: Session, text: str) -> bool:
    """Tell whether there are predictions of the trace that is called so."""
    found = sa.select(Prediction.id).where(Prediction.trace_id == text).limit(1)
    return "\0" not in text and session.scalar(found) is not None


def neighbours(session: Session, prediction: Prediction) -> tuple[Prediction | None, Prediction | None]:
    """Give the next newer and the next older prediction of the same model."""
    place = Place(prediction.at, prediction.id)
    same = sa.select(Prediction).where(Prediction.model == prediction.model).limit(1)
    newer = same.where(*_between(place, None)).order_by(*UPWARD)
    older = same.where(*_between(None, place)).order_by(*DOWNWARD)
    return session.scalar(newer), session.scalar(older)


# --- Looking through the log ------------------------------------------------------------------------------


class _Way:
    """The rows that one index chooses, in its order. Nothing else is read, wherever the way begins."""

    def __init__(self, session: Session, wanted: Wanted, before: Place | None, after: Place | None) -> None:
        """Begin at the newest row, or behind a place."""
        self._session = session
        self._upward = after is not None
        since, until = ((Place(at, "") if at else None) for at in (wanted.since, wanted.until))
        # One bound to each side: of two, a database may follow the wider one and skip what the other excludes.
        self._lower = max((place for place in (since, after) if place), key=_order, default=None)
        self._upper = min((place for place in (until, before) if place), key=_order, default=None)
        self._chosen: list[Condition] = []
        if wanted.trace_id is not None:
            self._chosen = [Prediction.trace_id == wanted.trace_id]
        elif wanted.client_id is not None:
            self._chosen = [Prediction.client_id == wanted.client_id, CALLED]
        elif wanted.key_id is not None:
            self._chosen = [Prediction.key_id == wanted.key_id]
        elif wanted.model is not None:
            self._chosen = [Prediction.model == wanted.model]

    def walk(self, most: int, beyond: Place | None, conditions: list[Condition]) -> list[Prediction]:
        """Give the first rows that meet conditions, up to the place that is looked at no more."""
        lower, upper = (self._lower, beyond or self._upper) if self._upward else (beyond or self._lower, self._upper)
        bounds = (*self._chosen, *_between(lower, upper))
        statement = sa.select(Prediction).where(*bounds, *conditions).order_by(*self._direction).limit(most)
        return list(self._session.scalars(statement))

    def slowest(self, most: int, beyond: Place | None, conditions: list[Condition]) -> list[Prediction]:
        """Give the slowest rows that meet conditions, of those behind the place that is looked at no more."""
        bounds = (*self._chosen, *_between(beyond or self._lower, self._upper))
        order = (Prediction.latency_seconds.desc(), *DOWNWARD)
        return list(
            self._session.scalars(sa.select(Prediction).where(*bounds, *conditions).order_by(*order).limit(most))
        )

    def edge(self) -> tuple[Place, Place] | tuple[None, None]:
        """Give the last place that is looked at and the one behind it; neither when the way ends before."""
        found = self._places().offset(MOST_LOOKED_AT - 1).limit(2)
        match [Place(*row) for row in self._session.execute(found)]:
            case [last, beyond]:
                return last, beyond
        return None, None

    def first(self) -> Place | None:
        """Give the place where the way begins."""
        found = self._session.execute(self._places().limit(1)).first()
        return Place(*found) if found else None

    def length(self) -> int:
        """Count the rows that are looked at."""
        rows = self._places().limit(MOST_LOOKED_AT).subquery()
        return self._session.scalar(sa.select(sa.func.count()).select_from(rows)) or 0

    @property
    def _direction(self) -> tuple[sa.SQLColumnExpression[Any], ...]:
        return UPWARD if self._upward else DOWNWARD

    def _places(self) -> sa.Select[datetime, str]:
        bounds = (*self._chosen, *_between(self._lower, self._upper))
        return sa.select(Prediction.at, Prediction.id).where(*bounds).order_by(*self._direction)


def _place(prediction: Prediction) -> Place:
    return Place(prediction.at, prediction.id)


def _order(place: Place) -> tuple[datetime, str]:
    return place.at, place.id


def _position(place: Place) -> sa.Tuple:
    return sa.tuple_(sa.literal(place.at, Moment), place.id)


def _between(lower: Place | None, upper: Place | None) -> Iterator[Condition]:
    if lower is not None:
        yield _position(lower) < POSITION
    if upper is not None:
        yield _position(upper) > POSITION


# --- Conditions that no index serves ----------------------------------------------------------------------

# They look at the text that Python made of JSON values: its spelling is known, and all databases compare text alike.
# What they say of JSON itself (paths, numbers, names that are not ASCII) differs, even between releases of one.


def _conditions(wanted: Wanted) -> Iterator[Condition]:
    yield from _beside_chosen(wanted)
    if wanted.version is not None:
        # A number that the column cannot hold is no error, but nobody's.
        yield Prediction.version == min(wanted.version, MOST_VERSION)
    if wanted.source is not None:
        yield Prediction.source == wanted.source
    if wanted.warned:
        yield _text(Prediction.warnings) != "[]"
    yield from _probability_within(wanted.probability_from, wanted.probability_to)
    if wanted.outcome is not None:
        yield _comes_to(wanted.outcome)
    if wanted.truth is not None:
        yield _in_truth(wanted.truth)
    yield from _sent(wanted)


def _sent(wanted: Wanted) -> Iterator[Condition]:
    if wanted.feature is not None:
        yield _holds(_text(Prediction.instance), f"{json.dumps(wanted.feature)}: ", wanted.value)
    elif wanted.value is not None:
        raise Invalid("value_without_feature", "Name the feature that is to have this value.")


def _beside_chosen(wanted: Wanted) -> Iterator[Condition]:
    """Give those that have an index, where that of another one leads."""
    # Written so that theirs cannot lead: the other's rows were counted.
    given = (
        (Prediction.trace_id, wanted.trace_id),
        (Prediction.client_id, wanted.client_id),
        (Prediction.key_id, wanted.key_id),
        (Prediction.model, wanted.model),
    )
    for column, value in [pair for pair in given if pair[1] is not None][1:]:
        yield sa.func.coalesce(column, "") == value


def _text(column: sa.SQLColumnExpression[Any]) -> sa.ColumnElement[str]:
    return sa.cast(column, sa.Text)


def _contains(text: sa.ColumnElement[str], part: str) -> Condition:
    # The one function for it that SQLite and PostgreSQL share: for SQLite, `LIKE` takes capitals for small letters.
    return sa.func.replace(text, part, "") != text


def _number(column: sa.SQLColumnExpression[Any]) -> sa.ColumnElement[float | None]:
    """Give the number of a JSON value, null for anything else."""
    text = _text(column)
    return sa.case((sa.func.substr(text, 1, 1).in_(list("-0123456789")), sa.cast(text, sa.Double)))


def _probability_within(low: float | None, high: float | None) -> Iterator[Condition]:
    probability = _number(Prediction.probability)
    if low is not None:
        yield probability >= low
    if high is not None:
        yield probability <= high


def _comes_to(outcome: str) -> Condition:
    text = _text(Prediction.prediction)
    one_of_several = sa.and_(sa.func.substr(text, 1, 1) == "{", _holds(text, '": ', outcome))
    ways = [text.in_([*_words(outcome), *_numbers(outcome)]), one_of_several]
    number = _read(outcome)
    if isinstance(number, float) and math.isfinite(number):
        # As text, SQLite gives 15 digits of a number.
        rounding = abs(number) * 1e-14
        ways.append(_number(Prediction.prediction).between(number - rounding, number + rounding))
    return sa.or_(*ways)


def _in_truth(truth: Truth) -> Condition:
    # One value of a row, and no join: that could begin at all outcomes there are.
    told = sa.select(_text(Outcome.value)).where(Outcome.prediction_id == Prediction.id).scalar_subquery()
    if truth == "wrong":
        # Written as predictions of the version are, whatever the caller wrote.
        return told != _text(Prediction.prediction)
    return told.is_(None) if truth == "untold" else told.is_not(None)


def _holds(text: sa.ColumnElement[str], name: str, value: str | None) -> Condition:
    """Tell whether a flat JSON object has a member. No string in it can look like one: its quotes are escaped."""
    if value is None:
        return _contains(text, name)
    ways = [_contains(text, name + word) for word in _words(value)]
    for number in _numbers(value):
        # Most rows are decided by the first look.
        ends = sa.or_(*(_contains(text, name + number + end) for end in ",}"))
        ways.append(sa.and_(_contains(text, name + number), ends))
    return sa.or_(*ways)


def _words(written: str) -> list[str]:
    """Give what JSON can hold where people write `written`, except numbers."""
    word = written.lower()
    return [json.dumps(written), *([word] if word in {"true", "false", "null"} else [])]


def _numbers(written: str) -> list[str]:
    """Give the spellings of a number: JSON tells 35 from 35.0, people do not."""
    number = _read(written)
    spellings = [] if number is None else [str(number)]
    with suppress(OverflowError):
        if isinstance(number, int):
            spellings.append(str(float(number)))
        elif number is not None and number.is_integer():
            spellings.append(str(int(number)))
    return spellings


def _read(written: str) -> int | float | None:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(written)
    return None
