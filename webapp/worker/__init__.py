"""The worker: what runs off the request path, a thread each; batches are the first, which stops the others."""

from __future__ import annotations

import signal
import threading

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

    def stop(*_signal: object) -> None:
        for loop in (worker, *others):
            loop.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for loop in others:
        threading.Thread(target=loop.run, name=type(loop).__name__.lower(), daemon=True).start()
    worker.run()
