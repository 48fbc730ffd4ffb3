"""Tests of webhooks: signed as the specification has it, sent where they may be, until they have arrived once."""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scripts.processes import free_port
from tests import databases
from tests.receiver import Receiver, receiver
from webapp import app, audit, db, leases, webhooks
from webapp.audit import Actor
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Conflict, Invalid
from webapp.web import Parts
from webapp.webhooks import EVENTS, Webhook, deliveries, sending, signing
from webapp.webhooks.deliveries import MOST_ATTEMPTS, PAUSES, Delivery, Message
from webapp.worker.alerts import Teller

MARA = Actor("user:mara")
OPENED = Message("alert.opened", "churn <answers> slowly & badly.", "/admin/alerts/1", {"id": 1, "kind": "latency"})


@pytest.fixture
def parts(settings: Settings, database: Database) -> Iterator[Parts]:
    """The parts of a worker's process that may tell receivers on this machine."""
    made = app.make_parts(replace(settings, webhook_private=True))
    yield made
    made.database.engine.dispose()


@pytest.fixture
def there() -> Iterator[Receiver]:
    """A receiver."""
    with receiver() as made:
        yield made


def hook(database: Database, url: str, *, form: str = "standard", events: tuple[str, ...] = tuple(EVENTS)) -> int:
    with database.transaction() as session:
        terms: dict[str, Any] = {"name": "ops", "url": url, "form": form, "events": events, "private": True}
        return webhooks.create(session, MARA, **terms).id


def tell(database: Database, message: Message = OPENED) -> None:
    with database.transaction() as session:
        deliveries.tell(session, message)


def send(parts: Parts) -> bool:
    """Send what is due, by a worker that has just started."""
    return Teller(parts, "here").work_once()


def every(database: Database) -> list[Delivery]:
    with database.reading() as session:
        return list(session.scalars(sa.select(Delivery).order_by(Delivery.id)))


def alter(database: Database, **values: object) -> None:
    """Do to deliveries what otherwise time does."""
    with database.transaction() as session:
        session.execute(sa.update(Delivery).values(**values))


def past() -> datetime:
    return db.now() - timedelta(seconds=1)


def secrets(database: Database, settings: Settings, webhook_id: int) -> list[str]:
    with database.reading() as session:
        nonces = webhooks.get_webhook(session, webhook_id).nonces(db.now())
    return [signing.secret_of(settings.derive(signing.PEPPER), nonce) for nonce in nonces]


# --- Signatures -----------------------------------------------------------------------------------------------


def test_the_signature_is_that_of_the_published_example() -> None:
    # From the reference libraries of standardwebhooks.com.
    secret, message_id, timestamp = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    body = b'{"test": 2432232314}'
    assert signing.signature(secret, message_id, timestamp, body) == expected
    assert signing.headers([secret], message_id, timestamp, body) == {
        "webhook-id": message_id,
        "webhook-timestamp": "1614265330",
        "webhook-signature": expected,
    }


