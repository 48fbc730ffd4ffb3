"""Keys over HTTP: how they are sent, why they are refused, what they open, and that nothing tells them on."""

from __future__ import annotations

import base64
import http.client
import json
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests import databases
from tests.conftest import eventually
from tests.functional.server import Server
from webapp import config, keys

PREDICT = "/models/credit-risk/predict"
BATCH = "/models/credit-risk/predict/batch"
INSTANCE = {"age": 35, "income": 52000, "credit_score": 690}
# Well-formed, and of no installation.
STRANGER = "mp_live_Qm3xV7Lk_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2yZ3a4b281p2Z"
SIGNATURE = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu/sagemaker/aws4_request, SignedHeaders=host, Signature=00"


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """A key for everything with the demo model."""
    return server.key("--model", "credit-risk", *(option for scope in keys.SCOPES for option in ("--scope", scope)))


@pytest.fixture(scope="module")
def narrow_key(server: Server) -> str:
    """A key that may predict with any model, and nothing else."""
    return server.key("--scope", "predict")


@pytest.fixture(scope="module")
def foreign_key(server: Server) -> str:
    """A key for everything, but with another model."""
    return server.key("--model", "pricing", *(option for scope in keys.SCOPES for option in ("--scope", scope)))


@pytest.fixture(scope="module")
def revoked_key(server: Server) -> str:
    """A key that was revoked."""
    made = server.cli("keys", "create", "revoked")
    server.cli("keys", "revoke", made["id"])
    return str(made["key"])


@pytest.fixture(scope="module")
def expired_key(server: Server) -> str:
    """A key whose time is over: what a year does to a key, done to its row."""
    made = server.cli("keys", "create", "expired")
    server.rows("UPDATE api_keys SET expires_at = '2001-01-01 00:00:00.000000' WHERE id = ?", made["id"])
    server.rows("UPDATE generation SET number = number + 1")
    return str(made["key"])


@dataclass(frozen=True)
class Answer:
    """What came back, with headers that may have stood twice in the request."""

    status: int
    headers: http.client.HTTPMessage
    document: dict[str, Any]


def call(server: Server, headers: Iterable[tuple[str, str]], path: str = PREDICT) -> Answer:
    """Ask for a prediction with exactly these headers, in this order."""
    body = json.dumps(INSTANCE).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.putrequest("POST", path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.headers, json.loads(response.read()))


def basic(password: str, user: str = "anyone") -> str:
    """Write the Authorization header of HTTP Basic."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def assert_problem(response: requests.Response, status: int, code: str) -> dict[str, Any]:
    """Give the problem that the answer is."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["request_id"] == response.headers["X-Request-ID"]
    return document


# --- Sending a key ------------------------------------------------------------------------------------------


def test_a_key_travels_in_three_ways(server: Server, key: str) -> None:
    ways = [
        ("X-API-Key", key),
        ("x-api-key", key),
        ("Authorization", f"Bearer {key}"),
        ("authorization", f"bearer  {key}"),
        ("Authorization", basic(key)),
        ("Authorization", basic(key, user="")),
        ("Authorization", basic(key).replace("Basic", "BASIC")),
    ]
    assert [call(server, [way]).status for way in ways] == [200] * len(ways)


def test_other_authorization_schemes_are_no_credentials(server: Server, key: str) -> None:
    for value in (SIGNATURE, f"Digest {key}", f"Token {key}", f"ApiKey {key}", "Negotiate YII=", key, ""):
        assert call(server, [("Authorization", value)]).status == 401, value
        assert call(server, [("X-API-Key", key), ("Authorization", value)]).status == 200, value


def test_a_key_elsewhere_is_no_credential(server: Server, key: str) -> None:
    assert call(server, [("Cookie", f"key={key}; api_key={key}; session={key}")]).status == 401
    assert call(server, [("X_API_Key", key)]).status == 401
    assert call(server, [("Proxy-Authorization", f"Bearer {key}")]).status == 401
    assert call(server, [("Authorization", basic("", user=key))]).status == 401


