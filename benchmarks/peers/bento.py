"""BentoML with adaptive batching: one service, two workers."""

import os
from pathlib import Path
from typing import Any

import bentoml
import joblib
import numpy as np


@bentoml.service(workers=int(os.environ["BENCH_WORKERS"]))
class Service:
    """One pipeline."""

    def __init__(self) -> None:
        """Load the file that the harness wrote a moment ago."""
        self.pipeline = joblib.load(Path(os.environ["BENCH_MODEL"]))

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=1000)
    def predict(self, rows: list[list[float]]) -> list[dict[str, Any]]:
        """Give a label for each row, and its probability where the model has any."""
        matrix = np.array(rows)
        labels = self.pipeline.predict(matrix).tolist()
        if not hasattr(self.pipeline, "predict_proba"):
            return [{"prediction": label} for label in labels]
        highest = self.pipeline.predict_proba(matrix).max(axis=1).tolist()
        return [{"prediction": label, "probability": each} for label, each in zip(labels, highest, strict=True)]
