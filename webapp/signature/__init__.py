"""What a version takes and gives: its features with their rules, and its outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["number", "integer", "boolean", "string"]
Container = Literal["frame", "array", "text"]
Value = float | bool | str | None
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """One input. Rules are enforced, what was `observed` in the reference only leads to warnings."""

    name: str
    kind: Kind = "number"
    nullable: bool = False
    # What null becomes: encoders tell a missing None from a missing NaN.
    missing: Literal["nan", "none"] = "nan"
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[Value, ...] | None = None
    default: Value = None
    description: str = ""
    # Shown instead of the standard sentence when a rule is violated.
    message: str = ""
    # What the log keeps of it, and whether it says whom an instance is about. None: nobody has said; all is kept.
    log: Literal["store", "hash", "drop"] | None = None
    subject: bool = False
    observed_minimum: float | None = None
    observed_maximum: float | None = None
    observed_values: tuple[Value, ...] | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One output; `classes` in the estimator's order for a classifier, else None."""

    name: str
    classes: tuple[Value, ...] | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Features in the estimator's order, the container it was fitted with, and its outputs."""

    features: tuple[Feature, ...]
    container: Container
    task: str
    outputs: tuple[Output, ...]
    # How `predict_proba` answers: one table, one table per output, or (multi-label) one column per output.
    probabilities: Literal["none", "table", "tables", "columns"] = "none"
    # Names of the outputs are part of the answer only where there are several.
    multi_output: bool = field(default=False)
    # Whether the caller's own id says whom an instance is about.
    id_is_subject: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Give the JSON form, which `from_dict` reads back."""
        return asdict(self)


def describe(signature: Signature) -> list[str]:
    """Give one line per feature and output, for people."""
    lines = [f"  {feature.name}: {', '.join(_facts(feature))}" for feature in signature.features]
    for output in signature.outputs:
        given = "a number" if output.classes is None else f"one of {', '.join(map(str, output.classes))}"
        lines.append(f"  -> {output.name}: {given}")
    return lines


def _facts(feature: Feature) -> list[str]:
    facts: list[str] = [feature.kind]
    if feature.minimum is not None or feature.maximum is not None:
        facts.append(f"from {_or_any(feature.minimum)} to {_or_any(feature.maximum)}")
    if feature.allowed is not None:
        facts.append(f"one of {', '.join(map(str, feature.allowed))}")
    if feature.observed_minimum is not None:
        facts.append(f"seen from {feature.observed_minimum:g} to {feature.observed_maximum:g}")
    if feature.nullable:
        facts.append("may be null")
    return facts


def _or_any(bound: float | None) -> str:
    return "any" if bound is None else f"{bound:g}"


def _tuple(values: list[Value] | None) -> tuple[Value, ...] | None:
    return None if values is None else tuple(values)


def from_dict(document: dict[str, Any]) -> Signature:
    """Read the form that `Signature.as_dict` gives."""
    features = [
        Feature(**{**item, "allowed": _tuple(item["allowed"]), "observed_values": _tuple(item["observed_values"])})
        for item in document["features"]
    ]
    outputs = [Output(item["name"], _tuple(item["classes"])) for item in document["outputs"]]
    return Signature(**{**document, "features": tuple(features), "outputs": tuple(outputs)})
