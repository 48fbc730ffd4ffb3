"""The worker: what runs off the request path, a thread each; batches are the first, which stops the others."""

from __future__ import annotations

import threading

from webapp.signals import when_asked_to_end
from webapp.web import Parts
from webapp.worker.alerts import Teller, Watcher
from webapp.worker.anchors import Anchorer
from webapp.worker.batches import Counter, Worker
from webapp.worker.exports import Exporter
from webapp.worker.monitoring import DriftWatcher, Scorer
from webapp.worker.plans import Recomputer
from webapp.worker.removal import Remover
from webapp.worker.uploads import Inspector

BESIDE = (Inspector, Recomputer, Exporter, Remover, Counter, DriftWatcher, Scorer, Watcher, Teller, Anchorer)


def run(parts: Parts, host: str) -> None:
    """Run in the foreground until SIGTERM or SIGINT. What the others leave undone is done after the next start."""
    worker = Worker(parts, host)
    others = [each(parts, host) for each in BESIDE]

    def stop() -> None:
        for loop in (worker, *others):
            loop.stop()

    when_asked_to_end(stop)
    for loop in others:
        threading.Thread(target=loop.run, name=type(loop).__name__.lower(), daemon=True).start()
    worker.run()
