"""The inspection report in words: each check with its finding, and what to do where something is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.signature import Signature

# The notes of `signature.learn`, in words.
NO_REFERENCE = (
    "No reference was given, so nothing is known of usual values.",
    "Upload again with a CSV of training data: answers then warn of values that were never seen.",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `tone` is ok or warn, since what fails is not stored."""

    tone: str
    name: str
    finding: str
    remedy: str = ""


def checks(report: Mapping[str, Any], signature: Signature) -> list[Check]:
    """Give every check, those that want a look first."""
    return sorted(_checks(report, signature), key=lambda check: check.tone != "warn")


def _checks(report: Mapping[str, Any], signature: Signature) -> Iterator[Check]:
    file, trial, versions = report["file"], report["trial"], report["versions"]
    yield Check("ok", "File", f"{file['name']}, {file['bytes']:,} bytes. Read without running anything in it.")
    rewritten = f"{report['estimator']}, {report['canonical_bytes']:,} bytes as skops."
    if report["normalised"]:
        rewritten += f" Set to what is served: {', '.join(report['normalised'])}."
    yield Check("ok", "Rewritten", rewritten)
    loaded = _milliseconds(report["load_seconds"])
    yield Check("ok", "Loads", f"In {loaded}, with scikit-learn {versions['scikit-learn']}.")
    count = len(signature.features)
    if report["reference_rows"] is None:
        yield Check("warn", "Signature", f"{_features(count)}. {NO_REFERENCE[0]}", NO_REFERENCE[1])
    else:
        yield Check("ok", "Signature", f"{_features(count)}, ranges from {report['reference_rows']:,} reference rows.")
    if taken := report.get("rules_from"):
        listed = ", ".join(taken["features"])
        yield Check("ok", "Rules", f"Taken over from v{taken['version']}: {listed}. Edit the signature to change them.")
    rows = f"{trial['rows']:,} {'row' if trial['rows'] == 1 else 'rows'}"
    if trial["deterministic"]:
        yield Check("ok", "Predicts", f"{rows}, twice: identical.")
    else:
        remedy = "The same request can get different answers; set random_state if that is not meant."
        yield Check("warn", "Predicts", f"{rows}, twice: not identical.", remedy)
    single, bulk = _milliseconds(trial["single_seconds"]), _milliseconds(trial["bulk_seconds"])
    yield Check("ok", "Speed", f"One row in {single}, {rows} in one call in {bulk}.")


def _milliseconds(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:.2g} ms" if value < 10 else f"{value:,.0f} ms"  # noqa: PLR2004 - two digits either way


def _features(count: int) -> str:
    return "1 feature" if count == 1 else f"{count:,} features"
