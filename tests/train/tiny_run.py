"""A run so small that a test can train it: its config, without the shards."""

TINY = {
    "backbone": {"name": "resnet10t", "output_stride": 16},
    "head": {"name": "gald", "channels": 16, "kernel_size": 3, "dilation": 1},
    "loss": {"aux_weight": 0.4},
    "optim": {"lr": 0.02},
    "augment": {"crop_px": [48, 48]},
    "train": {"steps": 6, "batch": 4, "eval_every": 3, "log_every": 1, "precision": "fp32", "shown_images": 2},
}
