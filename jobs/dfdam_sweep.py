#!/usr/bin/env python3
"""What do DF-DAM's two attentions add, and how much should its auxiliary outputs count?

    ray job submit --working-dir . -- python jobs/dfdam_sweep.py --preset camvid --shards DIR
    python jobs/dfdam_sweep.py --preset smoke          # without a cluster

Paper: "Differentiating Features for Scene Segmentation Based on Dedicated Attention Mechanisms", Table 2: 70.3, 72.8,
73.1 mIoU on Cityscapes val (`--preset paper`); Table 1 is `--preset paper_voc`.
"""

import _environment

_environment.require()

from rayseg.sweep.space import Uniform, choice  # noqa: E402 - only once the environment is found
from rayseg.sweep.trial import Preset, Sweep  # noqa: E402
from rayseg.tables import find  # noqa: E402

PARTS = {"head.dafm": choice(False, True), "head.pam": choice(False, True)}

SWEEP = Sweep(
    name="dfdam",
    about="Sweep DF-DAM: channel and pixel attention, the weights of its auxiliary outputs.",
    picture=("head.dafm", "head.pam"),
    presets={
        "smoke": Preset(
            about="two short trials on drawn scenes: does everything work? (a minute)",
            recipe="dfdam/scenes",
            settings={"train.steps": 4, "train.eval_every": 2, "data.val_samples": 4},
            space=PARTS,
            algorithm="random",
            trials=2,
        ),
        "demo": Preset(
            about="both attentions x the context output's weight on drawn scenes, 8 trials (minutes on two cores)",
            recipe="dfdam/scenes",
            settings={},
            space=PARTS | {"loss.weights.context": choice(0.2, 0.4)},
            algorithm="grid",
        ),
        "weights": Preset(
            about="PBT on drawn scenes: rate and loss weights change while 4 members train",
            recipe="dfdam/scenes",
            settings={"train.eval_every": 10},
            space={
                "loss.weights.context": Uniform(low=0.05, high=1.0, log=True),
                "loss.weights.spatial": Uniform(low=0.02, high=0.5, log=True),
                "optim.lr": Uniform(low=0.01, high=0.1, log=True),
            },
            algorithm="pbt",
            population=4,
            perturb_steps=20,
        ),
        "camvid": Preset(
            about="both attentions on CamVid at 480x360 from scratch, 4 trials under ASHA",
            recipe="dfdam/camvid",
            settings={},
            space=PARTS,
            algorithm="asha",
            trials=4,
            grace_steps=50,
            reduction_factor=2,
        ),
        "paper": Preset(
            about="Table 2 on Cityscapes: sum, DAFM, both; ResNet-18, 80k steps (8 GPUs a trial)",
            recipe="dfdam/cityscapes",
            settings={},
            rows=find("dfdam-2").points(),
            algorithm="grid",
        ),
        "paper_voc": Preset(
            about="Table 1 on VOC, augmented: sum, DAFM, both on ResNet-50 and ResNet-101, 30k steps (8 GPUs a trial)",
            recipe="dfdam/voc_aug_r50",
            settings={},
            rows=find("dfdam-2").points(),
            space={"backbone.name": choice("resnet50", "resnet101")},
            algorithm="grid",
        ),
    },
)

if __name__ == "__main__":
    from rayseg.cli import sweep_job

    sweep_job(SWEEP)
