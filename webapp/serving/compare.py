"""Compares two loaded versions: what they take, how they were made, what they say to the same rows, and how fast."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from webapp.errors import Invalid
from webapp.serving.loaded import LoadedVersion
from webapp.serving.predictor import Outcome
from webapp.serving.sample import Instance, Sample, sample
from webapp.signature import Row, Signature
from webapp.signature.compare import Difference, differences

# Rows are asked in parts of this size; between two of them the time is looked at.
PART = 250
MOST_SECONDS = 3.0
# So many rows are asked in one call to measure it, so many times.
BULK_ROWS = 100
REPEATS = 5
# Stands among the paths of parameters, none of which has a space.
ITSELF = "the estimator itself"
# So many rows that changed, and so many that one version refuses, are shown.
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions, with what is known of how it came here."""

    loaded: LoadedVersion
    card: Mapping[str, Any]
    report: Mapping[str, Any]
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Where a version comes from, and what it costs to hold and to ask."""

    version: int
    model_version: str
    created_at: datetime
    created_by: str
    file: str
    file_bytes: int
    library: str
    estimator: str
    artifact_bytes: int
    load_seconds: float
    # Checking and predicting inside the server, without the way to it; None where no row is taken by both.
    single_seconds: float | None
    bulk_seconds: float | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the estimator or of one of its steps that differs; None where there is none of this name."""

    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the two model cards."""

    name: str
    old: float | None
    new: float | None
    change: float | None


@dataclass(frozen=True, slots=True)
class OutputChange:
    """One output over all rows that both answer; changes are those of the number, or of the probabilities."""

    name: str
    kind: str
    same: int
    largest_change: float | None
    mean_change: float | None


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row that gets another answer; rows are counted from 1."""

    row: int
    instance: Instance
    old: Outcome
    new: Outcome
    change: float | None


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that one version answers and the other does not, with why not."""

    row: int
    instance: Instance
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Rows:
    """What the two said to the same rows."""

    # The version whose reference they are; None where they were made up.
    reference_of: int | None
    # Columns that a version needs and the reference has not.
    lacking: tuple[str, ...]
    given: int
    # Fewer than were given when the time was over.
    asked: int
    # By both.
    answered: int
    refused_by_old: int
    refused_by_new: int
    refused: tuple[RefusedRow, ...]
    # Empty where the two have no output in common.
    outputs: tuple[OutputChange, ...]
    # Rows of which a label differs, and the first of them; where there are none, those that change most.
    flipped: int
    changed: tuple[ChangedRow, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions side by side."""

    model: str
    old: Facts
    new: Facts
    # So many rows were asked in one call to measure it.
    bulk_rows: int
    signature: tuple[Difference, ...]
    parameters: tuple[Parameter, ...]
    same_parameters: int
    metrics: tuple[Metric, ...]
    rows: Rows

    def as_dict(self) -> dict[str, Any]:
        """Give the public JSON form, in which the two are called `from` and `to`."""
        return asdict(self, dict_factory=_public)


