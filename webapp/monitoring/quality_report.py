"""Quality reports: how good predictions of a time turned out to be, by version and by when they were made."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from statistics import median
from typing import Any

from sqlalchemy.orm import Session

from webapp import quality, registry
from webapp.db import now
from webapp.errors import Invalid, NotFound
from webapp.predictions import log, traffic, truth
from webapp.predictions.traffic import DAY, beginning
from webapp.predictions.truth import Told
from webapp.quality import Estimate, Row, Scores, Verdict
from webapp.registry import Version
from webapp.signature import Output, Signature, from_dict

# By name: how many days, today among them, and of how many each part has.
WINDOWS = {"7d": (7, 1), "30d": (30, 1), "90d": (90, 7)}
# A report reads no more rows than these: of each version the newest with ground truth, and of the model the newest
# whose probabilities promise an accuracy. Ten thousand leave an accuracy uncertain by at most one percent.
MOST_SCORED = 10_000
MOST_LOOKED_AT = 10_000
# The newest that answered, and the active one.
MOST_VERSIONS = 5
# What an outlier detector says of an outlier, which is what it is for, last.
OUTLIERS = (1, -1)
GROUPS = "clusters have no ground truth that they could be compared with"
STATES = ("worse", "fine", "unjudged", "collecting", "none")


@dataclass(frozen=True, slots=True)
class Window:
    """A time that ends with today, UTC, in parts of whole days; the first part may be shorter than the others."""

    name: str
    since: datetime
    until: datetime
    step: timedelta

    @property
    def parts(self) -> list[tuple[datetime, datetime]]:
        """The beginning and the end of each part."""
        ends = [self.until]
        while ends[-1] - self.step > self.since:
            ends.append(ends[-1] - self.step)
        return list(zip([self.since, *ends[:0:-1]], ends[::-1], strict=True))


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of the predictions of a time; scores by output."""

    since: datetime
    until: datetime
    predictions: int
    # Of so many the truth is known, and so many of these are scored.
    told: int
    scored: int
    # Half of the truth came later than this after its prediction.
    lag_seconds: float | None
    outputs: dict[str, Scores]

    @property
    def coverage(self) -> float | None:
        """The share of predictions of which the truth is known."""
        return min(1.0, self.told / self.predictions) if self.predictions else None


@dataclass(frozen=True, slots=True)
class VersionReport:
    """How good a version's predictions turned out to be."""

    number: int
    label: str | None
    active: bool
    task: str
    # What the model card states, by our names of scores.
    card: dict[str, float]
    verdict: Verdict
    period: Figures
    parts: tuple[Figures, ...]
    # What probabilities promise, by output.
    estimates: dict[str, Estimate]

    @property
    def scores(self) -> Scores:
        """The scores of the first output over the whole time."""
        return next(iter(self.period.outputs.values()))

    @property
    def main(self) -> str:
        """The score that speaks for this version."""
        return self.verdict.metric or quality.main_metric(self.scores, self.card)


@dataclass(frozen=True, slots=True)
class Report:
    """How good a model's predictions turned out to be, the newest version first."""

    model: str
    window: Window
    versions: tuple[VersionReport, ...]

    def of(self, number: int | None) -> VersionReport | None:
        """Give the report of a version; without a number, of the active one, else of the newest."""
        found = {each.number: each for each in self.versions}
        active = next((each for each in self.versions if each.active), next(iter(self.versions), None))
        return found.get(number) if number is not None else active


def window(name: str, kept_days: int = 0) -> Window:
    """Give a window that ends now; it begins no earlier than what is kept (0: for ever)."""
    if name not in WINDOWS:
        detail = f"“window” is one of {', '.join(WINDOWS)}, not “{name[:50]}”."
        raise Invalid("window_unknown", detail, more={"parameter": "window"})
    days, step = WINDOWS[name]
    today = beginning(now(), DAY)
    since = today - (min(days, kept_days or days) - 1) * DAY
    return Window(name, since, today + DAY, step * DAY)


def report(session: Session, name: str, within: Window) -> Report:
    """Report on the versions of a model that answered lately, and on the active one."""
    model = registry.get_model(session, name)
    daily = traffic.daily(session, name, within.since)
    promised = defaultdict(list)
    for number, probability in log.newest_probabilities(session, name, within.since, MOST_LOOKED_AT):
        promised[number].append(probability)
    numbers = {*sorted(daily, reverse=True)[:MOST_VERSIONS], *filter(None, [model.active_number])}
    found = []
    for number in sorted(numbers, reverse=True):
        # Traffic is remembered for longer than anything that made it.
        with suppress(NotFound):
            version = registry.get_version(session, model, number)
            found.append(_reported(session, version, within, daily.get(number, {}), promised[number]))
    return Report(name, within, tuple(found))


def active(session: Session, name: str, within: Window) -> VersionReport | None:
    """Report on the active version of a model alone, without what its probabilities promise."""
    model = registry.get_model(session, name)
    if model.active_number is None:
        return None
    daily = traffic.daily(session, name, within.since)
    version = registry.get_version(session, model, model.active_number)
    return _reported(session, version, within, daily.get(version.number, {}), [])


def values(found: VersionReport) -> dict[str, float]:
    """Give each score that there is by name; of several outputs `OUTPUT.NAME`."""
    outputs = found.period.outputs
    return {
        each.name if len(outputs) == 1 else f"{output}.{each.name}": each.value
        for output, scores in outputs.items()
        for each in scores.scores
        if each.value is not None
    }


