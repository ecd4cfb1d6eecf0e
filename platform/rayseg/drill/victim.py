"""The run under drill: started as a user starts it, seen from outside through its own files and the process table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from rayseg import durable
from rayseg.data import ledger
from rayseg.errors import ClusterError
from rayseg.train import commit
from rayseg.train.review import read_summary

GONE_S = 30.0


class Victim:
    """A `rayseg train` command on `run_dir`; `output` is a file that holds what all its starts printed."""

    def __init__(self, run_dir: Path, arguments: list[str], environment: Mapping[str, str]) -> None:
        self.run_dir, self.output = run_dir, run_dir.with_suffix(".txt")
        self._command = [str(Path(sys.executable).with_name("rayseg")), "train", "--run", str(run_dir), *arguments]
        self._environment = dict(environment)
        self.starts, self.codes = 0, list[int]()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Type the command; the same one every time."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )
        self.starts += 1

    def ended(self) -> int | None:
        """Give the exit code once the command and all it started are gone; None while it runs."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self._wait_for_the_rest()
        self.process = None
        self.codes.append(code)
        return code

    def step(self) -> tuple[int, int]:
        """Say which attempt took the newest step, and which step it is; (-1, 0) before the first."""
        path = self.run_dir / ledger.FOLDER / "rank-0000.jsonl"
        for line in reversed(path.read_bytes().splitlines()) if path.exists() else ():
            with suppress(ValueError):
                said = json.loads(line)
                return said["attempt"], said["step"] + 1
        return -1, 0

    def rank(self, rank: int) -> psutil.Process:
        """Find the process of a rank: the one that has the rank's record open.

        Raises:
            ClusterError: there is none.
        """
        wanted = str(self.run_dir / ledger.FOLDER / f"rank-{rank:04d}.jsonl")
        for process in self._all():
            with suppress(psutil.Error):
                if any(file.path == wanted for file in process.open_files()):
                    return process
        raise ClusterError(f"no process of rank {rank}", self.run_dir, "read what the run printed beside it")

    def named(self, part: str) -> psutil.Process:
        """Find a process of the run by a part of its program's name."""
        for process in self._all():
            with suppress(psutil.Error, IndexError):
                if part in Path(process.cmdline()[0]).name:
                    return process
        raise ClusterError(f"no process {part}", self.run_dir, "read what the run printed beside it")

    def newest_commit(self) -> Path | None:
        """Give the newest commit's directory."""
        found = commit.commits(self.run_dir)
        return found[-1] if found else None

    def text(self) -> str:
        """Give all that the run said."""
        files = [self.output, self.run_dir / "log.txt"]
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def over(self) -> bool:
        """Say whether the run came to its end, not only the command."""
        return read_summary(self.run_dir) is not None

    def weights(self) -> str:
        """Hash the last commit's weights."""
        found = self.newest_commit()
        assert found is not None
        return durable.sha256(found / "model.safetensors")

    def end(self) -> None:
        """End what still runs, by its session; a drill that fails leaves nothing behind."""
        for process in self._all():
            with suppress(psutil.Error):
                process.kill()

    def _all(self) -> list[psutil.Process]:
        """List the processes of this drill's run: those that have its home in their environment."""
        home, found = self._environment["RAYSEG_DRILL"], []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("RAYSEG_DRILL") == home:
                    found.append(process)
        return found

    def _wait_for_the_rest(self) -> None:
        """Wait for Ray's processes, which end by themselves when the driver is gone; those that do not are ended."""
        until = time.monotonic() + GONE_S
        while (left := self._all()) and time.monotonic() < until:
            time.sleep(0.2)
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
