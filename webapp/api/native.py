"""Predictions in Modelport's own form, and the one that the guide's clients know."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from flask import Response, g, jsonify

from webapp import body, web
from webapp.api import blueprint, requires
from webapp.errors import Conflict, Invalid, NotFound, Problem, TooLarge, member
from webapp.keys import KeyRecord
from webapp.metrics import PREDICTION_LATENCY, PREDICTIONS
from webapp.predictions import log
from webapp.predictions.spool import Origin, record
from webapp.serving.runtime import Answer, LoadedVersion

door = blueprint("native")

MOST_ID_CHARACTERS = 200


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
    return jsonify(log.describe(found))


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


@dataclass(frozen=True, slots=True)
class Asked:
    """The instances of one request, their place in its body, and the caller's own ids for them."""

    instances: list[Any]
    pointers: list[str]
    ids: list[str | None]
    single: bool


def asked(document: object, most: int) -> Asked:
    """Read one instance (a flat object) or many (`instances`, with `ids` where the caller has some)."""
    if not isinstance(document, dict):
        message = 'The body is one instance, an object, or {"instances": [...]}.'
        raise Invalid("not_an_object", message, problems=(Problem("", "not_an_object", message),))
    if not isinstance(document.get("instances"), list):
        return Asked([document], [""], [None], single=True)
    instances = document["instances"]
    if strangers := set(document) - {"instances", "ids"}:
        problems = tuple(
            Problem(member("", name), "unknown_field", "Beside “instances” only “ids” may stand.")
            for name in sorted(strangers)
        )
        raise Invalid("unknown_field", "The body has fields that mean nothing here.", problems=problems)
    if not instances:
        problem = Problem("/instances", "empty", "At least one instance is needed.")
        raise Invalid("no_instances", problem.message, problems=(problem,))
    if len(instances) > most:
        raise TooLarge("too_many_instances", f"{len(instances)} instances; at most {most} fit one request.")
    pointers = [f"/instances/{position}" for position in range(len(instances))]
    return Asked(instances, pointers, _ids(document, len(instances)), single=False)


def _ids(document: dict[str, Any], count: int) -> list[str | None]:
    given = document.get("ids")
    if given is None:
        return [None] * count
    usable = isinstance(given, list) and len(given) == count
    if not usable or not all(isinstance(each, str) and len(each) <= MOST_ID_CHARACTERS for each in given):
        message = f"One string of up to {MOST_ID_CHARACTERS} characters per instance."
        raise Invalid("ids_unusable", message, problems=(Problem("/ids", "ids_unusable", message),))
    return list(given)


def _predict(model: str, number: int | None) -> Response:
    loaded = loaded_version(model, number)
    version = loaded.version
    g.facts |= {"model": version.model, "version": version.number}
    wanted = asked(body.read_json(), web.parts().settings.max_instances)
    count = g.facts["rows"] = len(wanted.instances)
    # Made of the request's id: a request that a proxy sends again is one prediction, not two.
    prediction_ids = [f"{g.request_id}-{row}" for row in range(count)]
    try:
        answers = loaded.predict(wanted.instances, wanted.pointers, prediction_ids)
    except Exception as error:
        outcome = "invalid" if isinstance(error, Invalid) else "error"
        PREDICTIONS.labels(version.model, version.shown, outcome).inc(count)
        raise
    _log(loaded, wanted, answers)
    PREDICTIONS.labels(version.model, version.shown, "success").inc(count)
    PREDICTION_LATENCY.observe(time.perf_counter() - g.started)
    return _response(loaded, wanted, answers)


def _log(loaded: LoadedVersion, wanted: Asked, answers: list[Answer]) -> None:
    made = web.parts()
    share = made.settings.prediction_log
    if share < 1 and random.random() >= share:  # noqa: S311 - a sample, not a secret
        return
    origin = Origin(
        at=time.time(),
        key_id=g.key.id,
        request_id=g.request_id,
        source="test" if g.key.test else "api",
        latency_seconds=round(time.perf_counter() - g.started, 6),
    )
    made.spool.append(
        [record(origin, loaded, answer, given) for answer, given in zip(answers, wanted.ids, strict=True)]
    )


def _response(loaded: LoadedVersion, wanted: Asked, answers: list[Answer]) -> Response:
    version = loaded.version
    if wanted.single:
        response = jsonify(answers[0].document)
    else:
        predictions = [_in_list(answer, given) for answer, given in zip(answers, wanted.ids, strict=True)]
        response = jsonify(model=version.model, model_version=version.shown, predictions=predictions)
    response.headers["X-Model-Version"] = version.shown
    return response


def _in_list(answer: Answer, given: str | None) -> dict[str, Any]:
    """Leave out what all rows of a request have in common, and give the caller's own id back."""
    own = {name: value for name, value in answer.document.items() if name not in {"model", "model_version"}}
    return own if given is None else {"id": given, **own}
