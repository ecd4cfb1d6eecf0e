"""Runs jobs of two workers in one slot, one after the other, and prints what came of each as a line of JSON."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from rayseg import config as configs
from rayseg import recipe
from rayseg.cluster.connect import ray_session
from rayseg.cluster.launch import Job, fault_of
from rayseg.cluster.watch import Resources
from rayseg.schema import to_dict
from rayseg.tracking.mlflow_tracker import RunIdentity

ROOT, WHOLE, DAMAGED = map(Path, sys.argv[1:])


def job(name, shards=WHOLE, **settings):
    base = recipe.load(str(Path(__file__).with_name("tiny_recipe.toml"))).run
    more = {"data.shards": str(shards), "train.workers": 2, "train.steps": 8, "train.eval_every": 2}
    config = configs.from_dict(configs.merged(base, more | settings))
    identity = RunIdentity(experiment="story", run_key=name, run_name=name, parent_key=None, tags={})
    return Job(config=to_dict(config), run_dir=str(ROOT / name), identity=identity, tracking_uri=None)


def workers():
    """Find the processes of the slot's workers."""
    names = {child.pid: child.name() for child in psutil.Process().children(recursive=True)}
    return sorted(pid for pid, name in names.items() if name.startswith("ray::RayTrainW"))


def run(slot, made, *, at=None, until=None):
    """Run a job to its end, or leave it at report `until`; call `at` after the first report."""
    began, steps, event = time.monotonic(), [], None
    slot.begin(made)
    while event is None or event.over is None:
        event = slot.next()
        if event.figures:
            steps.append(int(event.figures["step"]))
            if at and len(steps) == 1:
                at()
            if until == len(steps):
                assert slot.leave()
                break
    fault = fault_of(Path(made.run_dir))
    left = {"steps": steps, "over": event.over, "note": event.note, "seconds": round(time.monotonic() - began, 2)}
    left |= {"pids": workers(), "fault": str(fault) if fault else ""}
    print("story", Path(made.run_dir).name, json.dumps(left), flush=True)


with ray_session(num_cpus=2, dashboard=True):
    from rayseg.cluster.slots import There

    slot = There(Resources(2, 1, 0.0, 1), ROOT / "slot")
    run(slot, job("first"))
    run(slot, job("left"), until=1)
    run(slot, job("alike", **{"optim.lr": 1e30}))
    run(slot, job("second"))
    run(slot, job("alone", DAMAGED))
    run(slot, job("killed"), at=lambda: os.kill(workers()[0], signal.SIGKILL))
    slot.close()
    print("story closed", json.dumps({"pids": workers()}), flush=True)
