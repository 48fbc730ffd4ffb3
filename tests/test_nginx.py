"""nginx with the configuration that is shipped: what reaches a replica, what is sent again, what nginx says itself."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests

from scripts.cluster.nginx import CONFIGURATION, Nginx
from scripts.processes import free_port
from tests import nginx_server
from tests.conftest import eventually
from tests.nginx_server import Replica, hang_up, logged
from webapp import body, config

PREDICT = "/models/credit-risk/predict"
MIB = 1024 * 1024

Start = Callable[..., Nginx]


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    """Two replicas that answer."""
    with contextlib.ExitStack() as stack:
        made = [Replica(), Replica()]
        for each in made:
            stack.callback(each.close)
        yield made


@pytest.fixture
def start(tmp_path: Path, replicas: list[Replica]) -> Iterator[Start]:
    """Start nginx in front of them."""
    made: list[Nginx] = []

    def begin(changes: dict[str, str] | None = None, addresses: list[str] | None = None) -> Nginx:
        made.append(nginx_server.server(tmp_path, addresses or [each.address for each in replicas], changes))
        return made[-1]

    yield begin
    for each in made:
        each.stop()


def check_problem(response: requests.Response, status: int, code: str) -> None:
    """Look at each member: a client reads them alike, whoever made them."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    document = response.json()
    assert document["type"] == f"urn:modelport:problem:{code}"
    assert (document["code"], document["status"]) == (code, status)
    assert set(document) == {"type", "title", "status", "detail", "code", "request_id"}
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["Server"] == "nginx"


def test_what_a_client_says_of_itself_does_not_reach_a_replica(start: Start, replicas: list[Replica]) -> None:
    nginx = start()
    said = {
        "X-Request-ID": "chosen-by-the-client",
        "X-Request-Start": "t=1",
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "elsewhere.example",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Prefix": "/x",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
    }
    requests.post(nginx.url + PREDICT, json={}, headers=said, timeout=10)
    (seen,) = [each for replica in replicas for each in replica.seen]
    assert re.fullmatch(r"[0-9a-f]{32}", seen.headers["X-Request-ID"])
    assert re.fullmatch(r"t=\d{10}\.\d{3}", seen.headers["X-Request-Start"])
    assert float(seen.headers["X-Request-Start"][2:]) > 1e9
    told = {name: seen.headers.get(name) for name in said}
    del told["X-Request-ID"], told["X-Request-Start"]
    assert told == {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": f"127.0.0.1:{nginx.port}",
        "X-Forwarded-Port": None,
        "X-Forwarded-Prefix": None,
        "X-Real-IP": "127.0.0.1",
        "Forwarded": None,
    }
    assert logged(nginx, 1)[0]["request_id"] == seen.headers["X-Request-ID"]


def counts(replicas: list[Replica]) -> list[int]:
    return [len(each.seen) for each in replicas]


@pytest.mark.parametrize("path", ["/predict", PREDICT, "/models/credit-risk/versions/2/predict"])
def test_a_prediction_that_a_replica_did_not_answer_is_asked_of_the_other_under_the_same_id(
    start: Start, replicas: list[Replica], path: str
) -> None:
    replicas[0].behave = hang_up
    nginx = start()
    for _ in range(4):
        assert requests.post(nginx.url + path, json={}, timeout=10).status_code == 200
    again = [each.headers["X-Request-ID"] for each in replicas[0].seen]
    assert again
    assert set(again) <= {each.headers["X-Request-ID"] for each in replicas[1].seen}
    # After two failures it is out.
    assert len(again) <= 2


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/predict/batch", {}),
        ("/models/credit-risk/predict/batch", {"Idempotency-Key": ""}),
        ("/models/credit-risk/activate", {}),
        ("/models/credit-risk/versions", {}),
        ("/admin/keys", {}),
        ("/feedback", {}),
    ],
)
def test_a_change_is_sent_once(start: Start, replicas: list[Replica], path: str, headers: dict[str, str]) -> None:
    for each in replicas:
        each.behave = hang_up
    nginx = start()
    check_problem(requests.post(nginx.url + path, json={}, headers=headers, timeout=10), 502, "no_replica_answers")
    assert sum(counts(replicas)) == 1


@pytest.mark.parametrize("path", ["/predict/batch", "/models/credit-risk/predict/batch?a=%2F"])
def test_a_batch_with_a_key_of_its_own_is_sent_again(start: Start, replicas: list[Replica], path: str) -> None:
    replicas[0].behave = hang_up
    nginx = start()
    for _ in range(2):
        answer = requests.post(nginx.url + path, json={}, headers={"Idempotency-Key": "job-1"}, timeout=10)
        assert answer.status_code == 200
    assert counts(replicas)[0] >= 1
    assert {each.path for replica in replicas for each in replica.seen} == {path}
    assert requests.get(f"{nginx.url}/:batch-again", timeout=10).status_code == 404