def test_a_secret_is_as_receivers_want_it_and_stands_nowhere(
    parts: Parts, settings: Settings, there: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = hook(parts.database, there.url)
    tell(parts.database)
    assert send(parts)
    (secret,) = secrets(parts.database, settings, made)
    assert secret.startswith("whsec_")
    assert len(secret) == len("whsec_") + 44
    assert secret.encode() not in databases.everything(settings.data_dir)
    logged = caplog.text + " ".join(str(vars(each)) for each in caplog.records)
    assert "worker.webhook" in logged
    assert secret not in logged
    assert OPENED.sentence not in logged
    assert there.url not in logged


# --- Sending --------------------------------------------------------------------------------------------------


def test_what_arrives_is_signed_and_says_what_happened_when_and_where_to_look(
    parts: Parts, settings: Settings, there: Receiver
) -> None:
    made = hook(parts.database, there.url + "?team=ops")
    tell(parts.database)
    assert send(parts)
    (got,) = there.received
    (secret,) = secrets(parts.database, settings, made)
    assert got.is_signed_with(secret)
    assert not got.is_signed_with("whsec_" + "A" * 44)
    assert got.path == "/hook?team=ops"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["user-agent"].startswith("Modelport/")
    (row,) = every(parts.database)
    assert got.document == {
        "type": "alert.opened",
        "timestamp": row.created_at.isoformat().replace("+00:00", "Z"),
        "data": {"id": 1, "kind": "latency", "url": f"{settings.url}/admin/alerts/1"},
    }
    assert got.headers["webhook-id"] == row.message_id
    assert (row.state, row.status, row.answer, row.attempts) == ("delivered", 200, "thank you", 1)


def test_slack_gets_a_sentence_in_which_no_name_can_mention_anybody(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url, form="slack")
    tell(parts.database)
    assert send(parts)
    link = f"<{parts.settings.url}/admin/alerts/1>"
    assert there.received[0].document == {"text": f"churn &lt;answers&gt; slowly &amp; badly. {link}"}


def test_who_does_not_want_to_know_is_not_told(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url, events=("job.failed", "model.activated"))
    tell(parts.database)
    assert not send(parts)
    assert there.received == []


def test_what_has_arrived_is_not_sent_again(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url)
    tell(parts.database)
    assert send(parts)
    alter(parts.database, due_at=past())
    assert not send(parts)
    assert len(there.received) == 1


def test_what_fails_is_tried_again_later_with_the_same_id_and_bytes(
    parts: Parts, settings: Settings, there: Receiver
) -> None:
    there.answers, there.said = [500, 503], "the disk\nis full " * 100
    (made,) = [hook(parts.database, there.url)]
    tell(parts.database)
    for attempt in (1, 2):
        before = db.now()
        assert send(parts)
        (row,) = every(parts.database)
        assert (row.state, row.attempts) == ("waiting", attempt)
        assert PAUSES[attempt - 1] <= row.due_at - before <= 1.2 * PAUSES[attempt - 1] + timedelta(seconds=5)
        assert (row.answer[:17], len(row.answer)) == ("the disk is full ", 200)
        assert not send(parts)
        alter(parts.database, due_at=past())
    assert send(parts)
    assert every(parts.database)[0].state == "delivered"
    first, second, third = there.received
    assert first.body == second.body == third.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == third.headers["webhook-id"]
    (secret,) = secrets(parts.database, settings, made)
    assert all(each.is_signed_with(secret) for each in there.received)


def test_a_receiver_that_says_when_to_come_back_is_not_asked_before(parts: Parts, there: Receiver) -> None:
    there.answers, there.more = [429], {"Retry-After": "3600"}
    hook(parts.database, there.url)
    tell(parts.database)
    assert send(parts)
    assert every(parts.database)[0].due_at > db.now() + timedelta(minutes=59)


def test_a_refused_connection_is_tried_again(parts: Parts) -> None:
    port = free_port()
    hook(parts.database, f"http://127.0.0.1:{port}/hook")
    tell(parts.database)
    assert send(parts)
    (row,) = every(parts.database)
    assert (row.state, row.status, "refused" in row.answer) == ("waiting", None, True)
    alter(parts.database, due_at=past())
    with receiver(port) as there:
        assert send(parts)
        assert len(there.received) == 1
    assert every(parts.database)[0].state == "delivered"


def test_after_three_days_of_attempts_it_is_given_up(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url)
    tell(parts.database)
    there.answers = [500] * MOST_ATTEMPTS
    for _ in range(MOST_ATTEMPTS):
        assert send(parts)
        alter(parts.database, due_at=past())
    assert (every(parts.database)[0].state, len(there.received)) == ("failed", 10)
    assert not send(parts)
    assert timedelta(days=3) < sum(PAUSES, timedelta()) < timedelta(days=4)


def test_no_redirect_is_followed(parts: Parts, there: Receiver) -> None:
    with receiver() as elsewhere:
        there.answers, there.more = [302], {"Location": elsewhere.url}
        hook(parts.database, there.url)
        tell(parts.database)
        assert send(parts)
        assert (len(there.received), elsewhere.received) == (1, [])
    (row,) = every(parts.database)
    assert (row.state, row.status) == ("waiting", 302)


def test_a_receiver_that_is_gone_for_good_is_told_nothing_any_more(parts: Parts, there: Receiver) -> None:
    there.answers = [410]
    made = hook(parts.database, there.url)
    tell(parts.database)
    tell(parts.database)
    assert send(parts)
    assert not send(parts)
    assert [row.state for row in every(parts.database)] == ["failed", "failed"]
    with parts.database.reading() as session:
        row = webhooks.get_webhook(session, made)
        assert row.disabled_at is not None
        (noted,) = audit.search(session, audit.Wanted(action="webhooks.disable"))
    assert "410" in noted.detail["reason"]
    tell(parts.database)
    assert len(every(parts.database)) == 2


def test_one_that_is_away_does_not_hold_up_what_others_are_told(parts: Parts, there: Receiver) -> None:
    hook(parts.database, f"http://127.0.0.1:{free_port()}/")
    tell(parts.database)
    assert send(parts)
    alter(parts.database, due_at=past())
    hook(parts.database, there.url)
    tell(parts.database)
    for _ in range(2):
        assert send(parts)
    assert len(there.received) == 1


def test_a_slow_receiver_is_left_when_its_time_is_over(
    parts: Parts, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "LIMIT_SECONDS", 0.3)
    there.go_on.clear()
    hook(parts.database, there.url)
    tell(parts.database)
    assert send(parts)
    (row,) = every(parts.database)
    assert (row.state, row.status, "seconds" in row.answer) == ("waiting", None, True)


def test_a_receiver_that_sends_a_byte_now_and_then_is_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "LIMIT_SECONDS", 0.5)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not stop.wait(0.05):
                    try:
                        connection.send(b"H")
                    except OSError:
                        return

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        answer = sending.post(f"http://127.0.0.1:{server.getsockname()[1]}/", {}, b"{}", private=True)
        stop.set()
        dripping.join()
    assert (answer.status, answer.text[:16]) == (None, "No answer within")


