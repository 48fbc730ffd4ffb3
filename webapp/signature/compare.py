"""Compares two signatures: what a caller of the old one meets under the new one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from webapp.signature import Feature, Signature


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs; `breaking` when a request that worked can be refused."""

    feature: str
    word: str
    sentence: str
    breaking: bool


def differences(old: Signature, new: Signature) -> list[Difference]:
    """Give what differs, in the new signature's order; what is gone comes last."""
    before = {feature.name: feature for feature in old.features}
    after = {feature.name for feature in new.features}
    found: list[Difference] = []
    for feature in new.features:
        found += _new(feature) if feature.name not in before else _changed(before[feature.name], feature)
    gone = (name for name in before if name not in after)
    return found + [
        Difference(name, "Gone", "no longer taken: requests that send it are refused", breaking=True) for name in gone
    ]


def _new(feature: Feature) -> list[Difference]:
    if feature.default is not None:
        return [Difference(feature.name, "New", "new, with a default", breaking=False)]
    return [Difference(feature.name, "New", "new and required", breaking=True)]


def _changed(old: Feature, new: Feature) -> Iterator[Difference]:
    if old.kind != new.kind:
        wider = (old.kind, new.kind) == ("integer", "number")
        yield Difference(new.name, "Type", f"{old.kind} before, {new.kind} now", breaking=not wider)
    if old.nullable != new.nullable:
        sentence = "may be missing now" if new.nullable else "may no longer be missing"
        yield Difference(new.name, "Missing", sentence, breaking=old.nullable)
    if (old.minimum, old.maximum) != (new.minimum, new.maximum):
        sentence = f"was {_bounds(old)}, is {_bounds(new)}"
        yield Difference(new.name, "Bounds", sentence, breaking=_is_tighter(old, new))
    if old.allowed != new.allowed and set(old.allowed or ()) != set(new.allowed or ()):
        narrower = new.allowed is not None and (old.allowed is None or not set(old.allowed) <= set(new.allowed))
        yield Difference(new.name, "Values", "other allowed values", breaking=narrower)
    if _is_known(old) and not _is_known(new):
        yield Difference(new.name, "Range", "usual values are no longer known: no warnings", breaking=False)
    if (old.log or "store") != (new.log or "store"):
        ways = {"store": "kept", "hash": "hashed", "drop": "not kept"}
        sentence = f"in the log it was {ways[old.log or 'store']}, it is {ways[new.log or 'store']}"
        yield Difference(new.name, "Log", sentence, breaking=False)
    if old.default is not None and new.default is None:
        yield Difference(new.name, "Default", "has no default any more", breaking=True)


def _bounds(feature: Feature) -> str:
    low, high = feature.minimum, feature.maximum
    if low is not None and high is not None:
        return f"{low:,.10g} to {high:,.10g}"
    if low is not None:
        return f"at least {low:,.10g}"
    return "without bounds" if high is None else f"at most {high:,.10g}"


def _is_known(feature: Feature) -> bool:
    return feature.observed_minimum is not None or feature.observed_values is not None


def _is_tighter(old: Feature, new: Feature) -> bool:
    low = new.minimum is not None and (old.minimum is None or new.minimum > old.minimum)
    high = new.maximum is not None and (old.maximum is None or new.maximum < old.maximum)
    return low or high
