"""The whole document: each public route as an operation, and each model that the caller may use as paths of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus

from flask import Flask
from werkzeug.routing import Rule

from webapp import __version__, signature
from webapp.catalog import ServedVersion
from webapp.openapi import forms, operations, signatures
from webapp.openapi.forms import Schema, ref
from webapp.openapi.operations import Answer, Operation
from webapp.web import ANY_SCOPE

PROBLEM_TYPE = "application/problem+json"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ABOUT = """\
Predictions of the models that this caller may use, and what goes with them.

A key travels as `X-API-Key: KEY`, `Authorization: Bearer KEY`, or HTTP Basic with the key as password; never in a URL.
Each operation names the scope that it asks for. Every answer has `X-Request-ID`, every answer to a key what is left of
its limit. Errors are `application/problem+json` (RFC 9457) with a stable `code`; a path that is not here answers 404, a
method that is not here 405 with `Allow`, in the same form.
"""
TAGS = {
    "predictions": "Predictions of any model. What each model takes and answers stands under its own name.",
    "batches": "Many instances at once, computed in the background.",
    "feedback": "What turned out to be true.",
    "registry": "Models, their versions, and which one is active.",
    "watching": "Whether models are still good.",
    "server": "Probes, metrics and this document.",
}
SCHEMES: Mapping[str, Schema] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key as password; any name."},
}
HEADERS: Mapping[str, Schema] = {
    "X-Request-ID": {"description": "Names this request in the logs of the server.", "schema": forms.TEXT},
    "X-Model-Version": {"description": "The label or number of the version that answered.", "schema": forms.TEXT},
    "X-Cache": {
        "description": "Whether all of the answer was there already; missing where no look-up is worth it.",
        "schema": forms.one_of(["hit", "miss"]),
    },
    "RateLimit-Policy": {"description": "The key's limit: `q` requests in `w` seconds.", "schema": forms.TEXT},
    "RateLimit": {"description": "What is left of it: `r` requests for `t` seconds.", "schema": forms.TEXT},
    "Retry-After": {
        "description": "After how many seconds it may succeed.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {"description": "How to bring a key.", "schema": forms.TEXT},
    "Location": {"description": "Where to go on.", "schema": {"type": "string", "format": "uri-reference"}},
    "ETag": {"description": "Changes with the document; send it as `If-None-Match`.", "schema": forms.TEXT},
    "Content-Disposition": {"description": "What the file is called.", "schema": forms.TEXT},
}
LIMITED = ("RateLimit-Policy", "RateLimit")
# What comes with a refusal of a status beside the request's id.
OF_STATUS: Mapping[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
# The paths that each model has for itself, by the endpoint of the path for any model.
OWN = {"native.predict_with": "predict", "batch.submit_to": "predict_batch"}
_VARIABLE = re.compile(r"<(?:[^:<>]*:)?([a-z_]+)>")


def public(app: Flask) -> list[Rule]:
    """Give the routes that are for programs: all but pages and static files."""
    rules = [rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("admin_")]
    return sorted((rule for rule in rules if rule.endpoint != "static"), key=lambda rule: (rule.rule, methods(rule)))


def methods(rule: Rule) -> list[str]:
    """Give the methods that a route says itself that it has."""
    return [method for method in METHODS if method in (rule.methods or ())]


def describe(app: Flask, versions: Sequence[ServedVersion], most: int) -> Schema:
    """Describe the API with these active versions; `most` instances fit one request."""
    made = _Making(app, operations.operations(most), most)
    paths: dict[str, Schema] = {}
    ordered = sorted(versions, key=lambda version: version.model)
    for version in ordered:
        paths |= made.of_version(version)
    for path, method, operation in made.of_routes():
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Modelport", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [*(_tag(version) for version in ordered), *({"name": n, "description": d} for n, d in TAGS.items())],
        "paths": paths,
        "components": made.components([version.model for version in ordered]),
    }


def _tag(version: ServedVersion) -> Schema:
    return {"name": version.model, "description": f"Version {version.shown} answers."}


class _Making:
    """One document while it is made: what several operations have in common is a component."""

    def __init__(self, app: Flask, known: Mapping[str, Operation], most: int) -> None:
        self._app = app
        self._known = known
        self._most = most
        self._rules = {rule.endpoint: rule for rule in public(app)}
        self._schemas: dict[str, Schema] = dict(forms.SCHEMAS)
        # Refusals by their content: by how they are called.
        self._refusals: dict[tuple[int, frozenset[str], bool], str] = {}
        self._responses: dict[str, Schema] = {}

    def of_routes(self) -> Iterator[tuple[str, str, Schema]]:
        """Give path, method and operation of every route."""
        for rule in public(self._app):
            operation = self._known[rule.endpoint]
            path = _VARIABLE.sub(lambda found: "{" + _parameter(found[1])["name"] + "}", rule.rule)
            named = rule.endpoint.replace(".", "_")
            for method in methods(rule):
                yield path, method.lower(), self._operation(rule, operation, named)

    def of_version(self, version: ServedVersion) -> Schema:
        """Give the paths of a model, whose active version this is."""
        read = signature.from_dict(dict(version.signature))
        name = version.model
        instance = self._schema(f"{name}.Instance", signatures.instance(read))
        one = self._schema(f"{name}.Predicted", signatures.predicted(read, name, version.shown))
        several = self._schema(f"{name}.PredictedMany", signatures.predicted_many(read, name, version.shown))
        sample = signatures.sample(read)
        predict, submit = self._known["native.predict_with"], self._known["batch.submit_to"]
        taken = operations.predicting(instance, self._most, sample), operations.submitting(instance, self._most, sample)
        given = {
            "native.predict_with": replace(predict, takes=taken[0], answers=operations.predicted(one, several)),
            "batch.submit_to": replace(submit, takes=taken[1]),
        }
        return {
            self._rules[endpoint].rule.replace("<model>", name): {"post": self._own(endpoint, version, operation)}
            for endpoint, operation in given.items()
        }

    def _own(self, endpoint: str, version: ServedVersion, operation: Operation) -> Schema:
        named = f"{OWN[endpoint]}_{version.model.replace('-', '_')}"
        made = self._operation(self._rules[endpoint], replace(operation, tag=version.model), named)
        made["parameters"] = [each for each in made["parameters"] if each != ref("model", "parameters")]
        verb = "Predict with" if endpoint == "native.predict_with" else "Accept a batch for"
        return made | {"summary": f"{verb} {version.model} (version {version.shown})."}

    def _schema(self, name: str, form: Schema) -> Schema:
        self._schemas[name] = form
        return ref(name)

    def _operation(self, rule: Rule, operation: Operation, named: str) -> Schema:
        view = self._app.view_functions[rule.endpoint]
        scope = getattr(view, "scope", None)
        variables = [operations.VARIABLES.get(each, each) for each in _VARIABLE.findall(rule.rule)]
        made: Schema = {
            "operationId": named,
            "tags": [operation.tag],
            "summary": (view.__doc__ or "").partition("\n")[0],
            "description": _needs(scope),
            "security": _security(scope),
            "parameters": [ref(each, "parameters") for each in (*variables, *operation.parameters)],
            "responses": self._all_responses(operation, scope, has_variables=bool(variables)),
        }
        if operation.takes:
            made["requestBody"] = {
                "required": not operation.may_be_empty,
                "content": operation.takes,
            }
        return made

    def _all_responses(self, operation: Operation, scope: str | None, *, has_variables: bool) -> Schema:
        keyed = scope is not None
        answers = {str(status): _answer(answer, keyed=keyed) for status, answer in operation.answers.items()}
        causes = [operations.ALWAYS, operation.refuses]
        causes += [operations.KEYED] if keyed else []
        causes += [operations.PATH] if has_variables else []
        found = operations.refusals(*causes)
        if scope == ANY_SCOPE:
            found[403] -= {"scope_missing"}
        refused = {
            str(status): ref(self._refusal(status, codes, keyed=keyed), "responses")
            for status, codes in found.items()
            if codes
        }
        return {**answers, **refused}

    def _refusal(self, status: int, codes: frozenset[str], *, keyed: bool) -> str:
        """Give the name of the component that describes a refusal."""
        wanted = (status, codes, keyed)
        if wanted not in self._refusals:
            count = sum(known[0] == status for known in self._refusals)
            name = self._refusals[wanted] = f"{HTTPStatus(status).name.title().replace('_', '')}{count or ''}"
            self._responses[name] = _refusal(status, codes, keyed=keyed)
        return self._refusals[wanted]

    def components(self, models: Sequence[str]) -> Schema:
        """Give everything that operations point to."""
        parameters = {name: dict(each) for name, each in operations.PARAMETERS.items()}
        if models:
            parameters["model"]["examples"] = {name: {"value": name} for name in models}
        return {
            "schemas": self._schemas,
            "responses": self._responses,
            "parameters": parameters,
            "headers": HEADERS,
            "securitySchemes": SCHEMES,
        }


def _parameter(variable: str) -> Schema:
    return operations.PARAMETERS[operations.VARIABLES.get(variable, variable)]


def _needs(scope: str | None) -> str:
    if scope is None:
        return "Needs no key."
    return "Needs a key." if scope == ANY_SCOPE else f"Needs a key with the scope `{scope}`."


def _security(scope: str | None) -> list[Schema]:
    if scope is None:
        return []
    return [{name: [] if scope == ANY_SCOPE else [scope]} for name in SCHEMES]


def _answer(answer: Answer, *, keyed: bool) -> Schema:
    always = ("X-Request-ID", *(LIMITED if keyed else ()), *answer.headers)
    made: Schema = {"description": answer.about, "headers": _headers(always, answer.sometimes)}
    if answer.content:
        made["content"] = {kind: {"schema": form} for kind, form in answer.content.items()}
    return made


def _headers(always: Collection[str], sometimes: Collection[str]) -> Schema:
    required = {name: {**HEADERS[name], "required": True} for name in always}
    return {**required, **{name: ref(name, "headers") for name in sometimes}}


def _refusal(status: int, codes: frozenset[str], *, keyed: bool) -> Schema:
    code = {"properties": {"code": {"enum": sorted(codes)}, "status": {"const": status}}}
    # A request that is refused before its key is known counts against no limit.
    headers = _headers(("X-Request-ID", *OF_STATUS.get(status, ())), LIMITED if keyed else ())
    form: Schema = {"allOf": [ref("Problem"), code]}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": headers,
        "content": {PROBLEM_TYPE: {"schema": form}},
    }
