"""JSON Schemas of what the API takes and gives, whatever the model."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, Literal, Union

from webapp import alerts, feedback, quality, registry, signature
from webapp.api import asking, batch
from webapp.monitoring import description, drift_report, quality_report
from webapp.monitoring.new_values import NewValue
from webapp.predictions import timings
from webapp.serving import compare
from webapp.uploads import waiting

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
YES: Schema = {"type": "boolean"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
ANY: Schema = {}
FREE: Schema = {"type": "object"}
FILE: Schema = {"type": "string", "format": "binary"}
PLAIN: Mapping[object, Schema] = {
    str: TEXT,
    float: NUMBER,
    int: WHOLE,
    bool: YES,
    datetime: MOMENT,
    type(None): {"type": "null"},
    Any: ANY,
}


def ref(name: str, kind: str = "schemas") -> Schema:
    """Point to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def many(item: Schema, **more: Any) -> Schema:  # noqa: ANN401 - keywords of JSON Schema
    """Give the schema of a list."""
    return {"type": "array", "items": item, **more}


def mapping(value: Schema) -> Schema:
    """Give the schema of an object whose names say nothing of its form."""
    return {"type": "object", "additionalProperties": value}


def optional(form: Schema) -> Schema:
    """Let null stand for it, too."""
    kind = form.get("type")
    if not isinstance(kind, str) or "enum" in form:
        return {"anyOf": [form, {"type": "null"}]}
    return {**form, "type": [kind, "null"]}


def one_of(names: Sequence[Any]) -> Schema:
    """Give the schema of one of some texts."""
    return {"type": "string", "enum": list(names)}


def record(given: Mapping[str, Schema], /, **sometimes: Schema) -> Schema:
    """Give the schema of an object that has what is given; what is there `sometimes` may be missing."""
    return {"type": "object", "properties": {**given, **sometimes}, "required": list(given)}


def of(kind: Any, rename: Callable[[str], str] = str) -> Schema:  # noqa: ANN401 - any annotation
    """Give the schema of the JSON form (`dataclasses.asdict`) of a type: its annotations are the only truth of it."""
    if kind in PLAIN:
        return PLAIN[kind]
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return record({rename(each.name): of(hints[each.name], rename) for each in fields(kind)})
    return _generic(typing.get_origin(kind), typing.get_args(kind), rename)


def _generic(origin: Any, inside: tuple[Any, ...], rename: Callable[[str], str]) -> Schema:  # noqa: ANN401 - annotations
    if origin is Literal:
        return one_of(inside)
    if origin in {Union, types.UnionType}:
        rest = [each for each in inside if each is not type(None)]
        form = of(rest[0], rename) if len(rest) == 1 else {"anyOf": [of(each, rename) for each in rest]}
        return optional(form) if len(rest) < len(inside) else form
    if origin is dict:
        return mapping(of(inside[1], rename))
    return many(of(inside[0], rename))


def _loose(form: Schema) -> Schema:
    """Promise nothing of which names there are: what was stored by an older release has fewer."""
    return {name: value for name, value in form.items() if name != "required"}


# --- Refusals -------------------------------------------------------------------------------------------------

PROBLEM = record(
    {
        "type": TEXT,
        "title": TEXT,
        "status": WHOLE,
        "detail": {**TEXT, "description": "For the person who reads it."},
        "code": {**TEXT, "description": "Stable: what a program decides by."},
        "request_id": TEXT,
    },
    errors=many(
        record(
            {
                "pointer": {**TEXT, "description": "Where in the body (RFC 6901)."},
                "code": TEXT,
                "message": TEXT,
            }
        ),
        description="Every problem, at most 20.",
    ),
    more={**WHOLE, "description": "How many more problems there are."},
)

# --- Predictions ----------------------------------------------------------------------------------------------

IDS = many(
    {"type": "string", "maxLength": asking.MOST_ID_CHARACTERS},
    description="Your own ids, one for each instance.",
)
WARNING = record({"feature": TEXT, "code": TEXT, "message": TEXT})
WARNINGS = many(WARNING, description="What the reference had not; nothing here is refused.")
# What an answer has whatever the model; the forms of a model say more.
PREDICTED = record(
    {"prediction": ANY, "model": TEXT, "model_version": TEXT, "prediction_id": TEXT},
    probability=ANY,
    probabilities=FREE,
    warnings=WARNINGS,
)
PREDICTED_ROW = record(
    {"prediction": ANY, "prediction_id": TEXT}, id=TEXT, probability=ANY, probabilities=FREE, warnings=WARNINGS
)
PREDICTED_MANY = record(
    {"model": TEXT, "model_version": TEXT, "predictions": many(ref("PredictedRow"))},
)
INSTANCE: Schema = {"type": "object", "description": "One instance: a flat object, one entry per feature."}
LOGGED = record(
    {
        "prediction_id": TEXT,
        "id": optional(TEXT),
        "at": MOMENT,
        "model": TEXT,
        "model_version": TEXT,
        "instance": FREE,
        "prediction": ANY,
        "probability": ANY,
        "probabilities": optional(FREE),
        "warnings": many(WARNING),
        "source": TEXT,
        "latency_seconds": NUMBER,
        "timings": {
            **optional(mapping(optional(NUMBER))),
            "description": f"Seconds by stage: {', '.join(timings.STAGES)}.",
        },
        "trace_id": {**optional(TEXT), "description": "Of the `traceparent` that came with the request."},
        "cached": YES,
    },
    outcome=ANY,
    observed_at=MOMENT,
)


