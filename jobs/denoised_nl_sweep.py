#!/usr/bin/env python3
"""What do Denoised NL's two blocks add to non-local attention, and how large should its window be?

    ray job submit --working-dir . -- python jobs/denoised_nl_sweep.py --preset camvid --shards DIR
    python jobs/denoised_nl_sweep.py --preset smoke    # without a cluster

Paper: "Denoised Non-Local Neural Network for Semantic Segmentation", Table II on Cityscapes val: 76.7 to 82.0 mIoU on
ResNet-50, 77.9 to 83.5 on ResNet-101. It is `--preset paper`, with Table IV's plain non-local attention between.
"""

import _environment

_environment.require()

from rayseg.sweep.space import Uniform, choice  # noqa: E402 - only once the environment is found
from rayseg.sweep.trial import Preset, Sweep  # noqa: E402

ATTENTION, GR, LR = "head.attention", "head.global_rectifying", "head.local_retention"
BLOCKS = {
    ATTENTION: choice(False, True),
    GR: choice(False, True, when={ATTENTION: True}),
    LR: choice(False, True, when={ATTENTION: True}),
}
OPTIONS = {
    "head.rectify_from": choice("auxiliary", "features", when={GR: True}),
    "head.rectify_by": choice("probabilities", "logits", when={GR: True}),
    "head.kernel_size": choice(3, 5, 7, when={LR: True}),
}

SWEEP = Sweep(
    name="denoised_nl",
    about="Sweep Denoised NL: Global Rectifying, Local Retention, their options.",
    picture=(GR, LR),
    presets={
        "smoke": Preset(
            about="two short trials on drawn scenes: does everything work? (a minute)",
            recipe="denoised_nl/scenes",
            settings={"train.steps": 4, "train.eval_every": 2, "data.val_samples": 4},
            space={GR: choice(False, True), LR: choice(False, True)},
            algorithm="random",
            trials=2,
        ),
        "demo": Preset(
            about="Table II and Table IV's NL on drawn scenes, LR with 3x3 and 5x5, 7 trials (minutes on two cores)",
            recipe="denoised_nl/scenes",
            settings={},
            space=BLOCKS | {"head.kernel_size": choice(3, 5, when={LR: True})},
            algorithm="grid",
        ),
        "full": Preset(
            about="blocks, their options, weights of both auxiliary outputs, rate, under HyperBand, 24 trials",
            recipe="denoised_nl/scenes",
            settings={},
            space=BLOCKS
            | OPTIONS
            | {
                "loss.weights.aux1": Uniform(low=0.0, high=1.0),
                "loss.weights.aux2": Uniform(low=0.0, high=1.0),
                "optim.lr": Uniform(low=0.002, high=0.1, log=True),
            },
            algorithm="hyperband",
            trials=24,
            grace_steps=20,
            reduction_factor=2,
            recheck=2,
        ),
        "camvid": Preset(
            about="Table II and Table IV's NL on CamVid at 480x360 from scratch, 5 trials under ASHA",
            recipe="denoised_nl/camvid",
            settings={},
            space=BLOCKS,
            algorithm="asha",
            trials=5,
            grace_steps=50,
            reduction_factor=2,
        ),
        "paper": Preset(
            about="Table II and Table IV's NL on Cityscapes: ResNet-50 and -101, 89k steps, 10 trials (8 GPUs a trial)",
            recipe="denoised_nl/cityscapes",
            settings={GR: None, LR: None, "head.kernel_size": None},  # as their defaults; the Baseline reads none
            space={"backbone.name": choice("resnet50s", "resnet101s")} | BLOCKS,
            algorithm="grid",
        ),
    },
)

if __name__ == "__main__":
    from rayseg.cli import sweep_job

    sweep_job(SWEEP)
