"""The API's description: nothing in it that the code does not do, and nothing left out."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from webapp import web
from webapp.app import create_app
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.errors import Invalid
from webapp.openapi import document, operations, signatures
from webapp.signature import Feature, Output, Signature
from webapp.signature.check import Checker

WEBAPP = Path(document.__file__).parents[1]
MIXED = Signature(
    features=(
        Feature("age", "integer", minimum=18.0, maximum=100.0, message="Only adults can apply."),
        Feature("income", "number", nullable=True, description="A year's."),
        Feature("city", "string", allowed=("Oslo", "Rome"), nullable=True),
        Feature("member", "boolean", default=False),
        Feature("note", "string"),
        Feature("grade", "integer", allowed=(1.0, 2.0, 5.0)),
    ),
    container="frame",
    task="classification",
    outputs=(Output("y", ("bad", "good")),),
    probabilities="table",
)
SEVERAL = replace(
    MIXED, outputs=(Output("colour", ("red", "blue")), Output("size")), probabilities="none", multi_output=True
)


def served(name: str, signature: Signature, shown: str = "1") -> ServedVersion:
    return ServedVersion(name, 1, shown, "artifact", "seal", signature.as_dict())


@pytest.fixture
def app(settings: Settings) -> Flask:
    """The application, which has read nothing."""
    return create_app(settings)


@pytest.fixture
def described(app: Flask) -> dict[str, Any]:
    """The document with two models, as a client reads it."""
    versions = [served("mixed", MIXED, "2026-11"), served("several-outputs", SEVERAL)]
    read: dict[str, Any] = json.loads(json.dumps(document.describe(app, versions, 100)))
    return read


def each_operation(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def followed(described: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, where it is one."""
    if "$ref" not in form:
        return form
    found = described
    for name in form["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


# --- The document and the routes --------------------------------------------------------------------------------


def test_the_document_is_valid_openapi(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(described).iter_errors()) == []


def test_a_server_without_models_is_described_too(app: Flask) -> None:
    read = json.loads(json.dumps(document.describe(app, [], 100)))
    assert list(OpenAPIV31SpecValidator(read).iter_errors()) == []
    assert "/models/{model}/predict" in read["paths"]


def test_every_public_route_is_described_and_nothing_else(app: Flask, described: dict[str, Any]) -> None:
    wanted = {
        (re.sub(r"<(?:int:)?([a-z_]+)>", "{}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith("admin_") and rule.endpoint != "static"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    own = {f"/models/{name}/predict{rest}" for name in ("mixed", "several-outputs") for rest in ("", "/batch")}
    found = {(re.sub(r"\{[a-z_]+\}", "{}", path), method) for path, method, _ in each_operation(described)}
    assert found - {(path, "POST") for path in own} == wanted
    assert {(path, "POST") for path in own} <= found
    assert operations.operations(1).keys() == {rule.endpoint for rule in document.public(app)}


def test_every_operation_names_the_scope_that_its_route_asks_for(app: Flask, described: dict[str, Any]) -> None:
    adapter = app.url_map.bind("127.0.0.1")
    for path, method, operation in each_operation(described):
        endpoint, _ = adapter.match(re.sub(r"\{[a-z_]+\}", "1", path), method)
        scope = getattr(app.view_functions[endpoint], "scope", None)
        listed = [] if scope == web.ANY_SCOPE else [scope]
        assert operation["security"] == [{name: listed} for name in document.SCHEMES if scope], path
        assert f"`{scope}`" in operation["description"] or scope in {None, web.ANY_SCOPE}, path
        assert operation["summary"].endswith("."), path


def test_every_operation_has_a_name_of_its_own(described: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in each_operation(described)]
    assert sorted(names) == sorted(set(names))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_every_answer_has_its_headers(described: dict[str, Any]) -> None:
    for path, _method, operation in each_operation(described):
        for status, answer in operation["responses"].items():
            headers = followed(described, answer)["headers"]
            assert headers["X-Request-ID"]["required"], (path, status)
            assert ("Retry-After" in headers) is (status in {"429", "503"}), (path, status)
            assert not operation["security"] or "RateLimit" in headers, (path, status)


def test_every_refusal_is_a_problem_document_with_its_codes(described: dict[str, Any]) -> None:
    for path, _method, operation in each_operation(described):
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                content = followed(described, answer)["content"]
                assert list(content) == ["application/problem+json"], (path, status)
                assert codes_in(content["application/problem+json"]["schema"]), (path, status)


def codes_in(form: dict[str, Any]) -> set[str]:
    return set(form["allOf"][1]["properties"]["code"]["enum"])


# --- The codes and the code -------------------------------------------------------------------------------------

# Where refusals come from that the API answers nobody with.
ELSEWHERE = {
    "admin": "pages",
    "cli": "commands",
    "supervisor.py": "starting",
    "installation.py": "starting",
    "copying.py": "a command",
    "users.py": "pages",
    "passwords.py": "pages",
    "webhooks": "pages",
    "predictions/search.py": "pages",
    "predictions/exports.py": "pages",
    "predictions/files.py": "exports",
    "exporting.py": "exports",
    "worker": "what a worker notes of a job",
    "batches/reading.py": "errors of rows",
    "batches/backends.py": "what a worker notes of a job",
    "intake": "what became of an upload",
    "signature/learn.py": "what became of an upload",
    "signature/keeping.py": "what became of an upload",
    "signature/rules.py": "what became of an upload",
    "uploads/__init__.py": "what became of an upload",
    "uploads/quarantine.py": "what became of an upload",
}
UNSAID = {
    "no_scope": "a route that forgot its scope",
    "database_url_unusable": "starting",
    "lease_lost": "what became of an upload",
    "model_trial_failed": "what became of an upload",
    "upload_files_damaged": "what became of an upload",
    "label_taken": "what became of an upload",
    "plan_is_allowed": "pages",
    "too_few_predictions": "pages and commands",
    **dict.fromkeys(("snooze_unknown", "alert_ended", "alert_is_open", "alert_resolved", "unknown_alert"), "pages"),
    **dict.fromkeys(
        ("key_name_missing", "unknown_scope", "expiry_in_the_past", "rate_limit_unreadable", "unknown_key"), "pages"
    ),
    **dict.fromkeys(("key_not_live", "key_already_made"), "pages"),
    "upload_files_missing": "what became of an upload",
}
# Codes that the API has for something else: of one item of many, which is refused in its place; of a page's form.
OTHERWISE = {
    "feedback.py": (
        "not_an_object", "unknown_field", "id_missing", "id_unusable", "outcome_missing", "observed_at_unreadable",
        "observed_at_ahead", "unknown_version", "outcome_not_the_models", "outcome_not_a_class", "outcome_not_a_number",
    ),
    "keys.py": ("scope_missing",),
}  # fmt: skip
KINDS = {kind.__name__: int(status) for kind, status in web.STATUS.items()}
# Kinds with one code, which their constructor knows.
FIXED = {"NoRoom": "disk_full"}
# Of the framework: the name of each is made of its status.
FRAMEWORK = {
    (400, "bad_request"),
    (404, "not_found"),
    (413, "request_entity_too_large"),
    (415, "unsupported_media_type"),
    (500, "internal_error"),
}


def raised() -> Iterator[tuple[str, int, str]]:
    """Give every refusal that the code makes: in which module, its status, and its code as a pattern."""
    for path in sorted(WEBAPP.rglob("*.py")):
        place = str(path.relative_to(WEBAPP))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                first = node.args[0]
                if name in FIXED:
                    yield place, KINDS[name], FIXED[name]
                elif name in KINDS and isinstance(first, ast.Constant):
                    yield place, KINDS[name], re.escape(str(first.value))
                elif name in KINDS and isinstance(first, ast.JoinedStr):
                    parts = [
                        re.escape(str(p.value)) if isinstance(p, ast.Constant) else "[a-z_]+" for p in first.values
                    ]
                    yield place, KINDS[name], "".join(parts)


def refused(described: dict[str, Any]) -> set[tuple[int, str]]:
    """Give every status and code of the document."""
    responses = described["components"]["responses"].values()
    schemas = [each["content"]["application/problem+json"]["schema"] for each in responses]
    return {(each["allOf"][1]["properties"]["status"]["const"], code) for each in schemas for code in codes_in(each)}


def test_every_code_that_the_api_can_answer_is_described_under_its_status(described: dict[str, Any]) -> None:
    known = refused(described)
    missing = [
        (place, status, pattern)
        for place, status, pattern in raised()
        if not place.startswith(tuple(ELSEWHERE))
        and pattern not in UNSAID
        and (pattern not in OTHERWISE.get(place, ()) or status != 422)
        and not any(each == status and re.fullmatch(pattern, code) for each, code in known)
    ]
    assert missing == []


def test_every_code_that_is_described_is_one_that_the_code_answers_with(described: dict[str, Any]) -> None:
    said = list(raised())
    strange = [
        (status, code)
        for status, code in refused(described) - FRAMEWORK
        if not any(each == status and re.fullmatch(pattern, code) for _, each, pattern in said)
    ]
    assert strange == []


def test_what_is_left_out_of_the_codes_is_there(described: dict[str, Any]) -> None:
    said = defaultdict(set)
    for place, _, pattern in raised():
        said[place].add(pattern)
    everything = set().union(*said.values())
    assert UNSAID.keys() <= everything
    assert all(said[place] >= set(codes) for place, codes in OTHERWISE.items())
    assert all(any(place.startswith(each) for place in said) for each in ELSEWHERE)


# --- What a model takes -----------------------------------------------------------------------------------------


def takes(form: dict[str, Any], instance: object) -> bool:
    return bool(jsonschema.Draft202012Validator(form).is_valid(instance))


def checks(instance: object) -> bool:
    try:
        Checker(MIXED).rows([instance], [""])
    except Invalid:
        return False
    return True


# Values at, within and beyond each rule, of every kind that JSON has.
values = st.one_of(
    st.sampled_from(
        [None, True, False, 18, 17, 18.0, 35.5, 100, 101, 1, 2.0, 3, 5, "Oslo", "Bern", "", "a\0b", [], {}]
    ),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
)
GOOD = {"age": 35, "income": 52_000, "city": "Oslo", "member": True, "note": "a", "grade": 2}


@hypothesis_settings(derandomize=True, max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from([*GOOD, "stranger"]), value=values, without=st.sampled_from([*GOOD, ""]))
def test_the_schema_of_an_instance_takes_what_is_answered_and_nothing_else(
    name: str, value: object, without: str
) -> None:
    instance = {**GOOD, name: value}
    instance.pop(without, None)
    assert takes(signatures.instance(MIXED), instance) is checks(instance)


def test_a_feature_is_described_with_its_rules_and_words() -> None:
    found = signatures.instance(MIXED)["properties"]
    assert found["age"] == {
        "type": "integer",
        "minimum": 18,
        "maximum": 100,
        "description": "Refused otherwise: “Only adults can apply.”",
    }
    assert found["income"] == {"type": ["number", "null"], "description": "A year's."}
    assert found["city"]["enum"] == ["Oslo", "Rome", None]
    assert found["member"] == {"type": "boolean", "default": False}
    assert "member" not in signatures.instance(MIXED)["required"]


def test_what_was_merely_seen_is_no_rule_and_is_not_told_of_whom_it_is_about() -> None:
    seen = Feature("name", "string", observed_values=("Ada Lovelace",))
    size = Feature("size", observed_minimum=0.0, observed_maximum=4.0)
    told = signatures.instance(replace(MIXED, features=(replace(seen, subject=True), size)))
    assert told["properties"]["size"] == {"type": "number"}
    assert "Ada" not in json.dumps(told)
    assert "Ada" in json.dumps(signatures.instance(replace(MIXED, features=(seen, size))))


@pytest.mark.parametrize(
    "feature",
    [
        Feature("x", minimum=50.0, observed_minimum=0.0, observed_maximum=10.0),
        Feature("x", maximum=-5.0),
        Feature("x", "integer", minimum=0.5),
        Feature("x", observed_values=(99.0,), maximum=7.0),
        Feature("x", "boolean", allowed=(True,)),
    ],
    ids=["above what was seen", "below zero", "between whole numbers", "a seen one ruled out", "one boolean"],
)
def test_the_example_keeps_the_rules_whatever_was_seen(feature: Feature) -> None:
    signature = replace(MIXED, features=(feature,))
    Checker(signature).rows([signatures.sample(signature)], [""])


def test_the_answer_has_the_classes_of_each_output() -> None:
    one = signatures.predicted(MIXED, "mixed", "2026-11")["properties"]
    assert one["prediction"] == {"enum": ["bad", "good"]}
    assert one["probabilities"]["required"] == ["bad", "good"]
    assert one["model_version"] == {"const": "2026-11"}
    several = signatures.predicted(SEVERAL, "several", "1")["properties"]
    assert several["prediction"]["properties"] == {"colour": {"enum": ["red", "blue"]}, "size": {"type": "number"}}
    assert "probabilities" not in several


def test_the_table_of_an_example_is_the_same_instance(described: dict[str, Any]) -> None:
    content = described["paths"]["/models/mixed/predict"]["post"]["requestBody"]["content"]
    names, cells = (line.split(",") for line in content["text/csv"]["examples"]["one"]["value"].splitlines())
    assert names == list(content["application/json"]["examples"]["one"]["value"])
    assert cells == ["59", "0", "Oslo", "false", "a", "1"]
