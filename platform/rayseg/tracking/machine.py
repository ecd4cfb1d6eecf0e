"""What a machine does during an attempt: CPU, memory, disk, GPU, sampled beside training and spooled as its points.

MLflow's own monitor has the same names for them, which its page of system metrics looks for; but it speaks to the
server itself, and loses what that does not take. Samples are counted: a step may be longer than the time between two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from rayseg.errors import RaysegError
from rayseg.tracking.nvml import MB, Gpu

FIRST_S, PERIOD_S = 1.0, 10.0
"""The first sample comes early, for a short attempt; then as often as MLflow's own; one more at the end."""
Write = Callable[[Mapping[str, float], int], None]
"""Takes the figures of a sample, and its number."""


class Machine:
    """Measures the machine, and of it this process: shares of time are since the measurement before."""

    def __init__(self, folder: Path, gpu: Gpu | None) -> None:
        self._folder, self._gpu, self._process = folder, gpu, psutil.Process()
        self.figures()  # the first shares of time are of no time

    def figures(self) -> dict[str, float]:
        """Measure now; of the process, 100 % is one core. About 1 ms."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
        with self._process.oneshot():
            own_cpu, own_memory = self._process.cpu_percent(), self._process.memory_info().rss
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MB,
            "system_memory_usage_percentage": memory.percent,
            "disk_available_megabytes": disk.free / MB,
            "disk_usage_percentage": disk.percent,
            "process_cpu_utilization_percentage": own_cpu,
            "process_memory_usage_megabytes": own_memory / MB,
        }
        named = {f"system/{name}": round(value, 1) for name, value in found.items()}
        return named | (self._gpu.figures() if self._gpu else {})


class Monitor(threading.Thread):
    """Samples the machine until `end`; what goes wrong here is no reason for a run to end."""

    def __init__(self, write: Write, folder: Path, gpu: Gpu | None = None, *, period_s: float = PERIOD_S) -> None:
        super().__init__(name="system metrics", daemon=True)
        self._write, self._folder, self._gpu, self._period_s = write, folder, gpu, period_s
        self._over = threading.Event()

    def run(self) -> None:
        """Sample, and once more at the end."""
        try:
            machine = Machine(self._folder, self._gpu)
            pause, sample, over = min(FIRST_S, self._period_s), 0, False
            while not over:
                over = self._over.wait(pause)
                self._write(machine.figures(), sample)
                pause, sample = self._period_s, sample + 1
        except (RaysegError, OSError, psutil.Error):
            pass  # a full disk is said by who needs it

    def end(self) -> None:
        """Take the last sample; a disk that hangs is not waited for."""
        self._over.set()
        self.join(1.0)
