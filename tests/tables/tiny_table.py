"""A table of two rows over the smallest recipe, and finished runs of it as a run leaves them."""

import json
from pathlib import Path

from rayseg import config as configs
from rayseg.schema import to_dict
from rayseg.sweep import memory
from rayseg.tables import Row, Table
from rayseg.tracking import Dataset
from rayseg.tracking.mlflow_tracker import RunIdentity, open_tracker
from rayseg.train.review import Summary

RECIPE = str(Path(__file__).parents[1] / "cluster" / "tiny_recipe.toml")
TABLE = Table(
    "tiny-1",
    "two windows",
    "a paper, Table 1",
    "gald/cityscapes",
    50000,
    "one scale",
    {"head.name": "gald"},
    (
        Row("small", "70.0", {"head.kernel_size": 3}),
        Row("large", "71.5", {"head.kernel_size": 5}),
        Row("seen otherwise", "72.0", None, "by another command"),
    ),
)


def leave(run_dir, config, digests, miou, *, tagged=True, status="finished"):
    """Write a run down as one that came to this mIoU; `digests` are of its splits' samples."""
    tags = {"rayseg.kind": "trial" if tagged else "run"}
    if tagged:
        tags |= {memory.CONFIG: configs.digest(config), memory.DATA: memory.data_digest(*digests)}
    key = f"{run_dir.parent.parent.name}-{run_dir.name}"
    tracker = open_tracker(run_dir, RunIdentity(experiment="e", run_key=key, run_name=run_dir.name, tags=tags), None)
    tracker.config(to_dict(config))
    pairs = zip(("train", "validation"), digests, strict=True)
    tracker.inputs([Dataset("scenes", digest, "here", context, 1, 2) for context, digest in pairs])
    tracker.metrics({"val/miou": 0.9}, config.train.steps // 2)
    if status == "finished":
        tracker.metrics({"val/miou": miou}, config.train.steps)
    tracker.tag("stopped", f"{status}: in a test")
    tracker.close("FINISHED")
    summary = Summary(step=config.train.steps, miou=miou, status=status, samples_per_s=1.0)
    (run_dir / "summary.json").write_text(json.dumps(to_dict(summary)))