def test_an_answer_that_is_no_http_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def mumble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.send(b"220 smtp.example.com ESMTP\r\n")

        mumbling = threading.Thread(target=mumble, daemon=True)
        mumbling.start()
        answer = sending.post(f"http://127.0.0.1:{server.getsockname()[1]}/", {}, b"{}", private=True)
        mumbling.join()
    assert (answer.status, answer.taken, "BadStatusLine" in answer.text) == (None, False, True)


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as stream:
                    heard.append(stream.recv(100))
            except OSError:
                connection.close()

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        answer = sending.post(f"https://localhost:{server.getsockname()[1]}/", {}, b"{}", private=True)
        serving.join()
    assert (answer.status, answer.text) == (None, "No TLS connection (self-signed certificate).")
    assert heard in ([], [b""])


# --- Where they may be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
    ],
)
def test_only_addresses_of_the_internet_are_public_however_they_are_written(address: str, *, public: bool) -> None:
    assert sending.is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1"])
def test_without_the_setting_nothing_is_sent_into_a_private_network(
    parts: Parts, there: Receiver, settings: Settings, host: str
) -> None:
    closed = replace(parts, settings=settings)
    port = there.url.rpartition(":")[2]
    # It was made while the setting was on.
    hook(parts.database, f"https://{host}:{port}")
    tell(parts.database)
    assert send(closed)
    (row,) = every(parts.database)
    assert (row.state, row.status, there.received) == ("waiting", None, [])
    assert "private network" in row.answer