SEVERAL = {
    "two_keys": lambda key: [("X-API-Key", key), ("X-API-Key", key)],
    "two_keys_one_of_them_empty": lambda key: [("X-API-Key", ""), ("X-API-Key", key)],
    "two_bearers": lambda key: [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")],
    "two_basics": lambda key: [("Authorization", basic(key)), ("Authorization", basic(key))],
    "bearer_and_basic": lambda key: [("Authorization", f"Bearer {key}"), ("Authorization", basic(key))],
    "basic_and_bearer": lambda key: [("Authorization", basic(key)), ("Authorization", f"Bearer {key}")],
    "key_and_bearer": lambda key: [("X-API-Key", key), ("Authorization", f"Bearer {key}")],
    "key_and_basic": lambda key: [("X-API-Key", key), ("Authorization", basic(key))],
    "key_and_empty_bearer": lambda key: [("X-API-Key", key), ("Authorization", "Bearer")],
    "empty_key_and_bearer": lambda key: [("X-API-Key", ""), ("Authorization", f"Bearer {key}")],
    "three": lambda key: [("X-API-Key", key), ("Authorization", f"Bearer {key}"), ("Authorization", basic(key))],
    "two_in_one": lambda key: [("X-API-Key", f"{key}, {key}")],
}


@pytest.mark.parametrize("headers", SEVERAL.values(), ids=SEVERAL)
def test_a_request_with_two_credentials_is_refused_even_when_they_are_the_same(
    server: Server, key: str, headers: Any
) -> None:
    answer = call(server, headers(key))
    assert (answer.status, answer.document["status"], answer.document["code"]) == (400, 400, "several_credentials")
    assert answer.headers["Content-Type"] == "application/problem+json"


IN_QUERY = {
    "api_key": "?api_key={}",
    "x_api_key": "?a=b&X-API-Key={}",
    "apikey": "?apikey={}",
    "any_name": "?anything={}",
    "no_name": "?{}",
}


@pytest.mark.parametrize("path", [PREDICT, "/models", "/health", "/", "/no/such/path"])
@pytest.mark.parametrize("name", IN_QUERY)
def test_a_key_in_the_query_string_is_refused_and_not_logged(server: Server, key: str, path: str, name: str) -> None:
    response = server.get(path + IN_QUERY[name].format(key), key)
    detail = assert_problem(response, 400, "key_in_url")["detail"]
    assert "header" in detail
    assert key not in response.text

    log = eventually(lambda: told(server, response.headers["X-Request-ID"]))

    assert secret_of(key) not in log


def test_a_key_in_the_query_string_is_recognised_behind_escapes(server: Server, key: str) -> None:
    for escaped in (key.replace("_", "%5F"), "".join(f"%{ord(character):02x}" for character in key)):
        answer = call(server, [("X-API-Key", key)], f"{PREDICT}?token={escaped}")
        assert (answer.status, answer.document["code"]) == (400, "key_in_url")


def told(server: Server, request_id: str) -> str:
    """Give the server's log once it tells of this request; before that nothing."""
    log = server.log.read_text()
    return log if request_id in log else ""


def secret_of(key: str) -> str:
    """Give the part of a key that nobody may learn."""
    return key.split("_")[3][:43]


# --- Refusing a key -----------------------------------------------------------------------------------------


def test_every_reason_to_refuse_a_key_looks_the_same(
    server: Server, key: str, revoked_key: str, expired_key: str
) -> None:
    assert keys.well_formed(STRANGER)
    typo = key[:-1] + ("a" if key[-1] != "a" else "b")
    header = "X-API-Key"
    eventually(lambda: all(call(server, [(header, expired_key)]).status == 401 for _ in range(20)))
    eventually(lambda: all(call(server, [(header, revoked_key)]).status == 401 for _ in range(20)))
    requests_without = {
        "no key": [],
        "an empty key": [(header, "")],
        "not a key": [(header, "letmein")],
        "not even text": [(header, "\xff\xfe")],
        "too long": [(header, key * 20)],
        "of another installation": [(header, STRANGER)],
        "typo": [(header, typo)],
        "another case": [(header, key.swapcase())],
        "revoked": [(header, revoked_key)],
        "revoked, as bearer": [("Authorization", f"Bearer {revoked_key}")],
        "expired": [(header, expired_key)],
        "expired, as password": [("Authorization", basic(expired_key))],
        "bearer without a key": [("Authorization", "Bearer")],
        "no base64": [("Authorization", "Basic !")],
        "no password": [("Authorization", "Basic " + base64.b64encode(key.encode()).decode())],
        "no ASCII": [("Authorization", basic("schlüssel"))],
    }
    answers = {name: call(server, headers) for name, headers in requests_without.items()}

    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(answers, 401)
    bodies = {json.dumps({**answer.document, "request_id": None}) for answer in answers.values()}
    assert len(bodies) == 1
    (body,) = bodies
    assert json.loads(body)["code"] == "key_refused"
    own = {"date", "x-request-id"}
    headers = {tuple((n, v) for n, v in answer.headers.items() if n.lower() not in own) for answer in answers.values()}
    assert len(headers) == 1
    assert all(answer.headers["WWW-Authenticate"] == "Bearer" for answer in answers.values())
    assert len({answer.document["request_id"] for answer in answers.values()}) == len(answers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/predict"),
        ("POST", PREDICT),
        ("POST", "/models/credit-risk/versions/1/predict"),
        ("POST", "/models/no-such-model/predict"),
        ("GET", "/predictions/nothing"),
        ("POST", "/predict/batch"),
        ("POST", BATCH),
        ("GET", "/predict/batch/nothing"),
        ("DELETE", "/predict/batch/nothing"),
        ("GET", "/models"),
        ("GET", "/models/credit-risk"),
        ("GET", "/models/credit-risk/versions"),
        ("GET", "/models/credit-risk/versions/1"),
        ("POST", "/models/credit-risk/activate"),
        ("POST", "/models/credit-risk/rollback"),
    ],
)
def test_without_a_key_a_route_tells_nothing(server: Server, method: str, path: str) -> None:
    response = requests.request(method, server.url + path, data=b"{", timeout=60)
    assert_problem(response, 401, "key_refused")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_made_while_the_server_runs_works_at_once(server: Server) -> None:
    key = server.key("--scope", "predict")
    # Each on a connection of its own: both workers get some.
    assert [call(server, [("X-API-Key", key)]).status for _ in range(20)] == [200] * 20


