"""A key's limit is one number, however many workers there are."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.functional.server import Server

INSTANCE = {"age": 35, "income": 52000, "credit_score": 690}


@pytest.mark.parametrize("workers", [2, 4])
def test_a_hundred_per_minute_is_a_hundred_over_all_workers(new_server: Callable[..., Server], workers: int) -> None:
    server = new_server(workers=workers)
    server.demo()
    server.start()
    key = server.key("--rate-limit", "100/minute")
    served = threading.local()

    def send(_: int) -> requests.Response:
        if not hasattr(served, "session"):
            served.session = requests.Session()
        response: requests.Response = served.session.post(
            f"{server.url}/predict", json=INSTANCE, headers={"X-API-Key": key}, timeout=60
        )
        return response

    with ThreadPoolExecutor(16) as clients:
        responses = list(clients.map(send, range(400)))

    statuses = Counter(response.status_code for response in responses)
    print(f"\n{workers} workers: {dict(statuses)}")
    assert statuses == {200: 100, 429: 300}
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.json()["code"] == "rate_limited"
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert refused.headers["RateLimit-Policy"] == '"key";q=100;w=60'
    assert '"key";r=0;' in refused.headers["RateLimit"]
    # Another key is not touched, and probes stay open.
    assert server.post("/predict", INSTANCE, server.key()).status_code == 200
    assert server.get("/health").status_code == 200