@pytest.mark.parametrize("path", ["/models/credit-risk/activate", "/predict/batch", "/admin/keys"])
def test_a_replica_that_refuses_connections_is_passed_over_whatever_is_asked(
    start: Start, replicas: list[Replica], path: str
) -> None:
    gone = Replica()
    gone.close()
    nginx = start(addresses=[gone.address, replicas[0].address])
    for _ in range(6):
        assert requests.post(nginx.url + path, json={}, timeout=10).status_code == 200
    assert counts(replicas) == [6, 0]


def test_a_replica_is_asked_again_though_all_were_out_a_moment_ago(start: Start, replicas: list[Replica]) -> None:
    for each in replicas:
        each.behave = hang_up
    nginx = start()
    for _ in range(4):
        assert requests.post(nginx.url + PREDICT, json={}, timeout=10).status_code == 502
    replicas[1].behave = lambda _handler: False
    assert requests.post(nginx.url + PREDICT, json={}, timeout=10).status_code == 200


def test_one_that_hangs_is_out_after_two_slow_answers(start: Start, replicas: list[Replica]) -> None:
    free = threading.Event()
    replicas[0].behave = lambda _handler: free.wait(30) and False
    nginx = start({PREDICTIONS: PREDICTIONS.replace("10s", "300ms")})
    for _ in range(20):
        assert requests.post(nginx.url + PREDICT, json={}, timeout=10).status_code == 200
    slow = [entry for entry in logged(nginx, 20) if entry["duration_s"] > 0.25]
    free.set()
    print(f"\n{len(slow)} slow answers of 20")
    assert 1 <= len(slow) <= 2


PREDICTIONS = "proxy_send_timeout 10s;\n            proxy_read_timeout 10s;"


def test_what_nginx_refuses_itself_is_a_problem_document(start: Start, replicas: list[Replica]) -> None:
    nginx = start()
    check_problem(requests.request("TRACE", nginx.url, timeout=10), 405, "method_not_allowed")
    check_problem(requests.post(nginx.url + PREDICT, b" " * (10 * MIB + 1), timeout=10), 413, "body_too_large")
    check_problem(requests.get(f"{nginx.url}/{'x' * 40_000}", timeout=10), 414, "request_uri_too_large")
    long = requests.get(nginx.url, headers={"X-Long": "x" * 40_000}, timeout=10)
    check_problem(long, 431, "request_header_fields_too_large")
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        answer = connection.recv(65536).decode()
    assert '"code":"bad_request"' in answer
    assert "application/problem+json" in answer
    assert counts(replicas) == [0, 0]
    # As it was sent: where nginx answers by itself, it calls everything a GET. A line is written when the request is
    # over, which is later than the next one's where nginx still reads a body that nobody wants.
    sent = {entry["status"]: entry["method"] for entry in logged(nginx, 5)}
    assert (sent[405], sent[413]) == ("TRACE", "POST")


@pytest.mark.parametrize(
    "path", ["/metrics", "/livez", "/readyz", "//metrics", "/%6detrics", "/x/../readyz", "/metrics?a"]
)
def test_internals_are_not_there_from_outside(start: Start, replicas: list[Replica], path: str) -> None:
    nginx = start()
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 404 ")
    assert json.loads(answer.partition("\r\n\r\n")[2])["code"] == "not_found"
    assert counts(replicas) == [0, 0]


def test_without_a_replica_the_answer_is_a_502_and_of_one_too_slow_a_504(start: Start, replicas: list[Replica]) -> None:
    free = threading.Event()
    for each in replicas:
        each.behave = lambda _handler: free.wait(30) and False
    nginx = start({PREDICTIONS: PREDICTIONS.replace("10s", "200ms")})
    late = requests.post(nginx.url + PREDICT, json={}, timeout=10)
    check_problem(late, 504, "replica_too_slow")
    assert late.headers["Retry-After"] == "1"
    free.set()
    for each in replicas:
        each.close()
    gone = requests.post(nginx.url + PREDICT, json={}, timeout=10)
    check_problem(gone, 502, "no_replica_answers")
    assert gone.headers["Retry-After"] == "1"


def test_what_a_replica_refuses_reaches_the_client_as_it_is(start: Start, replicas: list[Replica]) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> bool:
        handler.answer(503, b'{"code":"spool_full"}', "application/problem+json")  # type: ignore[attr-defined] # ours
        return True

    for each in replicas:
        each.behave = refuse
    nginx = start()
    for _ in range(6):
        answer = requests.post(nginx.url + PREDICT, json={}, timeout=10)
        assert (answer.status_code, answer.json()) == (503, {"code": "spool_full"})
    # Not sent again, and not held against a replica: it may be that all have too much to do.
    assert sum(counts(replicas)) == 6


