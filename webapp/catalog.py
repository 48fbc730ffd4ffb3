"""What can be served right now: every model with its versions, as one immutable value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp.errors import Conflict, NotFound


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """One version as the registry describes it. `signature` is its JSON form; the seal stands for it in comparisons."""

    model: str
    number: int
    # What answers call it: the label where one was given, else the number.
    shown: str
    artifact: str
    seal: str
    signature: Mapping[str, Any] = field(compare=False)
    # The artifact that holds the golden rows; none for versions that were made before there were any.
    golden: str | None = None
    report_sha256: str | None = None
    # The artifact that holds the reference, where one came with the model.
    reference: str | None = field(default=None, compare=False)
    # No more when a plan was found to answer otherwise than scikit-learn.
    may_plan: bool = True


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model: all its versions by number, and the one that answers when none is asked for."""

    name: str
    active: int | None
    versions: Mapping[int, ServedVersion] = field(compare=False)
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """The state of one generation."""

    generation: int = 0
    models: Mapping[str, ServedModel] = field(default_factory=dict, compare=False)

    def resolve(self, model: str, number: int | None = None) -> ServedVersion:
        """Give the version that answers for `model`: the active one unless `number` names another."""
        if model not in self.models:
            raise NotFound("unknown_model", f"There is no model “{model}”.")
        entry = self.models[model]
        if number is None:
            number = entry.active
            if number is None:
                raise Conflict("no_active_model", f"“{model}” has no active version yet; activate one first.")
        if number not in entry.versions:
            raise NotFound("unknown_version", f"“{model}” has no version {number}.")
        return entry.versions[number]

    def active_versions(self) -> list[ServedVersion]:
        """Every version that answers for its model."""
        return [entry.versions[entry.active] for entry in self.models.values() if entry.active is not None]
