"""Drift over HTTP: what was found out about a version in a time."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from flask import Response, g, jsonify, request

from webapp import registry, web
from webapp.api import blueprint, requires
from webapp.db import Session, now
from webapp.errors import Invalid
from webapp.monitoring import description, drift_report, new_values, references
from webapp.monitoring.drift_report import Report
from webapp.predictions.traffic import DAY, beginning
from webapp.registry import Version

door = blueprint("drift")
MOST_DAYS = 366


@door.get("/models/<name>/drift")
@requires("models:read")
def drift(name: str) -> Response:
    """Compare what a version was asked and answered in a time with its reference, and describe its numbers."""
    g.key.require_model(name)
    made = web.parts()
    with made.database.reading() as session:
        version = _version(session, name)
        found = _report(session, version)
        reference = references.get(session, name, version.number)
        newest = description.newest(session, name, version.number, found.since, found.until)
        described = description.describe(made.artifacts, version, description.numbers_of(version), newest)
    named = new_values.named(reference, newest, {each.id for each in found.findings if each.new})
    return jsonify(
        found.as_dict()
        | {"described": [each.as_dict() for each in described]}
        | {"new_values": {name: [asdict(each) for each in values] for name, values in named.items()}}
    )


def _version(session: Session, name: str) -> Version:
    model = registry.get_model(session, name)
    asked = request.args.get("version")
    if asked is not None:
        return registry.get_version(session, model, registry.number_of(session, name, asked))
    if model.active_number is None:
        raise Invalid("version_missing", f"“{name}” has no active version; ask for one with ?version=.")
    return registry.get_version(session, model, model.active_number)


def _report(session: Session, version: Version) -> Report:
    """Give what was decided about a day, or what a time of several days held."""
    terms = drift_report.terms(web.parts().settings)
    today = beginning(now(), DAY)
    which: dict[str, Any] = {"model": version.model.name, "version": version.number, "terms": terms}
    since, until = _day("since"), _day("until")
    if since is None:
        day = _day("day") or today
        return drift_report.of_day(session, day=day, **which)
    end = (until or today) + DAY
    if not since < end <= since + MOST_DAYS * DAY:
        raise Invalid("time_unusable", f"“until” is not before “since”, and at most {MOST_DAYS} days after it.")
    return drift_report.report(session, since=since, until=end, **which)


def _day(name: str) -> datetime | None:
    text = request.args.get(name)
    try:
        return None if text is None else drift_report.read_day(text)
    except ValueError:
        raise Invalid("date_unreadable", f"“{name}” is a date such as 2026-03-03.") from None
