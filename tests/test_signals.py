"""Being asked to end: however often, and in the middle of whatever."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# It looks at the event all the time, as what waits for one does now and then.
PROGRAM = """
import threading
from webapp.signals import when_asked_to_end

stop = threading.Event()
when_asked_to_end(stop.set)
print("ready", flush=True)
while not stop.wait(1e-6):
    pass
# What was asked once more is no matter.
for _ in range(100_000):
    stop.wait(1e-6)
    stop.set()
print("ended", flush=True)
"""
SIGNALS = 300


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_burst_of_signals_ends_a_process_and_never_hangs_it(number: signal.Signals) -> None:
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(SIGNALS):
                process.send_signal(number)
            try:
                said, _ = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (said, process.returncode) == ("ended\n", 0)
