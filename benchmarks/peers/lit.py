"""LitServe with dynamic batching: requests that arrive together are one call of the model."""

import os
from pathlib import Path
from typing import Any

import joblib
import litserve
import numpy as np


class Api(litserve.LitAPI):
    """One pipeline."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's interface
        """Load the file that the harness wrote a moment ago."""
        self.pipeline = joblib.load(Path(os.environ["BENCH_MODEL"]))

    def decode_request(self, request: dict[str, Any]) -> list[float]:
        """Give a row."""
        return list(request.values())

    def batch(self, inputs: list[list[float]]) -> np.ndarray:
        """Give a matrix of rows."""
        return np.array(inputs)

    def predict(self, x: np.ndarray) -> list[tuple[Any, float | None]]:
        """Give a label for each row, and its probability where the model has any."""
        labels = self.pipeline.predict(x).tolist()
        if not hasattr(self.pipeline, "predict_proba"):
            return [(label, None) for label in labels]
        return list(zip(labels, self.pipeline.predict_proba(x).max(axis=1).tolist(), strict=True))

    def unbatch(self, output: list[tuple[Any, float | None]]) -> list[tuple[Any, float | None]]:
        """Give the answers one by one."""
        return output

    def encode_response(self, output: tuple[Any, float | None]) -> dict[str, Any]:
        """Give the answer as JSON."""
        label, probability = output
        return {"prediction": label, "probability": probability}


if __name__ == "__main__":
    api = Api(max_batch_size=16, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]))
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), log_level="warning", generate_client_file=False)
