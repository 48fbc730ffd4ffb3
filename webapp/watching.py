"""Watching: what is looked at every minute, and raises an alert while it is so. A new kind is one line of `KINDS`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy.exc

from webapp import alerts, fleet, jobs, keys, registry
from webapp.alerts import Found, rounds
from webapp.db import Database, Session, now
from webapp.errors import Refusal
from webapp.monitoring import drift_report, quality_report, refusal_report
from webapp.monitoring.drift_report import DriftDecision
from webapp.predictions import failures, traffic
from webapp.predictions.failures import Failed
from webapp.predictions.traffic import DAY, HOUR, Total, beginning

LOG = logging.getLogger(__name__)
# A model is slow when its p99 is so many times that of the days before, both over at least so many predictions.
# Latencies are counted in steps that double: less than twice says nothing.
SLOWER, LEAST_PREDICTIONS, DAYS_BEFORE = 4.0, 100, 7
# A version fails when so many rows of the last hour, and such a share of them, could not be answered.
LEAST_FAILED, FAILED_SHARE, CRITICAL_SHARE = 5, 0.01, 0.05
# Nobody waited for what a batch computed.
UNTIMED = (*traffic.TRIALS, "batch")
EXPIRING, LAST_DAYS = timedelta(days=14), timedelta(days=2)
MOST_KEYS = 1000
# A log writer says every few seconds that it lives, between two looks into the spool.
SILENT = timedelta(minutes=1)

# Drift that is not major is told of when it comes on two of the last three days; so far back a day was decided about.
LAST_DRIFT_DAYS, DECIDED_DAYS = 3, 4

Look = Callable[[Session, datetime], list[Found]]


# --- What is looked at ----------------------------------------------------------------------------------------


def plans_off(session: Session, _moment: datetime) -> list[Found]:
    """Versions whose plan has answered otherwise than scikit-learn."""
    return [
        Found(
            "plan_off",
            f"The plan of {model} v{number} was switched off: it answered otherwise than scikit-learn.",
            model=model,
            subject=str(number),
            details={"reason": reason, "switched_off_at": at.isoformat()},
        )
        for model, number, at, reason in registry.plans_off(session)
    ]


def slow_models(session: Session, moment: datetime) -> list[Found]:
    """Models whose slowest predictions take much longer than they did."""
    since = moment - HOUR
    start = beginning(since, HOUR)
    usual = traffic.totals(session, start - DAYS_BEFORE * DAY, until=start, without=UNTIMED)
    before = {total.model: total for total in usual}
    lately = traffic.totals(session, since, without=UNTIMED)
    return [_slow(total, before[total.model]) for total in lately if _is_slow(total, before.get(total.model))]


def _is_slow(lately: Total, before: Total | None) -> bool:
    if before is None or min(lately.predictions, before.predictions) < LEAST_PREDICTIONS:
        return False
    return bool(lately.p99 and before.p99 and lately.p99 > SLOWER * before.p99)


def _slow(lately: Total, before: Total) -> Found:
    assert lately.p99 is not None, "it was compared"
    assert before.p99 is not None, "it was compared"
    times = lately.p99 / before.p99
    return Found(
        "latency",
        f"{lately.model} answers slowly: p99 of the last hour is about {times:.0f} times that of the 7 days before.",
        model=lately.model,
        details={
            "p99_seconds": round(lately.p99, 6),
            "p99_seconds_before": round(before.p99, 6),
            "predictions": lately.predictions,
        },
    )


def failing_versions(session: Session, moment: datetime) -> list[Found]:
    """Versions that could not answer a share of what they were asked lately."""
    since = beginning(moment - HOUR, HOUR)
    return [
        _failing(each, since, share)
        for each in failures.of_hours(session, since)
        if each.rows >= LEAST_FAILED and (share := _failed_share(session, each, since)) >= FAILED_SHARE
    ]


def _failed_share(session: Session, failed: Failed, since: datetime) -> float:
    answered = traffic.by_version(session, failed.model, since, without=UNTIMED).get(failed.version, 0)
    return failed.rows / (failed.rows + answered)


def _failing(failed: Failed, since: datetime, share: float) -> Found:
    return Found(
        "errors",
        f"{failed.model} v{failed.version} could not answer {share:.1%} of what it was asked since {since:%H:%M} UTC.",
        "critical" if share >= CRITICAL_SHARE else "warning",
        model=failed.model,
        subject=str(failed.version),
        details={"failed": failed.rows, "share": round(share, 4), "request_id": failed.request_id},
    )


def log_lags(session: Session, moment: datetime) -> list[Found]:
    """Hosts that predict while their log writer is away, or more than a minute behind."""
    live = {worker.host for worker in fleet.live(session)}
    return [
        Found(
            "log_lag",
            f"The log writer of {beat.host} does not keep up or is gone: what is predicted there waits in its spool.",
            "critical",
            subject=beat.host,
            details={"heard_of_at": beat.seen_at.isoformat()},
        )
        for beat in fleet.heartbeats(session)
        if beat.process == fleet.LOG_WRITER and beat.host in live and beat.seen_at < moment - SILENT
    ]


def expiring_keys(session: Session, moment: datetime) -> list[Found]:
    """Keys that end soon, so that whoever uses them gets another one in time."""
    return [
        Found(
            "key_expiring",
            f"The key {row.title} ends on {row.expires_at:%Y-%m-%d}{f'; ask {row.owner}' if row.owner else ''}.",
            "critical" if row.expires_at < moment + LAST_DAYS else "warning",
            subject=row.id,
            details={
                "name": row.name,
                "owner": row.owner,
                "expires_at": row.expires_at.isoformat(),
                "used_at": row.used_at.isoformat() if row.used_at else None,
            },
            event="key.expiring",
        )
        for row in keys.expiring(session, EXPIRING, MOST_KEYS)
    ]


def failed_jobs(session: Session, moment: datetime) -> list[Found]:
    """Batches that failed within a day."""
    return [
        Found(
            "job_failed",
            f"A batch of {job.total} rows for {job.model} v{job.version} failed. {job.failure}".strip(),
            model=job.model,
            subject=job.id,
            details={"version": job.version, "rows": job.total, "key_id": job.key_id},
        )
        for job in jobs.failed(session, moment - DAY)
    ]


def stuck_workers(session: Session, _moment: datetime) -> list[Found]:
    """Web workers that do not serve what is active: they cannot load it, or have not followed for a minute."""
    wanted = rounds.last(session).generation
    return [
        Found(
            "not_serving",
            f"Web worker {worker.slot} of {worker.host} does not serve what is active. {worker.failure}".strip(),
            "critical",
            subject=f"{worker.host}/{worker.slot}",
            details={"generation": worker.generation, "wanted": wanted, "failure": worker.failure},
        )
        for worker in fleet.live(session)
        if worker.failure or 0 < worker.generation < wanted
    ]


def drifted(session: Session, moment: datetime) -> list[Found]:
    """Inputs and outputs of active versions that have drifted: much on the last day, or on two of the last three."""
    found = []
    for line in registry.model_lines(session):
        if line.active_number is not None:
            days = drift_report.decisions(session, line.name, line.active_number, moment - DECIDED_DAYS * DAY)
            lasting = _lasting(days)
            whose = keys.names(session, {source["key_id"] for each in lasting for source in each["sources"]})
            found += [_drift(line.name, line.active_number, days[-1], each, whose) for each in lasting]
    return found


def _lasting(days: list[DriftDecision]) -> list[dict[str, Any]]:
    last = [each for each in days[-1].findings if each["drifted"]] if days else []
    times = Counter(id_ for day in days[-LAST_DRIFT_DAYS:] for id_ in day.drifted)
    return [each for each in last if each["severity"] == "major" or times[each["id"]] > 1]


def _drift(model: str, number: int, day: DriftDecision, finding: dict[str, Any], key_names: Mapping[str, str]) -> Found:
    return Found(
        "drift",
        _sentence(f"{model} v{number}", finding, key_names),
        "critical" if finding["severity"] == "major" else "warning",
        model=model,
        subject=f"v{number} {finding['id']}",
        details={"day": f"{day.day:%Y-%m-%d}", "shift": round(finding["effect"], 3), "predictions": day.rows},
    )


def _sentence(version: str, finding: dict[str, Any], key_names: Mapping[str, str]) -> str:
    if finding.get("refused"):
        return f"{version}: {refusal_report.in_words(refusal_report.from_dict(finding['refused']))}."
    sources = finding["sources"]
    whose = f" {_brought(sources[0], key_names)}" if sources else ""
    kind = "" if finding["role"] == "input" else f" ({finding['role']})"
    return f"“{finding['name']}”{kind} of {version} has drifted: a {finding['severity']} change.{whose}"


def _brought(source: dict[str, Any], key_names: Mapping[str, str]) -> str:
    name = key_names.get(source["key_id"], source["key_id"])
    return f"{min(source['part'], 1):.0%} of the change comes from key “{name}”."


def degraded(session: Session, _moment: datetime) -> list[Found]:
    """Active versions that turned out to be worse than their cards say."""
    within = quality_report.window("7d")
    found = ((line.name, quality_report.active(session, line.name, within)) for line in registry.model_lines(session))
    return [
        Found(
            "quality",
            f"{name} v{report.number} is worse than its card says: {report.verdict.sentence}",
            model=name,
            subject=f"v{report.number}",
            details=quality_report.values(report),
        )
        for name, report in found
        if report is not None and report.verdict.state == "worse"
    ]


@dataclass(frozen=True, slots=True)
class Kind:
    """What one kind of alert is called, how it is found, what to do about it, and what page shows it."""

    name: str
    title: str
    look: Look
    advice: str
    # `model`, `version`, `key`, `jobs`, `predictions`, `drift`, `quality` or `system`.
    shown_at: str
    # What costs more is looked at less often.
    every_minutes: int = 1


KINDS = (
    Kind(
        "plan_off",
        "Plan switched off",
        plans_off,
        "Predictions are right and slower: scikit-learn computes them. The version's page says which prediction"
        " differed; report it, and allow the plan again when it is mended.",
        "version",
    ),
    Kind(
        "errors",
        "Predictions fail",
        failing_versions,
        "The server's own log says under the id of the request what went wrong. Roll back if another version answers;"
        " what failed is not in the log of predictions and can be sent again.",
        "version",
    ),
    Kind(
        "latency",
        "Slow model",
        slow_models,
        "Look whether the machine is busy with something else, whether requests have become larger, and whether"
        " another version was activated.",
        "model",
    ),
    Kind(
        "log_lag",
        "Log behind",
        log_lags,
        "See whether the database is slow or its disk full, and whether the log writer of this host runs; nothing is"
        " lost as long as the spool has room.",
        "system",
    ),
    Kind(
        "key_expiring",
        "Key expires",
        expiring_keys,
        "Roll the key and hand the new one over while the old one still works.",
        "key",
    ),
    Kind(
        "job_failed",
        "Batch failed",
        failed_jobs,
        "The list of jobs says why; what was sent can be sent again.",
        "jobs",
    ),
    Kind(
        "not_serving",
        "Worker behind",
        stuck_workers,
        "The page of the system says why it cannot load the version; roll back if others may fail, too.",
        "system",
    ),
    Kind(
        "drift",
        "Drift",
        drifted,
        "See which part has moved and whose traffic it is. Ask those who send it whether they changed something; if the"
        " world changed, train a version on what is sent now, or compare with a newer time.",
        "drift",
    ),
    Kind(
        "quality",
        "Worse than its card",
        degraded,
        "See since when, and whether drift came with it. Roll back if another version was better, or train a new one.",
        "quality",
        every_minutes=10,
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}


# --- Looking --------------------------------------------------------------------------------------------------


def look(database: Database, owner: str) -> bool:
    """Look at every kind and raise or settle its alerts, when it is time to and nobody else does; tells whether."""
    with database.reading() as session:
        if not rounds.is_due(session):
            return False
    with database.transaction() as session:
        if not rounds.claim(session, owner):
            return False
    seen = list(_seen(database, now()))
    with database.transaction() as session:
        for kind, found in seen:
            for each in found:
                alerts.see(session, each)
            alerts.settle(session, kind.name, found)
        rounds.finish(session, owner)
    return True


def _seen(database: Database, moment: datetime) -> Iterator[tuple[Kind, list[Found]]]:
    """Give what is so of each kind; of one that cannot be looked at, nothing is known."""
    for kind in KINDS:
        if moment.minute % kind.every_minutes:
            continue
        try:
            with database.reading() as session:
                found = kind.look(session, moment)
        except (sqlalchemy.exc.SQLAlchemyError, Refusal):
            raise
        except Exception as error:  # noqa: BLE001 - whatever one kind does, the others are looked at
            LOG.warning("watching.failed", extra={"kind": kind.name, "reason": type(error).__name__})
        else:
            yield kind, found