def instances(item: Schema, most: int) -> Schema:
    """Give the schema of a request of many instances."""
    whole = record({"instances": many(item, minItems=1, maxItems=most)}, ids=optional(IDS))
    return {**whole, "additionalProperties": False}


# --- Batches and ground truth -----------------------------------------------------------------------------------

ACCEPTED_JOB = record({"job_id": TEXT, "status": one_of(["processing"]), "total_instances": WHOLE, "status_url": TEXT})
JOB = record(
    {
        "job_id": TEXT,
        "status": one_of(["processing", "completed", "failed", "cancelled"]),
        "total": WHOLE,
        "done": WHOLE,
        "failed": WHOLE,
        "eta_seconds": optional(NUMBER),
        "results": {
            **optional(many(FREE)),
            "description": f"Of a completed job with at most {batch.MOST_INLINE:,} rows, in the order of the request.",
        },
    },
    results_url=TEXT,
    detail=TEXT,
)
ITEM: Schema = {
    **record(
        {"outcome": {"description": "A class or a number, as predictions have it."}},
        prediction_id={"type": "string", "minLength": 1, "maxLength": feedback.MOST_ID_CHARACTERS},
        id={
            "type": "string",
            "minLength": 1,
            "maxLength": feedback.MOST_ID_CHARACTERS,
            "description": "The id that you sent.",
        },
        observed_at={**MOMENT, "description": "When it turned out; else now."},
    ),
    "additionalProperties": False,
    "oneOf": [{"required": ["prediction_id"]}, {"required": ["id"]}],
    "examples": [{"prediction_id": "0f6c1d0e5a7b4c3d8e9f0a1b2c3d4e5f-0", "outcome": 1}],
}
ITEMS: Schema = {**record({"items": many(ref("GroundTruth"), minItems=1)}), "additionalProperties": False}
TOLD = record(
    {
        **dict.fromkeys(feedback.STATUSES, WHOLE),
        "items": many(record({"status": one_of(feedback.STATUSES), "predictions": WHOLE}, code=TEXT, message=TEXT)),
    }
)

# --- The registry -----------------------------------------------------------------------------------------------

MODEL = record({"name": TEXT, "active_version": optional(WHOLE), "versions": WHOLE, "created_at": MOMENT})
ACTIVATION = record(
    {
        "act": TEXT,
        "version": WHOLE,
        "from_version": optional(WHOLE),
        "at": MOMENT,
        "actor": TEXT,
        "reason": TEXT,
    }
)
AS_OF = record(
    {
        "at": MOMENT,
        "active_version": WHOLE,
        "label": optional(TEXT),
        "since": MOMENT,
        "actor": TEXT,
        "reason": TEXT,
    }
)
MODEL_SHOWN = record({**MODEL["properties"], "history": many(ref("Activation"))}, as_of=optional(AS_OF))
VERSION = record(
    {
        "model": TEXT,
        "version": WHOLE,
        "label": optional(TEXT),
        "state": one_of(["active", "inactive"]),
        "sha256": TEXT,
        "created_at": MOMENT,
        "created_by": TEXT,
    }
)
SIGNATURE = _loose(of(signature.Signature)) | {
    "properties": {
        **of(signature.Signature)["properties"],
        "features": many(_loose(of(signature.Feature))),
        "outputs": many(_loose(of(signature.Output))),
    }
}
VERSION_SHOWN = record(
    {
        **VERSION["properties"],
        "computed_by": optional(TEXT),
        "signature": ref("Signature"),
        "card": FREE,
        "report": FREE,
    }
)
COMPARISON = of(compare.Comparison, compare.public_name)
UPLOAD = record(
    {"file": {**FILE, "description": "The model: .skops, .joblib, .pkl, or what `modelport pack` wrote."}},
    scaler=FILE,
    reference={**FILE, "description": "A sample of the training data as CSV."},
    expect={**FILE, "description": "Outputs that it must give, as CSV."},
    metadata={**FILE, "description": "The model card as JSON."},
    target={**TEXT, "description": "The column of the reference that is no feature."},
    label={
        "type": "string",
        "pattern": rf"^(?!\d+$){registry.LABEL}$",
        "description": "What answers call the version, in place of its number.",
    },
)
ACCEPTED_UPLOAD = record({"id": TEXT, "model": TEXT, "status": one_of(["processing"]), "status_url": TEXT})
UPLOADED = record(
    {
        "id": TEXT,
        "model": TEXT,
        "status": one_of(["processing", "stored", "refused"]),
        "stage": optional({**TEXT, "description": f"One of {', '.join(waiting.STAGES)}."}),
        "version": optional(WHOLE),
        "not_activated": optional(TEXT),
        "error": {**optional(FREE), "description": "Of a refused one: code, detail and findings."},
    }
)
REASON: Schema = {**TEXT, "description": "Kept in the history and in the audit log."}
ACTIVATE = record(
    {"version": WHOLE},
    reason=REASON,
    confirm={**TEXT, "description": "The model's name, where requests that work now could be refused."},
    accept_trained_with={**TEXT, "description": "The scikit-learn version that it was trained with, where asked for."},
)
ROLL_BACK = record({}, reason=REASON)
SWITCHED = record(
    {
        **ACTIVATION["properties"],
        "workers": record({"total": WHOLE, "switched": WHOLE, "failures": many(TEXT)}),
    }
)

