"""Page that deletes what is kept about somebody."""

from __future__ import annotations

from flask import Blueprint, Response, flash, redirect, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import erasure, registry, web
from webapp.admin.guard import actor, blueprint, form, needs
from webapp.admin.pages import page
from webapp.signature import keeping

door: Blueprint = blueprint("subjects")


@door.get("/predictions/subject")
@needs("admin")
def show() -> Response:
    """Ask whose predictions are to be deleted."""
    return _page("", {})


def _page(model: str, errors: dict[str, str]) -> Response:
    with web.parts().database.reading() as session:
        names = [line.name for line in registry.model_lines(session)]
    models = [("", "Every model"), *((name, name) for name in names)]
    kept_days = web.parts().settings.retention_days
    facts = {"models": models, "model": model, "errors": errors, "kept_days": kept_days}
    return page("subjects/show.html", 422 if errors else 200, **facts)


@door.post("/predictions/subject")
@needs("admin")
def delete() -> AnyResponse:
    """Delete all predictions about somebody, when that was typed twice."""
    made, value, model = web.parts(), form("subject"), form("model")
    if not value:
        return _page(model, {"subject": "Write whose predictions are to be deleted."})
    if form("again") != value:
        return _page(model, {"again": "This is not what stands above; nothing was deleted."})
    digests = keeping.subjects(made.settings.derive(keeping.KEY), value)
    done = erasure.erase(made.database, made.artifacts.storage, actor(), digests, model or None)
    # Never the value itself: what is said here is kept in the session.
    said = f"{done.predictions:,} predictions, {done.batches:,} batches and {done.exports:,} exports are removed."
    flash(said if done.predictions else f"Nothing in the log was about this subject. {said}", "ok")
    return redirect(url_for("admin_subjects.show"), code=303)
