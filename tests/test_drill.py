"""The drill: it ends when it should, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rayseg.drill import run as drills
from rayseg.drill.faults import Fault
from rayseg.errors import TrainingError


class Over:
    """A run that came to its end in its first attempt, whatever was done to it."""

    output, process = Path("output.txt"), None

    def start(self):
        pass

    def step(self):
        return 0, drills.STEPS

    def over(self):
        return True


def test_a_fault_that_changed_nothing_is_said_at_once():
    harmless = Fault("harmless", 1, lambda victim, server: None, "restart")
    with pytest.raises(TrainingError, match="as if nothing had happened"):
        drills._struck(Over(), None, [harmless], lambda line: None)


def _of(home):
    """List the processes whose environment or arguments name this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in [*process.environ().values(), *process.cmdline()] or any(
                str(home) in part for part in process.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_drill_ended_by_sigterm_ends_its_server_and_its_run(tmp_path):
    command = [str(Path(sys.executable).with_name("rayseg")), "drill"]
    environment = os.environ | {"RAYSEG_HOME": str(tmp_path)}
    started = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (tmp_path / "drill" / "alone" / "samples").exists() and time.monotonic() < until:
        time.sleep(0.2)
    started.send_signal(signal.SIGTERM)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 130, said
    until = time.monotonic() + 30
    while (left := _of(tmp_path)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left