# --- Watching ---------------------------------------------------------------------------------------------------

ALERT = record(
    {
        "id": WHOLE,
        "kind": TEXT,
        "model": optional(TEXT),
        "subject": optional(TEXT),
        "severity": TEXT,
        "state": one_of(alerts.STATES),
        "sentence": TEXT,
        "details": FREE,
        "opened_at": MOMENT,
        "last_seen_at": MOMENT,
        "times_seen": WHOLE,
        "acknowledged_at": optional(MOMENT),
        "acknowledged_by": optional(TEXT),
        "snoozed_until": optional(MOMENT),
        "resolved_at": optional(MOMENT),
        "resolved_by": optional(TEXT),
    }
)
_DRIFT = of(drift_report.Report)
_FOUND = of(drift_report.Finding)["properties"]
DRIFT = record(
    {
        **_DRIFT["properties"],
        "findings": many(record({name: form for name, form in _FOUND.items() if name != "refused"})),
        "refused": {**optional(FREE), "description": "Rows that were asked and not taken, by field and rule."},
        "drifted": many(TEXT),
        "described": many(of(description.Description)),
        "new_values": mapping(many(of(NewValue))),
    },
)
_INTERVAL = record({"value": optional(NUMBER), "low": optional(NUMBER), "high": optional(NUMBER)})
_BIN = record({"from": NUMBER, "to": NUMBER, "n": WHOLE, "said": optional(NUMBER), "true": _INTERVAL})
_FIGURES: dict[str, Schema] = {
    "predictions": WHOLE,
    "with_truth": WHOLE,
    "scored": WHOLE,
    "coverage": optional(NUMBER),
    "median_lag_seconds": optional(NUMBER),
    "outputs": mapping(record({"n": WHOLE, "scores": mapping(_INTERVAL), "calibration": many(_BIN)})),
}
QUALITY = record(
    {
        "model": TEXT,
        "window": one_of(list(quality_report.WINDOWS)),
        "since": MOMENT,
        "until": MOMENT,
        "versions": many(
            record(
                {
                    "version": WHOLE,
                    "label": optional(TEXT),
                    "active": YES,
                    "task": TEXT,
                    "verdict": of(quality.Verdict),
                    "card": mapping(NUMBER),
                    **_FIGURES,
                    "estimated_accuracy": mapping(of(quality.Estimate)),
                    "parts": many(record({"since": MOMENT, "until": MOMENT, **_FIGURES})),
                }
            )
        ),
    }
)

# --- The server -------------------------------------------------------------------------------------------------

ROOT = record({"name": TEXT, "predict": TEXT, "models": TEXT, "health": TEXT})
HEALTH = record({"status": one_of(["healthy"]), "model_loaded": YES, "models": mapping(TEXT)})
LIVE = record({"status": one_of(["live"])})
READY = record({"status": one_of(["ready"]), "degraded": many(TEXT)})

NAME: Schema = {"type": "string", "pattern": f"^{registry.NAME}$"}

SCHEMAS: Mapping[str, Schema] = {
    "Problem": PROBLEM,
    "Instance": INSTANCE,
    "Predicted": PREDICTED,
    "PredictedRow": PREDICTED_ROW,
    "PredictedMany": PREDICTED_MANY,
    "LoggedPrediction": LOGGED,
    "AcceptedJob": ACCEPTED_JOB,
    "Job": JOB,
    "GroundTruth": ITEM,
    "GroundTruths": ITEMS,
    "Told": TOLD,
    "Model": MODEL,
    "ModelShown": MODEL_SHOWN,
    "Activation": ACTIVATION,
    "Version": VERSION,
    "VersionShown": VERSION_SHOWN,
    "Signature": SIGNATURE,
    "Comparison": COMPARISON,
    "Upload": UPLOAD,
    "AcceptedUpload": ACCEPTED_UPLOAD,
    "Uploaded": UPLOADED,
    "Activate": ACTIVATE,
    "RollBack": ROLL_BACK,
    "Switched": SWITCHED,
    "Alert": ALERT,
    "Drift": DRIFT,
    "Quality": QUALITY,
    "Root": ROOT,
    "Health": HEALTH,
    "Live": LIVE,
    "Ready": READY,
}
