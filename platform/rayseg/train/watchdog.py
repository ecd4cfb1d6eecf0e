"""A rank that does nothing for too long: the stacks of all ranks are kept, and the process ends.

    <run>/stacks/rank-NNNN.txt   what every thread was at

A rank that hangs lets the others wait in their next collective for ever. Each has a thread that sees when its loop has
done nothing for the time limit. The first to see it asks every rank on its machine for its stacks, by a signal that is
answered even by a rank that is stuck inside a library; one that was stopped is woken for that. Then it ends its own
process, and whoever launched the run starts all ranks again, from the newest commit.
"""

from __future__ import annotations

import faulthandler
import hashlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Self

import psutil

from rayseg.errors import TrainingError
from rayseg.train.runtime import Runtime, gathered

FOLDER = "stacks"
FIRST = 5
"""The first update has so many times the limit: kernels are compiled and chosen, and data is fetched."""
GRACE_S = 2.0
"""So long the stacks of the other ranks are waited for."""


class Watchdog:
    """Watches one rank's loop, which says `beat` wherever it moves on; a context manager. Every rank makes one.

    Time in which the process itself was stopped does not count: what Ctrl-Z stops, `fg` lets go on.
    """

    def __init__(self, runtime: Runtime, limit_s: float, show: Callable[[str], None]) -> None:
        self._runtime, self._limit_s, self._show = runtime, limit_s, show
        self._at, self._first, self._idle_s = "its first step", True, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="rayseg-watchdog")

    def beat(self, at: str) -> None:
        """Note that the loop moved on, and what it does next."""
        self._at, self._idle_s, self._first = at, 0.0, False

    def rest(self) -> None:
        """Look away until the next beat: the loop waits for somebody outside, who may take their time."""
        self._idle_s = -math.inf

    def __enter__(self) -> Self:
        place = gathered([os.getpid(), _machine()], self._runtime.device)
        self._others = [pid for pid, machine in place if machine == _machine() and pid != os.getpid()]
        self._began = time.time()
        self._file = self._opened()
        faulthandler.register(signal.SIGUSR1, self._file, all_threads=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.unregister(signal.SIGUSR1)
        self._file.close()

    def _watch(self) -> None:
        tick = min(1.0, self._limit_s / 4)
        while not self._over.wait(tick):
            self._idle_s += tick
            if self._idle_s > self._limit_s * (FIRST if self._first else 1):
                self._give_up()
                return

    def _give_up(self) -> None:
        rank, limit = self._runtime.rank, self._limit_s
        what = f"rank {rank} did nothing for {limit:g} s in {self._at}"
        fix = "read the stacks of all ranks there, then run the same command again"
        for pid in self._others:
            _ask(pid, self._began)
        self._file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {what}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)
        time.sleep(GRACE_S)
        where = Path(self._file.name).parent
        self._show(f"{what}: ending its process; the stacks of all ranks are in {where}")
        print(f"error: {TrainingError(what, where, fix)}", file=sys.stderr, flush=True)
        os._exit(TrainingError.exit_code)

    def _opened(self) -> IO[str]:
        folder = self._runtime.run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / f"rank-{self._runtime.rank:04d}.txt").open("a")


def _ask(pid: int, began: float) -> None:
    """Ask a rank for its stacks; a process that began later than the run has got its number."""
    with suppress(OSError, psutil.Error):
        if psutil.Process(pid).create_time() < began:
            os.kill(pid, signal.SIGUSR1)
            os.kill(pid, signal.SIGCONT)


def _machine() -> int:
    """Tell machines, and containers on one machine, apart."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    seen = (boot.read_text() if boot.exists() else os.uname().nodename) + str(os.stat("/proc/self/ns/pid").st_ino)
    return int.from_bytes(hashlib.sha256(seen.encode()).digest()[:7], "big")
