"""Pages to try a version: a form made from its signature, the answer beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import registry, web
from webapp.admin.calls import Call
from webapp.admin.guard import blueprint, me, needs
from webapp.admin.pages import page, plain
from webapp.admin.predictions import signature_of
from webapp.errors import Invalid, Refusal
from webapp.predictions import search
from webapp.predictions.spool import Origin, record
from webapp.serving.loaded import Answer, LoadedVersion
from webapp.signature import Feature, Value, example, keeping

door: Blueprint = blueprint("try_it")

# What the API says of JSON, said of a form.
TYPED = {
    "null_not_allowed": "A value is needed here.",
    "not_a_number": "Write a number, such as 12.5.",
    "not_an_integer": "Write a whole number.",
    "not_a_boolean": "Choose true or false.",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One input of the form."""

    feature: Feature
    id: str
    text: str


@door.get("/try")
@needs("operator")
def choose() -> AnyResponse:
    """Go to the only active model, or ask which one."""
    with web.parts().database.reading() as session:
        active = [line for line in registry.model_lines(session) if line.active_number]
    if len(active) == 1:
        return redirect(url_for("admin_try_it.show", name=active[0].name, number=active[0].active_number), code=303)
    return page("try_it/choose.html", lines=active)


@door.get("/models/<name>/versions/<int:number>/try")
@needs("operator")
def show(name: str, number: int) -> Response:
    """Show the form, filled with a logged instance, or with one that the version takes."""
    loaded = web.parts().follower.served(name, number)
    instance = example.instance(loaded.signature)
    if prediction_id := request.args.get("prediction"):
        with web.parts().database.reading() as session:
            row = search.get(session, prediction_id)
            signature = signature_of(session, row)
        # What is hashed in the log is no value to try.
        hidden = keeping.hidden(signature) if signature else {}
        instance |= {name: value for name, value in row.instance.items() if name not in hidden}
    return _page(loaded, _typed(instance))


def _typed(instance: Mapping[str, Value]) -> dict[str, str]:
    return {name: "" if value is None else plain(value) for name, value in instance.items()}


def _page(loaded: LoadedVersion, typed: Mapping[str, str], **more: object) -> Response:
    shown = [
        Field(feature, f"f{position}", typed.get(feature.name, ""))
        for position, feature in enumerate(loaded.signature.features)
    ]
    facts: dict[str, Any] = {"answer": None, "errors": {}, "took_seconds": None, "call": None, **more}
    return page("try_it/show.html", 422 if facts["errors"] else 200, loaded=loaded, fields=shown, **facts)


@door.post("/models/<name>/versions/<int:number>/try")
@needs("operator")
def predict(name: str, number: int) -> Response:
    """Predict what was typed. It is logged with its source, `ui`, and stays out of statistics."""
    loaded = web.parts().follower.served(name, number)
    features = loaded.signature.features
    typed = {feature.name: request.form.get(f"f{position}", "") for position, feature in enumerate(features)}
    instance = {feature.name: _value(feature, typed[feature.name]) for feature in features}
    started = time.perf_counter()
    try:
        [answer] = loaded.predict([instance], [""], [f"{g.request_id}-0"])
    except Refusal as refusal:
        return _page(loaded, typed, errors=_errors(features, refusal))
    took_seconds = time.perf_counter() - started
    _log(loaded, answer, took_seconds)
    path = f"/models/{name}/versions/{number}/predict"
    return _page(loaded, typed, answer=answer.document, took_seconds=took_seconds, call=Call(path, instance))


def _value(feature: Feature, text: str) -> Any:  # noqa: ANN401 - what JSON would have
    """Give what a program would send for what a person typed; what is no number goes on as text, to be refused."""
    if feature.kind == "string":
        return text if text or not feature.nullable else None
    if not text.strip():
        return feature.default
    try:
        return json.loads(text.strip().replace(",", ""))
    except ValueError:
        return text


def _errors(features: tuple[Feature, ...], refusal: Refusal) -> dict[str, str]:
    ids = {f"/{feature.name.replace('~', '~0').replace('/', '~1')}": f"f{at}" for at, feature in enumerate(features)}
    names = {f"f{at}": feature.name for at, feature in enumerate(features)}
    found = {}
    for problem in refusal.problems:
        place = ids.get(problem.pointer, "")
        found[place] = f"{names.get(place, 'The instance')}: {TYPED.get(problem.code, problem.message)}"
    return found or {"": refusal.detail if isinstance(refusal, Invalid) else str(refusal.detail)}


def _log(loaded: LoadedVersion, answer: Answer, took_seconds: float) -> None:
    made = web.parts()
    if made.settings.prediction_log > 0:
        origin = Origin(time.time(), f"user:{me().name}", g.request_id, "ui", round(took_seconds, 6))
        made.spool.append([record(origin, loaded, answer, None)])
