"""The servers that Modelport is compared with: the bare ceilings, the guide's application, and its peers.

Each peer has a virtual environment of its own below `$BENCH_ENVS`, made when it is first asked for, and is run with
the settings that its documentation recommends for throughput: two workers, and adaptive batching where it exists.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from benchmarks import servers
from benchmarks.models import Case
from benchmarks.servers import Server
from scripts.processes import free_port

HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("BENCH_ENVS", Path.home() / ".cache" / "modelport-bench"))
WORKERS, THREADS = 2, 8
# Files are read by the libraries that wrote them.
SAME = (f"scikit-learn=={sklearn.__version__}", f"numpy=={np.__version__}")

Instance = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Other:
    """A server to compare with: how it is run for a model, and the form in which it takes one row."""

    name: str
    run: Callable[[Path, Case], AbstractContextManager[Server]]
    form: Callable[[Case, Instance], Any] = lambda _case, instance: instance
    path: str = "/predict"


def environment(name: str, *requirements: str) -> Path:
    """Give the folder of the commands of a peer's virtual environment; it is made when it is missing."""
    folder = ENVIRONMENTS / name
    if not (folder / "complete").exists():
        print(f"Installing {name} into {folder} …", flush=True)
        run = [[sys.executable, "-m", "venv", str(folder)]]
        run += [[str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements]]
        for command in run:
            subprocess.run(command, check=True)  # noqa: S603 - our own command lines
        (folder / "complete").touch()
    return folder / "bin"


def _variables(case: Case, folder: Path, port: int) -> dict[str, str]:
    """Give what the applications in `peers/` read; native libraries have one thread in each worker, as in Modelport."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    given = {"BENCH_MODEL": str(case.write(folder).model), "BENCH_PORT": str(port), "BENCH_WORKERS": str(WORKERS)}
    return {**os.environ, **one, **given, "PYTHONPATH": str(HERE / "peers"), "NO_ALBUMENTATIONS_UPDATE": "1"}


# --- Ceilings ---------------------------------------------------------------------------------------------


def bare(name: str) -> Other:
    """Give an application of `bare.py` on Gunicorn as Modelport runs it."""

    @contextmanager
    def run(folder: Path, _case: Case) -> Iterator[Server]:
        port = free_port()
        options = [f"--workers={WORKERS}", f"--threads={THREADS}", "--worker-class=gthread", "--keep-alive=75"]
        options += ["--worker-tmp-dir=/dev/shm"] if os.access("/dev/shm", os.W_OK) else []  # noqa: S108 - as Modelport
        command = [sys.executable, "-m", "gunicorn", *options, f"--bind=127.0.0.1:{port}", f"benchmarks.bare:{name}"]
        there = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        with servers.running(f"bare-{name}", command, port, "/predict", environment=there, folder=folder) as server:
            yield server

    return Other({"function": "bare WSGI function", "route": "Flask route {}"}[name], run)


FUNCTION, ROUTE = bare("function"), bare("route")

# --- The guide's application ------------------------------------------------------------------------------


@contextmanager
def _guide(folder: Path, case: Case) -> Iterator[Server]:
    port = free_port()
    commands = environment("guide", "fastapi", "uvicorn[standard]", "joblib", "pandas", *SAME)
    command = [str(commands / "uvicorn"), "guide:app", f"--port={port}", f"--workers={WORKERS}", "--no-access-log"]
    there = _variables(case, folder, port)
    # The guide says nothing of native threads: its processes have what their libraries take.
    del there["OMP_NUM_THREADS"], there["OPENBLAS_NUM_THREADS"]
    with servers.running("guide", command, port, "/openapi.json", environment=there, folder=folder) as server:
        yield server


GUIDE = Other("the guide's application", _guide)

# --- Peers ------------------------------------------------------------------------------------------------


@contextmanager
def _litserve(folder: Path, case: Case) -> Iterator[Server]:
    port = free_port()
    commands = environment("litserve", "litserve", "joblib", "pandas", *SAME)
    command = [str(commands / "python"), str(HERE / "peers" / "lit.py")]
    there = _variables(case, folder, port)
    with servers.running("litserve", command, port, "/health", environment=there, folder=folder) as server:
        yield server


@contextmanager
def _mlserver(folder: Path, case: Case) -> Iterator[Server]:
    port, grpc_port, metrics_port = (free_port() for _ in range(3))
    # Later versions of uvloop give its worker processes no event loop.
    commands = environment("mlserver", "mlserver", "mlserver-sklearn", "uvloop<0.22", "joblib", "pandas", *SAME)
    inside = folder / "mlserver"
    inside.mkdir(exist_ok=True)
    there = _variables(case, folder, port)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    settings |= {"parallel_workers": WORKERS}
    model = {
        "name": "model",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "max_batch_size": 16,
        "max_batch_time": 0.002,
        "parameters": {"uri": there["BENCH_MODEL"]},
    }
    (inside / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (inside / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    command = [str(commands / "mlserver"), "start", str(inside)]
    probe = "/v2/models/model/ready"
    with servers.running("mlserver", command, port, probe, environment=there, folder=folder) as server:
        yield server


def _tensor(case: Case, instance: Instance) -> Any:  # noqa: ANN401 - a JSON document
    values = list(map(float, instance.values()))
    tensor = {"name": "rows", "shape": [1, len(values)], "datatype": "FP64", "data": values}
    asked = ["predict", "predict_proba"] if hasattr(case.estimator, "predict_proba") else ["predict"]
    return {"inputs": [tensor], "outputs": [{"name": name} for name in asked]}


@contextmanager
def _bentoml(folder: Path, case: Case) -> Iterator[Server]:
    port = free_port()
    commands = environment("bentoml", "bentoml", "joblib", "pandas", *SAME)
    options = ["--host=127.0.0.1", f"--port={port}", f"--working-dir={HERE / 'peers'}"]
    command = [str(commands / "bentoml"), "serve", "bento:Service", *options]
    there = {**_variables(case, folder, port), "BENTOML_DO_NOT_TRACK": "True"}
    with servers.running("bentoml", command, port, "/readyz", environment=there, folder=folder) as server:
        yield server


@contextmanager
def _mlflow(folder: Path, case: Case) -> Iterator[Server]:
    port = free_port()
    commands = environment("mlflow", "mlflow", "joblib", "pandas", *SAME)
    there = _variables(case, folder, port)
    there |= {"BENCH_FLOW": str(folder / "flow" / case.name), "PATH": f"{commands}:{there['PATH']}"}
    if not (folder / "flow" / case.name).exists():
        write = [str(commands / "python"), str(HERE / "peers" / "flow.py")]
        subprocess.run(write, env=there, check=True, capture_output=True)  # noqa: S603 - our own command lines
    options = [f"--port={port}", "--env-manager=local", f"--workers={WORKERS}"]
    command = [str(commands / "mlflow"), "models", "serve", "--model-uri", there["BENCH_FLOW"], *options]
    with servers.running("mlflow", command, port, "/ping", environment=there, folder=folder) as server:
        yield server


LITSERVE = Other("LitServe", _litserve)
MLSERVER = Other("MLServer", _mlserver, _tensor, "/v2/models/model/infer")
BENTOML = Other("BentoML", _bentoml, lambda _case, instance: {"rows": [list(instance.values())]})
MLFLOW = Other("MLflow", _mlflow, lambda _case, instance: {"inputs": [list(instance.values())]}, "/invocations")
PEERS = {"litserve": LITSERVE, "mlserver": MLSERVER, "bentoml": BENTOML, "mlflow": MLFLOW}
