"""Page of exports that take a while: asking for one, how far each is, its file, and removing it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from flask import Blueprint, Response, flash, redirect, send_file, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import parquet, web
from webapp.admin import predictions
from webapp.admin.guard import actor, blueprint, form, needs
from webapp.admin.pages import page
from webapp.predictions import exports, files
from webapp.predictions.exports import Export

door: Blueprint = blueprint("exports")

FORMS = (("jsonl", "JSON lines"), ("csv", "CSV"), *([("parquet", "Parquet")] if parquet.is_there() else []))


@door.get("/predictions/exports")
@needs("operator")
def index() -> Response:
    """List the newest exports, with the form of another one of what the address asks for."""
    with web.parts().database.reading() as session:
        query = predictions.query_of(session)
        found = exports.newest(session)
    running = any(each.status == "processing" for each in found)
    return page(
        "exports/index.html",
        422 if query.errors else 200,
        query=query,
        found=found,
        running=running,
        forms=FORMS,
        conditions=[(name, text) for name, text in query.typed.items() if text],
        said={each.id: _in_words(each) for each in found},
        kept_days=exports.KEPT.days,
    )


def _in_words(export: Export) -> str:
    shown = asdict(exports.wanted_of(export)) | {"warned": "" if "warned" in export.wanted else None}
    words = (
        f"{name.replace('_', ' ')} {_written(value)}".strip() for name, value in shown.items() if value is not None
    )
    return ", ".join(words)


def _written(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


@door.post("/predictions/exports")
@needs("operator")
def ask() -> AnyResponse:
    """Ask for a file of all that the address asks for; the worker writes it."""
    database = web.parts().database
    wanted = predictions.usable(database)
    with database.transaction() as session:
        exports.ask(session, actor(), form("form"), wanted)
    flash("The worker writes it now; it is here when it is done.", "ok")
    return redirect(url_for("admin_exports.index"), code=303)


@door.get("/predictions/exports/<export_id>/file")
@needs("operator")
def download(export_id: str) -> AnyResponse:
    """Download the file of an export that is done."""
    made = web.parts()
    with made.database.reading() as session:
        export = exports.get_done(session, export_id)
    content = made.artifacts.storage.open(export.file_name)
    name = f"predictions-{export.asked_at:%Y%m%d-%H%M}.{export.form}"
    kind = files.MIMETYPES[export.form].partition(";")[0]
    return send_file(content, kind, as_attachment=True, download_name=name, max_age=0)


@door.post("/predictions/exports/<export_id>/remove")
@needs("operator")
def remove(export_id: str) -> AnyResponse:
    """Remove an export with its file; one that is being written ends."""
    made = web.parts()
    with made.database.transaction() as session:
        exports.remove(session, actor(), export_id)
    exports.remove_files(made.artifacts.storage, [export_id])
    flash("The export and its file are removed.", "ok")
    return redirect(url_for("admin_exports.index"), code=303)
