"""The inspection report in words: each check with its finding, and what to do where something is missing or failed."""

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
MIB = 1024 * 1024

# What to do when a file is refused, by the refusal's code.
REMEDIES = {
    "expect_unreadable": "Correct the CSV of expected outputs, or let `modelport pack` make it.",
    "metadata_features_differ": "Correct the metadata, or leave the features out: they are learned.",
    "model_custom_code": "Use scikit-learn's own parts in the pipeline, and do the rest before the request.",
    "model_damaged": "Save the estimator again by joblib.dump or skops.io.dump, and upload that file as it is.",
    "model_duplicate": "Activate the version that is there, or upload other files.",
    "model_estimator_unsupported": "Choose an estimator of the table in the documentation (docs/estimators.md).",
    "model_format_too_old": "Load it with the joblib it was saved with, and save it with a present one.",
    "model_format_unknown": "Save the estimator by joblib.dump or skops.io.dump, and upload that file as it is.",
    "model_no_predict": "Upload the estimator, or a Pipeline that ends with one.",
    "model_not_fitted": "Call fit before saving.",
    "model_option_refused": "Set the option to what it is by default, or do that step before the request.",
    "model_structure_invalid": "Save the estimator again where it was trained; this file is damaged or tampered with.",
    "model_trial_failed": "Try estimator.predict on a row of the reference where it was trained.",
    "model_trial_memory": "Train a smaller model: fewer trees, fewer leaves, or a smaller vocabulary.",
    "model_truncated": "Copy or upload the file again: its end is missing.",
    "model_unknown_names": "Upload an estimator of scikit-learn's parts alone. If the file is not yours, delete it.",
    "model_unpacks_too_large": "Save it without compression, or train a smaller model.",
    "model_version_mismatch": "Train it again, bring expected outputs, or serve it by another image: docs/versions.md.",
    "reference_columns_missing": "Give a reference with the columns that the estimator was trained with.",
    "reference_unreadable": "Save the reference as CSV with a header, in UTF-8.",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `tone` is ok, warn, or bad where it ended the inspection."""

    tone: str
    name: str
    finding: str
    remedy: str = ""


def remedy(code: str) -> str:
    """Give what to do about a refusal."""
    return REMEDIES.get(code, "")


def checks(report: Mapping[str, Any], signature: Signature) -> list[Check]:
    """Give every check, those that want a look first."""
    return sorted(_checks(report, signature), key=lambda check: check.tone != "warn")


def _checks(report: Mapping[str, Any], signature: Signature) -> Iterator[Check]:
    yield from _of_file(report)
    yield from _of_signature(report, signature)
    yield from _of_trial(report)


def _of_file(report: Mapping[str, Any]) -> Iterator[Check]:
    file, versions, read = report["file"], report["versions"], report.get("read", {})
    form = f" {file['format'].capitalize()}:" if "format" in file else ""
    looked = f" {read['names']:,} names and {read['objects']:,} objects, all known." if read else ""
    yield Check("ok", "File", f"{file['name']}, {file['bytes']:,} bytes.{form} read without running anything.{looked}")
    if read:
        yield _library(read["library"], versions["scikit-learn"], report.get("expected_rows"))
    rewritten = f"{report['estimator']}, {report['canonical_bytes']:,} bytes as skops."
    if report["normalised"]:
        rewritten += f" Set to what is served: {', '.join(report['normalised'])}."
    yield Check("ok", "Rewritten", rewritten)
    memory = f", {_mebibytes(report['memory_bytes'])} of memory" if "memory_bytes" in report else ""
    loaded = _milliseconds(report["load_seconds"])
    yield Check("ok", "Loads", f"In {loaded}{memory}, with scikit-learn {versions['scikit-learn']}.")
    if structures := report.get("structures"):
        yield Check("ok", "Structure", f"What compiled code will trust is sound: {', '.join(structures)}.")


def _library(theirs: str | None, ours: str, expected_rows: int | None) -> Check:
    if theirs is None:
        unknown = "The file does not say which scikit-learn wrote it."
        return Check("warn", "Version", unknown, "Compare some answers with those of the training side.")
    if theirs.split(".")[:2] == ours.split(".")[:2]:
        return Check("ok", "Version", f"Made with scikit-learn {theirs}, served by {ours}.")
    finding = f"Made with scikit-learn {theirs}, served by {ours}; all {expected_rows or 0} expected outputs are met."
    return Check("warn", "Version", finding, "Whoever activates it has to confirm that. Train it again when you can.")


def _of_signature(report: Mapping[str, Any], signature: Signature) -> Iterator[Check]:
    count = len(signature.features)
    if report["reference_rows"] is None:
        yield Check("warn", "Signature", f"{_features(count)}. {NO_REFERENCE[0]}", NO_REFERENCE[1])
    else:
        yield Check("ok", "Signature", f"{_features(count)}, ranges from {report['reference_rows']:,} reference rows.")
    if taken := report.get("rules_from"):
        listed = ", ".join(taken["features"])
        yield Check("ok", "Rules", f"Taken over from v{taken['version']}: {listed}. Edit the signature to change them.")


def _of_trial(report: Mapping[str, Any]) -> Iterator[Check]:
    trial = report["trial"]
    rows = _counted(trial["rows"], "row")
    if trial["deterministic"]:
        yield Check("ok", "Predicts", f"{rows}, twice: identical.")
    else:
        random = "The same request can get different answers; set random_state if that is not meant."
        yield Check("warn", "Predicts", f"{rows}, twice: not identical.", random)
    if report.get("golden_rows"):
        golden = f"{_counted(report['golden_rows'], 'row')} with outputs, checked again whenever a worker loads it."
        yield Check("ok", "Golden rows", golden)
    elif "golden_rows" in report:
        yield Check("warn", "Golden rows", "None: its answers differ from call to call, so no load can be checked.")
    if report.get("expected_rows"):
        met = f"{_counted(report['expected_rows'], 'row')} from the training side: all outputs are met."
        yield Check("ok", "Expected outputs", met)
    single, bulk = _milliseconds(trial["single_seconds"]), _milliseconds(trial["bulk_seconds"])
    yield Check("ok", "Speed", f"One row in {single}, {rows} in one call in {bulk}.")


def _milliseconds(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:.2g} ms" if value < 10 else f"{value:,.0f} ms"  # noqa: PLR2004 - two digits either way


def _mebibytes(count: int) -> str:
    return f"{count / MIB:,.0f} MiB" if count >= MIB else "less than 1 MiB"


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def _features(count: int) -> str:
    return _counted(count, "feature")
