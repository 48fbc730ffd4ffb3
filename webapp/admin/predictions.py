"""Pages of the prediction log: search, one prediction, export of what was searched."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import keys, registry, web
from webapp.admin.calls import Call
from webapp.admin.guard import blueprint, needs
from webapp.admin.pages import page, plain, seconds
from webapp.db import Database, Session
from webapp.errors import Invalid, NotFound
from webapp.predictions import files, log, search, timings, truth
from webapp.predictions.log import Prediction
from webapp.predictions.search import Truth, Wanted
from webapp.serving import percentiles
from webapp.signature import Feature, Signature, example, from_dict, keeping

door: Blueprint = blueprint("predictions")

MOST_EXPORTED = 100_000
TIMES = {
    "": (None, "Any time"),
    "1h": (timedelta(hours=1), "Last hour"),
    "24h": (timedelta(hours=24), "Last 24 hours"),
    "7d": (timedelta(days=7), "Last 7 days"),
    "30d": (timedelta(days=30), "Last 30 days"),
}
SOURCES = (("", "All"), ("api", "API"), ("batch", "Batch"), ("test", "Test keys"), ("ui", "Try it"))
TRUTHS = (("", "Any"), ("told", "Told"), ("untold", "Not told"), ("wrong", "Told, and another"))
# Of each stage of a request: what is waited for is grey, predicting has the first colour.
FILLS = ("f-r", "f-2", "f-3", "f-1", "f-4")
FIELDS = (
    *("model", "version", "key", "caller", "trace", "source", "outcome", "low", "high"),
    *("time", "from", "to", "input", "truth", "warned"),
)


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


def query_of(session: Session) -> Query:
    """Read what the address asks for."""
    typed = {name: request.args.get(name, "").strip()[:200] for name in FIELDS}
    errors: dict[str, str] = {}
    since, until = _times(typed, errors)
    feature, is_pair, value = typed["input"].partition("=")
    wanted = Wanted(
        model=typed["model"] or None,
        version=_whole(typed["version"], errors),
        key_id=_key(session, typed["key"], errors),
        client_id=typed["caller"] or None,
        trace_id=typed["trace"] or None,
        source=typed["source"] or None,
        outcome=typed["outcome"] or None,
        probability_from=_share("low", typed["low"], errors),
        probability_to=_share("high", typed["high"], errors),
        since=since,
        until=until,
        feature=feature.strip() or None,
        value=value.strip() if is_pair else None,
        warned=bool(typed["warned"]),
        truth=cast("Truth", typed["truth"]) if typed["truth"] in dict(TRUTHS) and typed["truth"] else None,
    )
    if typed["input"] and not is_pair:
        errors["input"] = "Write it as name=value, such as income=52000."
    return Query(typed, wanted, errors)


def _times(typed: Mapping[str, str], errors: dict[str, str]) -> tuple[datetime | None, datetime | None]:
    """Give where the time begins and ends; of a span and a date, the later beginning counts."""
    span = TIMES.get(typed["time"], (None, ""))[0]
    begins = [datetime.now(UTC) - span] if span else []
    ends: list[datetime] = []
    for name, found in (("from", begins), ("to", ends)):
        try:
            if typed[name]:
                found.append(search.moment_from(typed[name], is_end=name == "to"))
        except Invalid as refusal:
            errors[name] = refusal.detail
    return max(begins, default=None), min(ends, default=None)


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
        query = query_of(session)
        found = _found(session, query)
        told = truth.known(session, [row.id for row in found.rows])
        names = keys.names(session, {row.key_id for row in found.rows})
        models = [line.name for line in registry.model_lines(session)]
    return page(
        "predictions/index.html",
        422 if query.errors else 200,
        query=query,
        found=found,
        told=told,
        names=names,
        models=[("", "All"), *((name, name) for name in models)],
        times=[(value, text) for value, (_, text) in TIMES.items()],
        sources=SOURCES,
        truths=TRUTHS,
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
    """Go to a prediction by its id, or by the beginning that lists show; to those of a trace by its id."""
    text = request.args.get("id", "").strip()[:200]
    with web.parts().database.reading() as session:
        found = search.beginning(session, text)
        is_trace = found is None and search.is_trace(session, text)
    if is_trace:
        return redirect(url_for("admin_predictions.index", trace=text), code=303)
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
    # `hash` or `drop` where the log has not what was sent.
    kept: str = ""
    # How many percent of the reference lie below it; None where that is not known.
    percent: float | None = None


@door.get("/predictions/<prediction_id>")
@needs("viewer")
def show(prediction_id: str) -> Response:
    """Show one prediction: its instance beside the reference, its answer, its place in time."""
    with web.parts().database.reading() as session:
        found = search.get(session, prediction_id)
        newer, older = search.neighbours(session, found)
        told = truth.of(session, found.id)
        name = keys.names(session, [found.key_id]).get(found.key_id)
        signature, reference = _learned(session, found)
    call = Call(f"/models/{found.model}/versions/{found.version}/predict", example.as_typed(found.instance))
    hidden = keeping.hidden(signature) if signature else {}
    known = percentiles.of(web.parts().artifacts, reference, signature) if signature else {}
    inputs = [_beside(each, known) for each in _inputs(found, signature, hidden)]
    return page(
        "predictions/show.html",
        row=found,
        told=told,
        key_name=name,
        newer=newer,
        older=older,
        inputs=inputs,
        hidden=hidden,
        call=call,
        spent=_spent(found),
        document=json.dumps(log.describe(found), ensure_ascii=False, indent=2),
    )


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the time of a request went: all of it; of each stage its fill, its name, its seconds, and how they look."""

    whole: float
    stages: list[tuple[str, str, float | None, str]]
    waited: bool
    sentence: str


