"""Batch predictions: accepted at once, computed by the worker, fetched when done."""

from __future__ import annotations

from typing import Any

from flask import Response, g, jsonify, url_for

from webapp import jobs, web
from webapp.api import asking, blueprint, native, requires

door = blueprint("batch")


@door.post("/predict/batch")
@requires("batch")
def submit() -> tuple[Response, int]:
    """Accept a batch for the model that needs no name."""
    return _submit(native.default_model(g.key))


@door.post("/models/<model>/predict/batch")
@requires("batch")
def submit_to(model: str) -> tuple[Response, int]:
    """Accept a batch for the active version of a model."""
    return _submit(model)


def _submit(model: str) -> tuple[Response, int]:
    loaded, made = native.loaded_version(model, None), web.parts()
    wanted = asking.read(loaded.signature, made.settings.max_instances)
    with made.database.transaction() as session:
        job = jobs.create(
            session,
            key_id=g.key.id,
            test=g.key.test,
            model=model,
            version=loaded.version.number,
            instances=wanted.instances,
            ids=wanted.ids,
        )
    g.facts |= {"model": model, "rows": job.total, "job": job.id}
    status_url = url_for("batch.status", job_id=job.id)
    answer = jsonify(job_id=job.id, status="processing", total_instances=job.total, status_url=status_url)
    answer.headers["Location"] = status_url
    return answer, 202


@door.get("/predict/batch/<job_id>")
@requires("batch")
def status(job_id: str) -> Response:
    """Say how far a job is, with its results when it is completed."""
    with web.parts().database.reading() as session:
        job = jobs.get_job(session, job_id, g.key.id)
        progress = jobs.progress(session, job)
        found = jobs.results(session, job) if progress.status == "completed" else None
        return jsonify(_described(job, progress, found))


@door.delete("/predict/batch/<job_id>")
@requires("batch")
def cancel(job_id: str) -> Response:
    """Cancel a job that is not finished."""
    with web.parts().database.transaction() as session:
        job = jobs.get_job(session, job_id, g.key.id)
        jobs.cancel(session, job)
        session.flush()
        return jsonify(_described(job, jobs.progress(session, job), None))


def _described(job: jobs.Job, progress: jobs.Progress, found: list[Any] | None) -> dict[str, Any]:
    described = {
        "job_id": job.id,
        "status": progress.status,
        "total": progress.total,
        "done": progress.done,
        "failed": progress.failed,
        "eta_seconds": progress.eta_seconds,
        "results": found,
    }
    return {**described, "detail": job.failure} if job.failure else described
