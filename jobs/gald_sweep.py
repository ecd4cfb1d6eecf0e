#!/usr/bin/env python3
"""Which local window should GALD distribute global context through? LDv2's kernel size and dilation, searched.

    ray job submit jobs/gald_sweep.py                  # after `rayseg up`: the demo on drawn scenes
    ray job submit --working-dir . -- python jobs/gald_sweep.py --preset camvid --shards DIR
    python jobs/gald_sweep.py --preset smoke           # without a cluster

Paper: "Global Aggregation then Local Distribution for Scene Parsing", Table II(b): best 80.8 mIoU at k=5, r=6 on
Cityscapes val. The paper's grid is `--preset paper`.
"""

import _environment

_environment.require()

from rayseg.sweep.space import choice  # noqa: E402 - only once the environment is found
from rayseg.sweep.trial import Preset, Sweep  # noqa: E402

WINDOW = {"head.kernel_size": choice(3, 5, 7), "head.dilation": choice(1, 2, 3, 6)}
AROUND = {
    "head.norm": choice("batch", "group"),
    "loss.aux_weight": choice(0.0, 0.2, 0.4),
    "loss.ohem": choice(False, True),
}

SWEEP = Sweep(
    name="gald",
    about="Sweep GALD's LDv2: kernel size x dilation, norm layer, auxiliary weight, OHEM.",
    picture=("head.kernel_size", "head.dilation"),
    presets={
        "smoke": Preset(
            about="two short trials on drawn scenes: does everything work? (a minute)",
            recipe="gald/scenes",
            settings={"train.steps": 4, "train.eval_every": 2, "data.val_samples": 4},
            space={"head.kernel_size": choice(3, 5), "head.dilation": choice(1, 2)},
            algorithm="random",
            trials=2,
        ),
        "demo": Preset(
            about="the whole window grid on drawn scenes, 12 trials (minutes on two cores)",
            recipe="gald/scenes",
            settings={},
            space=WINDOW,
            algorithm="grid",
        ),
        "full": Preset(
            about="window, norm layer, auxiliary weight and OHEM on drawn scenes under ASHA, 24 trials",
            recipe="gald/scenes",
            settings={},
            space=WINDOW | AROUND,
            algorithm="asha",
            trials=24,
            grace_steps=20,
            reduction_factor=2,
        ),
        "camvid": Preset(
            about="6 of the 12 windows, drawn with the run's seed, on CamVid at 480x360 from scratch under ASHA",
            recipe="gald/camvid",
            settings={},
            space=WINDOW,
            algorithm="asha",
            trials=6,
            grace_steps=50,
            reduction_factor=2,
        ),
        "paper": Preset(
            about="Table II(b) on Cityscapes: k {3,5,7} x r {3,6}, ResNet-50, 50k steps (8 GPUs a trial)",
            recipe="gald/cityscapes",
            settings={},
            space={"head.kernel_size": choice(3, 5, 7), "head.dilation": choice(3, 6)},
            algorithm="grid",
        ),
    },
)

if __name__ == "__main__":
    from rayseg.cli import sweep_job

    sweep_job(SWEEP)
