"""A run so small that a test can look into it: its config, without shards."""

from typing import Any

PLAIN: dict[str, Any] = {
    "backbone": {"name": "resnet10t", "output_stride": 8},
    "head": {"name": "fcn"},
    "augment": {"crop_px": [48, 48]},
    "train": {"steps": 2, "batch": 4, "eval_every": 2, "precision": "fp32"},
}
