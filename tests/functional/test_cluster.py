"""Three replicas behind the real nginx, with PostgreSQL and Redis: what clients get, whatever happens to a replica."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import requests

from scripts.cluster.replicas import Replica
from tests.conftest import eventually
from tests.functional.replicas import KEPT_SECONDS, SHORT, Machines, Noting, events, machines
from tests.functional.switching import MODEL, small

PREDICT = f"/models/{MODEL}/predict"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    """One cluster for all tests here, in their order: the last ones stop it."""
    with pytest.MonkeyPatch.context() as patch, machines(SHORT, workers=1, threads=8) as made:
        patch.setenv("GUNICORN_CMD_ARGS", f"--keep-alive {KEPT_SECONDS}")
        made.fill(small(1), small(2))
        made.serve()
        yield made


def check_problem(response: requests.Response, status: int, code: str) -> None:
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
    document = response.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["request_id"] == response.headers["X-Request-ID"]


def test_a_prediction_is_logged_once_under_the_id_that_nginx_gave_it(cluster: Machines) -> None:
    lies = {"X-Request-ID": "chosen-by-the-client", "X-Forwarded-For": "6.6.6.6", "Idempotency-Key": "x"}
    answer = cluster.post(PREDICT, {"x": 1}, **lies)
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["X-Request-ID"]
    assert answer.json()["prediction_id"] == f"{request_id}-0"
    assert request_id in eventually(lambda: {entry["request_id"] for entry in cluster.nginx.entries()} & {request_id})
    eventually(lambda: f"{request_id}-0" in cluster.logged())
    assert list(cluster.logged().values()).count(request_id) == 1


def test_a_clients_word_for_where_it_comes_from_is_not_believed(cluster: Machines) -> None:
    turn = cluster.post(f"/models/{MODEL}/activate", {"version": 2}, **{"X-Forwarded-For": "6.6.6.6"})
    assert turn.status_code == 200, turn.text
    assert turn.json()["workers"] == {"total": 3, "switched": 3, "failures": []}
    rows = cluster.rows("SELECT address FROM audit_records WHERE action LIKE %s ORDER BY id DESC LIMIT 1", "%activate%")
    assert rows == [("127.0.0.1",)]


def answers_with(cluster: Machines, replica: Replica, number: int) -> bool:
    return bool(cluster.ask(replica).json()["model_version"] == str(number))


def refuses(cluster: Machines, replica: Replica, key: str) -> bool:
    return cluster.ask(replica, key).status_code == 401


def test_an_activation_reaches_all_replicas_within_two_seconds(cluster: Machines) -> None:
    taken = []
    for number in (1, 2, 1):
        began = time.monotonic()
        turn = cluster.post(f"/models/{MODEL}/activate", {"version": number})
        assert turn.status_code == 200, turn.text
        committed = time.monotonic()
        for each in cluster.replicas:
            eventually(partial(answers_with, cluster, each, number))
        taken.append((committed - began, time.monotonic() - committed))
    print(f"\nanswered after {max(taken)[0]:.2f} s; all three {max(each for _, each in taken):.2f} s after that")
    assert max(each for _, each in taken) <= 2


def test_a_revoked_key_is_refused_by_all_replicas_within_two_seconds(cluster: Machines) -> None:
    key_id, key = cluster.make_key()
    for each in cluster.replicas:
        assert cluster.ask(each, key).status_code == 200
    began = time.monotonic()
    cluster.stock.revoke(key_id)
    for each in cluster.replicas:
        eventually(partial(refuses, cluster, each, key))
    seconds = time.monotonic() - began
    print(f"\nrefused by all three after {seconds:.2f} s")
    assert seconds <= 2


def test_a_limit_is_one_for_all_replicas_and_every_answer_tells_it(cluster: Machines) -> None:
    _, key = cluster.make_key(rate_limit="20/minute")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: cluster.post(PREDICT, {"x": 1}, key), range(60)))
    assert Counter(each.status_code for each in answers) == {200: 20, 429: 40}
    for each in answers:
        assert each.headers["RateLimit-Policy"] == '"key";q=20;w=60'
        assert each.headers["RateLimit"].startswith('"key";r=')
        if each.status_code == 429:
            check_problem(each, 429, "rate_limited")
            assert int(each.headers["Retry-After"]) > 0


def test_a_batch_is_computed_and_logged_by_the_worker_and_fetched_from_any_replica(cluster: Machines) -> None:
    _, key = cluster.make_key(scopes=("predict", "batch"), rate_limit="100000/minute")
    accepted = cluster.post(f"{PREDICT}/batch", {"instances": [{"x": row} for row in range(50)]}, key)
    assert accepted.status_code == 202, accepted.text
    job, headers = accepted.json()["job_id"], {"X-API-Key": key}
    cluster.work()
    try:
        for replica in cluster.replicas:
            url = f"{replica.url}/predict/batch/{job}"
            eventually(lambda url=url: requests.get(url, headers=headers, timeout=60).json()["status"] == "completed")
            assert requests.get(f"{url}/results", headers=headers, timeout=60).text.count("\n") == 50
    finally:
        cluster.worker.stop()
    # What it has left in its spool is in the database when it has stopped.
    assert list(cluster.logged().values()).count(job) == 50


def test_refusals_of_nginx_and_of_a_replica_have_one_form(cluster: Machines) -> None:
    check_problem(cluster.post("/nothing", {}), 404, "not_found")
    check_problem(cluster.post(PREDICT, "x" * (10 * MIB)), 413, "body_too_large")
    check_problem(cluster.post(PREDICT, {"x": 1}, "no key"), 401, "key_refused")
    for path in ("/metrics", "/readyz"):
        check_problem(requests.get(cluster.url + path, timeout=10), 404, "not_found")
        assert requests.get(cluster.replicas[0].url + path, timeout=10).ok


def test_a_replica_that_is_killed_under_load_costs_nobody_an_answer(cluster: Machines) -> None:
    victim = cluster.replicas[0]
    with Noting(cluster, cluster.key_for_all, pause_seconds=0.005) as traffic:  # type: ignore[arg-type] # it has a url
        traffic.wait(200)
        victim.kill()
        traffic.wait(400)
        victim.begin()
        victim.await_answer()
        traffic.wait(200)
    # What the killed one had answered is in its spool, and drained since it runs again.
    print("\n" + traffic.check(cluster))


def test_one_that_hangs_is_taken_out_and_what_it_was_asked_is_one_row(cluster: Machines) -> None:
    before, victim = len(cluster.nginx.entries()), cluster.replicas[1]
    # Until nginx has given up its connections: one that the replica finds to be idle for too long, when it goes on, it
    # closes without a look at what came on it.
    threading.Event().wait(1.5)
    with victim.hanging():
        answers = [cluster.post(PREDICT, {"x": 1}) for _ in range(20)]
    assert {each.status_code for each in answers} == {200}
    entries = eventually(lambda: found if len(found := cluster.nginx.entries()[before:]) >= 20 else [])
    slow = [entry for entry in entries if entry["duration_s"] > 0.9]
    again = [entry["request_id"] for entry in entries if ", " in entry["replicas"]]
    print(f"\n20 answers, {len(slow)} slow, {len(again)} by a second replica")
    assert 1 <= len(slow) <= 2
    # It goes on with what it was asked, and both have answered: two replicas, one row.
    eventually(lambda: set(again) <= {entry.get("request_id") for entry in events(victim)})
    eventually(lambda: set(again) <= set(cluster.logged().values()))
    assert [list(cluster.logged().values()).count(each) for each in again] == [1] * len(again)


def test_gaps_between_requests_never_meet_a_connection_that_was_just_closed(cluster: Machines) -> None:
    before, stop = len(cluster.nginx.entries()), time.monotonic() + 8
    statuses: Counter[int] = Counter()

    def client(number: int) -> None:
        chosen, session = random.Random(number), requests.Session()
        session.headers["X-API-Key"] = cluster.key_for_all
        while time.monotonic() < stop:
            statuses[session.post(cluster.url + PREDICT, json={"x": 1}, timeout=30).status_code] += 1
            # About when the proxy gives a connection up, and when a replica would.
            threading.Event().wait(chosen.choice([0.9, 1.0, 1.1, KEPT_SECONDS - 0.1, KEPT_SECONDS, KEPT_SECONDS + 0.1]))

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(client, range(24)))
    again = [entry for entry in cluster.nginx.entries()[before:] if ", " in entry["replicas"]]
    print(f"\n{dict(statuses)}, {len(again)} asked again")
    assert set(statuses) == {200}
    assert again == []


def test_without_the_database_predictions_go_on_and_changes_are_refused(cluster: Machines) -> None:
    cluster.postgresql.stop()
    try:
        check_problem(cluster.post(f"/models/{MODEL}/activate", {"version": 2}), 503, "database_unavailable")
        assert {cluster.post(PREDICT, {"x": 1}).status_code for _ in range(20)} == {200}
    finally:
        cluster.postgresql.start()


def test_without_a_replica_the_answer_is_a_502_and_what_they_answered_is_in_the_log(cluster: Machines) -> None:
    ids = {cluster.post(PREDICT, {"x": 1}).json()["prediction_id"] for _ in range(30)}
    for each in cluster.replicas:
        each.ask_to_end()
    for each in cluster.replicas:
        each.stop()
    gone = cluster.post(PREDICT, {"x": 1})
    check_problem(gone, 502, "no_replica_answers")
    assert gone.headers["Retry-After"] == "1"
    # Each has drained its own spool before it ended.
    assert ids <= set(cluster.logged())
    assert [path for each in cluster.replicas for path in (each.data_dir / "spool").glob("*.spool")] == []
    assert cluster.rows("SELECT host FROM web_workers") == []
