"""From a CSV to a served model: fit an estimator, save it with its reference, upload and activate it.

    .venv/bin/python examples/train.py examples/wine.csv --target cultivar --name wine

Any CSV with a header works. Words become categories, missing values are filled in, and the kind of the target
decides between classification and regression.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

FEW_CLASSES = 20


def pipeline_for(inputs: pd.DataFrame, target: pd.Series) -> Pipeline:
    """Make an estimator that suits the columns and the target."""
    numbers = list(inputs.select_dtypes("number").columns)
    words = [column for column in inputs.columns if column not in numbers]
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
            ("words", OneHotEncoder(handle_unknown="ignore"), words),
        ]
    )
    is_number = pd.api.types.is_numeric_dtype(target) and target.nunique() > FEW_CLASSES
    forest = RandomForestRegressor if is_number else RandomForestClassifier
    return make_pipeline(columns, forest(n_estimators=100, random_state=0))


def main() -> None:
    """Train, save, upload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--target", required=True, help="the column to predict")
    parser.add_argument("--name", required=True, help="what the model is called in Modelport")
    given = parser.parse_args()

    table = pd.read_csv(given.csv)
    if given.target not in table:
        parser.error(f"{given.csv} has no column {given.target!r}; it has {', '.join(table.columns)}")
    train, test = train_test_split(table, test_size=0.3, random_state=0)
    estimator = pipeline_for(table.drop(columns=given.target), table[given.target])
    estimator.fit(train.drop(columns=given.target), train[given.target])
    score = round(float(estimator.score(test.drop(columns=given.target), test[given.target])), 3)
    print(f"Score on the {len(test)} rows that were held out: {score}")

    with tempfile.TemporaryDirectory() as folder:
        model, reference, metadata = (Path(folder) / name for name in ("model.skops", "reference.csv", "metadata.json"))
        skops.io.dump(estimator, model)
        # What the estimator learned from: names, kinds and usual ranges of the features come from it.
        train.to_csv(reference, index=False)
        metadata.write_text(json.dumps({"accuracy": score, "training_samples": len(train)}))
        modelport = Path(sys.executable).parent / "modelport"
        options = ["--name", given.name, "--reference", reference, "--target", given.target, "--metadata", metadata]
        sys.exit(subprocess.call([modelport, "models", "upload", model, *options, "--activate"]))  # noqa: S603


if __name__ == "__main__":
    main()
