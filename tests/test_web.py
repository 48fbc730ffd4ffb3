"""Tests of what all HTTP doors share."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from webapp import app as composition
from webapp.config import Settings
from webapp.db import Database


@pytest.fixture
def client(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client of an application that answers one address twice a minute."""
    assert database.engine.url.database
    monkeypatch.setattr(composition, "DEFAULT_LIMITS", ["2/minute"])
    return composition.create_app(settings).test_client()


def third(client: FlaskClient, path: str) -> TestResponse:
    """Ask thrice, and give the last answer."""
    return [client.get(path) for _ in range(3)][-1]


@pytest.mark.parametrize("path", ["/", "/login"])
def test_who_asks_too_often_from_one_address_is_told_when_to_come_again(client: FlaskClient, path: str) -> None:
    answer = third(client, path)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 62
    assert "2 per 1 minute" in answer.text


def test_a_program_is_refused_for_its_address_as_it_is_for_its_key(client: FlaskClient) -> None:
    assert third(client, "/").get_json()["code"] == "rate_limited"


def test_probes_and_keyed_paths_are_not_limited_by_address(client: FlaskClient) -> None:
    third(client, "/")
    assert {client.get("/livez").status_code for _ in range(5)} == {200}
    assert {client.post("/predict").status_code for _ in range(5)} <= {401, 503}
