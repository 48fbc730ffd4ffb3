"""What happens with a file that another scikit-learn version wrote: said before it is opened, and in every message."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import sklearn

from webapp.errors import Invalid

MISMATCH = "model_version_mismatch"
# Where scikit-learn's names come and go. Its compiled losses called their module so for some years.
MOVED = ("sklearn.", "_loss.", "numpy.random.")
# Refusals that a file of the installed version would hardly have met.
BLAMED = {"model_damaged", "model_estimator_unsupported", "model_structure_invalid", "model_trial_failed"}
WAY_OUT = "Train it again with {ours}, or serve it by an image with that version (--build-arg SKLEARN={minor})."
PROOF = (
    " Or bring what it must answer from where it was trained: `modelport pack`, or --expect with a CSV of rows and"
    " outputs."
)


def installed() -> dict[str, str]:
    """Give the versions of what the estimator is computed with."""
    return {"scikit-learn": sklearn.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}


def minor_of(version: str) -> str:
    """Give `1.5` of `1.5.2`."""
    return ".".join(version.split(".")[:2])


def is_other_minor(library: str | None) -> bool:
    """Whether a file's version is of another minor version than the installed one; within one, files are alike."""
    return library is not None and minor_of(library) != minor_of(sklearn.__version__)


def other_minor(libraries: Sequence[str | None]) -> str | None:
    """Give the first that is of another minor version."""
    return next((library for library in libraries if is_other_minor(library)), None)


def check(library: str | None) -> None:
    """Refuse a file of another minor version that comes without expected outputs."""
    if is_other_minor(library):
        refusal = _mismatch(library, "Its answers may differ here, and nothing was given to compare them with.")
        raise Invalid(refusal.code, refusal.detail + PROOF, more=refusal.more)


@contextmanager
def blamed(library: str | None) -> Iterator[None]:
    """Say of a failure that the file is of another version, where it is."""
    if not is_other_minor(library):
        yield
        return
    try:
        yield
    except Invalid as invalid:
        if invalid.code not in BLAMED:
            raise
        raise _mismatch(library, invalid.detail, invalid.more.get("findings", [])) from invalid
    except MemoryError:
        raise
    except Exception as error:
        raise _mismatch(library, f"It cannot be opened here ({type(error).__name__}).") from error


def explained(refusal: Invalid) -> Invalid:
    """Give the refusal of names, or of what it is that they are gone from scikit-learn since the file was made."""
    library, findings = refusal.more.get("library"), refusal.more.get("findings", [])
    names = [str(finding["name"]) for finding in findings] if isinstance(findings, list) else []
    ours = refusal.code == "model_unknown_names" and all(name.startswith(MOVED) for name in names)
    if not ours or not isinstance(library, str) or not is_other_minor(library):
        return refusal
    return _mismatch(library, f"It holds what this version does not have: {', '.join(names[:5])}.", findings)


def _mismatch(library: str | None, detail: str, findings: Any = ()) -> Invalid:  # noqa: ANN401 - as they came
    ours, theirs = sklearn.__version__, library or ""
    trained = f"The file was made with scikit-learn {theirs}; this server runs {ours}."
    way_out = WAY_OUT.format(ours=ours, minor=minor_of(theirs))
    return Invalid(MISMATCH, f"{trained} {detail} {way_out}", more={"findings": list(findings)})
