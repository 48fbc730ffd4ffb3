"""Predictions in Modelport's own form, and the one that the guide's clients know."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from flask import Response, g, jsonify
from flask.globals import app_ctx

from webapp import web
from webapp.api import answering, asking, blueprint, requires
from webapp.api.asking import Asked
from webapp.catalog import ServedVersion
from webapp.errors import Conflict, Invalid, NotFound, Unavailable
from webapp.keys import KeyRecord
from webapp.metrics import PREDICTION_LATENCY, PREDICTIONS, VALIDATION_ERRORS
from webapp.predictions import log, truth
from webapp.predictions.spool import Origin, Record, failure, record, refusal
from webapp.serving.loaded import Answer, LoadedVersion
from webapp.signature import refused

door = blueprint("native")

MOST_WAITED_SECONDS = 3600.0


@door.post("/predict")
@requires("predict")
def predict() -> Response:
    """Predict with the model that needs no name."""
    return _predict(default_model(g.key), None)


@door.post("/models/<model>/predict")
@requires("predict")
def predict_with(model: str) -> Response:
    """Predict with the active version of a model."""
    return _predict(model, None)


@door.post("/models/<model>/versions/<int:number>/predict")
@requires("predict")
def predict_with_version(model: str, number: int) -> Response:
    """Predict with one version of a model."""
    return _predict(model, number)


@door.get("/predictions/<prediction_id>")
@requires("predict")
def logged_prediction(prediction_id: str) -> Response:
    """Show one logged prediction of the caller's key."""
    with web.parts().database.reading() as session:
        found = log.get_prediction(session, prediction_id, g.key.id)
        told = truth.of(session, found.id)
    return jsonify(**log.describe(found), **(truth.describe(told) if told else {}))


def default_model(key: KeyRecord) -> str:
    """Give the model of a request that names none: the set one, else the only active one that the key may use."""
    made = web.parts()
    default = made.settings.default_model
    if default and (key.models is None or default in key.models):
        return default
    active = [version.model for version in made.runtime.catalog.active_versions()]
    usable = sorted(name for name in active if key.models is None or name in key.models)
    if len(usable) == 1:
        return usable[0]
    if not usable:
        detail = "No model that this key may use has an active version yet."
        raise Conflict("no_active_model", detail, more={"models": []})
    detail = "This key may use several models; say which: POST /models/NAME/predict."
    raise Conflict("model_not_named", detail, more={"models": usable})


def loaded_version(model: str, number: int | None) -> LoadedVersion:
    """Give the version that answers, if the caller's key may use it."""
    made = web.parts()
    g.key.require_model(model)
    try:
        return made.runtime.served(model, number)
    except (NotFound, Conflict):
        return made.follower.served(model, number)


def _predict(model: str, number: int | None) -> Response:
    made, notes = web.parts(), app_ctx.g
    loaded = loaded_version(model, number)
    version = loaded.version
    notes.facts |= {"model": version.model, "version": version.number}
    asked = asking.read(loaded.signature, made.settings.max_instances)
    count = notes.facts["rows"] = len(asked.instances)
    # Made of the request's id: a request that a proxy sends again is one prediction, not two.
    prediction_ids = [f"{notes.request_id}-{row}" for row in range(count)]
    read = time.perf_counter()
    try:
        rows = loaded.checker.rows(asked.instances, asked.pointers)
        checked = time.perf_counter()
        outcomes = loaded.outcomes(rows, asked.pointers)
        predicted = time.perf_counter()
    except Exception as error:
        _count_refused(version, error, count)
        _note_unanswered(loaded, asked, error)
        raise
    answers = loaded.answers(rows, outcomes, prediction_ids)
    if _is_logged():
        made.spool.append(_records(loaded, asked, answers, (read, checked, predicted)))
    PREDICTIONS.labels(version.model, version.shown, "success").inc(count)
    PREDICTION_LATENCY.observe(time.perf_counter() - notes.started)
    return answering.response(loaded, asked, answers)


def _is_logged() -> bool:
    """Whether this request is in the share of which the log has predictions, refusals and failures."""
    share = web.parts().settings.prediction_log
    return share >= 1 or random.random() < share  # noqa: S311 - a sample, not a secret


def _count_refused(version: ServedVersion, error: Exception, count: int) -> None:
    PREDICTIONS.labels(version.model, version.shown, "invalid" if isinstance(error, Invalid) else "error").inc(count)
    if isinstance(error, Invalid):
        for code, problems in Counter(each.code for each in error.problems).items():
            VALIDATION_ERRORS.labels(version.model, code).inc(problems)


def _note_unanswered(loaded: LoadedVersion, asked: Asked, error: Exception) -> None:
    """Note how many rows were refused, by field and rule, or how many failed; those of test keys are tries."""
    notes, count = app_ctx.g, len(asked.instances)
    if notes.key.test or not _is_logged():
        return
    if isinstance(error, Invalid):
        found = refused.marks(error, asked.pointers, loaded.checker.names)
        line = refusal(time.time(), loaded, refused.tally(count, found))
    else:
        line = failure(time.time(), loaded, notes.request_id, count)
    # Where it has no room the answer is the same: the caller is told what is wrong.
    with suppress(Unavailable):
        web.parts().spool.append([line])


def _records(
    loaded: LoadedVersion, asked: Asked, answers: Sequence[Answer], moments: tuple[float, float, float]
) -> list[Record]:
    """Give what is logged; `moments` are those at which the body was read, checked and predicted."""
    notes = app_ctx.g
    at, ended, (read, checked, predicted) = time.time(), time.perf_counter(), moments
    latency = ended - notes.started
    origin = Origin(
        at=at,
        key_id=notes.key.id,
        request_id=notes.request_id,
        source="test" if notes.key.test else "api",
        latency_seconds=round(latency, 6),
        timings=(
            _waited(at - latency, notes.sent) if "sent" in notes else None,
            round((read - notes.started) * 1e6),
            round((checked - read) * 1e6),
            round((predicted - checked) * 1e6),
            round((ended - predicted) * 1e6),
        ),
        trace_id=notes.facts.get("trace_id"),
    )
    return [record(origin, loaded, answer, given) for answer, given in zip(answers, asked.ids, strict=True)]


def _waited(began: float, sent: str) -> int | None:
    """Give the microseconds that a request waited for this worker, which a trusted proxy sent then."""
    try:
        waited = began - float(sent.removeprefix("t="))
    except ValueError:
        return None
    # By the clocks of two machines: what cannot be so is not known.
    return round(waited * 1e6) if 0 <= waited < MOST_WAITED_SECONDS else None
