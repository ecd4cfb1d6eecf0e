"""Trains one run on two workers of a Ray of its own, as `rayseg train` does: `two_workers.py RUN_DIR CONFIG_JSON`."""

import json
import sys
from pathlib import Path

from rayseg.cluster.connect import ray_session
from rayseg.cluster.launch import Job
from rayseg.cluster.watch import Resources
from rayseg.tracking.mlflow_tracker import RunIdentity

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    identity = RunIdentity(experiment="test", run_key="run", run_name="run", tags={})
    with ray_session(num_cpus=2, dashboard=True):
        from rayseg.cluster.slots import train_on_workers

        job = Job(config=json.loads(sys.argv[2]), run_dir=str(folder), identity=identity, tracking_uri=None)
        train_on_workers(job, Resources(workers=2, cpus_per_worker=1, gpus_per_worker=0, concurrent=1))
