"""Pages of uploads: the form, how far an upload is, and what it became."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, flash, make_response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import body, registry, web
from webapp.admin.guard import actor, blueprint, form, needs, takes_files
from webapp.admin.pages import page
from webapp.errors import Invalid
from webapp.intake import report
from webapp.uploads import Wish, waiting
from webapp.uploads.waiting import PARTS, STAGES, PendingUpload

door: Blueprint = blueprint("uploads")

STAGE_NAMES = ("Wait", "Read", "Convert", "Check", "Try", "Store")
SAID = {
    "waiting": "Waiting for the worker.",
    "reading": "Reading the file in a locked process: every name and size in it, nothing is run.",
    "converting": "Rewriting the model as skops, in the same locked process.",
    "checking": "Loading the rewritten model in a fresh locked process; looking at all that compiled code will trust.",
    "trying": "Learning its signature, predicting alone and in bulk, and keeping golden rows.",
    "storing": "Storing it, sealed.",
}


@door.get("/upload")
@needs("operator")
def new() -> Response:
    """Show the form."""
    return _form_page({"model": request.args.get("model", "")[:63], "keep_reference": "1"}, {})


def _form_page(typed: dict[str, str], errors: dict[str, str]) -> Response:
    with web.parts().database.reading() as session:
        models = [line.name for line in registry.model_lines(session)]
    most = web.parts().settings.max_upload_bytes
    return page("uploads/new.html", 422 if errors else 200, typed=typed, errors=errors, models=models, most=most)


@door.post("/upload")
@needs("operator")
@takes_files
def create() -> AnyResponse:
    """Take the files in; the worker inspects them."""
    typed = {name: form(name) for name in ("model", "target", "label", "activate", "keep_reference")}
    wish = Wish(
        typed["model"],
        typed["label"] or None,
        typed["target"] or None,
        activate=bool(typed["activate"]),
        keep_reference=bool(typed["keep_reference"]),
    )
    try:
        registry.check_name(wish.model)
        registry.check_label(wish.label)
        files = body.files(PARTS)
        _check_kind(files["file"][0])
        upload_id = waiting.receive(web.parts().desk, actor(), wish, files)
    except Invalid as refusal:
        return _form_page(typed, {_FIELDS.get(refusal.code, ""): refusal.detail})
    return redirect(url_for("admin_uploads.show", upload_id=upload_id), code=303)


def _check_kind(name: str) -> None:
    """Refuse at once what is plainly in the wrong field; anything else is told by its bytes, not its name."""
    if name.lower().endswith((".csv", ".json")):
        field = "Reference" if name.lower().endswith(".csv") else "Metadata"
        raise Invalid("file_of_another_kind", f"{name} is no model; choose it under {field}, and the model here.")


_FIELDS = {
    "file_of_another_kind": "file",
    "model_name_not_allowed": "model",
    "label_not_allowed": "label",
    "file_missing": "file",
}


@door.get("/uploads/<upload_id>")
@needs("operator")
def show(upload_id: str) -> AnyResponse:
    """Show how far an upload is; one that became a version is shown as that."""
    with web.parts().database.reading() as session:
        pending = waiting.get_upload(session, upload_id)
    if pending.version is not None and pending.done_at:
        return _to_version(pending)
    if "HX-Request" in request.headers and pending.refusal is None:
        return page("uploads/progress.html", **_progress(pending))
    if "HX-Request" in request.headers:
        return make_response("", 200, {"HX-Refresh": "true"})
    return page("uploads/show.html", **_progress(pending))


def _to_version(pending: PendingUpload) -> AnyResponse:
    place = url_for("admin_registry.version", name=pending.model, number=pending.version)
    if pending.not_activated:
        flash(f"{pending.model} v{pending.version} is stored, but not active: {pending.not_activated}", "warn")
    else:
        said = "is stored and active." if pending.activate else "is stored, not active yet."
        flash(f"{pending.model} v{pending.version} {said}", "ok")
    if "HX-Request" in request.headers:
        return make_response("", 200, {"HX-Redirect": place})
    return redirect(place, code=303)


def _progress(pending: PendingUpload) -> dict[str, Any]:
    return {
        "pending": pending,
        "stages": STAGE_NAMES,
        "now": STAGES.index(pending.stage),
        "said": SAID[pending.stage],
        "remedy": report.remedy(pending.refusal["code"]) if pending.refusal else "",
    }
