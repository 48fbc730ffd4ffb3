"""Alerts and webhooks of a running server: found by its worker, told by it, and told all the same when it is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import eventually
from tests.functional.server import Server
from tests.receiver import Receiver, receiver
from webapp import webhooks
from webapp.audit import Actor
from webapp.config import load, prepare
from webapp.db import Database
from webapp.webhooks import EVENTS, signing

# Where the worker that tells a webhook is killed, and how often the webhook then hears of it.
WEBHOOK_POINTS = {"webhook.claimed": 1, "webhook.sent": 2}


@pytest.fixture
def there() -> Iterator[Receiver]:
    """A receiver."""
    with receiver() as made:
        yield made


def hook(server: Server, url: str) -> str:
    """Make a webhook that wants to know everything; give its secret."""
    settings = prepare(load(server.environment))
    database = Database(settings.sqlalchemy_url)
    terms: dict[str, Any] = {"name": "x", "url": url, "form": "standard", "events": EVENTS, "private": True}
    with database.transaction() as session:
        row = webhooks.create(session, Actor("cli:root"), **terms)
    database.engine.dispose()
    return signing.secret_of(settings.derive(signing.PEPPER), row.nonce)


def told(there: Receiver, event: str) -> list[Any]:
    return [each.document for each in there.received if each.document["type"] == event]


def test_a_key_that_ends_soon_is_found_told_listed_and_counted(
    new_server: Callable[..., Server], there: Receiver
) -> None:
    server = new_server(workers=1, webhook_private="on")
    secret = hook(server, there.url)
    ending = server.cli("keys", "create", "till", "--expires", "13d")
    key = server.key("--scope", "models:read")
    server.start()
    (opened,) = eventually(lambda: told(there, "alert.opened"))
    eventually(lambda: told(there, "key.expiring"))
    assert all(each.is_signed_with(secret) for each in there.received)
    assert (opened["data"]["kind"], opened["data"]["subject"]) == ("key_expiring", ending["id"])
    listed = server.get("/alerts", key).json()["alerts"]
    assert [each["id"] for each in listed] == [opened["data"]["id"]]
    assert server.cli("alerts", "list")["alerts"] == listed
    line = 'modelport_alerts{kind="key_expiring",severity="warning"} 1.0'
    eventually(lambda: line in requests.get(f"{server.url}/metrics", timeout=30).text)
    assert secret not in server.log.read_text()
    assert "/hook" not in server.log.read_text()


@pytest.mark.parametrize(("point", "times"), WEBHOOK_POINTS.items())
def test_what_a_killed_worker_was_telling_arrives_all_the_same(
    new_server: Callable[..., Server], there: Receiver, tmp_path: Path, point: str, times: int
) -> None:
    server = new_server(workers=1, webhook_private="on")
    (kill := tmp_path / "kill").touch()
    server.environment["FAULT_POINTS"] = f"{point}:exit@{kill}"
    hook(server, there.url)
    # What is told of when the worker has started.
    server.cli("keys", "create", "till", "--expires", "13d")
    server.start()
    eventually(lambda: not kill.exists())
    eventually(lambda: told(there, "alert.opened") and told(there, "key.expiring"))
    eventually(lambda: not server.rows("SELECT id FROM deliveries WHERE delivered_at IS NULL"))
    ids = [each.headers["webhook-id"] for each in there.received]
    # Twice only where the first attempt had arrived, and then under the same id.
    assert (len(ids), len(set(ids))) == (times + 1, 2)
    assert sorted(server.rows("SELECT attempts FROM deliveries")) == [(1,), (2,)]
