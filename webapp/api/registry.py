"""The registry over HTTP: what models and versions there are, and which one is active."""

from __future__ import annotations

from typing import Any

from flask import Response, g, jsonify, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import activation, body, fleet, registry, web
from webapp.activation import Asked, Back, Switched
from webapp.api import blueprint, requires
from webapp.audit import Actor
from webapp.errors import Invalid, Problem
from webapp.serving.compare import Side, compare
from webapp.uploads import Wish, waiting

door = blueprint("registry")


@door.get("/models")
@requires("models:read")
def models() -> Response:
    """List the models that the key may use."""
    with web.parts().database.reading() as session:
        found = [model for model in registry.all_models(session) if g.key.models is None or model.name in g.key.models]
        return jsonify(models=[registry.describe_model(model) for model in found])


@door.get("/models/<name>")
@requires("models:read")
def model(name: str) -> Response:
    """Show a model with the history of its active version, and which one was active as of a moment."""
    g.key.require_model(name)
    asked = request.args.get("as_of")
    moment = None if asked is None else registry.read_moment(asked)
    with web.parts().database.reading() as session:
        found = registry.get_model(session, name)
        history = [registry.describe_activation(each) for each in reversed(registry.history(session, found))]
        then = {"as_of": registry.describe_as_of(session, found, moment)} if moment else {}
        return jsonify(**registry.describe_model(found), **then, history=history)


@door.get("/models/<name>/compare")
@requires("models:read")
def compare_versions(name: str) -> Response:
    """Compare two versions: what they take, how they were made, what they say to the same rows, and how fast."""
    g.key.require_model(name)
    made = web.parts()
    with made.database.reading() as session:
        pair = registry.to_compare(session, name, request.args.get("from"), request.args.get("to"))
    old, new = (
        Side(made.follower.served(name, each.number), each.card, each.report, each.created_at, each.created_by)
        for each in (pair.old, pair.new)
    )
    references = {number: made.artifacts.get(digest) for number, digest in pair.references.items()}
    return jsonify(compare(old, new, references).as_dict())


@door.get("/models/<name>/versions")
@requires("models:read")
def versions(name: str) -> Response:
    """List the versions of a model, the newest first."""
    g.key.require_model(name)
    with web.parts().database.reading() as session:
        found = registry.get_model(session, name)
        return jsonify(versions=[registry.describe_version(each) for each in reversed(found.versions)])


@door.get("/models/<name>/versions/<int:number>")
@requires("models:read")
def version(name: str, number: int) -> Response:
    """Show a version with its signature, card and inspection report."""
    g.key.require_model(name)
    with web.parts().database.reading() as session:
        found = registry.get_version(session, registry.get_model(session, name), number)
        more = {
            "computed_by": fleet.computed_by(session, name, number),
            "signature": found.signature,
            "card": found.card,
            "report": found.report,
        }
        return jsonify(**registry.describe_version(found), **more)


@door.get("/models/<name>/versions/<int:number>/artifact")
@requires("models:read")
def artifact(name: str, number: int) -> AnyResponse:
    """Give the canonical file of a version."""
    g.key.require_model(name)
    with web.parts().database.reading() as session:
        found = registry.get_version(session, registry.get_model(session, name), number)
    return web.artifact(found.artifact, f"{name}-{number}.skops")


@door.post("/models/<name>/versions")
@requires("models:write")
def upload(name: str) -> tuple[Response, int]:
    """Take in a model file as the next version; a worker inspects it."""
    g.key.require_model(name)
    made = web.parts()
    waiting.check_room(made.desk, request.content_length or 0)
    body.admit(made.settings.max_upload_bytes)
    files = body.files(waiting.PARTS)
    wish = Wish(name, request.form.get("label"), request.form.get("target"), activate=False)
    upload_id = waiting.receive(made.desk, _actor(), wish, files)
    status_url = url_for("registry.uploaded", name=name, upload_id=upload_id)
    answer = jsonify(id=upload_id, model=name, status="processing", status_url=status_url)
    answer.headers["Location"] = status_url
    return answer, 202


@door.get("/models/<name>/uploads/<upload_id>")
@requires("models:write")
def uploaded(name: str, upload_id: str) -> Response:
    """Say how far an upload is: the version it became, or why it was refused."""
    g.key.require_model(name)
    with web.parts().database.reading() as session:
        return jsonify(waiting.describe(waiting.get_upload(session, upload_id, name)))


@door.post("/models/<name>/activate")
@requires("models:activate")
def activate(name: str) -> Response:
    """Make a version the active one; answers when the web workers serve it."""
    g.key.require_model(name)
    asked = _object(body.read_json())
    number = asked.get("version")
    if type(number) is not int:
        raise Invalid("version_missing", "“version” is a version's number.", problems=(_problem("/version"),))
    wish = Asked(name, number, _text(asked, "reason"), _text(asked, "confirm"), _text(asked, "accept_trained_with"))
    made = web.parts()
    return _switched(activation.activate(made.database, made.runtime.prepare, _actor(), wish))


@door.post("/models/<name>/rollback")
@requires("models:activate")
def rollback(name: str) -> Response:
    """Return to the version that was active before; answers when the web workers serve it."""
    g.key.require_model(name)
    asked = _object(body.read_json() if body.present() else {})
    made = web.parts()
    wish = Back(name, _text(asked, "reason"))
    return _switched(activation.rollback(made.database, made.runtime.prepare, _actor(), wish))


def _actor() -> Actor:
    return web.actor(f"key:{g.key.id}")


def _object(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        message = "The body is an object."
        raise Invalid("not_an_object", message, problems=(Problem("", "not_an_object", message),))
    return document


def _problem(pointer: str) -> Problem:
    return Problem(pointer, "not_an_integer", "Must be a whole number.")


def _text(asked: dict[str, Any], name: str) -> str:
    given = asked.get(name, "")
    if not isinstance(given, str):
        problem = Problem(f"/{name}", "not_a_string", "Must be a string.")
        raise Invalid(f"{name}_unusable", f"“{name}” is a string.", problems=(problem,))
    return given


def _switched(done: Switched) -> Response:
    return jsonify(**done.activation, workers=done.workers.describe())