def test_a_revoked_key_is_refused_at_once(server: Server) -> None:
    made = server.cli("keys", "create", "short")
    header = [("X-API-Key", made["key"])]
    with requests.Session() as kept:
        assert kept.post(server.url + PREDICT, json=INSTANCE, headers=dict(header), timeout=60).ok
        server.cli("keys", "revoke", made["id"])
        eventually(lambda: all(call(server, header).status == 401 for _ in range(20)))
        assert kept.post(server.url + PREDICT, json=INSTANCE, headers=dict(header), timeout=60).status_code == 401


# --- What a key opens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/predict/batch", "batch"),
        ("POST", BATCH, "batch"),
        ("GET", "/predict/batch/nothing", "batch"),
        ("DELETE", "/predict/batch/nothing", "batch"),
        ("GET", "/models", "models:read"),
        ("GET", "/models/credit-risk", "models:read"),
        ("GET", "/models/credit-risk/versions", "models:read"),
        ("GET", "/models/credit-risk/versions/1", "models:read"),
        ("POST", "/models/credit-risk/activate", "models:activate"),
        ("POST", "/models/credit-risk/rollback", "models:activate"),
    ],
)
def test_a_key_without_the_scope_is_forbidden(
    server: Server, narrow_key: str, method: str, path: str, scope: str
) -> None:
    response = requests.request(method, server.url + path, json={}, headers={"X-API-Key": narrow_key}, timeout=60)
    assert scope in assert_problem(response, 403, "scope_missing")["detail"]
    assert "WWW-Authenticate" not in response.headers


