"""Runs of `fit` in processes of their own, of one rank or several, which a test may stop and kill."""

import json
import multiprocessing
import os
import signal
import socket
import time

import torch
import torch.distributed as dist

from rayseg import config as configs
from rayseg.errors import RaysegError
from rayseg.schema import to_dict
from rayseg.tracking import NullTracker
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["rayseg.train.loop"])  # torch is imported once


class Telling(LocalRuntime):
    """Writes down what it reports, and pauses behind a step."""

    def __init__(self, run_dir, rank, world, pause_after):
        super().__init__(run_dir, "cpu")
        self.rank, self.world, self.left = rank, world, pause_after

    def report(self, metrics):
        with (self.run_dir / f"reports-{self.rank}.jsonl").open("a") as file:
            file.write(json.dumps(dict(metrics)) + "\n")

    def stop(self):
        self.left -= 1
        return "pause" if self.left == 0 else None


def one_rank(plain, run_dir, rank, world, port, pause_after, change):
    """Be one rank; `change(rank)` may break something first. The error's line goes to `error-RANK`."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    if change is not None:
        change(rank)

    def show(line):
        with (run_dir / "log.txt").open("a") as file:
            file.write(f"{line}\n")

    try:
        fit(configs.from_dict(plain), Telling(run_dir, rank, world, pause_after), NullTracker(), show=show)
    except RaysegError as error:
        (run_dir / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
        os._exit(error.exit_code)
    if world > 1:
        dist.destroy_process_group()


def begin(config, run_dir, *, world=1, pause_after=-1, change=None):
    """Start the ranks of a run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = [
        FORKED.Process(target=one_rank, args=(to_dict(config), run_dir, rank, world, port, pause_after, change))
        for rank in range(world)
    ]
    for process in made:
        process.start()
    return made


def finish(ranks, limit_s=120):
    """Wait for the ranks; give their exit codes."""
    until = time.monotonic() + limit_s
    for process in ranks:
        process.join(max(0.1, until - time.monotonic()))
    codes = [process.exitcode for process in ranks]
    kill(ranks)
    return codes


def kill(ranks):
    for process in ranks:
        process.kill()
        process.join()


def steps_done(run_dir):
    """Count the lines of rank 0's record: the updates that were begun, over all attempts."""
    path = run_dir / "samples" / "rank-0000.jsonl"
    return sum(1 for line in path.read_bytes().split(b"\n") if line) if path.exists() else 0


def wait_for(condition, limit_s=90.0):
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.005)
