#!/usr/bin/env python3
"""What weights DGCW's channels best (DBS, softmax, tanh), and what else could stand in the module's place?

    ray job submit --working-dir . -- python jobs/dgcw_sweep.py --preset camvid --shards DIR
    python jobs/dgcw_sweep.py --preset smoke           # without a cluster

Paper: "Distance Guided Channel Weighting for Semantic Segmentation", Tables 1 and 2: best 80.43 mIoU on Cityscapes val
with DBS on ASPP. Both tables, their bases counted once, are `--preset paper`: 3 bases, and on each 6 rivals or 3 f.
"""

import _environment

_environment.require()

from rayseg.sweep.space import Integer, Uniform, choice  # noqa: E402 - only once the environment is found
from rayseg.sweep.trial import Preset, Sweep  # noqa: E402
from rayseg.tables.dgcw import OF_CONTEXT  # noqa: E402

DGCW = {"head.context": "dgcw"}
WEIGHTING = choice("dbs", "softmax", "tanh", when=DGCW)

SWEEP = Sweep(
    name="dgcw",
    about="Sweep DGCW: normalisation of the channel weights, and its rivals, on several bases.",
    picture=("head.base", "head.context"),
    presets={
        "smoke": Preset(
            about="two short trials on drawn scenes: does everything work? (a minute)",
            recipe="dgcw/scenes",
            settings={"train.steps": 4, "train.eval_every": 2, "data.val_samples": 4},
            space={"head.context": choice("dgcw", "gap"), "head.weighting": WEIGHTING},
            algorithm="random",
            trials=2,
        ),
        "demo": Preset(
            about="the three normalisations and four rivals, on two bases, on drawn scenes, 14 trials (minutes)",
            recipe="dgcw/scenes",
            settings={},
            space={
                "head.base": choice("none", "psp"),
                "head.context": choice("dgcw", "conv", "gap", "se", "nl_reduced"),
                "head.weighting": WEIGHTING,
            },
            algorithm="grid",
        ),
        "full": Preset(
            about="normalisation, reduction, size of the map, widths, rate, auxiliary weight under BOHB, 24 trials",
            recipe="dgcw/scenes",
            settings={},
            space={
                "head.weighting": choice("dbs", "softmax", "tanh"),
                "head.reduce": choice("sum", "mean"),
                "head.factor": Integer(low=2, high=6),
                "head.channels": Integer(low=32, high=96, step=32),
                "loss.aux_weight": Uniform(low=0.0, high=1.0),
                "optim.lr": Uniform(low=0.002, high=0.1, log=True),
            },
            algorithm="bohb",
            trials=24,
            grace_steps=20,
            reduction_factor=2,
            recheck=2,
        ),
        "camvid": Preset(
            about="normalisation and rivals on CamVid at 480x360 from scratch, 6 of 7 trials under ASHA",
            recipe="dgcw/camvid",
            settings={},
            space={"head.context": choice("dgcw", "conv", "gap", "se", "nl_reduced"), "head.weighting": WEIGHTING},
            algorithm="asha",
            trials=6,
            grace_steps=50,
            reduction_factor=2,
        ),
        "paper": Preset(
            about="Tables 1 and 2 on Cityscapes: 3 bases x 9, ResNet-101, 60k steps (8 GPUs a trial)",
            recipe="dgcw/cityscapes",
            settings=OF_CONTEXT,
            space={
                "head.base": choice("none", "psp", "aspp"),
                "head.context": choice("none", "dgcw", "conv", "gap", "se", "nl", "nl_reduced"),
                "head.weighting": WEIGHTING,
            },
            algorithm="grid",
        ),
    },
)

if __name__ == "__main__":
    from rayseg.cli import sweep_job

    sweep_job(SWEEP)