def test_predicting_needs_its_scope_too(server: Server) -> None:
    key = server.key("--scope", "batch")
    for path in ("/predict", PREDICT, "/models/credit-risk/versions/1/predict"):
        assert "predict" in assert_problem(server.post(path, INSTANCE, key), 403, "scope_missing")["detail"]


@pytest.mark.parametrize("model", ["credit-risk", "no-such-model"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/predict"),
        ("POST", "/versions/1/predict"),
        ("POST", "/predict/batch"),
        ("GET", ""),
        ("GET", "/versions"),
        ("GET", "/versions/1"),
        ("POST", "/activate"),
        ("POST", "/rollback"),
    ],
)
def test_a_key_of_another_model_is_forbidden_whether_the_model_is_there_or_not(
    server: Server, foreign_key: str, method: str, path: str, model: str
) -> None:
    url = f"{server.url}/models/{model}{path}"
    response = requests.request(method, url, json=INSTANCE, headers={"X-API-Key": foreign_key}, timeout=60)
    document = assert_problem(response, 403, "model_not_allowed")
    assert document["detail"].replace(model, "…") == "This key may not use the model “…”."


def test_a_key_sees_only_its_models(server: Server, key: str, foreign_key: str) -> None:
    assert [model["name"] for model in server.get("/models", key).json()["models"]] == ["credit-risk"]
    assert server.get("/models", foreign_key).json() == {"models": []}


def test_another_keys_prediction_is_not_there(server: Server, key: str, narrow_key: str) -> None:
    made = server.post(PREDICT, INSTANCE, key).json()["prediction_id"]
    server.logged(made)
    assert server.get(f"/predictions/{made}", key).status_code == 200
    of_another = assert_problem(server.get(f"/predictions/{made}", narrow_key), 404, "unknown_prediction")
    of_nobody = assert_problem(server.get(f"/predictions/{made[:-1]}9", narrow_key), 404, "unknown_prediction")
    assert of_another["detail"] == of_nobody["detail"]


def test_another_keys_job_is_not_there(server: Server, key: str) -> None:
    other = server.key("--scope", "batch")
    url = server.post(BATCH, {"instances": [INSTANCE]}, key).json()["status_url"]
    assert server.get(url, key).status_code == 200
    of_another = assert_problem(server.get(url, other), 404, "unknown_job")
    of_nobody = assert_problem(server.get("/predict/batch/nothing", other), 404, "unknown_job")
    assert of_another["detail"] == of_nobody["detail"]
    response = requests.delete(server.url + url, headers={"X-API-Key": other}, timeout=60)
    assert_problem(response, 404, "unknown_job")
    assert server.get(url, key).json()["status"] != "cancelled"


# --- Keeping a key ------------------------------------------------------------------------------------------


def test_nothing_that_is_stored_holds_a_key(server: Server) -> None:
    made = server.cli("keys", "create", "searched for", "--scope", "predict")
    key, secret = made["key"], secret_of(made["key"])
    prediction = server.post(PREDICT, INSTANCE, key).json()["prediction_id"]
    server.logged(prediction)
    pepper = config.prepare(config.load(server.environment)).derive(keys.PEPPER)

    # Database, journal, spool, run files, artifacts: all but the demo's key, which is kept to be shown again.
    kept = [file for file in server.data_dir.rglob("*") if file.is_file() and file.name != "demo-key"]
    found = {file.name for file in kept if any(text.encode() in file.read_bytes() for text in (key, secret))}
    assert found == set()
    database = databases.everything(server.data_dir)
    assert (key.encode() in database, secret.encode() in database) == (False, False)
    assert keys.digest(pepper, key).encode() in database
    assert made["id"].encode() in database
    assert secret not in server.log.read_text()