def _public(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {public_name(name): value.isoformat() if isinstance(value, datetime) else value for name, value in pairs}


def public_name(name: str) -> str:
    """Give what a field is called in the public form."""
    return {"old": "from", "new": "to", "refused_by_old": "refused_by_from", "refused_by_new": "refused_by_to"}.get(
        name, name
    )


def lines(found: Comparison) -> list[str]:
    """Give the comparison in lines, for people."""
    old, new = f"version {found.old.version}", f"version {found.new.version}"
    said = [f"{found.model}: {old} ({found.old.estimator}) and {new} ({found.new.estimator})"]
    said += [
        f"  {each.feature}: {each.sentence}{' (breaking)' if each.breaking else ''}" for each in found.signature
    ] or ["  The signatures are the same."]
    said += [f"  {each.path}: {each.old or 'not there'} -> {each.new or 'not there'}" for each in found.parameters]
    said.append(f"  {found.same_parameters} parameters are the same.")
    said += [f"  {each.name}: {each.old} -> {each.new}" for each in found.metrics]
    return [*said, *_rows_in_lines(found.rows, old, new), *_speed_in_lines(found)]


def _rows_in_lines(rows: Rows, old: str, new: str) -> Iterator[str]:
    source = "made-up rows" if rows.reference_of is None else f"rows of version {rows.reference_of}'s reference"
    yield f"  {rows.asked} {source}: {old} refuses {rows.refused_by_old}, {new} refuses {rows.refused_by_new}."
    if rows.lacking:
        yield f"  These rows have no: {', '.join(rows.lacking)}."
    for output in rows.outputs:
        change = f", changes by {output.mean_change:.4g} on average" if output.mean_change is not None else ""
        most = f", by {output.largest_change:.4g} at most" if output.largest_change is not None else ""
        yield f"  {output.name}: {output.same} of {rows.answered} answers are the same{change}{most}."
    for each in rows.changed:
        yield f"  row {each.row}: {each.old.prediction} -> {each.new.prediction}, for {each.instance}"


def _speed_in_lines(found: Comparison) -> Iterator[str]:
    for facts in (found.old, found.new):
        asked = ""
        if facts.single_seconds is not None and facts.bulk_seconds is not None:
            asked = f", one row in {_ms(facts.single_seconds)}, {found.bulk_rows} in {_ms(facts.bulk_seconds)}"
        yield f"  version {facts.version}: {facts.artifact_bytes:,} bytes, loads in {_ms(facts.load_seconds)}{asked}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def compare(old: Side, new: Side, references: Mapping[int, bytes]) -> Comparison:
    """Compare two versions of a model.

    `references` has what there is of training data, by the number of its version, the best first. The two are asked
    its rows; rows are made up where there is none.
    """
    until = time.monotonic() + MOST_SECONDS
    signatures = old.loaded.signature, new.loaded.signature
    asked = sample(references, signatures)
    pairs = list(_ask_both(old.loaded, new.loaded, asked.instances, until))
    taken = [asked.instances[at] for at, (first, second) in enumerate(pairs) if first.outcome and second.outcome]
    speeds = _speeds((old.loaded, new.loaded), taken[:BULK_ROWS], until)
    parameters, same = _parameters(_estimator(old.loaded), _estimator(new.loaded))
    return Comparison(
        model=new.loaded.version.model,
        old=_facts(old, speeds[0]),
        new=_facts(new, speeds[1]),
        bulk_rows=len(taken[:BULK_ROWS]),
        signature=tuple(differences(*signatures)),
        parameters=tuple(parameters),
        same_parameters=same,
        metrics=tuple(_metrics(old.card, new.card)),
        rows=_rows(asked, pairs, signatures),
    )


def _facts(side: Side, seconds: tuple[float, float] | None) -> Facts:
    file, version = side.report["file"], side.loaded.version
    single, bulk = seconds or (None, None)
    return Facts(
        version=version.number,
        model_version=version.shown,
        created_at=side.created_at,
        created_by=side.created_by,
        file=file["name"],
        file_bytes=file["bytes"],
        library=f"scikit-learn {side.report['versions']['scikit-learn']}",
        estimator=side.report["estimator"],
        artifact_bytes=side.report["canonical_bytes"],
        load_seconds=round(side.loaded.load_seconds, 6),
        single_seconds=single,
        bulk_seconds=bulk,
    )


# --- How they were made -----------------------------------------------------------------------------------


def _estimator(loaded: LoadedVersion) -> Any:  # noqa: ANN401 - an estimator of any kind
    return loaded.predictor._estimator  # noqa: SLF001 - of the same room; nothing outside of it may hold one


def _parameters(old: Any, new: Any) -> tuple[list[Parameter], int]:  # noqa: ANN401 - estimators of any kind
    """Give the parameters that differ, by path, and how many are the same."""
    before, after = _plain_parameters(old), _plain_parameters(new)
    paths = sorted(before.keys() | after.keys())
    changed = [
        Parameter(path, before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)
    ]
    return changed, len(paths) - len(changed)


def _plain_parameters(estimator: Any) -> dict[str, str]:  # noqa: ANN401 - an estimator of any kind
    """Give what can be read at a glance, by step path; of a step its kind."""
    try:
        given: dict[str, Any] = estimator.get_params(deep=True)
    except AttributeError:
        # Made by another release of the library, which had not all of them.
        given = {}
    every = {ITSELF: estimator, **{path.replace("__", "."): value for path, value in given.items()}}
    return {path: text for path, value in every.items() if (text := _shown(value)) is not None}


def _shown(value: object) -> str | None:
    if hasattr(value, "get_params"):
        return type(value).__name__
    plain = value.item() if isinstance(value, np.generic) else value
    parts: Sequence[object] = (plain,)
    if isinstance(plain, dict):
        parts = [*plain.keys(), *plain.values()]
    elif isinstance(plain, list | tuple):
        parts = plain
    readable = all(part is None or isinstance(part, bool | int | float | str) for part in parts)
    return (plain if isinstance(plain, str) else repr(plain)) if readable else None


def _metrics(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Metric]:
    """Give each number of either card, in the order of the newer."""
    before, after = dict(_numbers(old)), dict(_numbers(new))
    for name in after | before:
        first, second = before.get(name), after.get(name)
        change = None if first is None or second is None else second - first
        yield Metric(name, first, second, change)


def _numbers(card: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in card.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", value


# --- Rows that both are asked -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Said:
    """What a version said to one row: its answer, or why it gives none."""

    outcome: Outcome | None
    why_not: str | None = None


def _ask_both(
    old: LoadedVersion, new: LoadedVersion, instances: Sequence[Instance], until: float
) -> Iterator[tuple[_Said, _Said]]:
    for first in range(0, len(instances), PART):
        if first and time.monotonic() > until:
            return
        part = instances[first : first + PART]
        yield from zip(_ask(old, part, until), _ask(new, part, until), strict=True)


def _ask(loaded: LoadedVersion, instances: Sequence[Instance], until: float) -> list[_Said]:
    """Ask one version for all rows; those that its signature or its estimator refuses do not stop the others."""
    said: dict[int, _Said] = {}
    rows: dict[int, Row] = {}
    for at, instance in enumerate(instances):
        try:
            [rows[at]] = loaded.checker.rows([_taken(loaded, instance)], [""])
        except Invalid as refusal:
            problem = refusal.problems[0]
            said[at] = _Said(None, f"{problem.pointer.removeprefix('/')}: {problem.message}")
    while rows:
        try:
            outcomes = loaded.predictor.predict(list(rows.values()), [str(at) for at in rows])
        except Invalid as refusal:
            # None is named when it refuses them together and takes each alone: then it refuses them all.
            refused = [int(problem.pointer) for problem in refusal.problems] or list(rows)
            said |= {at: _Said(None, refusal.detail) for at in refused}
            rows = {at: row for at, row in rows.items() if at not in said}
            if time.monotonic() > until:
                # To find those that are refused takes many calls.
                said |= {at: _Said(None, "Not asked alone: the time was over.") for at in rows}
                break
        else:
            said |= {at: _Said(outcome) for at, outcome in zip(rows, outcomes, strict=True)}
            break
    return [said[at] for at in range(len(instances))]


def _taken(loaded: LoadedVersion, instance: Instance) -> Instance:
    """Give the part of an instance that a version has features for."""
    return {feature.name: instance[feature.name] for feature in loaded.signature.features if feature.name in instance}


def _speeds(
    versions: Sequence[LoadedVersion], instances: Sequence[Instance], until: float
) -> list[tuple[float, float] | None]:
    """Measure one row and all of them in one call, in turns; give each version's medians in seconds."""
    if not instances:
        return [None for _ in versions]
    measured: list[tuple[list[float], list[float]]] = [([], []) for _ in versions]
    for repeat in range(REPEATS):
        if repeat and time.monotonic() > until:
            break
        for loaded, (single, bulk) in zip(versions, measured, strict=True):
            taken = [_taken(loaded, instance) for instance in instances]
            single.append(_seconds(loaded, taken[:1]))
            bulk.append(_seconds(loaded, taken))
    return [(round(statistics.median(single), 6), round(statistics.median(bulk), 6)) for single, bulk in measured]


def _seconds(loaded: LoadedVersion, instances: Sequence[Instance]) -> float:
    pointers = [str(at) for at in range(len(instances))]
    started = time.perf_counter()
    # Not by `predict`, which may have kept the answers.
    loaded.predictor.predict(loaded.checker.rows(instances, pointers), pointers)
    return time.perf_counter() - started


# --- What they said ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answered:
    """A row that both answered."""

    row: int
    instance: Instance
    old: Outcome
    new: Outcome

    def change(self, outputs: Sequence[_Common]) -> float | None:
        """How far the two are apart, in the output where they are most."""
        return max((change for output in outputs if (change := output.change(self)) is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Common:
    """An output that both have."""

    name: str
    kind: str
    among_several: bool

    def _of(self, answer: Any) -> Any:  # noqa: ANN401 - an answer, or one for each output
        return answer[self.name] if self.among_several else answer

    def predictions(self, row: _Answered) -> tuple[Any, Any]:
        """Give what the two say."""
        return self._of(row.old.prediction), self._of(row.new.prediction)

    def same(self, row: _Answered) -> bool:
        """Whether the two say the same."""
        old, new = self.predictions(row)
        return bool(old == new)

    def change(self, row: _Answered) -> float | None:
        """How far the numbers are apart, or the probabilities of the class where they are most."""
        if self.kind == "number":
            old, new = self.predictions(row)
            return abs(float(new) - float(old))
        if row.old.probabilities is None or row.new.probabilities is None:
            return None
        before, after = self._of(row.old.probabilities), self._of(row.new.probabilities)
        # What a version has no class for, it never says.
        return float(max(abs(after.get(name, 0.0) - before.get(name, 0.0)) for name in before | after))

    def over(self, rows: Sequence[_Answered]) -> OutputChange:
        """Sum up all rows."""
        changes = [change for row in rows if (change := self.change(row)) is not None]
        largest, mean = (max(changes), statistics.fmean(changes)) if changes else (None, None)
        return OutputChange(self.name, self.kind, sum(map(self.same, rows)), largest, mean)


def _rows(asked: Sample, pairs: Sequence[tuple[_Said, _Said]], signatures: tuple[Signature, Signature]) -> Rows:
    answered, refused = [], []
    for row, (instance, (old, new)) in enumerate(zip(asked.instances, pairs, strict=False), start=1):
        if old.outcome and new.outcome:
            answered.append(_Answered(row, instance, old.outcome, new.outcome))
        elif old.outcome or new.outcome:
            refused.append(RefusedRow(row, instance, old.why_not, new.why_not))
    outputs = _common_outputs(signatures, answered)
    labels = [output for output in outputs if output.kind == "label"]
    flips = [row for row in answered if not all(output.same(row) for output in labels)]
    return Rows(
        reference_of=asked.reference_of,
        lacking=asked.lacking,
        given=len(asked.instances),
        asked=len(pairs),
        answered=len(answered),
        refused_by_old=sum(old.outcome is None for old, _ in pairs),
        refused_by_new=sum(new.outcome is None for _, new in pairs),
        refused=tuple(refused[:MOST_SHOWN]),
        outputs=tuple(output.over(answered) for output in outputs),
        flipped=len(flips),
        changed=tuple(
            ChangedRow(row.row, row.instance, row.old, row.new, row.change(outputs))
            for row in (flips or _most_changed(answered, outputs))[:MOST_SHOWN]
        ),
    )


def _common_outputs(signatures: tuple[Signature, Signature], answered: Sequence[_Answered]) -> list[_Common]:
    """Pair the outputs: by name where both have several, one with one; nothing where the forms differ."""
    old, new = signatures
    if old.multi_output != new.multi_output or not answered:
        return []
    before = {output.name for output in old.outputs}
    names = [output.name for output in new.outputs if output.name in before or not new.multi_output]
    if any(output.classes is not None for signature in signatures for output in signature.outputs):
        return [_Common(name, "label", new.multi_output) for name in names]
    return [_Common(name, _kind(name, answered, new.multi_output), new.multi_output) for name in names]


def _kind(name: str, answered: Sequence[_Answered], among_several: bool) -> str:  # noqa: FBT001 - of a signature
    """Tell numbers from the labels of what has no classes, such as clusters, which are whole."""
    as_number = _Common(name, "number", among_several)
    said = (answer for row in answered for answer in as_number.predictions(row))
    return "number" if all(isinstance(answer, float) for answer in said) else "label"


def _most_changed(answered: Sequence[_Answered], outputs: Sequence[_Common]) -> list[_Answered]:
    changed = [(change, row) for row in answered if (change := row.change(outputs))]
    return [row for _, row in sorted(changed, key=lambda pair: -pair[0])]
