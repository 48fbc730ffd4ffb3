"""Gunicorn's configuration and hooks: what a web worker starts after the fork, and ends before it exits."""

from __future__ import annotations

import gc
import os
import warnings
from typing import TYPE_CHECKING

# Nearly all that is imported here stays: to look at it again and again would take the collector a fifth of the time.
gc.disable()

# Imported before the fork: all workers share them, and the first load is not slower.
import skops.io  # noqa: E402, F401 - without the collector

from webapp import fair, logs, metrics, supervisor  # noqa: E402 - without the collector
from webapp.app import create_app  # noqa: E402 - without the collector
from webapp.config import load, prepare  # noqa: E402 - without the collector
from webapp.serving.plans import whole  # noqa: E402, F401 - without the collector
from webapp.slots import Slot  # noqa: E402 - without the collector

if TYPE_CHECKING:
    from flask import Flask
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

    from webapp.web import Parts

_settings = prepare(load(os.environ))

bind = [_settings.bind]
worker_class = "webapp.fair.FairWorker"
workers = _settings.workers
threads = _settings.threads
# Imports are shared between the workers; nothing is loaded or opened before the fork.
preload_app = True
wsgi_app = "webapp.server:application()"
# Longer than nginx keeps idle connections, so that it is never surprised by a closed one.
keepalive = 75
timeout = 60
graceful_timeout = 30
control_socket_disable = True
# Headers of proxies are believed by the application, as MODELPORT_TRUSTED_PROXIES says, not by Gunicorn.
forwarded_allow_ips = ""
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - heartbeats off the disk
accesslog = None
logger_class = logs.GunicornLogger
logconfig_dict = logs.configuration(_settings.log_level)


def application() -> Flask:
    """Make the application, in Gunicorn's master."""
    made = create_app(_settings)
    # Left alone, this memory stays the one that the workers share.
    gc.freeze()
    gc.enable()
    return made


def on_starting(server: Arbiter) -> None:  # noqa: ARG001 - Gunicorn's interface
    """End with the supervisor, even when it is killed."""
    supervisor.die_with_parent()


def _parts(worker: Worker) -> Parts:
    parts: Parts = worker.wsgi.extensions["modelport"]
    return parts


def post_worker_init(worker: Worker) -> None:
    """Take a slot, open the spool, load what is active; the worker accepts its first request after this."""
    parts = _parts(worker)
    # What estimators warn of is for those who train them; the filter is the process's, not a request's.
    warnings.simplefilter("ignore")
    worker.slot = Slot(parts.settings.run_dir)
    metrics.enter(str(worker.slot.number))
    parts.spool.start()
    parts.follower.start(worker.slot.number)
    # What is there now stays: the collector need not look at it again, which takes it some 60 ms each time.
    gc.collect()
    gc.freeze()


def worker_exit(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001 - Gunicorn's interface
    """Give everything back. Requests that outlived the time to finish are not waited for."""
    if hasattr(worker, "slot"):
        parts = _parts(worker)
        parts.follower.stop()
        parts.spool.stop()
        metrics.leave(str(worker.slot.number))
        fair.leave(worker.slot.number)
        worker.slot.release()
