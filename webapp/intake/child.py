"""What the locked child process runs: the only code of the product that opens a pickle.

Two acts, each in a process of its own. `convert` reads an uploaded file and writes it as `.skops`; it has seen
bytes of a stranger, so its output is trusted no more than the upload. `prove` reads that `.skops` under the
server's table of names, checks and normalises it, learns its signature, tries it, and writes the canonical file.
The parent passes open descriptors and a JSON job; the answer is one JSON document per line on stdout: which stage
begins, and at the end what was found or why it is refused.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import skops.io
from joblib.numpy_pickle import NumpyUnpickler
from sklearn.pipeline import Pipeline

from webapp import artifacts, lock, names
from webapp.errors import Invalid, Refusal
from webapp.intake import formats, reading, skops_reading, trial, versions, warm
from webapp.intake.formats import Parcel
from webapp.intake.reading import refused

Tell = Callable[[dict[str, Any]], None]


def _content(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _write(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


# --- Loading ----------------------------------------------------------------------------------------------


class ExactNames(NumpyUnpickler):  # type: ignore[misc] # joblib has no types
    """joblib's unpickler, for the names of the server's own table alone."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or function
        """Give what a name stands for."""
        if f"{module}.{name}" not in names.PICKLE:
            raise refused("model_unknown_names", f"The file names what a model file may not: {module}.{name}.")
        return super().find_class(module, name)


def unpickle(content: bytes | memoryview) -> Any:  # noqa: ANN401 - whatever the file holds
    """Open a pickle that was read before; here, too, only names of the server's own table are found."""
    try:
        return ExactNames("", io.BytesIO(content), ensure_native_byte_order=True).load()
    except (Invalid, MemoryError):
        raise
    except Exception as error:
        detail = f"The file cannot be opened as a model ({type(error).__name__})."
        raise refused("model_damaged", detail) from error


def load_skops(content: bytes) -> Any:  # noqa: ANN401 - an estimator, if all is well
    """Load a `.skops` file that was read before, under the server's table of names."""
    try:
        return artifacts.load(content)
    except (Invalid, MemoryError):
        raise
    except Exception as error:
        detail = f"The file cannot be loaded as a .skops model ({type(error).__name__})."
        raise refused("model_damaged", detail) from error


def _dumped(estimator: Any) -> bytes:  # noqa: ANN401 - an estimator, if all is well
    """Write an estimator in the canonical form."""
    try:
        content: bytes = skops.io.dumps(estimator)
    except MemoryError:
        raise
    except Exception as error:
        detail = f"The estimator cannot be written in the canonical form ({type(error).__name__})."
        raise refused("model_estimator_unsupported", detail) from error
    return content


# --- convert ----------------------------------------------------------------------------------------------


def convert(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Read the model, and the scaler that goes before it, and write one estimator as `.skops`."""
    tell({"stage": "reading"})
    parts = [name for name in ("scaler", "model") if name in job["inputs"]]
    parcels = {name: formats.unpack(_content(job["inputs"][name])) for name in parts}
    try:
        read = [_read(parcel, pickles=job["pickles"]) for parcel in parcels.values()]
    except Invalid as invalid:
        raise versions.explained(invalid) from None
    model = parcels["model"]
    library = versions.other_minor([facts["library"] for facts in read]) or read[-1]["library"]
    if not job["expects"] and not model.expect:
        versions.check(library)
    tell({"stage": "converting"})
    with versions.blamed(library):
        loaded = {name: _loaded(parcel) for name, parcel in parcels.items()}
        estimator = loaded["model"] if len(loaded) == 1 else Pipeline(list(loaded.items()))
        content = _dumped(estimator)
    _write(job["outputs"]["estimator"], content)
    _write(job["outputs"]["reference"], model.reference)
    _write(job["outputs"]["expect"], model.expect)
    return {
        "format": model.form,
        "library": library,
        "other_minor": versions.is_other_minor(library),
        "names": sum(facts["names"] for facts in read),
        "objects": sum(facts["objects"] for facts in read),
        "card": model.card,
        "example": model.example,
    }


def _read(parcel: Parcel, *, pickles: bool) -> dict[str, Any]:
    """Look at everything in a file without running any of it; raise `Invalid` with all findings."""
    if parcel.is_pickle and not pickles:
        detail = (
            "Over HTTP only .skops files are taken here: the server's kernel lacks a wall of the lock behind which"
            " pickles are opened. Save it by skops.io.dump, or upload it on the server by `modelport models upload`."
        )
        raise refused("pickles_not_taken", detail)
    if parcel.is_pickle:
        found = reading.read(parcel.content, names.PICKLE)
        return {"names": len(found.names), "objects": found.objects, "library": found.library or parcel.library}
    seen = skops_reading.read(bytes(parcel.content), names.SKOPS_NODES)
    return {"names": len(seen.names), "objects": seen.objects, "library": seen.library or parcel.library}


def _loaded(parcel: Parcel) -> Any:  # noqa: ANN401 - an estimator, if all is well
    return unpickle(parcel.content) if parcel.is_pickle else load_skops(bytes(parcel.content))


# --- prove ------------------------------------------------------------------------------------------------


def prove(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Load the `.skops` file, check it, learn its signature, try it, and write the canonical file and the proof."""
    tell({"stage": "checking"})
    inputs = {name: _content(descriptor) for name, descriptor in job["inputs"].items()}
    with versions.blamed(job["library"]):
        # The other child wrote it, and that one has seen hostile bytes.
        skops_reading.read(inputs["estimator"], names.SKOPS_NODES)
        loaded = trial.load(inputs["estimator"], load_skops)
        material = trial.material(inputs.get("reference"), inputs.get("expect"), job)
        tell({"stage": "trying"})
        proven = trial.run(loaded.estimator, material)
    _write(job["outputs"]["canonical"], _dumped(loaded.estimator))
    _write(job["outputs"]["proof"], json.dumps(proven.proof).encode())
    return {**loaded.report, **proven.report, "versions": versions.installed()}


def main() -> None:
    """Lock the process, do the act named on the command line, and answer on stdout."""
    act, job = sys.argv[1], json.load(sys.stdin)
    # Whatever is printed while a model is opened must not look like the answer.
    stdout, sys.stdout = sys.stdout, sys.stderr

    def tell(document: dict[str, Any]) -> None:
        stdout.write(json.dumps(document) + "\n")
        stdout.flush()

    if job["idle"]:
        lock.step_back()
    # Everything is imported before: behind the lock no file can be opened any more.
    warm.up()
    lock.close(lock.Limits())
    try:
        tell({"done": {"convert": convert, "prove": prove}[act](job, tell)})
    except Refusal as refusal:
        more = {"findings": [], **refusal.more}
        tell({"refused": {"code": refusal.code, "detail": refusal.detail, "findings": more["findings"]}})
    except MemoryError:
        detail = "The model needs too much memory."
        tell({"refused": {"code": "model_trial_memory", "detail": detail, "findings": []}})


if __name__ == "__main__":
    main()