@pytest.mark.parametrize(
    "path", ["/models/credit-risk/versions", "/admin/upload", "/predict/batch", "/models/credit-risk/predict/batch"]
)
def test_a_file_passes_while_it_arrives(start: Start, replicas: list[Replica], path: str) -> None:
    nginx = start()
    arrived = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"x" * MIB
        # The rest is sent when the first part is at the replica.
        eventually(lambda: [each for replica in replicas for each in replica.seen if each.size], within_seconds=5)
        arrived.set()
        for _ in range(10):
            yield b"x" * MIB

    class Sized:
        def __iter__(self) -> Iterator[bytes]:
            return pieces()

        def __len__(self) -> int:
            return 11 * MIB

    answer = requests.post(nginx.url + path, data=Sized(), timeout=30)
    assert answer.status_code == 200
    assert arrived.is_set()
    assert [each.size for replica in replicas for each in replica.seen] == [11 * MIB]


def test_the_log_holds_neither_queries_nor_sign_in_links(start: Start, tmp_path: Path) -> None:
    nginx = start()
    secret = "mp_live_secret"
    for path in (f"/predict?api_key={secret}", f"/login/{secret}", f"/login/{secret}?next=x", f"/metrics?{secret}"):
        requests.get(nginx.url + path, headers={"X-API-Key": secret, "Referer": secret}, timeout=10)
    assert sorted(entry["path"] for entry in logged(nginx, 4)) == ["/login/-", "/login/-", "/metrics", "/predict"]
    written = [path.read_text() for path in (tmp_path / "nginx").glob("*.log")]
    assert not any(secret in text for text in written)


def test_static_files_come_from_the_folder_where_it_is_and_from_a_replica_where_not(
    start: Start, replicas: list[Replica], tmp_path: Path
) -> None:
    folder = tmp_path / "shipped"
    (folder / "static").mkdir(parents=True)
    (folder / "static" / "app.css").write_text("plain")
    (folder / "static" / "app.css.gz").write_bytes(gzip.compress(b"packed"))
    (folder / "secret").write_text("secret")
    nginx = start({f"root {CONFIGURATION.parent.parent};": f"root {folder};"})
    packed = requests.get(f"{nginx.url}/static/app.css?v=1", timeout=10)
    assert (packed.text, packed.headers["Content-Encoding"]) == ("packed", "gzip")
    assert packed.headers["Content-Type"] == "text/css; charset=utf-8"
    assert packed.headers["Cache-Control"] == "public, max-age=31536000"
    plain = requests.get(f"{nginx.url}/static/app.css", headers={"Accept-Encoding": "identity"}, timeout=10)
    assert plain.text == "plain"
    assert counts(replicas) == [0, 0]
    assert requests.get(f"{nginx.url}/static/other.css", timeout=10).json() == {"answered": True}
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as connection:
        connection.sendall(b"GET /static/..%2fsecret HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"answered" in connection.makefile("rb").read()


def test_connections_to_replicas_are_kept_for_predictions_and_fresh_for_changes(
    start: Start, replicas: list[Replica]
) -> None:
    ports: dict[str, set[int]] = {}

    def note(handler: BaseHTTPRequestHandler) -> bool:
        ports.setdefault(handler.path, set()).add(handler.client_address[1])
        return False

    replicas[0].behave = note
    nginx = start({"worker_processes auto;": "worker_processes 1;"}, [replicas[0].address])
    for _ in range(5):
        for path in (PREDICT, "/admin/keys"):
            requests.post(nginx.url + path, json={}, timeout=10)
    assert {path: len(each) for path, each in ports.items()} == {PREDICT: 1, "/admin/keys": 5}


def test_the_tls_example_serves(start: Start, tmp_path: Path) -> None:
    names = {name: tmp_path / name for name in ("fullchain.pem", "privkey.pem")}
    made = ["-keyout", str(names["privkey.pem"]), "-out", str(names["fullchain.pem"]), "-subj", "/CN=localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *made]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    text = (CONFIGURATION / "tls.conf").read_text().replace("listen 443 ", f"listen 127.0.0.1:{port} ")
    for name, path in names.items():
        text = text.replace(f"/etc/nginx/tls/{name}", str(path))
    (tmp_path / "tls.conf").write_text(text)
    start({"# include tls.conf;": f"include {tmp_path / 'tls.conf'};"})
    context = ssl.create_default_context(cafile=names["fullchain.pem"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: secured.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 404 ")
    assert "Strict-Transport-Security: max-age=31536000" in answer
    plain = requests.get(f"http://127.0.0.1:{port}/", timeout=10)
    check_problem(plain, 400, "bad_request")


def test_its_limits_are_those_of_the_settings() -> None:
    text = (CONFIGURATION / "modelport.conf").read_text()
    settings = config.load({})
    assert f"        client_max_body_size {settings.max_body_bytes // MIB}m;\n        client_body_buffer" in text
    files = re.findall(r"client_max_body_size (\d+)m", text)[1:]
    assert {int(each) * MIB for each in files} == {settings.max_upload_bytes + body.FORM_BYTES}
    # Read as text: to import that module is to be a server.
    (kept,) = re.findall(r"^keepalive = (\d+)", Path(config.__file__).with_name("server.py").read_text(), re.MULTILINE)
    (idle,) = re.findall(r"keepalive 64;\s+keepalive_timeout (\d+)s", text)
    assert int(idle) < int(kept)
