"""`modelport drift`: decide about days that are over, and count again what is in the log."""

from __future__ import annotations

import click

from webapp import registry
from webapp.cli import Console, Group, pass_console
from webapp.cli.started import started
from webapp.db import now
from webapp.errors import NotFound
from webapp.monitoring import drift_report, drift_watch
from webapp.monitoring.drift_report import MOST_DAYS, Report
from webapp.monitoring.references import References
from webapp.predictions import counts
from webapp.predictions.traffic import DAY


@click.group("drift", cls=Group)
def group() -> None:
    """Look whether what versions are asked and answer is still what their references had."""


@group.command()
@pass_console
def run(console: Console) -> None:
    """Do at once what the worker does every minute, and tell what is known of each version."""
    terms = drift_report.terms(console.settings)
    with started(console) as parts:
        References(parts.database, parts.artifacts, parts.follower).make(parts.runtime.catalog)
        decided = drift_watch.decide_all(parts.database, terms)
        with parts.database.reading() as session:
            found = [
                drift_report.of_day(session, model, version, last[-1].day, terms)
                for model, version in sorted(counts.counted(session))
                if (last := drift_report.decisions(session, model, version, now() - MOST_DAYS * DAY))
            ]
    document = {"decided": decided, "versions": [each.as_dict() for each in found]}
    console.answer(document, "\n".join(map(_line, found)) or "No day of a counted version is over yet.")


def _line(found: Report) -> str:
    drifted = ", ".join(f"{each.name} ({each.role}, {each.severity})" for each in found.drifted)
    said = f"drifted: {drifted}" if drifted else "nothing has drifted" if found.enough else "too few predictions"
    return f"{found.model} v{found.version}, {(found.until - DAY):%Y-%m-%d}, {found.rows:,} predictions: {said}"


@group.command()
@click.option("--model", help="Only the versions of this model.")
@pass_console
def rebuild(console: Console, model: str | None) -> None:
    """Count again what the log holds of every counted version. Predictions go on meanwhile.

    Hours of which the log has lost predictions keep their counts.
    """
    with console.database.reading() as session:
        if model is not None:
            registry.get_model(session, model)
        wanted = [each for each in sorted(counts.counted(session)) if model in {None, each[0]}]
    if model is not None and not wanted:
        raise NotFound("no_drift_reference", f"No version of “{model}” is counted yet.")
    hours = 0
    with started(console) as parts:
        references = References(parts.database, parts.artifacts, parts.follower)
        for name, number in wanted:
            with parts.database.reading() as session:
                reference = counts.reference(session, name, number)
            hours += references.begin(reference) if reference else 0
    document = {"versions": [f"{name}/{number}" for name, number in wanted], "hours": hours}
    console.answer(document, f"{hours:,} hours of {len(wanted)} versions were counted again.")
