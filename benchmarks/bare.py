"""What nothing can be faster than on this server: a WSGI function, and Flask routes that do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, jsonify, request

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def function(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer {}."""
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return [b"{}"]


route = Flask("route")
reader = Flask("reader")


@route.route("/predict", methods=["GET", "POST"])
def empty() -> Response:
    """Answer {}."""
    return jsonify({})


@reader.post("/predict")
def read() -> Response:
    """Read the body as JSON, and answer with some of what a prediction has."""
    return jsonify(prediction=1, probability=0.5, fields=len(request.get_json()))
