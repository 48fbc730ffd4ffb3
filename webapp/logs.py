"""Logging: one JSON object per event on stdout, for every process, Gunicorn's own included."""

from __future__ import annotations

import json
import logging
import logging.config
import re
from typing import Any

from gunicorn import glogging
from pythonjsonlogger.core import LogData
from pythonjsonlogger.json import JsonEncoder
from pythonjsonlogger.orjson import OrjsonFormatter

_KEY = re.compile(r"mp_(live|test)_\w+")


class WithoutKeys(logging.Filter):
    """Takes keys out of what Gunicorn logs: it quotes requests that it cannot read."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Write the message anew where it holds a key."""
        message = record.getMessage()
        if _KEY.search(message):
            record.msg, record.args = _KEY.sub(r"mp_\1_…", message), ()
        return True


class GunicornLogger(glogging.Logger):  # type: ignore[misc] # Gunicorn has no types
    """Gunicorn's own log without a line per request, which it would compose though nobody writes it: `web` has one."""

    def access(self, *_about: object) -> None:
        """Say nothing."""


class Formatter(OrjsonFormatter):
    """Writes one line for every record, whatever is in it."""

    def jsonify_log_record(self, log_data: LogData) -> str:
        """Write by Python what orjson refuses, such as half of a surrogate pair in the name of a file."""
        try:
            return super().jsonify_log_record(log_data)
        except TypeError:
            return json.dumps(log_data, cls=JsonEncoder, separators=(",", ":"))


def configuration(level: str) -> dict[str, Any]:
    """Give the `logging.config` dictionary; `level` is the least level that is written."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": Formatter,
                "fmt": ["levelname", "name", "message"],
                "rename_fields": {"levelname": "level", "name": "logger", "message": "event"},
                "timestamp": "ts",
            }
        },
        "filters": {"without-keys": {"()": WithoutKeys}},
        "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        # Otherwise Gunicorn adds handlers of its own, and each line stands twice.
        "loggers": {
            "gunicorn.error": {
                "level": level.upper(),
                "handlers": [],
                "propagate": True,
                "filters": ["without-keys"],
            },
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            # Alembic tells of every step at INFO, this library of every key.
            "alembic": {"level": "WARNING"},
            "flask-limiter": {"level": "CRITICAL"},
        },
    }


def set_up(level: str) -> None:
    """Make this process log."""
    logging.config.dictConfig(configuration(level))
