"""What the locked child process runs: the only code of the product that opens a pickle.

Two acts, each in a process of its own. `convert` reads an uploaded file and writes it as `.skops`; it has seen
bytes of a stranger, so its output is trusted no more than the upload. `prove` reads that `.skops` under the
server's table of names, normalises it, learns its signature, tries it, and writes the canonical file.
The parent passes open descriptors and a JSON job; the answer is one JSON document on stdout.
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import os
import resource
import sys
import time
import zlib
from collections.abc import Callable
from typing import IO, Any, NoReturn

from webapp.errors import Invalid, Refusal

GIB = 1024**3
MEMORY_BYTES = 6 * GIB
CPU_SECONDS = 300
WRITTEN_BYTES = 4 * GIB
OPEN_FILES = 256
UNPACKED_BYTES = 2 * GIB
CHUNK_BYTES = 1024 * 1024


def refused(code: str, detail: str, *findings: dict[str, str]) -> Invalid:
    """Make the refusal of a file; one finding for each name that may not stand in a model file."""
    return Invalid(code, detail, more={"findings": list(findings)})


def lock() -> None:
    """Limit what this process can use; the limits cannot be raised again."""
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, WRITTEN_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    os.nice(10)


# --- convert ----------------------------------------------------------------------------------------------

# A decompressor for each kind that joblib writes. Not joblib's own: its zlib reader never ends on a file that
# has bytes behind the compressed data.
DECOMPRESSORS: dict[bytes, tuple[str, Callable[[], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(wbits=31)),
    b"BZh": ("bz2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMADecompressor),
    b"\x5d\x00\x00": ("lzma", lzma.LZMADecompressor),
    b"x": ("zlib", lambda: zlib.decompressobj(wbits=15)),
}


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """Give the pickle stream of a file, whatever it is compressed with; told by its first bytes, not its name."""
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"ZF"):
        raise refused("model_format_too_old", "Written by a joblib from before 2016; dump it again with a present one.")
    if head[:1] == b"\x80":
        return file
    known = next((known for magic, known in DECOMPRESSORS.items() if head.startswith(magic)), None)
    if known is None:
        raise refused("model_format_unknown", "This is no .skops, .joblib or .pkl file (pickle protocol 2 or newer).")
    kind, make = known
    try:
        return _decompressed(file, make())
    except (OSError, EOFError, lzma.LZMAError, zlib.error):
        raise refused("model_truncated", f"The {kind} compression of the file is cut off or damaged.") from None


def _decompressed(file: IO[bytes], decompressor: Any) -> IO[bytes]:  # noqa: ANN401 - three kinds, alike in use
    whole = io.BytesIO()
    while not decompressor.eof:
        waiting = getattr(decompressor, "unconsumed_tail", b"")
        chunk = waiting or (file.read(CHUNK_BYTES) if getattr(decompressor, "needs_input", True) else b"")
        if not chunk and getattr(decompressor, "needs_input", True):
            raise EOFError
        whole.write(decompressor.decompress(chunk, CHUNK_BYTES))
        if whole.tell() > UNPACKED_BYTES:
            raise refused("model_unpacks_too_large", f"The file unpacks to more than {UNPACKED_BYTES // GIB} GiB.")
    if decompressor.unused_data or file.read(1):
        raise refused("model_damaged", "There are bytes behind the end of the compressed model.")
    whole.seek(0)
    return whole


def unpickle(stream: IO[bytes]) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a pickle in which only names of the server's own table may stand."""
    from joblib.numpy_pickle import NumpyUnpickler  # noqa: PLC0415 - after the lock

    from webapp import names  # noqa: PLC0415 - after the lock

    class ExactNames(NumpyUnpickler):  # type: ignore[misc] # joblib has no types
        def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or function
            full = f"{module}.{name}"
            if name in {"NDArrayWrapper", "ZNDArrayWrapper"}:
                raise refused("model_format_too_old", "Written by a joblib from before 2016; dump it again.")
            if full not in names.PICKLE:
                raise _unknown_names([full])
            return super().find_class(module, name)

        def persistent_load(self, _pid: object) -> NoReturn:
            raise refused("model_unknown_names", "The file refers to objects outside itself.")

    try:
        return ExactNames("", stream, ensure_native_byte_order=True).load()
    except Invalid:
        raise
    except (EOFError, IndexError):
        raise refused("model_truncated", "The file ends before the model does.") from None
    except Exception as error:
        detail = f"The file cannot be read as a model ({type(error).__name__})."
        raise refused("model_truncated" if "truncated" in str(error) else "model_damaged", detail) from error


