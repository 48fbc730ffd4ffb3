"""What the routes themselves do not say of each operation: what it takes, what it answers, and what it refuses.

Path, method, scope and summary are the route's own. The codes of a refusal stand under the status of their kind;
`tests/test_openapi.py` compares both with the code.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from webapp import alerts, parquet
from webapp.api import batch
from webapp.batches import results
from webapp.db import MOST_ID
from webapp.monitoring import quality_report
from webapp.openapi import forms
from webapp.openapi.forms import Schema, many, record, ref
from webapp.signature import Value

JSON, CSV, LINES, FORM = "application/json", "text/csv", "application/jsonl", "multipart/form-data"
PARQUET = parquet.MIMETYPE
# Codes by status.
Refusals = Mapping[int, frozenset[str]]


def refusals(*parts: Refusals) -> dict[int, frozenset[str]]:
    """Put the refusals of several causes together."""
    statuses = sorted({status for part in parts for status in part})
    return {status: frozenset().union(*(part.get(status, ()) for part in parts)) for status in statuses}


def _codes(**by_status: str) -> Refusals:
    return {int(status.removeprefix("s")): frozenset(codes.split()) for status, codes in by_status.items()}


# --- Why something is refused -----------------------------------------------------------------------------------

ALWAYS = _codes(s400="key_in_url nul_in_url bad_request", s500="internal_error", s507="disk_full")
KEYED = _codes(
    s400="several_credentials", s401="key_refused", s403="scope_missing", s429="rate_limited", s503="state_unknown"
)
# Where the path has variables, some of what they can be is no path at all.
PATH = _codes(s404="not_found")
ADDRESS = _codes(s429="rate_limited")
DATABASE = _codes(s503="database_unavailable")
OF_MODEL = _codes(s403="model_not_allowed")
REGISTERED = refusals(DATABASE, OF_MODEL, _codes(s404="unknown_model"))
STORE = _codes(s404="artifact_missing file_missing", s503="artifact_damaged store_unavailable store_refused")
SERVED = refusals(
    OF_MODEL,
    STORE,
    _codes(
        s404="unknown_model unknown_version",
        s409="no_active_model",
        s503="version_not_loaded version_not_loadable version_damaged artifact_not_loadable golden_rows_differ",
    ),
)
DEFAULT = _codes(s409="no_active_model model_not_named")
BODY = _codes(s400="body_incomplete body_malformed", s413="body_too_large", s415="unsupported_media_type")
READ = refusals(
    BODY,
    _codes(
        s400="json_malformed json_not_utf8 json_duplicate_name json_number_out_of_range json_too_deep json_nul"
        " json_lone_surrogate",
        s422="not_an_object",
    ),
)
TABLE = _codes(s400="csv_not_utf8 csv_nul csv_malformed csv_empty csv_duplicate_name")
ASKED = refusals(READ, TABLE, _codes(s413="too_many_instances", s422="unknown_field no_instances ids_unusable"))
PREDICT = refusals(
    SERVED,
    ASKED,
    _codes(s422="invalid_instances model_refused_input prediction_not_finite", s503="spool_full"),
)
SUBMIT = refusals(
    SERVED,
    ASKED,
    DATABASE,
    _codes(
        s400="idempotency_key_unusable row_too_long jsonl_malformed batch_not_utf8 parquet_unusable parquet_unreadable",
        s422="idempotency_key_reused columns_not_the_models file_missing parquet_not_installed",
    ),
)
JOB = refusals(DATABASE, _codes(s404="unknown_job"))
RESULTS = _codes(s404="file_missing", s503="store_unavailable store_refused")
SWITCH = refusals(
    REGISTERED,
    READ,
    _codes(s409="already_active activation_failed activation_lost_race", s422="reason_unusable"),
)

# --- What is asked for ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is none of a refusal: its form by media type, and headers that it has or may have."""

    about: str
    content: Mapping[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `takes` has its body by media type: schema and examples."""

    tag: str
    answers: Mapping[int, Answer]
    refuses: Refusals
    takes: Mapping[str, Schema] = field(default_factory=dict)
    may_be_empty: bool = False
    parameters: tuple[str, ...] = ()


def parameter(name: str, place: str, form: Schema, about: str, **more: Any) -> Schema:  # noqa: ANN401 - OpenAPI's keywords
    """Describe a parameter; those of a path are required."""
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, "description": about, **required, "schema": form, **more}


DAY: Schema = {"type": "string", "format": "date"}
NUMBER_OF_VERSION: Schema = {"type": "integer", "minimum": 1}
# By what the routes call their variables, and by names of our own for those of queries and headers.
PARAMETERS: Mapping[str, Schema] = {
    "model": parameter("model", "path", forms.NAME, "The model's name."),
    "number": parameter("version", "path", NUMBER_OF_VERSION, "The version's number."),
    "prediction_id": parameter("prediction_id", "path", forms.TEXT, "As the prediction's answer has it."),
    "job_id": parameter("job_id", "path", forms.TEXT, "As the accepted batch's answer has it."),
    "upload_id": parameter("upload_id", "path", forms.TEXT, "As the accepted upload's answer has it."),
    "idempotency_key": parameter(
        "Idempotency-Key",
        "header",
        {"type": "string", "pattern": f"^{batch.IDEMPOTENCY_KEY}$"},
        "The same request with the same key is the same job, however often it is sent.",
    ),
    "format": parameter(
        "format",
        "query",
        {
            **forms.one_of([form for form in results.MIMETYPES if form != "parquet" or parquet.is_there()]),
            "default": "jsonl",
        },
        "Of the results.",
    ),
    "as_of": parameter(
        "as_of",
        "query",
        {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]},
        "What was active then; of a date the end is meant, and UTC where no zone is said.",
    ),
    "from": parameter("from", "query", forms.TEXT, "A version's number or label; else the active one."),
    "to": parameter("to", "query", forms.TEXT, "A version's number or label; else the newest other one."),
    "of_version": parameter("version", "query", forms.TEXT, "A version's number or label; else the active one."),
    "day": parameter("day", "query", DAY, "Of which day; else today."),
    "since": parameter("since", "query", DAY, "The first of several days."),
    "until": parameter("until", "query", DAY, "The last of several days; else today."),
    "window": parameter(
        "window", "query", {**forms.one_of(list(quality_report.WINDOWS)), "default": "30d"}, "Over how many days."
    ),
    "state": parameter("state", "query", {**forms.one_of(alerts.STATES), "default": "open"}, "Alerts in this state."),
    "before": parameter(
        "before",
        "query",
        {"type": "integer", "minimum": 0, "maximum": 10 ** len(str(MOST_ID)) - 1},
        "Older than the alert of this id, for the next page.",
    ),
}

# The registry's routes call a model `name`.
VARIABLES: Mapping[str, str] = {"name": "model"}


def _json(form: Schema, about: str = "Done.", **more: Any) -> dict[int, Answer]:  # noqa: ANN401 - fields of an answer
    return {200: Answer(about, {JSON: form}, **more)}


INSTANCES_CSV: Schema = {"type": "string", "description": "A line of names, then one row per instance."}
# A form's file, or a table that is the whole body.
FILE_FORM = record({"file": forms.FILE})


def predicting(instance: Schema, most: int, sample: Mapping[str, Value] | None = None) -> dict[str, Schema]:
    """Give what predictions take, for one schema of an instance; with examples where there is a `sample` of it."""
    as_json: Schema = {"schema": {"anyOf": [instance, forms.instances(instance, most)]}}
    as_table: Schema = {"schema": INSTANCES_CSV}
    if sample is not None:
        several = {"instances": [sample, sample], "ids": ["first", "second"]}
        as_json["examples"] = {"one": {"value": sample}, "many": {"value": several}}
        as_table["examples"] = {"one": {"value": _table(sample)}}
    return {JSON: as_json, CSV: as_table}


def _table(sample: Mapping[str, Value]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([sample.keys(), map(_cell, sample.values())])
    return text.getvalue()


def _cell(value: Value) -> Value:
    return str(value).lower() if isinstance(value, bool) else value


def predicted(one: Schema, several: Schema) -> dict[int, Answer]:
    """Give what predictions answer."""
    content: dict[str, Schema] = {JSON: {"anyOf": [one, several]}, CSV: forms.TEXT}
    return {200: Answer("Predicted.", content, ("X-Model-Version",), ("X-Cache",))}


def submitting(instance: Schema, most: int, sample: Mapping[str, Value] | None = None) -> dict[str, Schema]:
    """Give what batches take, as `predicting` does."""
    lines: Schema = {"schema": {"type": "string", "description": "One object per line."}}
    if sample is not None:
        lines["examples"] = {"one": {"value": json.dumps(sample)}}
    return {
        **predicting(instance, most, sample),
        LINES: lines,
        PARQUET: {"schema": forms.FILE},
        FORM: {"schema": FILE_FORM},
    }


SUBMITTED = {202: Answer("Accepted; ask `status_url` how far it is.", {JSON: ref("AcceptedJob")}, ("Location",))}


def operations(most: int) -> dict[str, Operation]:
    """Give every operation by its endpoint; `most` instances fit one request."""
    predicts = ("predictions", predicted(ref("Predicted"), ref("PredictedMany")))
    asked = predicting(ref("Instance"), most)
    submits = Operation(
        "batches", SUBMITTED, SUBMIT, submitting(ref("Instance"), most), parameters=("idempotency_key",)
    )
    return {
        "native.predict": Operation(*predicts, refusals(PREDICT, DEFAULT), asked),
        "native.predict_with": Operation(*predicts, PREDICT, asked),
        "native.predict_with_version": Operation(*predicts, PREDICT, asked),
        "native.logged_prediction": Operation(
            "predictions",
            _json(ref("LoggedPrediction")),
            refusals(DATABASE, _codes(s404="unknown_prediction")),
        ),
        "batch.submit": replace(submits, refuses=refusals(SUBMIT, DEFAULT)),
        "batch.submit_to": submits,
        "batch.status": Operation("batches", _json(ref("Job")), refusals(JOB, RESULTS)),
        "batch.cancel": Operation("batches", _json(ref("Job")), JOB),
        "batch.fetch": Operation(
            "batches",
            {
                200: Answer(
                    "The results, in the order of the request.",
                    {LINES: forms.TEXT, CSV: forms.TEXT, PARQUET: forms.FILE},
                )
            },
            refusals(JOB, RESULTS, _codes(s409="job_not_completed", s422="unknown_format parquet_not_installed")),
            parameters=("format",),
        ),
        "feedback.tell": _TELL,
        **_REGISTRY,
        **_WATCHING,
        **_SERVER,
    }


_TELL = Operation(
    "feedback",
    _json(ref("Told"), "What became of each item."),
    refusals(DATABASE, READ, TABLE, _codes(s413="too_many_items", s422="no_items not_a_list")),
    {
        JSON: {"schema": {"anyOf": [ref("GroundTruths"), ref("GroundTruth")]}},
        CSV: {"schema": {"type": "string", "description": "The fields are columns; an empty cell is nothing there."}},
    },
)
_REGISTRY = {
    "registry.models": Operation("registry", _json(record({"models": many(ref("Model"))})), DATABASE),
    "registry.model": Operation(
        "registry",
        _json(ref("ModelShown")),
        refusals(REGISTERED, _codes(s422="as_of_unreadable")),
        parameters=("as_of",),
    ),
    "registry.compare_versions": Operation(
        "registry",
        _json(ref("Comparison")),
        refusals(REGISTERED, SERVED, _codes(s409="nothing_to_compare", s422="same_version")),
        parameters=("from", "to"),
    ),
    "registry.versions": Operation("registry", _json(record({"versions": many(ref("Version"))})), REGISTERED),
    "registry.version": Operation(
        "registry", _json(ref("VersionShown")), refusals(REGISTERED, _codes(s404="unknown_version"))
    ),
    "registry.artifact": Operation(
        "registry",
        {
            200: Answer(
                "The canonical .skops file.", {"application/octet-stream": forms.FILE}, ("Content-Disposition",)
            ),
        },
        refusals(REGISTERED, STORE, _codes(s404="unknown_version")),
    ),
    "registry.upload": Operation(
        "registry",
        {202: Answer("Accepted; ask `status_url` what became of it.", {JSON: ref("AcceptedUpload")}, ("Location",))},
        refusals(
            DATABASE,
            OF_MODEL,
            _codes(
                s413="request_entity_too_large",
                s422="file_missing model_name_not_allowed label_not_allowed",
                s503="quarantine_full store_unavailable store_refused",
            ),
        ),
        {FORM: {"schema": ref("Upload")}},
    ),
    "registry.uploaded": Operation(
        "registry", _json(ref("Uploaded")), refusals(DATABASE, OF_MODEL, _codes(s404="unknown_upload"))
    ),
    "registry.activate": Operation(
        "registry",
        _json(ref("Switched")),
        refusals(
            SWITCH,
            _codes(
                s404="unknown_version",
                s409="signature_incompatible version_needs_consent",
                s422="version_missing confirm_unusable accept_trained_with_unusable",
            ),
        ),
        {JSON: {"schema": ref("Activate")}},
    ),
    "registry.rollback": Operation(
        "registry",
        _json(ref("Switched")),
        refusals(SWITCH, _codes(s409="nothing_to_roll_back_to")),
        {JSON: {"schema": ref("RollBack")}},
        may_be_empty=True,
    ),
}
_WATCHING = {
    "alerts.index": Operation(
        "watching",
        _json(record({"alerts": many(ref("Alert"))})),
        refusals(DATABASE, _codes(s422="unknown_state before_unreadable")),
        parameters=("state", "before"),
    ),
    "drift.drift": Operation(
        "watching",
        _json(ref("Drift")),
        refusals(
            REGISTERED,
            STORE,
            _codes(s404="unknown_version no_drift_reference", s422="version_missing time_unusable date_unreadable"),
        ),
        parameters=("of_version", "day", "since", "until"),
    ),
    "quality.quality": Operation(
        "watching",
        _json(ref("Quality")),
        refusals(REGISTERED, _codes(s422="window_unknown")),
        parameters=("window",),
    ),
}
_SERVER = {
    "root": Operation(
        "server",
        {**_json(ref("Root")), 303: Answer("A browser goes to the admin UI.", headers=("Location",))},
        ADDRESS,
    ),
    "openapi.show": Operation(
        "server",
        {**_json(forms.FREE, "This document.", headers=("ETag",)), 304: Answer("It is as it was.", headers=("ETag",))},
        ADDRESS,
    ),
    "health.health": Operation("server", _json(ref("Health")), {}),
    "health.live": Operation("server", _json(ref("Live")), {}),
    "health.ready": Operation("server", _json(ref("Ready")), _codes(s503="not_ready")),
    "health.exposition": Operation(
        "server", {200: Answer("Metrics.", {"text/plain": forms.TEXT})}, _codes(s403="metrics_closed")
    ),
}