def _reported(
    session: Session, version: Version, within: Window, daily: Mapping[datetime, int], promised: Sequence[Any]
) -> VersionReport:
    name, number, signature = version.model.name, version.number, from_dict(version.signature)
    known = _known(signature, truth.oldest_first(session, name, number, within.since, MOST_SCORED))
    counts = None
    if len(known.told) == MOST_SCORED:
        # There may be more than was read.
        counts = [truth.count(session, name, number, *times) for times in within.parts]
    parts = tuple(_parts(known, within, daily, counts))
    period = _figures(known, (within.since, within.until), daily, slice(None), sum(each.told for each in parts))
    card = quality.stated(version.card) if len(signature.outputs) == 1 else {}
    return VersionReport(
        number=number,
        label=version.label,
        active=version.model.active_number == number,
        task=signature.task,
        card=card,
        verdict=_verdict(signature, period, card),
        period=period,
        parts=parts,
        estimates=dict(_estimates(known, promised)),
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """Predictions of a version with their truth, the oldest first; as rows by output."""

    signature: Signature
    told: Sequence[Told]
    rows: dict[str, list[Row]]


def _known(signature: Signature, told: Sequence[Told]) -> _Known:
    return _Known(signature, told, {each.name: _rows(signature, each, told) for each in signature.outputs})


def _parts(
    known: _Known, within: Window, daily: Mapping[datetime, int], counts: Sequence[int] | None
) -> Iterator[Figures]:
    for place, times in enumerate(within.parts):
        first, end = (bisect_left(known.told, moment, key=attrgetter("at")) for moment in times)
        count = end - first if counts is None else counts[place]
        yield _figures(known, times, daily, slice(first, end), count)


def _figures(
    known: _Known, times: tuple[datetime, datetime], daily: Mapping[datetime, int], place: slice, count: int
) -> Figures:
    since, until = times
    predictions = sum(number for day, number in daily.items() if since <= day < until)
    told = known.told[place]
    lags = [(each.observed_at - each.at).total_seconds() for each in told]
    outputs = {
        each.name: _scores(known.signature, each, known.rows[each.name][place]) for each in known.signature.outputs
    }
    return Figures(since, until, predictions, count, len(told), median(lags) if lags else None, outputs)


def _scores(signature: Signature, output: Output, rows: Sequence[Row]) -> Scores:
    if signature.task == "clustering":
        return quality.score(None, [])
    return quality.score(OUTLIERS if signature.task == "outlier detection" else output.classes, rows)


def _estimates(known: _Known, promised: Sequence[Any]) -> Iterator[tuple[str, Estimate]]:
    for output in known.signature.outputs:
        said = [_of(output, known.signature, each) for each in promised]
        sure = [_of(output, known.signature, each.probability) for each in known.told]
        came = [row.predicted == row.truth for row in known.rows[output.name]]
        pairs = [(each, right) for each, right in zip(sure, came, strict=True) if isinstance(each, float | int)]
        if found := quality.estimate([each for each in said if isinstance(each, float | int)], pairs):
            yield output.name, found


def _of(output: Output, signature: Signature, value: Any) -> Any:  # noqa: ANN401 - a JSON value
    """Give what an answer says of one output."""
    if not signature.multi_output:
        return value
    return value.get(output.name) if isinstance(value, dict) else None


def _rows(signature: Signature, output: Output, told: Sequence[Told]) -> list[Row]:
    return [
        Row(*(_of(output, signature, value) for value in (each.prediction, each.truth, each.probabilities)))
        for each in told
    ]


def _verdict(signature: Signature, period: Figures, card: Mapping[str, float]) -> Verdict:
    """Judge a version; of several outputs the worst one tells, and each has its sentence."""
    if signature.task == "clustering":
        return Verdict("none", GROUPS)
    found = {name: quality.judge(scores, card, period.predictions) for name, scores in period.outputs.items()}
    worst = min(found.values(), key=lambda each: STATES.index(each.state))
    if len(found) == 1 or worst.state in {"none", "collecting"}:
        return worst
    return Verdict(worst.state, ". ".join(f"{name}: {each.sentence}" for name, each in found.items()), worst.metric)


# --- The public form --------------------------------------------------------------------------------------


def describe(found: Report) -> dict[str, Any]:
    """Give the public form of a report."""
    within = found.window
    return {
        "model": found.model,
        "window": within.name,
        "since": within.since.isoformat(),
        "until": within.until.isoformat(),
        "versions": [_describe_version(each) for each in found.versions],
    }


def _describe_version(found: VersionReport) -> dict[str, Any]:
    return {
        "version": found.number,
        "label": found.label,
        "active": found.active,
        "task": found.task,
        "verdict": asdict(found.verdict),
        "card": found.card,
        **_describe_figures(found.period),
        "estimated_accuracy": {name: asdict(each) for name, each in found.estimates.items()},
        "parts": [
            {"since": each.since.isoformat(), "until": each.until.isoformat(), **_describe_figures(each)}
            for each in found.parts
        ],
    }


def _describe_figures(figures: Figures) -> dict[str, Any]:
    return {
        "predictions": figures.predictions,
        "with_truth": figures.told,
        "scored": figures.scored,
        "coverage": figures.coverage,
        "median_lag_seconds": figures.lag_seconds,
        "outputs": {name: _describe_scores(each) for name, each in figures.outputs.items()},
    }


def _describe_scores(scores: Scores) -> dict[str, Any]:
    found = {each.name: {"value": each.value, "low": each.low, "high": each.high} for each in scores.scores}
    bins = [
        {
            "from": each.low,
            "to": each.high,
            "n": each.n,
            "said": each.said,
            "true": {"value": each.true.value, "low": each.true.low, "high": each.true.high},
        }
        for each in scores.calibration
    ]
    return {"n": scores.n, "scores": found, "calibration": bins}
