"""Pages of the prediction log: search, one prediction, export of what was searched."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import keys, registry, web
from webapp.admin.calls import Call
from webapp.admin.guard import blueprint, needs
from webapp.admin.pages import page, plain
from webapp.db import Database, Session
from webapp.errors import Invalid, NotFound
from webapp.predictions import log, search, truth
from webapp.predictions.log import Prediction
from webapp.predictions.search import Wanted
from webapp.signature import Feature, Signature, example, from_dict

door: Blueprint = blueprint("predictions")

MOST_EXPORTED = 100_000
PIECE_ROWS = 500
TIMES = {
    "": (None, "Any time"),
    "1h": (timedelta(hours=1), "Last hour"),
    "24h": (timedelta(hours=24), "Last 24 hours"),
    "7d": (timedelta(days=7), "Last 7 days"),
    "30d": (timedelta(days=30), "Last 30 days"),
}
SOURCES = (("", "All"), ("api", "API"), ("batch", "Batch"), ("test", "Test keys"), ("ui", "Try it"))
FIELDS = ("model", "version", "key", "source", "outcome", "low", "high", "time", "input", "warned")
# What a spreadsheet would take for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Query:
    """The state of the list, as it stands in the address."""

    typed: dict[str, str]
    wanted: Wanted
    errors: dict[str, str]

    def href(self, endpoint: str, **more: str | None) -> str:
        """Give an address with the same query."""
        query: dict[str, Any] = {name: text for name, text in self.typed.items() if text}
        return url_for(endpoint, **(query | more))


def _query(session: Session) -> Query:
    typed = {name: request.args.get(name, "").strip()[:200] for name in FIELDS}
    errors: dict[str, str] = {}
    span = TIMES.get(typed["time"], (None, ""))[0]
    feature, is_pair, value = typed["input"].partition("=")
    wanted = Wanted(
        model=typed["model"] or None,
        version=_whole(typed["version"], errors),
        key_id=_key(session, typed["key"], errors),
        source=typed["source"] or None,
        outcome=typed["outcome"] or None,
        probability_from=_share("low", typed["low"], errors),
        probability_to=_share("high", typed["high"], errors),
        since=datetime.now(UTC) - span if span else None,
        feature=feature.strip() or None,
        value=value.strip() if is_pair else None,
        warned=bool(typed["warned"]),
    )
    if typed["input"] and not is_pair:
        errors["input"] = "Write it as name=value, such as income=52000."
    return Query(typed, wanted, errors)


def _whole(text: str, errors: dict[str, str]) -> int | None:
    if text and not text.removeprefix("v").isdecimal():
        errors["version"] = "A version is a number, such as 7."
    return int(text.removeprefix("v")[:9]) if text and not errors else None


def _share(name: str, text: str, errors: dict[str, str]) -> float | None:
    with suppress(ValueError):
        if not text or 0 <= float(text) <= 1:
            return float(text) if text else None
    errors[name] = "A probability is a number from 0 to 1."
    return None


def _key(session: Session, text: str, errors: dict[str, str]) -> str | None:
    """Give the id of a key that is named by its id, its prefix or its name."""
    if not text or text.startswith("user:"):
        return text or None
    found = keys.named(session, text)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(found[:5])
    errors["key"] = f"{len(found)} keys are called so; write one of {listed}." if found else "No key is called so."
    return text


@door.get("/predictions")
@needs("viewer")
def index() -> Response:
    """List predictions, the newest first, by what the address asks for."""
    with web.parts().database.reading() as session:
        query = _query(session)
        found = _found(session, query)
        names = keys.names(session, {row.key_id for row in found.rows})
        models = [line.name for line in registry.model_lines(session)]
    return page(
        "predictions/index.html",
        422 if query.errors else 200,
        query=query,
        found=found,
        names=names,
        models=[("", "All"), *((name, name) for name in models)],
        times=[(value, text) for value, (_, text) in TIMES.items()],
        sources=SOURCES,
        filtered=any(query.typed.values()),
        newer=query.href("admin_predictions.index", after=found.newer.text) if found.newer else None,
        older=query.href("admin_predictions.index", before=found.older.text) if found.older else None,
        log_share=web.parts().settings.prediction_log,
        kept_days=web.parts().settings.retention_days,
    )


def _found(session: Session, query: Query) -> search.Page:
    if query.errors:
        return search.Page([], None, None, 0, complete=True)
    before, after = request.args.get("before"), request.args.get("after")
    return search.search(
        session,
        query.wanted,
        before=search.place_from(before) if before else None,
        after=search.place_from(after) if after else None,
    )


@door.get("/predictions/find")
@needs("viewer")
def find() -> AnyResponse:
    """Go to a prediction by its id, or by the beginning that lists show."""
    text = request.args.get("id", "").strip()[:200]
    with web.parts().database.reading() as session:
        found = search.beginning(session, text)
    if found is None:
        flash(f"No prediction has the id “{text}”, or several begin so; paste all of it.", "bad")
        return redirect(url_for("admin_predictions.index"), code=303)
    return redirect(url_for("admin_predictions.show", prediction_id=found), code=303)


@dataclass(frozen=True, slots=True)
class Input:
    """One value of an instance beside what the reference had."""

    name: str
    value: Any
    # Where it lies between the reference's ends, in percent; None where that says nothing.
    share: float | None
    says: str
    unusual: bool


@door.get("/predictions/<prediction_id>")
@needs("viewer")
def show(prediction_id: str) -> Response:
    """Show one prediction: its instance beside the reference, its answer, its place in time."""
    with web.parts().database.reading() as session:
        found = search.get(session, prediction_id)
        newer, older = search.neighbours(session, found)
        told = truth.of(session, found.id)
        name = keys.names(session, [found.key_id]).get(found.key_id)
        signature = _signature(session, found)
    call = Call(f"/models/{found.model}/versions/{found.version}/predict", example.as_typed(found.instance))
    inputs = [_input(each, value, signature) for each, value in found.instance.items()]
    return page(
        "predictions/show.html",
        row=found,
        told=told,
        key_name=name,
        newer=newer,
        older=older,
        inputs=inputs,
        call=call,
        document=json.dumps(log.describe(found), ensure_ascii=False, indent=2),
    )


def _signature(session: Session, row: Prediction) -> Signature | None:
    try:
        version = registry.get_version(session, registry.get_model(session, row.model), row.version)
    except NotFound:
        return None
    return from_dict(version.signature)


def _input(name: str, value: Any, signature: Signature | None) -> Input:  # noqa: ANN401 - a value of an instance
    feature = next((each for each in signature.features if each.name == name), None) if signature else None
    if feature is None or value is None:
        return Input(name, value, None, "missing" if value is None else "", unusual=False)
    if feature.observed_minimum is not None and isinstance(value, int | float):
        return _measured(feature, value)
    if feature.observed_values is not None:
        seen = value in feature.observed_values
        return Input(name, value, None, "seen" if seen else "never seen in the reference", unusual=not seen)
    return Input(name, value, None, "", unusual=False)


def _measured(feature: Feature, value: float) -> Input:
    low, high = feature.observed_minimum or 0.0, feature.observed_maximum or 0.0
    if not low <= value <= high:
        side = "below" if value < low else "above"
        return Input(
            feature.name, value, 0 if value < low else 100, f"{side} everything in the reference", unusual=True
        )
    share = 100 * (value - low) / (high - low) if high > low else 50.0
    return Input(
        feature.name,
        value,
        round(share, 1),
        f"{share:.0f} % of the way from {plain(low)} to {plain(high)}",
        unusual=False,
    )


# --- Export -------------------------------------------------------------------------------------------------


@door.get("/predictions/export/<any(csv, jsonl):form>")
@needs("operator")
def export(form: str) -> Response:
    """Give what the list shows, all pages of it, as a file; it is streamed."""
    database = web.parts().database
    with database.reading() as session:
        query = _query(session)
    if query.errors:
        raise Invalid("filters_unusable", " ".join(query.errors.values()))
    rows = _every(database, query.wanted)
    lines = _csv(rows) if form == "csv" else _jsonl(rows)
    kind = "text/csv" if form == "csv" else "application/x-ndjson"
    headers = {"Content-Disposition": f"attachment; filename=predictions.{form}"}
    return Response(lines, headers=headers, content_type=f"{kind}; charset=utf-8")


def _every(database: Database, wanted: Wanted) -> Iterator[Prediction]:
    # What comes in meanwhile stays out: the file ends where the page began.
    wanted = replace(wanted, until=wanted.until or datetime.now(UTC))
    place, left = None, MOST_EXPORTED
    while left > 0:
        # A transaction per piece, ended before it is sent: a slow reader must not hold up those who write.
        with database.reading() as session:
            piece = search.search(session, wanted, size=min(PIECE_ROWS, left), before=place)
        yield from piece.rows
        left, place = left - len(piece.rows), piece.older
        if place is None:
            return


def _jsonl(rows: Iterable[Prediction]) -> Iterator[str]:
    for row in rows:
        yield json.dumps({**log.describe(row), "key_id": row.key_id}, ensure_ascii=False) + "\n"


COLUMNS = ("prediction_id", "at", "model", "model_version", "key_id", "source", "prediction", "probability")


def _csv(rows: Iterable[Prediction]) -> Iterator[str]:
    yield _line([*COLUMNS, "latency_seconds", "warnings", "instance"])
    for row in rows:
        facts = {**log.describe(row), "key_id": row.key_id}
        values = [facts[name] for name in COLUMNS]
        nested = [json.dumps(each, ensure_ascii=False) for each in (row.warnings, row.instance)]
        yield _line([*values, row.latency_seconds, *nested])


def _line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([_cell(value) for value in values])
    return text.getvalue()


def _cell(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Write texts so that no spreadsheet takes one for a formula."""
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
