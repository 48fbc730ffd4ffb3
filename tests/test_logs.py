"""Tests of logging: every record becomes one line of JSON, whatever is in it."""

from __future__ import annotations

import json
import logging
import logging.config
from datetime import datetime
from typing import Any

import pytest

from webapp import logs


def line_of(message: str, **more: Any) -> dict[str, Any]:
    """Give the line that is written of a record."""
    form = dict(logs.configuration("info")["formatters"]["json"])
    formatter = form.pop("()")(**form)
    record = logging.LogRecord("webapp.web", logging.INFO, __file__, 1, message, (), None)
    vars(record).update(more)
    line = formatter.format(record)
    assert "\n" not in line
    written: dict[str, Any] = json.loads(line.encode())
    return written


@pytest.mark.parametrize("value", ["ü", "two\nlines", "\ud800", "a file\udcff", 2**70, {"\udcff": [1]}], ids=repr)
def test_a_record_is_one_line_whatever_is_in_it(value: object) -> None:
    usual = line_of("request", status=200)
    line = line_of("request", status=200, value=value)
    assert line.pop("value") == value
    assert datetime.fromisoformat(line.pop("ts")) >= datetime.fromisoformat(usual.pop("ts"))
    assert line == usual == {"level": "INFO", "logger": "webapp.web", "event": "request", "status": 200}


def test_a_message_may_hold_what_utf8_cannot_say() -> None:
    assert line_of("no such file: \udcff")["event"] == "no such file: \udcff"
