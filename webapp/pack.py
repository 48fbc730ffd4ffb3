"""Packs an estimator with its reference and expected outputs into one file, where it was trained.

This file is complete in itself: copy it to the machine of the training. It needs Python 3.9, scikit-learn 1.2 or newer,
and what comes with that, but nothing of Modelport.

    python pack.py model.joblib --reference train.csv --target outcome -o model.zip

or, in a notebook:

    from pack import pack
    pack(estimator, frame, "model.zip", target="outcome")

A model file can run anything when it is opened, and here it is opened: pack only what is your own.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import joblib
import numpy as np
import pandas as pd
import sklearn
from sklearn.base import is_classifier
from sklearn.pipeline import FeatureUnion, Pipeline

FORMAT = 1
ROWS = 200
# The outputs' columns: a feature may not have such a name.
OUTPUT = "expected"


class Refused(Exception):  # noqa: N818 - it names a fact, not a fault of the program
    """The estimator cannot be packed; the text says why, and what to do."""


def pack(
    estimator: Any,  # noqa: ANN401 - any estimator
    reference: Any,  # noqa: ANN401 - a DataFrame, a matrix, or texts
    out: str | Path,
    *,
    target: str | None = None,
    rows: int = ROWS,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `out`: the estimator, the reference without its target, and what the estimator gives for `rows` of it.

    Gives what stands in the file's `modelport.json`.
    """
    if not hasattr(estimator, "predict"):
        raise Refused(
            f"{type(estimator).__name__} has no predict; pack the estimator, or a Pipeline that ends with one."
        )
    inputs = _inputs(estimator, reference, target)
    expected = _expected(estimator, inputs, rows)
    contents = {
        "reference": ("reference.csv", _csv(inputs)),
        "expect": ("expect.csv", _csv(expected)),
    }
    if metadata is not None:
        contents["metadata"] = ("metadata.json", json.dumps(metadata, ensure_ascii=False, indent=2))
    about = {
        "format": FORMAT,
        "estimator": f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        "versions": _versions(),
        "files": {"model": "model.joblib", **{part: name for part, (name, _) in contents.items()}},
        "rows": {"reference": len(inputs), "expect": len(expected)},
    }
    _write(Path(out), estimator, {"modelport.json": json.dumps(about, indent=2), **dict(contents.values())})
    return about


def _versions() -> dict[str, str]:
    return {
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "joblib": joblib.__version__,
        "python": platform.python_version(),
    }


def _write(out: Path, estimator: Any, texts: Mapping[str, str]) -> None:  # noqa: ANN401 - any estimator
    part = out.with_name(f"{out.name}.part")
    with ZipFile(part, "w") as archive:
        for name, text in texts.items():
            archive.writestr(ZipInfo(name), text.encode(), ZIP_DEFLATED)
        with archive.open(ZipInfo("model.joblib"), "w", force_zip64=True) as file:
            joblib.dump(estimator, file, compress=3)
    part.replace(out)


def _csv(frame: pd.DataFrame) -> str:
    # Numbers are written so that they are read back to the bit. Texts are quoted: they may hold ends of lines.
    return frame.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")


# --- What goes in -----------------------------------------------------------------------------------------


def _inputs(estimator: Any, reference: Any, target: str | None) -> pd.DataFrame:  # noqa: ANN401
    """Give the reference as a frame that has the estimator's columns, and no others."""
    frame = _frame(reference)
    if target is not None:
        if target not in frame.columns:
            raise Refused(f"The reference has no column “{target}” to leave out; it has: {_some(frame.columns)}.")
        frame = frame.drop(columns=target)
    if frame.empty:
        raise Refused("The reference has no rows.")
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        frame = _named(frame, [str(name) for name in names])
    else:
        _check_width(estimator, frame)
    if taken := [name for name in frame.columns if name.replace(":", ".").split(".")[0] == OUTPUT]:
        raise Refused(f"A column is called {_some(taken)}, as those of the outputs are; train with another name.")
    # The same numbers, as they are predicted later: JSON knows no single precision.
    single = [name for name, kind in frame.dtypes.items() if kind in ("float16", "float32")]
    return frame.astype(dict.fromkeys(single, "float64"))


