#!/usr/bin/env python3
"""Which local window should GALD distribute global context through? LDv2's kernel size and dilation, searched.

    ray job submit jobs/gald_sweep.py                  # after `rayseg up`: the demo on drawn scenes
    ray job submit --working-dir . -- python jobs/gald_sweep.py --preset camvid --shards DIR
    python jobs/gald_sweep.py --preset smoke           # without a cluster

Paper: "Global Aggregation then Local Distribution for Scene Parsing", Table II(b): best 80.8 mIoU at k=5, r=6 on
Cityscapes val. That table is `--preset paper`, Tables I, II(a) and II(c) are `--preset paper_parts`.
"""

import _environment

_environment.require()

from rayseg.sweep.space import Uniform, choice  # noqa: E402 - only once the environment is found
from rayseg.sweep.trial import Preset, Sweep  # noqa: E402
from rayseg.tables.gald import OF_LD, PART_ROWS, WINDOW_ROWS  # noqa: E402

WINDOW = {"head.kernel_size": choice(3, 5, 7), "head.dilation": choice(1, 2, 3, 6)}
AROUND = {
    "head.norm": choice("batch", "group"),
    "loss.aux_weight": choice(0.0, 0.2, 0.4),
    "loss.ohem": choice(False, True),
    "loss.ohem_threshold": choice(0.5, 0.7, 0.9, when={"loss.ohem": True}),
    "loss.ohem_min_kept": choice(4096, 16384, 65536, when={"loss.ohem": True}),
}
FINER = {
    "loss.kind": choice("cross_entropy", "focal"),
    "loss.focal_gamma": Uniform(low=0.5, high=4.0, when={"loss.kind": "focal"}),
    "loss.focal_alpha": Uniform(low=0.25, high=1.0, when={"loss.kind": "focal"}),
    "optim.lr": Uniform(low=0.005, high=0.2, log=True),
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
            about="window, norm layer, auxiliary weight, OHEM, focal loss, rate on drawn scenes under BOHB, 24 trials",
            recipe="gald/scenes",
            settings={},
            space=WINDOW | AROUND | FINER,
            algorithm="bohb",
            trials=24,
            grace_steps=20,
            reduction_factor=2,
            recheck=2,
        ),
        "ladder": Preset(
            about="window and norm layer on drawn scenes, first at half the crop, coarse, on half the data; 12 trials",
            recipe="gald/scenes",
            settings={},
            space=WINDOW | {"head.norm": choice("batch", "group")},
            algorithm="ladder",
            trials=12,
            rungs=(
                {"train.steps": 20, "augment.crop_px": [64, 64], "backbone.output_stride": 16, "data.share": 0.5},
                {"train.steps": 40, "backbone.output_stride": 16},
                {},
            ),
            fresh=True,
            reduction_factor=2,
            recheck=2,
        ),
        "norms": Preset(
            about="the head's norm: each worker's batch, both workers', groups of channels; 3 trials of two workers",
            recipe="gald/scenes",
            settings={"train.workers": 2, "train.sync_norm": "off"},
            space={"head.norm": choice("batch", "sync_batch", "group")},
            algorithm="grid",
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
            about="Table II(b) on Cityscapes: windows without and with ASPP, ResNet-50, 50k steps (8 GPUs a trial)",
            recipe="gald/cityscapes",
            settings=OF_LD,
            rows=WINDOW_ROWS,
            algorithm="grid",
        ),
        "paper_parts": Preset(
            about="Tables I, II(a), II(c) on Cityscapes: GA x LD, arrangement, mask, keys; 21 trials (8 GPUs a trial)",
            recipe="gald/cityscapes",
            settings=OF_LD,
            rows=PART_ROWS,
            algorithm="grid",
        ),
    },
)

if __name__ == "__main__":
    from rayseg.cli import sweep_job

    sweep_job(SWEEP)
