"""The wheel, installed into an empty environment, serves outside the repository."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path

import requests

from scripts.processes import free_port
from tests.conftest import eventually
from tests.functional.server import START_SECONDS

ROOT = Path(__file__).parent.parent.parent


def run(*command: object, folder: Path) -> None:
    """Run a command of the environment's own, somewhere else than in the repository."""
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_serves_a_first_prediction_outside_the_repository(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, folder=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    bin_folder = tmp_path / "env" / "bin"
    lock = ROOT / "requirements" / "run.txt"
    run(bin_folder / "pip", "install", "--quiet", "--no-compile", "--require-hashes", "-r", lock, folder=tmp_path)
    run(bin_folder / "pip", "install", "--quiet", "--no-deps", wheel, folder=tmp_path)

    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    environment = clean | {"MODELPORT_BIND": f"127.0.0.1:{port}", "MODELPORT_WORKERS": "1", "HOME": str(tmp_path)}
    subprocess.run([bin_folder / "modelport", "demo"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    said = tmp_path / "said"
    with said.open("wb") as log:
        process = subprocess.Popen([bin_folder / "modelport", "serve"], cwd=tmp_path, env=environment, stderr=log)
    try:
        (curl,) = eventually(lambda: re.findall("curl .*", said.read_text()), within_seconds=START_SECONDS)
        answer = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True).stdout
        assert '"model":"credit-risk"' in answer
        assert requests.get(f"http://127.0.0.1:{port}/readyz", timeout=30).ok
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert (tmp_path / "data" / "modelport.db").exists()
