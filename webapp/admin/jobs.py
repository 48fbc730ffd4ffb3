"""Page of batch jobs: how far each is, what became of it, its results, and cancelling."""

from __future__ import annotations

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from webapp import audit, jobs, keys, web
from webapp.admin.guard import actor, blueprint, needs
from webapp.admin.pages import page
from webapp.batches import results

door: Blueprint = blueprint("jobs")


@door.get("/jobs")
@needs("viewer")
def index() -> Response:
    """List the newest jobs."""
    with web.parts().database.reading() as session:
        lines = jobs.lines(session)
        names = keys.names(session, {line.job.key_id for line in lines})
    running = any(line.progress.status == "processing" for line in lines)
    kept_days = web.parts().settings.retention_days
    return page("jobs/index.html", lines=lines, names=names, running=running, kept_days=kept_days)


@door.get("/jobs/<job_id>/results")
@needs("operator")
def download(job_id: str) -> Response:
    """Download the results of a completed job."""
    made, form = web.parts(), request.args.get("form", "jsonl")
    with made.database.reading() as session:
        chunks = jobs.done(session, jobs.find_job(session, job_id))
    response = Response(results.written(made.artifacts.storage, job_id, chunks, form), mimetype=results.MIMETYPES[form])
    response.headers["Content-Disposition"] = f'attachment; filename="results-{job_id[:8]}.{form}"'
    return response


@door.post("/jobs/<job_id>/cancel")
@needs("operator")
def cancel(job_id: str) -> AnyResponse:
    """Cancel a job; what is done of it stays."""
    with web.parts().database.transaction() as session:
        job = jobs.find_job(session, job_id)
        if cancelled := jobs.cancel(session, job):
            audit.record(session, actor(), "jobs.cancel", job_id)
    flash("The job is cancelled." if cancelled else "The job had ended before.", "ok" if cancelled else "info")
    return redirect(url_for("admin_jobs.index"), code=303)
