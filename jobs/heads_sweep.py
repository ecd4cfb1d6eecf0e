#!/usr/bin/env python3
"""Which head wins? All of them against each other, each with its own options.

    ray job submit --working-dir . -- python jobs/heads_sweep.py --preset camvid --shards DIR
    python jobs/heads_sweep.py --preset smoke          # without a cluster
    python jobs/heads_sweep.py --preset full --search optim.lr=1e-3..1e-1:log

Paper: Denoised NL, Tables III and IV: context modules in one training, on ResNet-50 and -101, best 83.5 mIoU on
Cityscapes val. It is `--preset paper`, but for the modules' places: each is in its own paper's head, at stride 8.
"""

import _environment

_environment.require()

from rayseg.heads import names  # noqa: E402 - only once the environment is found
from rayseg.sweep.space import choice  # noqa: E402
from rayseg.sweep.trial import Preset, Sweep  # noqa: E402
from rayseg.tables.denoised_nl import BASELINE, DEFAULTS, OWN, RIVALS  # noqa: E402

BASE = {"head.name": "fcn"}  # leaves GALD's own options out
V2, GR = {"head.name": "gald", "head.ld": "v2"}, {"head.name": "denoised_nl", "head.global_rectifying": True}
SLIM = {"head.base": choice("none", when={"head.name": "dgcw"})}
"""ASPP's 512 channels a branch would take most of the time."""
OPTIONS = {
    "head.ld": choice("v1", "v2", when={"head.name": "gald"}),
    "head.kernel_size": choice(3, 5, when=V2),
    "head.dilation": choice(1, 2, 6, when=V2),
    "head.weighting": choice("dbs", "softmax", "tanh", when={"head.name": "dgcw"}),
    "head.global_rectifying": choice(False, True, when={"head.name": "denoised_nl"}),
    "head.rectify_by": choice("probabilities", "logits", when=GR),
    "head.cab": choice(False, True, when={"head.name": "dfn"}),
    "loss.border_weight": choice(0.05, 0.1, 0.5, when={"head.name": "dfn"}),
    "head.pam": choice(False, True, when={"head.name": "dfdam"}),
    "head.recurrence": choice(1, 2, when={"head.name": "ccnet"}),
    "head.reduction": choice(4, 16, when={"head.name": "se"}),
}
"""An option exists only under its head."""

SWEEP = Sweep(
    name="heads",
    about="Let all heads compete, with their norms, widths and options.",
    picture=("head.name", "head.channels"),
    presets={
        "smoke": Preset(
            about="two short trials of two heads on drawn scenes: does everything work? (a minute)",
            recipe="gald/scenes",
            settings={**BASE, "train.steps": 4, "train.eval_every": 2, "data.val_samples": 4},
            space={
                "head.name": choice("fcn", "gald"),
                "head.channels": choice(32),
                "head.kernel_size": choice(3, when={"head.name": "gald"}),
            },
            algorithm="grid",
        ),
        "demo": Preset(
            about="every head at 64 channels on drawn scenes, 16 trials (minutes on two cores)",
            recipe="gald/scenes",
            settings=BASE,
            space={"head.name": choice(*names()), "head.channels": choice(64)} | SLIM,
            algorithm="grid",
        ),
        "full": Preset(
            about="every head with its own options, widths and norms on drawn scenes under ASHA, 48 trials",
            recipe="gald/scenes",
            settings=BASE,
            space={
                "head.name": choice(*names()),
                "head.channels": choice(32, 64, 128),
                "head.norm": choice("batch", "group"),
            }
            | SLIM
            | OPTIONS,
            algorithm="asha",
            trials=48,
            grace_steps=20,
            reduction_factor=2,
            recheck=2,
        ),
        "pareto": Preset(
            about="mIoU against parameters: heads and widths on drawn scenes under TPE, 24 trials",
            recipe="gald/scenes",
            settings=BASE,
            space={"head.name": choice(*names()), "head.channels": choice(32, 64, 128)} | SLIM,
            algorithm="tpe",
            trials=24,
            objectives=("miou", "-parameters"),
        ),
        "camvid": Preset(
            about="six heads at 96 channels on CamVid at 480x360 from scratch under ASHA",
            recipe="gald/camvid",
            settings=BASE,
            space={
                "head.name": choice("fcn", "psp", "ccnet", "dgcw", "denoised_nl", "gald"),
                "head.channels": choice(96),
            }
            | SLIM,
            algorithm="asha",
            trials=6,
            grace_steps=50,
            reduction_factor=2,
        ),
        "paper": Preset(
            about="Denoised NL's Tables III and IV on Cityscapes: 9 x ResNet-50, -101, 89k steps (8 GPUs a trial)",
            recipe="denoised_nl/cityscapes",
            settings={"loss.aux_weight": 0.4} | DEFAULTS,
            rows=(BASELINE, *RIVALS.values(), {"head.name": "nonlocal_net"}, OWN),
            space={"backbone.name": choice("resnet50s", "resnet101s")},
            algorithm="grid",
        ),
    },
)

if __name__ == "__main__":
    from rayseg.cli import sweep_job

    sweep_job(SWEEP)