def _spent(row: Prediction) -> Spent | None:
    found = timings.seconds(row.timings)
    if found is None:
        return None
    whole = sum(each or 0.0 for each in found.values())
    stages = [
        (fill, timings.STAGES[name], spent, seconds(spent))
        for fill, (name, spent) in zip(FILLS, found.items(), strict=True)
    ]
    said = ", ".join(f"{name.lower()} {shown}" for _, name, spent, shown in stages if spent is not None)
    return Spent(whole, stages, found["waiting"] is not None, f"Of {seconds(whole)}: {said}")


def signature_of(session: Session, row: Prediction) -> Signature | None:
    """Give the signature of the version that made a prediction; None where it is gone."""
    return _learned(session, row)[0]


def _learned(session: Session, row: Prediction) -> tuple[Signature | None, str | None]:
    """Give the signature of the version that made a prediction, and the digest of its reference."""
    try:
        version = registry.get_version(session, registry.get_model(session, row.model), row.version)
    except NotFound:
        return None, None
    return from_dict(version.signature), version.reference


def _inputs(row: Prediction, signature: Signature | None, hidden: Mapping[str, str]) -> Iterator[Input]:
    """Give what was sent, and what of it the log has otherwise or not at all, in the version's order."""
    dropped = [name for name, way in hidden.items() if way == "drop"]
    order = [feature.name for feature in signature.features] if dropped and signature else []
    for name in dict.fromkeys([*order, *row.instance]):
        if name in hidden and row.instance.get(name) is None:
            yield Input(name, None, None, "", unusual=False, kept="drop" if name in dropped else "")
        elif name in hidden:
            yield Input(name, row.instance[name], None, "", unusual=False, kept="hash")
        elif name in row.instance:
            yield _input(name, row.instance[name], signature)


def _beside(each: Input, known: percentiles.Percentiles) -> Input:
    """Add where a number lies among those of the reference; one outside of it is said to be."""
    is_number = isinstance(each.value, int | float) and not isinstance(each.value, bool)
    if each.kept or each.unusual or each.name not in known or not is_number:
        return each
    numbers = known[each.name]
    percent = percentiles.percent(numbers, each.value)
    says = f"above {percent:.0f} % of the reference, which goes from {plain(numbers[0])} to {plain(numbers[-1])}"
    return replace(each, percent=percent, says=says)


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


@door.get("/predictions/export/<any(csv, jsonl, parquet):form>")
@needs("operator")
def export(form: str) -> Response:
    """Give what the list shows, all pages of it, as a file; it is streamed."""
    database = web.parts().database
    wanted = usable(database)
    found = files.written(files.lines(database, wanted, MOST_EXPORTED), form)
    headers = {"Content-Disposition": f"attachment; filename=predictions.{form}"}
    return Response(found, headers=headers, content_type=files.MIMETYPES[form])


def usable(database: Database) -> Wanted:
    """Give what the address asks for; refuse one that says nothing."""
    with database.reading() as session:
        query = query_of(session)
    if query.errors:
        raise Invalid("filters_unusable", " ".join(query.errors.values()))
    return query.wanted