def _frame(reference: Any) -> pd.DataFrame:  # noqa: ANN401 - whatever people keep their data in
    if isinstance(reference, pd.DataFrame):
        return reference.rename(columns=str).reset_index(drop=True)
    if isinstance(reference, pd.Series):
        return pd.DataFrame({str(reference.name or "text"): list(reference)})
    if hasattr(reference, "toarray"):
        reference = reference.toarray()
    array = np.asarray(reference)
    if array.ndim == 1:
        return pd.DataFrame({"text": list(reference)})
    return pd.DataFrame(array, columns=[f"x{position}" for position in range(array.shape[1])])


def _named(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    if missing := [name for name in names if name not in frame.columns]:
        raise Refused(f"The reference has no column for: {_some(missing)}; it has: {_some(frame.columns)}.")
    return frame[names]


def _check_width(estimator: Any, frame: pd.DataFrame) -> None:  # noqa: ANN401
    width = 1 if takes_text(estimator) else getattr(estimator, "n_features_in_", frame.shape[1])
    if frame.shape[1] != width:
        detail = f"{width} {'column' if width == 1 else 'columns'}, the reference has {_some(frame.columns)}"
        raise Refused(f"The estimator takes {detail}. Name the target column, and leave out what is no feature.")


def _some(names: Sequence[str] | pd.Index[str]) -> str:
    listed = ", ".join(names[:10])
    return listed + (", …" if len(names) > 10 else "")  # noqa: PLR2004 - what fits a sentence


def takes_text(estimator: Any) -> bool:  # noqa: ANN401 - any estimator
    """Tell whether the part that sees the input first takes texts."""
    while isinstance(estimator, Pipeline):
        estimator = next(step for _, step in estimator.steps if step is not None and not isinstance(step, str))
    if isinstance(estimator, FeatureUnion):
        return any(takes_text(part) for _, part in estimator.transformer_list)
    return hasattr(estimator, "build_analyzer")


# --- What comes out ---------------------------------------------------------------------------------------


def _expected(estimator: Any, inputs: pd.DataFrame, rows: int) -> pd.DataFrame:  # noqa: ANN401
    """Give rows of the reference with what the estimator gives for them."""
    chosen = _spread(inputs, rows)
    try:
        outputs = _outputs(estimator, chosen)
    except Exception as error:
        chosen = _spread(inputs.dropna(), rows)
        if chosen.empty or not inputs.isna().to_numpy().any():
            raise Refused(f"The estimator cannot predict the reference: {error}") from error
        # It takes no missing values, then: the rows that are complete have to do.
        outputs = _retried(estimator, chosen)
    return pd.concat([chosen, outputs], axis=1)


def _retried(estimator: Any, chosen: pd.DataFrame) -> pd.DataFrame:  # noqa: ANN401
    try:
        return _outputs(estimator, chosen)
    except Exception as error:
        raise Refused(f"The estimator cannot predict the complete rows of the reference: {error}") from error


def _spread(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Give rows from all over the frame: those of one class often stand together."""
    positions = np.unique(np.linspace(0, max(len(frame) - 1, 0), min(rows, len(frame))).round().astype(int))
    return frame.iloc[positions].reset_index(drop=True)


def _asked(estimator: Any, rows: pd.DataFrame) -> Any:  # noqa: ANN401 - texts, frame or matrix
    if takes_text(estimator):
        return rows.iloc[:, 0].tolist()
    # A copy: a scaler with `copy=False` overwrites what it is given.
    return rows.copy() if hasattr(estimator, "feature_names_in_") else np.array(rows, order="C")


def _outputs(estimator: Any, rows: pd.DataFrame) -> pd.DataFrame:  # noqa: ANN401
    """Give one column per output, and one per class where there are probabilities."""
    predicted = np.asarray(estimator.predict(_asked(estimator, rows)))
    width = predicted.shape[1] if predicted.ndim > 1 else 1
    names = [OUTPUT] if width == 1 else [f"{OUTPUT}.y{position}" for position in range(width)]
    columns = dict(zip(names, predicted.reshape(len(rows), width).T.tolist()))  # noqa: B905 - Python 3.9 has no strict
    classes = _classes(estimator, width)
    if classes and hasattr(estimator, "predict_proba"):
        tables = _tables(estimator.predict_proba(_asked(estimator, rows)), width)
        for name, labels, table in zip(names, classes, tables):  # noqa: B905 - as above
            columns.update(zip((f"{name}:{label}" for label in labels), table.T.tolist()))  # noqa: B905 - as above
    found = pd.DataFrame(columns)
    numbers = found.select_dtypes("number").to_numpy()
    if not np.isfinite(numbers).all():
        raise Refused("The estimator gives something that is no finite number; such outputs are never served.")
    return found


def _classes(estimator: Any, width: int) -> list[list[Any]]:  # noqa: ANN401
    """Give the classes of each output; none for what is no classifier."""
    learned = getattr(estimator, "classes_", None)
    if learned is None or not is_classifier(estimator):
        return []
    if isinstance(learned, list):
        return [np.asarray(each).tolist() for each in learned]
    # Several outputs that share their classes are labels, each there or not.
    return [np.asarray(learned).tolist()] if width == 1 else [[0, 1]] * width


def _tables(given: Any, width: int) -> list[Any]:  # noqa: ANN401 - arrays
    """Give one table of probabilities for each output, in whichever of three forms they came."""
    if isinstance(given, list):
        return [np.asarray(table) for table in given] if width > 1 else []
    table = np.asarray(given)
    return [table] if width == 1 else [np.column_stack((1 - column, column)) for column in table.T]


# --- As a program -----------------------------------------------------------------------------------------


def _load(path: Path) -> Any:  # noqa: ANN401 - an estimator, if all is well
    """Open the model's file; refuse one that another scikit-learn wrote, whose outputs here prove nothing."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        try:
            estimator = joblib.load(path)
        except Exception as error:
            what = f"{path} cannot be opened here ({type(error).__name__}: {error})"
            raise Refused(f"{what}; run this with the Python and the libraries of the training.") from error
    for said in map(str, (warning.message for warning in noted)):
        if said.startswith("Trying to unpickle estimator"):
            raise Refused(f"Run this with the scikit-learn of the training. {said.partition('. ')[0]}.")
    return estimator


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read as a CSV with a header: {error}") from error


def _read_metadata(path: Path | None) -> dict[str, Any] | None:
    try:
        document = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read as JSON: {error}") from error
    if document is not None and not isinstance(document, dict):
        raise Refused(f"{path} must hold a JSON object.")
    return document


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the fitted estimator, as joblib or pickle wrote it; it is opened")
    parser.add_argument("--reference", type=Path, required=True, help="CSV with training data")
    parser.add_argument("--target", help="the reference's column that is the target")
    parser.add_argument("--rows", type=_positive, default=ROWS, help="rows that get expected outputs (%(default)s)")
    parser.add_argument("--metadata", type=Path, help="JSON with features, accuracy and the like")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write, such as model.zip")
    return parser.parse_args()


def main() -> int:
    """Pack a file. Gives the exit code: 0 done, 1 refused."""
    asked = _arguments()
    try:
        metadata = _read_metadata(asked.metadata)
        reference = _read(asked.reference)
        about = pack(_load(asked.file), reference, asked.out, target=asked.target, rows=asked.rows, metadata=metadata)
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    kind = about["estimator"].rpartition(".")[2]
    rows = f"{about['rows']['reference']} rows of reference, {about['rows']['expect']} with expected outputs"
    sys.stdout.write(f"{asked.out}: {kind} of scikit-learn {about['versions']['scikit-learn']}, {rows}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