def test_a_key_is_shown_once(server: Server) -> None:
    made = server.cli("keys", "create", "shown once")
    shown = json.dumps(server.cli("keys", "list")) + json.dumps(server.cli("keys", "revoke", made["id"]))
    assert made["id"] in shown
    assert secret_of(made["key"]) not in shown


# --- What every answer has ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics", "/"])
@pytest.mark.parametrize("sent", [None, "letmein"])
def test_probes_ask_for_no_key(server: Server, path: str, sent: str | None) -> None:
    response = server.get(path, sent)
    assert response.status_code == 200
    assert "WWW-Authenticate" not in response.headers


def test_an_unknown_path_is_a_problem_like_any_other(server: Server, key: str) -> None:
    for path in ("/nothing", "/predict/", "/models/credit-risk/versions/x", "/../etc/passwd", "/%ff"):
        document = assert_problem(server.get(path, key), 404, "not_found")
        assert (document["title"], "described at /docs" in document["detail"]) == ("Not Found", True)
    assert_problem(server.get("/predictions/a%00b", key), 400, "nul_in_url")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", PREDICT, {"POST", "OPTIONS"}),
        ("DELETE", "/models", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/predict/batch/nothing", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_a_problem_that_names_the_right_ones(
    server: Server, method: str, path: str, allowed: set[str]
) -> None:
    response = requests.request(method, server.url + path, timeout=60)
    document = assert_problem(response, 405, "method_not_allowed")
    assert document["detail"].startswith(f"This address takes {min(allowed - {'HEAD', 'OPTIONS'})}")
    assert set(response.headers["Allow"].split(", ")) == allowed


def test_every_answer_has_a_request_id_of_our_own_and_is_not_kept_by_anyone(server: Server, key: str) -> None:
    headers = {"X-API-Key": key, "X-Request-ID": "chosen-by-the-caller"}
    answers = [
        *(requests.get(server.url + path, headers=headers, timeout=60) for path in ("/health", "/models", "/nothing")),
        requests.post(server.url + PREDICT, json=INSTANCE, headers=headers, timeout=60),
        requests.post(server.url + PREDICT, data="{", headers=headers, timeout=60),
        requests.post(server.url + PREDICT, json=INSTANCE, timeout=60),
        requests.get(server.url + PREDICT, headers=headers, timeout=60),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 400, 401, 405]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in ids)
    assert len(set(ids)) == len(ids)
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}
    assert {answer.headers["X-Content-Type-Options"] for answer in answers} == {"nosniff"}


def test_predictions_name_the_version_that_made_them(server: Server, key: str) -> None:
    for path in (PREDICT, "/models/credit-risk/versions/1/predict", "/predict"):
        for body in (INSTANCE, {"instances": [INSTANCE, INSTANCE]}):
            response = server.post(path, body, key)
            assert response.headers["X-Model-Version"] == response.json()["model_version"] == "1.0.0"


def test_limited_paths_say_what_is_left(server: Server) -> None:
    scopes = [option for scope in keys.SCOPES for option in ("--scope", scope)]
    key = server.key("--rate-limit", "5/minute", *scopes)
    answers = [
        server.post(PREDICT, INSTANCE, key),
        server.post(PREDICT, {}, key),
        server.get("/models", key),
        server.get("/predict/batch/nothing", key),
        server.post(BATCH, {"instances": [INSTANCE]}, key),
        server.post(PREDICT, INSTANCE, key),
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 200, 404, 202, 429]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"key";q=5;w=60'}
    left = [re.fullmatch(r'"key";r=(\d+);t=(\d+)', answer.headers["RateLimit"]) for answer in answers]
    assert [found and int(found[1]) for found in left] == [4, 3, 2, 1, 0, 0]
    assert all(found and 0 <= int(found[2]) <= 60 for found in left)
    assert_problem(answers[-1], 429, "rate_limited")
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 61
    assert "RateLimit" not in server.get("/health").headers