def test_a_name_is_resolved_once_and_only_what_was_looked_at_is_connected_to(
    there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    connected: list[Any] = []
    port = int(there.url.rpartition(":")[2].partition("/")[0])

    def resolve(host: str, *_more: Any, **_named: Any) -> list[Any]:
        asked.append(host)
        # A name that is public when it is looked at and private when it is connected to.
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(address: tuple[str, int], *_more: Any) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(sending.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(sending.socket, "create_connection", connect)
    answer = sending.post(f"https://rebinding.example:{port}/", {}, b"{}", private=False)
    assert (asked, connected) == (["rebinding.example"], [("93.184.216.34", port)])
    assert answer.status is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/hook", "https://"),
        ("ftp://example.com/hook", "https://"),
        ("example.com/hook", "no address"),
        ("https://", "no address"),
        ("https://example.com:0/", "no address"),
        ("https://example.com:http/", "no address"),
        ("https://example.com/a b", "no address"),
        ("https://example.com/\r\nX: y", "no address"),
        ("https://ex\u00e4mple.com/", "no address"),
        ("https://mara:secret@example.com/", "no user name"),
        ("https://example.com/#part", "#fragment"),
        ("https://10.0.0.1/hook", "MODELPORT_WEBHOOK_PRIVATE=on"),
        ("https://[::1]/hook", "MODELPORT_WEBHOOK_PRIVATE=on"),
        ("https://example.com/" + "x" * 2000, "longer"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_when_it_is_given(database: Database, url: str, says: str) -> None:
    with pytest.raises(Invalid) as caught, database.transaction() as session:
        webhooks.create(session, MARA, name="ops", url=url, form="standard", events=EVENTS, private=False)
    assert (caught.value.code, says in caught.value.detail) == ("webhook_url_unusable", True)
    with database.reading() as session:
        assert webhooks.all_webhooks(session) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": ""}, "webhook_name_missing"),
        ({"form": "pigeon"}, "webhook_format_unknown"),
        ({"events": []}, "webhook_events_missing"),
        ({"events": ["alert.opened", "moon.rose"]}, "webhook_events_missing"),
    ],
)
def test_terms_that_make_no_sense_are_refused(database: Database, change: dict[str, Any], code: str) -> None:
    terms = {"name": "ops", "url": "https://example.com", "form": "standard", "events": list(EVENTS)}
    with pytest.raises(Invalid) as caught, database.transaction() as session:
        webhooks.create(session, MARA, **{**terms, **change}, private=False)
    assert caught.value.code == code


# --- Their life -----------------------------------------------------------------------------------------------


def test_after_rolling_both_secrets_sign_for_a_day(parts: Parts, settings: Settings, there: Receiver) -> None:
    made = hook(parts.database, there.url)
    (old,) = secrets(parts.database, settings, made)
    with parts.database.transaction() as session:
        webhooks.roll(session, MARA, made)
    new, still = secrets(parts.database, settings, made)
    assert still == old != new
    tell(parts.database)
    send(parts)
    assert there.received[0].is_signed_with(old)
    assert there.received[0].is_signed_with(new)
    with parts.database.transaction() as session:
        session.execute(sa.update(Webhook).values(previous_until=past()))
    tell(parts.database)
    send(parts)
    assert there.received[1].is_signed_with(new)
    assert not there.received[1].is_signed_with(old)


def test_a_disabled_webhook_is_told_nothing_and_gets_nothing_late(parts: Parts, there: Receiver) -> None:
    made = hook(parts.database, there.url)
    tell(parts.database)
    with parts.database.transaction() as session:
        deliveries.disable(session, MARA, made)
    tell(parts.database)
    assert not send(parts)
    with parts.database.transaction() as session:
        with pytest.raises(Conflict, match="enable it first"):
            deliveries.send_test(session, webhooks.get_webhook(session, made))
        webhooks.enable(session, MARA, made)
    assert not send(parts)
    assert there.received == []
    tell(parts.database)
    assert send(parts)


def test_a_test_is_sent_once_whatever_comes_of_it(parts: Parts, there: Receiver) -> None:
    there.answers = [500]
    made = hook(parts.database, there.url, events=("job.failed",))
    with parts.database.transaction() as session:
        deliveries.send_test(session, webhooks.get_webhook(session, made))
    assert send(parts)
    (row,) = every(parts.database)
    assert (row.event, row.state, row.status) == ("test", "failed", 500)
    assert there.received[0].document["type"] == "test"


def test_what_is_done_to_webhooks_is_noted_without_their_secrets_and_paths(database: Database) -> None:
    made = hook(database, "https://hooks.slack.com/services/T0/B0/abcdef")
    facts: dict[str, Any] = {"name": "ops", "form": "slack", "events": ["job.failed"], "private": False}
    with database.transaction() as session:
        nonce = webhooks.get_webhook(session, made).nonce
        webhooks.edit(session, MARA, made, url="https://hooks.slack.com/services/T0/B0/ghijkl", **facts)
        webhooks.roll(session, MARA, made)
        deliveries.disable(session, MARA, made)
        webhooks.enable(session, MARA, made)
        webhooks.remove(session, MARA, made)
    with database.reading() as session:
        noted = audit.about(session, f"ops ({made})")
        assert webhooks.all_webhooks(session) == []
    acts = ["create", "edit", "roll", "disable", "enable", "remove"]
    assert [row.action for row in reversed(noted)] == [f"webhooks.{act}" for act in acts]
    said = json.dumps([row.detail for row in noted])
    assert "hooks.slack.com" in said
    assert [each for each in ("abcdef", "ghijkl", nonce) if each in said] == []


def test_a_webhook_goes_with_what_it_was_told(parts: Parts, there: Receiver) -> None:
    made = hook(parts.database, there.url)
    tell(parts.database)
    send(parts)
    with parts.database.transaction() as session:
        webhooks.remove(session, MARA, made)
    assert every(parts.database) == []


# --- Workers that die -----------------------------------------------------------------------------------------


def claim(parts: Parts, owner: str) -> deliveries.Post | None:
    with parts.database.transaction() as session:
        return deliveries.claim(session, owner, parts.settings.url)


def test_what_a_killed_worker_was_sending_is_taken_over(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url)
    tell(parts.database)
    left = claim(parts, "there/1")
    assert left is not None
    assert not send(parts)
    alter(parts.database, leased_until=past())
    assert send(parts)
    assert (every(parts.database)[0].state, every(parts.database)[0].attempts) == ("delivered", 2)
    # Should it live after all, what it says counts no more.
    with parts.database.transaction() as session:
        assert not deliveries.finish(session, left, "there/1", sending.Answer(500, "too late"))
    assert every(parts.database)[0].status == 200


def test_what_a_worker_says_of_an_attempt_that_another_repeats_does_not_count(parts: Parts) -> None:
    hook(parts.database, "https://example.com")
    tell(parts.database)
    slow = claim(parts, "here/1")
    assert slow is not None
    alter(parts.database, leased_until=past())
    assert claim(parts, "there/1")
    with parts.database.transaction() as session:
        assert not deliveries.finish(session, slow, "here/1", sending.Answer(200, "thank you"))
    assert every(parts.database)[0].state == "waiting"


def test_who_comes_after_a_killed_worker_on_its_host_need_not_wait(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url)
    tell(parts.database)
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert claim(parts, f"here/{ended.pid}")
    assert not send(parts)
    with parts.database.transaction() as session:
        assert leases.free(session, Delivery, "here") == 1
    assert send(parts)
    assert len(there.received) == 1


def test_a_message_that_ends_its_worker_each_time_is_given_up(parts: Parts) -> None:
    hook(parts.database, "https://example.com")
    tell(parts.database)
    for number in range(MOST_ATTEMPTS):
        assert claim(parts, f"here/{number}")
        alter(parts.database, leased_until=past())
    assert claim(parts, "here/99") is None
    assert every(parts.database)[0].state == "failed"


def test_of_two_workers_one_sends(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url)
    tell(parts.database)
    assert claim(parts, "here/1")
    assert claim(parts, "there/1") is None


def test_old_deliveries_are_removed_and_those_under_way_stay(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url)
    tell(parts.database)
    send(parts)
    tell(parts.database)
    alter(parts.database, created_at=db.now() - timedelta(days=91))
    with parts.database.transaction() as session:
        assert deliveries.remove(session, db.now() - timedelta(days=90), 10) == 1
    assert [row.state for row in every(parts.database)] == ["waiting"]


def test_nothing_is_told_of_a_change_that_was_taken_back(parts: Parts, there: Receiver) -> None:
    hook(parts.database, there.url)

    def change() -> None:
        with parts.database.transaction() as session:
            deliveries.tell(session, OPENED)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    assert every(parts.database) == []
