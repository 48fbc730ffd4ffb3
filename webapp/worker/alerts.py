"""Looks at what would need a person, and tells webhooks of it."""

from __future__ import annotations

import logging
import math
import time

from webapp import __version__, alerts, faults, metrics, watching
from webapp.web import Parts
from webapp.webhooks import deliveries, sending, signing
from webapp.webhooks.deliveries import Post
from webapp.worker.loop import Loop, Periodic

LOG = logging.getLogger(__name__)
# How often it is looked whether it is time for a round, and whether a webhook is to be told something.
ROUND_SECONDS = 10.0
TELL_SECONDS = 1.0


class Watcher(Periodic):
    """Looks every minute at what would need a person; one worker of the fleet does it for all of them."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop."""
        super().__init__(parts, host, ROUND_SECONDS)

    def look(self) -> bool:
        """Look at all of it, if it is time for a round, and say how many alerts there are."""
        if watching.look(self._parts.database, self._owner):
            LOG.debug("worker.round")
        with self._parts.database.reading() as session:
            telling = alerts.telling(session)
        # Those that there are none of, too: else the last number would stand for ever.
        none = {(kind, severity): 0 for kind in watching.BY_NAME for severity in alerts.SEVERITIES}
        for labels, count in (none | telling).items():
            metrics.ALERTS.labels(*labels).set(count)
        return False


class Teller(Loop):
    """Tells webhooks what they want to know, one after the other."""

    def __init__(self, parts: Parts, host: str) -> None:
        """As every loop; the first look is soon."""
        super().__init__(parts, host)
        self._looked = -math.inf
        self._pepper = parts.settings.derive(signing.PEPPER)

    def beat(self) -> None:
        """Leave it to the loop beside this one to say that the process lives."""

    def work_once(self) -> bool:
        """Send one message, if there is one to send; tells whether there was."""
        if time.monotonic() - self._looked < TELL_SECONDS:
            return False
        url = self._parts.settings.url
        post = self._claimed(deliveries.is_waiting, lambda session: deliveries.claim(session, self._owner, url))
        if post is None:
            self._looked = time.monotonic()
            return False
        self._send(post)
        return True

    def _send(self, post: Post) -> None:
        shared = [signing.secret_of(self._pepper, nonce) for nonce in post.nonces]
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"Modelport/{__version__}",
            **signing.headers(shared, post.message_id, int(time.time()), post.body),
        }
        faults.point("webhook.claimed")
        answer = sending.post(post.url, headers, post.body, private=self._parts.settings.webhook_private)
        faults.point("webhook.sent")
        with self._parts.database.transaction() as session:
            deliveries.finish(session, post, self._owner, answer)
        metrics.WEBHOOKS_SENT.labels("delivered" if answer.taken else "failed").inc()
        # Neither where to nor what: of both, some is secret.
        told = {"delivery": post.delivery_id, "attempt": post.attempt, "status": answer.status}
        LOG.info("worker.webhook", extra=told)
