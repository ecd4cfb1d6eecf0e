"""The drill itself: the run left alone, then the same run with every fault in turn, then what differs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rayseg.cluster import home
from rayseg.cluster.connect import free_port
from rayseg.data import ledger
from rayseg.data.reader import open_shards
from rayseg.drill.faults import FAULTS, STEPS, Fault
from rayseg.drill.victim import Victim
from rayseg.errors import ClusterError, TrainingError
from rayseg.tracking.mlflow_tracker import healthy, points_of, replay, server_command
from rayseg.train import goodput

Show = Callable[[str], None]
LIMIT_S = 1200.0
HANG_S = 15.0
SETTINGS = {
    "train.steps": STEPS,
    "train.workers": 2,
    "train.batch": 4,
    "train.eval_every": 25,
    "train.commit_every": 5,
    "train.log_every": 1,
    "train.precision": '"fp32"',
    "train.hang_s": HANG_S,
    "train.shown_images": 1,
    "data.val_samples": 4,
    "data.loader_threads": 1,
    "augment.crop_px": "[64, 64]",
    "loss.ohem_min_kept": 2048,
}


class Blow(NamedTuple):
    """A fault that was done: at which step, and after how many seconds the run took a new one."""

    fault: Fault
    step: int
    back_s: float


class Tally(NamedTuple):
    """What the drill came to; `lines` say it."""

    blows: list[Blow]
    starts: int
    account: goodput.Account
    audit: ledger.Audit
    doubled: int
    alone_s: float
    same_weights: bool

    @property
    def fine(self) -> bool:
        """Whether nothing was lost but time."""
        clean = not (self.audit.lost or self.audit.repeated or self.doubled)
        return clean and self.same_weights and all(blow.back_s >= 0 for blow in self.blows)

    def lines(self) -> list[str]:
        """Say it, a line a fault and a line a figure."""
        said = [f"{'fault':38}{'at step':>8}{'next new step after':>22}"]
        said += [f"{b.fault.name:38}{b.step:8d}{b.back_s:20.1f} s" for b in self.blows]
        weights = "equal, bit for bit" if self.same_weights else "DIFFERENT"
        return [
            *said,
            *self.account.lines(),
            f"left alone it took {self.alone_s:.1f} s; the command was typed {self.starts} times",
            f"samples: {self.audit}",
            f"points twice in MLflow: {self.doubled}",
            f"final weights against those of the run left alone: {weights}",
        ]


def drill(
    folder: Path, show: Show, *, dataset: str = "scenes", given: str | None = None, faults: Sequence[Fault] = FAULTS
) -> Tally:
    """Run it in `folder`, which must not exist; it is kept, for a look at what happened.

    The card's shards are `given`, or looked for below RAYSEG_HOME.

    Raises:
        DataError: there are no such shards.
        TrainingError: a fault was not followed by what should follow, or the run did not come to its end.
    """
    shards = home.shards_of(dataset, given, show)
    home.check_card(dataset, open_shards(shards, "train").card.name)
    folder.mkdir(parents=True)
    with _server(folder) as server:
        alone = _victim(folder / "alone", dataset, shards, server)
        began = time.monotonic()
        show(f"the run left alone: {STEPS} steps on 2 workers")
        _undisturbed(alone)
        alone_s = time.monotonic() - began
        show(f"  {alone_s:.1f} s")
        victim = _victim(folder / "drilled", dataset, shards, server)
        try:
            blows = _struck(victim, server, faults, show)
        finally:
            victim.end()
        keys = open_shards(shards, "train").index.key
        server.wait()
        replay(victim.run_dir, server.uri)
        points = points_of(victim.run_dir, server.uri)
    return Tally(
        blows=blows,
        starts=victim.starts,
        account=goodput.account(victim.run_dir),
        audit=ledger.audit(victim.run_dir, keys),
        doubled=sum(number - 1 for number in Counter(points).values()),
        alone_s=alone_s,
        same_weights=alone.weights() == victim.weights(),
    )


def _victim(run_dir: Path, dataset: str, shards: str, server: TrackingServer) -> Victim:
    settings = [text for name, value in SETTINGS.items() for text in ("--set", f"{name}={value}")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAYSEG_DRILL": str(run_dir), "RAYSEG_TRACKING_URI": server.uri, "OMP_NUM_THREADS": "1"}
    data = ["--dataset", dataset, "--shards", shards]
    return Victim(run_dir, ["--recipe", "gald/scenes", *data, *settings], environment)


def _undisturbed(victim: Victim) -> None:
    until = time.monotonic() + LIMIT_S
    victim.start()
    try:
        while (code := victim.ended()) is None:
            if time.monotonic() > until:
                victim.end()
            time.sleep(0.2)
    finally:
        victim.end()
    if code != 0:
        raise TrainingError(f"the run left alone ended with {code}", victim.output, "read it")


def _struck(victim: Victim, server: TrackingServer, faults: Sequence[Fault], show: Show) -> list[Blow]:
    """Do every fault at its step, typing the command again where it ended, until the run is over."""
    blows: list[Blow] = []
    until = time.monotonic() + LIMIT_S
    victim.start()
    for fault in faults:
        _reach(victim, fault.step, until)
        attempt, step = victim.step()
        show(f"step {step}: {fault.name}")
        began = time.monotonic()
        fault.strike(victim, server)
        if fault.mend is not None:
            _reach(victim, fault.mended, until)
            fault.mend(victim, server)
            blows.append(Blow(fault, step, 0.0))
            continue
        _reach_attempt(victim, attempt + 1, until)
        blows.append(Blow(fault, step, time.monotonic() - began))
        show(f"  goes on at step {victim.step()[1]} after {blows[-1].back_s:.1f} s")
        if fault.says and not re.search(fault.says, victim.text()):
            raise TrainingError(f"'{fault.says}' is not in what the run said", victim.output, "read it")
    _reach(victim, STEPS, until)
    while not victim.over() or victim.process is not None:
        _go_on(victim, until)
    return blows


def _reach(victim: Victim, step: int, until: float) -> None:
    while victim.step()[1] < step:
        _go_on(victim, until)


def _reach_attempt(victim: Victim, attempt: int, until: float) -> None:
    while victim.step()[0] < attempt:
        if victim.over():
            raise TrainingError("the run came to its end as if nothing had happened", victim.output, "read it")
        _go_on(victim, until)


def _go_on(victim: Victim, until: float) -> None:
    """Wait a moment; type the command again where it ended before the run was over."""
    if time.monotonic() > until:
        raise TrainingError(f"not over after {LIMIT_S:.0f} s, at step {victim.step()[1]}", victim.output, "read it")
    code = victim.ended()
    if code is not None and not victim.over():
        victim.start()
    time.sleep(0.05)


class TrackingServer:
    """An MLflow server that can be taken away and come back."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self.uri, self._folder = f"http://127.0.0.1:{self._port}", folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; `wait` for its first answer."""
        argv, environment = server_command(self._folder, self._port)
        with (self._folder / "mlflow.txt").open("ab") as log:
            self._process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Wait until it answers."""
        if not healthy(self.uri, 120.0):
            raise ClusterError("the tracking server does not answer", self._folder / "mlflow.txt", "read it")

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def _server(folder: Path) -> Iterator[TrackingServer]:
    server = TrackingServer(folder)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


def clear(folder: Path) -> None:
    """Remove what an earlier drill left."""
    shutil.rmtree(folder, ignore_errors=True)


def as_dict(tally: Tally) -> dict[str, Any]:
    """Give the figures as plain types."""
    return {
        "faults": {blow.fault.name: {"step": blow.step, "back_s": round(blow.back_s, 1)} for blow in tally.blows},
        "goodput": tally.account.plain(),
        "starts": tally.starts,
        "lost": len(tally.audit.lost),
        "repeated": len(tally.audit.repeated),
        "doubled_points": tally.doubled,
        "same_weights": tally.same_weights,
        "alone_s": round(tally.alone_s, 1),
    }
