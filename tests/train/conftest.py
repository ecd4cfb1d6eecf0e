"""A tiny drawn data set and a tiny run on it."""

import pytest

from rayseg import config as configs

TINY = {
    "backbone": {"name": "resnet10t", "output_stride": 16},
    "head": {"name": "gald", "channels": 16, "kernel_size": 3, "dilation": 1},
    "loss": {"aux_weight": 0.4},
    "optim": {"lr": 0.02},
    "augment": {"crop_px": [48, 48]},
    "train": {"steps": 6, "batch": 4, "eval_every": 3, "log_every": 1, "precision": "fp32", "shown_images": 2},
}


@pytest.fixture
def run_config(tiny_shards):
    """Build the tiny run's config, with dotted settings."""

    def build(**settings):
        dotted = {name.replace("__", "."): value for name, value in settings.items()}
        return configs.from_dict(configs.merged(TINY, {"data.shards": str(tiny_shards), **dotted}))

    return build
