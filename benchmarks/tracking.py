"""Measure what tracking costs training: with the server up, with it dead, and without tracking.

All forms train in turn in each round, the same updates of the same model, each form in each place of the order, so
that a busy neighbour slows a whole round and not one form. The server is a real one, on this machine.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from commits import Setting, made
from measure import arguments, publish
from rayseg.tracking import NullTracker, Tracker
from rayseg.tracking.machine import Monitor
from rayseg.tracking.mlflow_tracker import RunIdentity, healthy, open_tracker, server_command
from rayseg.train.runtime import LocalRuntime
from rayseg.train.update import Updater

GOAL = 0.01
ABOUT = """Every update writes six points (as `train.log_every = 1` does, the most there can be), and the machine is
sampled every second (in a run: every ten). *Up*: a thread brings them to an MLflow server meanwhile. *Dead*: nobody
listens at its address. *None*: nothing is written. *Throughput* is updates a second over those of the form *up* in the
same round; *CPU* is the CPU time of the training process, its threads included, over that of the form *none*. Both are
medians over the rounds, with the middle half of them in brackets."""


class Taken(NamedTuple):
    """Wall and CPU seconds of an interval."""

    wall: float
    cpu: float


def free_port() -> int:
    """Find a port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(home: Path) -> Iterator[str]:
    """Run an MLflow server, and give its address."""
    port = free_port()
    argv, environment = server_command(home, port)
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        if not healthy(uri, 120):
            raise SystemExit((home / "server.log").read_text())
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def interval(updater: Updater, batch: object, updates: int, run_dir: Path, uri: str | None) -> Taken:
    """Train for a while with a tracker of its own; what it has not brought by then is brought after the clock stops."""
    tracker: Tracker = NullTracker()
    monitor = None
    if uri is not None:
        name = uuid.uuid4().hex
        tracker = open_tracker(run_dir / name, RunIdentity(experiment="bench", run_key=name, run_name=name), uri)
        tracker.attempt(1, {"workers": "1"})
        monitor = Monitor(partial(tracker.attempt_metrics, 1), run_dir, period_s=1.0)
        monitor.start()
    start, cpu = time.perf_counter(), time.process_time()
    for step in range(1, updates + 1):
        losses = updater(batch, 1)  # type: ignore[arg-type]
        values = {f"train/{name}": float(loss) for name, loss in losses.items()}
        more = {f"train/{name}": float(step) for name in ("lr", "samples_per_s", "grad_norm", "skipped")}
        tracker.metrics(values | more, step)
    taken = Taken(time.perf_counter() - start, time.process_time() - cpu)
    if monitor is not None:
        monitor.end()
    tracker.close("FINISHED")
    return taken


def spread(ratios: Sequence[float]) -> str:
    """Write the median, and the middle half."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return f"**{middle - 1:+.2%}** [{low - 1:+.2%}, {high - 1:+.2%}]"


def main() -> None:
    """Measure the three forms in turn."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    rounds, updates = (2, 5) if options.quick else (9, 60)
    taken: dict[str, list[Taken]] = {"up": [], "dead": [], "none": []}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as uri:
        updater, batch = made(Setting("", "resnet10t", 96, updates), LocalRuntime(Path(folder) / "run", "cpu"))
        uris = {"up": uri, "dead": f"http://127.0.0.1:{free_port()}", "none": None}
        names = list(taken)
        for turn in range(rounds + 1):
            order = names[turn % 3 :] + names[: turn % 3]
            found = {name: interval(updater, batch, updates, Path(folder), uris[name]) for name in order}
            print(turn, {name: tuple(round(v, 2) for v in each) for name, each in found.items()}, flush=True)
            if turn:  # the first warms up: it imports MLflow
                for name, each in found.items():
                    taken[name].append(each)
    lines = ["| form | throughput | CPU |", "|---|---|---|"]
    for name, own in taken.items():
        faster = [up.wall / one.wall for up, one in zip(taken["up"], own, strict=True)]
        cpu = [one.cpu / none.cpu for one, none in zip(own, taken["none"], strict=True)]
        lines.append(f"| {name} | {spread(faster)} | {spread(cpu)} |")
    each_s = statistics.median(one.wall for one in taken["up"]) / updates
    about = f"{rounds} rounds of {updates} updates a form, {each_s:.3f} s an update with the server up."
    goal = f"Goal: dead within {GOAL:.0%} of up."
    busy = f"The load average was {load:.1f} when it began and {os.getloadavg()[0]:.1f} when it ended."
    publish(
        "tracking", "Tracking beside training", [ABOUT, about, "\n".join(lines), f"{goal} {busy}"], write=options.write
    )


if __name__ == "__main__":
    main()
