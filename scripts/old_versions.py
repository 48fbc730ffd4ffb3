"""Makes and measures model files of other scikit-learn versions, and the requirements of images that serve those.

    python scripts/old_versions.py make FOLDER         environments of the old versions in FOLDER, the files from them
    python scripts/old_versions.py measure             open the files here; write the table in docs/versions.md
    python scripts/old_versions.py requirements 1.8    what pyproject.toml asks for, with another scikit-learn

The files lie in tests/files/versions. Each old version trains common estimators with its own libraries and packs them
with `webapp/pack.py`, as people do who have such a version.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import joblib
import numpy as np
import pandas as pd
import sklearn
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

if TYPE_CHECKING:
    # The old versions that run this file, too, have no Modelport.
    from webapp.intake.expect import Expected
    from webapp.serving.predictor import Outcome

ROOT = Path(__file__).parent.parent
FILES = ROOT / "tests" / "files" / "versions"
MANIFEST = FILES / "manifest.json"
PACK = ROOT / "webapp" / "pack.py"
DOCUMENT = ROOT / "docs" / "versions.md"
TABLE = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- end -->)", re.DOTALL)

# The last release of each, with what was current beside it.
OLD = {
    "1.4.2": ("numpy==1.26.4", "scipy==1.13.1", "pandas==2.2.3", "joblib==1.4.2"),
    "1.5.2": ("numpy==2.1.3", "scipy==1.14.1", "pandas==2.2.3", "joblib==1.4.2"),
    "1.7.2": ("numpy==2.3.5", "scipy==1.16.3", "pandas==2.3.3", "joblib==1.5.3"),
}
# Minors that an image can serve, each with the libraries that it was released for.
SERVED: dict[str, dict[str, str]] = {
    "1.6": {"numpy": ">=2.0,<2.3", "scipy": "<1.16", "pandas": ">=2.2,<3"},
    "1.7": {"numpy": ">=2.0,<2.4", "scipy": "<1.17", "pandas": ">=2.3,<3"},
    "1.8": {},
}
TRAINED = 200
ROWS = 40
COLUMNS = 6
LONGEST_REASON = 90

# --- In an old version: train -----------------------------------------------------------------------------


def _data() -> dict[str, tuple[Any, Any]]:
    """Give small data that every estimator below finds its own among."""
    cancer, diabetes = load_breast_cancer(as_frame=True), load_diabetes(as_frame=True)
    draw = np.random.default_rng(5)
    size = draw.normal(10, 3, TRAINED).round(2)
    mixed = pd.DataFrame(
        {
            "colour": draw.choice(["red", "green", "blue"], TRAINED),
            "city": draw.choice(["Bern", "Bonn", "Oslo", "Rom"], TRAINED),
            "size": np.where(draw.random(TRAINED) < 0.1, np.nan, size),  # noqa: PLR2004 - a tenth is missing
            "weight": draw.normal(70, 9, TRAINED).round(1),
        }
    )
    large = np.where((size > 10) ^ (mixed["colour"] == "red"), "large", "small")  # noqa: PLR2004 - their mean
    words = np.array(["good", "bad", "fast", "slow", "the", "a", "train", "meal", "room", "very"])
    texts = pd.DataFrame({"text": [" ".join(draw.choice(words, 7)) for _ in range(TRAINED)]})
    praise = ["yes" if text.count("good") >= text.count("bad") else "no" for text in texts["text"]]
    return {
        "cancer": (cancer.data.iloc[:TRAINED, :COLUMNS], cancer.target[:TRAINED]),
        "diabetes": (diabetes.data.iloc[:TRAINED, :COLUMNS], diabetes.target[:TRAINED]),
        "mixed": (mixed, large),
        "texts": (texts, praise),
    }


def _estimators() -> dict[str, tuple[str, Any]]:
    """Give the estimators by the name of their files, each with the data it is trained on."""
    few = {"n_estimators": 5, "random_state": 0}
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["size", "weight"]),
        (OneHotEncoder(handle_unknown="ignore"), ["colour", "city"]),
    )
    return {
        "column_transformer": ("mixed", make_pipeline(columns, LogisticRegression())),
        "decision_tree": ("cancer", DecisionTreeClassifier(random_state=0)),
        "extra_trees": ("cancer", ExtraTreesClassifier(**few)),
        "gaussian_nb": ("cancer", GaussianNB()),
        "gradient_boosting_classifier": ("cancer", GradientBoostingClassifier(**few)),
        "gradient_boosting_regressor": ("diabetes", GradientBoostingRegressor(**few)),
        "hist_gradient_boosting_classifier": ("cancer", HistGradientBoostingClassifier(max_iter=5)),
        "hist_gradient_boosting_regressor": ("diabetes", HistGradientBoostingRegressor(max_iter=5)),
        "k_means": ("cancer", KMeans(3, n_init=3, random_state=0)),
        "k_neighbors": ("cancer", KNeighborsClassifier()),
        "linear_svc": ("cancer", make_pipeline(StandardScaler(), LinearSVC(dual=False))),
        "logistic_regression": ("cancer", LogisticRegression(max_iter=5000)),
        "mlp": ("cancer", make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=800, random_state=0))),
        "random_forest_classifier": ("cancer", RandomForestClassifier(**few)),
        "random_forest_regressor": ("diabetes", RandomForestRegressor(max_depth=5, **few)),
        "ridge": ("diabetes", Ridge()),
        "scaled_logistic_regression": ("cancer", make_pipeline(StandardScaler(), LogisticRegression())),
        "sgd": ("cancer", make_pipeline(StandardScaler(), SGDClassifier(random_state=0))),
        "svc": ("cancer", SVC(probability=True, random_state=0)),
        "tfidf": ("texts", make_pipeline(TfidfVectorizer(), LogisticRegression())),
    }


def train(folder: Path) -> None:
    """Train each estimator with the libraries of this process, and pack it as FOLDER/NAME.zip."""
    from pack import pack  # type: ignore[import-not-found] # noqa: PLC0415 - it stands beside the environment, as for people who copied it

    data = _data()
    for name, (kind, estimator) in _estimators().items():
        features, target = data[kind]
        given = features["text"] if kind == "texts" else features
        sample = features.iloc[:: TRAINED // ROWS]
        pack(estimator.fit(given, target), sample, folder / f"{name}.zip", rows=ROWS, metadata={"reference": kind})


# --- make -------------------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Make the environments, let each train, and keep what it packed."""
    for path in FILES.iterdir() if FILES.exists() else ():
        if path.is_dir():
            shutil.rmtree(path)
    versions = {version: _made(folder / version, version) for version in OLD}
    files = sorted(path for path in FILES.glob("*/*") if path.is_file())
    manifest = {
        "made_by": "python scripts/old_versions.py make FOLDER",
        "versions": versions,
        "files": {str(path.relative_to(FILES)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes in {FILES}")


def _made(environment: Path, version: str) -> dict[str, str]:
    """Give the versions of the libraries that packed."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        wanted = [f"scikit-learn=={version}", *OLD[version]]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)  # noqa: S603 - pip of our own environment
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(PACK, place)
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        surroundings = {**os.environ, **threads, "PYTHONPATH": place}
        subprocess.run([python, __file__, "train", place], check=True, env=surroundings)  # noqa: S603 - this file
        return [_kept(packed, version) for packed in sorted(Path(place).glob("*.zip"))][-1]


def _kept(packed: Path, version: str) -> dict[str, str]:
    """Keep model and expected outputs by their version, and the reference once for all."""
    with ZipFile(packed) as archive:
        about: dict[str, Any] = json.loads(archive.read("modelport.json"))
        kind = json.loads(archive.read("metadata.json"))["reference"]
        reference = FILES / "reference" / f"{kind}.csv"
        for path, part in (
            (FILES / version / f"{packed.stem}.joblib", "model.joblib"),
            (FILES / version / f"{packed.stem}.expect.csv", "expect.csv"),
            (reference, "reference.csv"),
        ):
            content = archive.read(part)
            if path == reference and path.exists() and path.read_bytes() != content:
                raise SystemExit(f"{packed.name} of {version} has another reference than those before it.")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    libraries: dict[str, str] = about["versions"]
    return libraries


# --- measure ----------------------------------------------------------------------------------------------


def measure() -> None:
    """Open every file with the libraries of this process, compare, and write the table."""
    warnings.simplefilter("ignore")
    found = {(name, version): _verdict(name, version) for name in _estimators() for version in OLD}
    lines = [
        f"| trained with | {' | '.join(OLD)} |",
        f"|---|{'---|' * len(OLD)}",
        *(f"| `{name}` | {' | '.join(found[name, version] for version in OLD)} |" for name in _estimators()),
    ]
    counts = (f"{sum(found[name, version] == 'agrees' for name in _estimators())} of {version}" for version in OLD)
    total = f"\nUnder scikit-learn {sklearn.__version__} agree, of {len(_estimators())} each: {', '.join(counts)}.\n"
    table = "\n".join((*lines, total))
    print(table)
    DOCUMENT.write_text(TABLE.sub(lambda _: table, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


def _verdict(name: str, version: str) -> str:
    from webapp.intake import expect  # noqa: PLC0415 - not for the old versions

    try:
        estimator = joblib.load(FILES / version / f"{name}.joblib")
    except Exception as error:  # noqa: BLE001 - any way of failing is a result
        return f"does not load: {_reason(error)}"
    with (FILES / version / f"{name}.expect.csv").open("rb") as file:
        expected = expect.read(file)
    try:
        found = expect.differences(expected, _outcomes(estimator, name, expected))
    except Exception as error:  # noqa: BLE001 - as above
        return f"does not predict: {_reason(error)}"
    lines = len({difference.line for difference in found})
    return f"differs in {lines} of {len(expected.outcomes)} rows" if found else "agrees"


def _outcomes(estimator: BaseEstimator, name: str, expected: Expected) -> list[Outcome]:
    from webapp.serving.predictor import Predictor, assemble  # noqa: PLC0415 - as above
    from webapp.signature.learn import learn  # noqa: PLC0415 - as above

    reference = pd.read_csv(FILES / "reference" / f"{_estimators()[name][0]}.csv")
    signature = learn(estimator, assemble, reference=reference, declared=[]).signature
    rows = expected.rows_for(signature)
    return Predictor(estimator, signature).predict(rows, [""] * len(rows))


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    said = " ".join(f"{type(cause).__name__}: {cause}".split()).replace("|", "/")
    return said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]} …"


# --- requirements -----------------------------------------------------------------------------------------


def requirements(minor: str) -> Iterator[str]:
    """Give what pyproject.toml asks for, with this minor of scikit-learn and the libraries of its time."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    major, _, number = minor.partition(".")
    others = {"scikit-learn": f">={minor},<{major}.{int(number) + 1}", **SERVED[minor]}
    optional = project["optional-dependencies"]
    for line in [*project["dependencies"], *optional["dask"], *optional["s3"]]:
        name = re.split(r"[<>=!~ ]", line, maxsplit=1)[0]
        if name not in others:
            yield line
    yield from (f"{name}{bounds}" for name, bounds in others.items())


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    acts = parser.add_subparsers(dest="act", required=True)
    acts.add_parser("make", help="make the files").add_argument("folder", type=Path)
    acts.add_parser("train", help="what `make` runs in each environment").add_argument("folder", type=Path)
    acts.add_parser("measure", help="open the files here")
    acts.add_parser("requirements", help="print what to lock").add_argument("minor", choices=SERVED)
    given = parser.parse_args()
    if given.act == "make":
        make(given.folder.absolute())
    elif given.act == "train":
        train(given.folder)
    elif given.act == "measure":
        measure()
    else:
        sys.stdout.writelines(f"{line}\n" for line in requirements(given.minor))


if __name__ == "__main__":
    main()
