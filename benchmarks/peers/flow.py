"""Writes a pipeline in MLflow's own form; `mlflow models serve` does the rest."""

import os
from pathlib import Path

import joblib
import mlflow.sklearn

if __name__ == "__main__":
    # The file that the harness wrote a moment ago.
    pipeline = joblib.load(Path(os.environ["BENCH_MODEL"]))
    asked = "predict_proba" if hasattr(pipeline, "predict_proba") else "predict"
    mlflow.sklearn.save_model(
        pipeline, os.environ["BENCH_FLOW"], pyfunc_predict_fn=asked, serialization_format="cloudpickle"
    )
