"""Batch predictions: accepted at once, computed by the worker, fetched when done."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, g, jsonify, request, url_for

from webapp import body, jobs, parquet, web
from webapp.api import asking, blueprint, native, requires
from webapp.batches import Form, cutting, parquet_lines, receiving, results
from webapp.batches.cutting import Piece
from webapp.errors import Malformed
from webapp.signature import Signature

door = blueprint("batch")

# More are not part of the state: they are fetched by themselves.
MOST_INLINE = 10_000
FORMS: Mapping[str, str] = {
    "text/csv": "csv",
    parquet.MIMETYPE: "parquet",
    results.MIMETYPES["jsonl"]: "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
}
IDEMPOTENCY_KEY = r"[!-~][ -~]{0,254}"


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
    brought = _brought(loaded.signature)
    order = jobs.Order(
        key_id=g.key.id,
        test=g.key.test,
        model=model,
        version=loaded.version.number,
        form=brought.form,
        idempotency_key=_idempotency_key(),
    )
    job = receiving.receive(made.database, made.artifacts.storage, order, brought.pieces, brought.digest)
    g.facts |= {"model": model, "rows": job.total, "job": job.id}
    status_url = url_for("batch.status", job_id=job.id)
    answer = jsonify(job_id=job.id, status="processing", total_instances=job.total, status_url=status_url)
    answer.headers["Location"] = status_url
    return answer, 202


def _idempotency_key() -> str | None:
    given = request.headers.get("Idempotency-Key")
    if given is not None and not re.fullmatch(IDEMPOTENCY_KEY, given):
        raise Malformed("idempotency_key_unusable", "An Idempotency-Key has 1 to 255 printable ASCII characters.")
    return given


@dataclass(frozen=True, slots=True)
class _Brought:
    """What a request brings: its form, its rows while they come, and then the digest of all of it."""

    form: Form
    pieces: Iterator[Piece]
    digest: Callable[[], str]


def _brought(signature: Signature) -> _Brought:
    made = web.parts()
    if request.mimetype not in FORMS and request.mimetype != "multipart/form-data":
        asked = asking.read(signature, made.settings.max_instances)
        return _Brought("json", cutting.instances(asked.instances, asked.ids), body.sha256)
    came = body.came(made.settings.max_upload_bytes)
    text = io.BufferedReader(came, cutting.BLOCK_BYTES)
    # Of a file in a form, how it begins tells what it is: what it is called says less.
    form = FORMS.get(request.mimetype) or _form_of(text.peek(len(parquet.MAGIC)))
    if form == "csv":
        return _Brought("csv", cutting.table(signature, text), lambda: came.sha256)
    if form == "jsonl":
        return _Brought("jsonl", cutting.objects(text), lambda: came.sha256)
    parquet.require()
    rows = parquet_lines.table(signature, body.kept(text), made.settings.max_upload_bytes)
    return _Brought("jsonl", rows, lambda: came.sha256)


def _form_of(beginning: bytes) -> str:
    if beginning.startswith(parquet.MAGIC):
        return "parquet"
    return "jsonl" if beginning.removeprefix(cutting.BOM).lstrip().startswith(b"{") else "csv"


@door.get("/predict/batch/<job_id>")
@requires("batch")
def status(job_id: str) -> Response:
    """Say how far a job is, with its results when it is completed and they are not too many."""
    made = web.parts()
    with made.database.reading() as session:
        job = jobs.get_job(session, job_id, g.key.id)
        progress = jobs.progress(session, job)
        completed = progress.status == "completed"
        chunks = jobs.done(session, job) if completed and job.total <= MOST_INLINE else None
    found = None if chunks is None else list(results.rows(made.artifacts.storage, job.id, chunks))
    return jsonify(_described(job, progress, found))


@door.get("/predict/batch/<job_id>/results")
@requires("batch")
def fetch(job_id: str) -> Response:
    """Give the results of a completed job, piece by piece, in the order of the request."""
    made, form = web.parts(), request.args.get("format", "jsonl")
    results.require(form)
    with made.database.reading() as session:
        chunks = jobs.done(session, jobs.get_job(session, job_id, g.key.id))
    written = results.written(made.artifacts.storage, job_id, chunks, form)
    return Response(written, mimetype=results.MIMETYPES[form])


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
    if progress.status == "completed":
        described["results_url"] = url_for("batch.fetch", job_id=job.id)
    return {**described, "detail": job.failure} if job.failure else described