def _unknown_names(unknown: list[str]) -> Invalid:
    findings = [{"name": name, "meaning": _meaning(name)} for name in unknown]
    listed = ", ".join(unknown[:5])
    code = "model_custom_code" if all(name.startswith("__main__.") for name in unknown) else "model_unknown_names"
    return refused(code, f"The file names what a model file may not: {listed}. Nothing in it was run.", *findings)


def _meaning(name: str) -> str:
    module = name.partition(".")[0]
    if module == "__main__":
        return "A function or class of your own; it is not stored in the file. Use parts of scikit-learn instead."
    if module in {"os", "posix", "nt", "subprocess", "builtins", "sys", "socket", "shutil", "runpy", "pty"}:
        return "Runs commands or code when the file is opened. No scikit-learn model needs it."
    if module == "pandas":
        return "Data, not a model: training data goes in as a CSV reference."
    if module in {"xgboost", "lightgbm", "catboost", "torch", "tensorflow", "keras"}:
        return f"Belongs to {module}; only scikit-learn estimators are served."
    return "Not among the names that scikit-learn estimators need."


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Read the model, and the scaler that goes before it, and write one estimator as `.skops`."""
    import skops.io  # noqa: PLC0415 - after the lock
    from sklearn.pipeline import Pipeline  # noqa: PLC0415

    parts = {}
    for part in ("scaler", "model"):
        if part in job["files"]:
            with os.fdopen(job["files"][part], "rb") as file:
                parts[part] = _part(file)
    estimator = parts["model"] if len(parts) == 1 else Pipeline(list(parts.items()))
    try:
        content = skops.io.dumps(estimator)
    except Exception as error:
        detail = f"The estimator cannot be written in the canonical form ({type(error).__name__})."
        raise refused("model_estimator_unsupported", detail) from error
    _write(job["out"], content)
    return {}


def _part(file: IO[bytes]) -> Any:  # noqa: ANN401 - an estimator, if all is well
    head = file.read(2)
    file.seek(0)
    return load_skops(file.read()) if head == b"PK" else unpickle(unpacked(file))


def _write(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


# --- prove ------------------------------------------------------------------------------------------------


def load_skops(content: bytes) -> Any:  # noqa: ANN401 - an estimator, if all is well
    """Load a `.skops` file in which only names of the server's own table may stand."""
    import skops.io  # noqa: PLC0415 - after the lock

    from webapp import artifacts, names  # noqa: PLC0415 - after the lock

    try:
        unknown = sorted(set(skops.io.get_untrusted_types(data=content)) - names.SKOPS)
        estimator = None if unknown else artifacts.load(content)
    except Exception as error:
        detail = f"The file cannot be read as a .skops model ({type(error).__name__})."
        raise refused("model_damaged", detail) from error
    if unknown:
        raise _unknown_names(unknown)
    return estimator


def prove(job: dict[str, Any]) -> dict[str, Any]:
    """Load the `.skops` file, learn its signature, try it, and write the canonical file."""
    import numpy  # noqa: PLC0415, ICN001 - after the lock; only its version is asked for
    import sklearn  # noqa: PLC0415
    import skops.io  # noqa: PLC0415

    from webapp.intake import trial  # noqa: PLC0415 - after the lock

    started = time.perf_counter()
    with os.fdopen(job["files"]["model"], "rb") as file:
        estimator = load_skops(file.read())
    reference = None
    if "reference" in job["files"]:
        with os.fdopen(job["files"]["reference"], "rb") as file:
            reference = trial.read_reference(file, job["target"])
    loaded_seconds = time.perf_counter() - started
    changed = trial.normalise(estimator)
    found = trial.run(estimator, reference, job["declared"])
    _write(job["out"], skops.io.dumps(estimator))
    versions = {"scikit-learn": sklearn.__version__, "numpy": numpy.__version__, "python": sys.version.split()[0]}
    return {
        **found,
        "estimator": trial.outline(estimator),
        "load_seconds": round(loaded_seconds, 6),
        "reference_rows": None if reference is None else len(reference),
        "normalised": changed,
        "versions": versions,
    }


def main() -> None:
    """Do the act named on the command line, and answer on stdout."""
    lock()
    act, job = sys.argv[1], json.load(sys.stdin)
    answer: dict[str, Any]
    # Whatever is printed while a model is read must not look like the answer.
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        answer = {"done": {"convert": convert, "prove": prove}[act](job)}
    except Refusal as refusal:
        answer = {"refused": {"code": refusal.code, "detail": refusal.detail, "findings": [], **refusal.more}}
    except MemoryError:
        answer = {
            "refused": {"code": "model_trial_memory", "detail": "The model needs too much memory.", "findings": []}
        }
    stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
