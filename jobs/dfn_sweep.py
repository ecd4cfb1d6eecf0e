#!/usr/bin/env python3
"""What do DFN's parts add, and how much should borders count (lambda, their width, focal gamma and alpha)?

    ray job submit --working-dir . -- python jobs/dfn_sweep.py --preset camvid --shards DIR
    python jobs/dfn_sweep.py --preset smoke            # without a cluster

Paper: "Learning a Discriminative Feature Network for Semantic Segmentation", on VOC val: Table 1 (without and with
random scales), Table 2 (the Smooth Network's parts, 72.86 to 79.54), Figure 8 (lambda, best at 0.1: 79.67, Table 3).
They are `--preset paper`; 13 trials, for Res-101 with random scales stands in both tables.
"""

import _environment

_environment.require()

from rayseg.sweep.space import Uniform, choice  # noqa: E402 - only once the environment is found
from rayseg.sweep.trial import Preset, Sweep  # noqa: E402
from rayseg.tables.dfn import LAMBDA, OF_PARTS, PAPER_ROWS, SMOOTH_ROWS  # noqa: E402

SWEEP = Sweep(
    name="dfn",
    about="Sweep DFN: parts of the Smooth Network, weight and form of the border loss.",
    picture=("loss.border_weight", "loss.border_width"),
    presets={
        "smoke": Preset(
            about="two short trials on drawn scenes: does everything work? (a minute)",
            recipe="dfn/scenes",
            settings={"train.steps": 4, "train.eval_every": 2, "data.val_samples": 4},
            space={"head.cab": choice(False, True), "loss.border_weight": choice(0.1, 1.0)},
            algorithm="random",
            trials=2,
        ),
        "demo": Preset(
            about="Figure 8's lambda x the borders' width on drawn scenes, 10 trials (minutes on two cores)",
            recipe="dfn/scenes",
            settings={},
            space={"loss.border_weight": choice(*LAMBDA), "loss.border_width": choice(3, 7)},
            algorithm="grid",
        ),
        "parts": Preset(
            about="Table 2 on drawn scenes, 7 trials",
            recipe="dfn/scenes",
            settings={"head.channels": None, "loss.border_width": None, "head.border": False},
            rows=SMOOTH_ROWS,
            algorithm="grid",
        ),
        "full": Preset(
            about="lambda, focal gamma and alpha, width, deep supervision, rate on drawn scenes under TPE, 20 trials",
            recipe="dfn/scenes",
            settings={},
            space={
                "loss.border_weight": Uniform(low=0.02, high=1.0, log=True),
                "loss.border_gamma": Uniform(low=0.0, high=4.0),
                "loss.border_alpha": Uniform(low=0.1, high=0.9),
                "loss.border_width": choice(1, 3, 5, 7),
                "head.deep_supervision": choice(False, True),
                "optim.lr": Uniform(low=0.002, high=0.1, log=True),
            },
            algorithm="tpe",
            trials=20,
        ),
        "camvid": Preset(
            about="lambda x width on CamVid at 480x360 from scratch, 6 of 10 trials under ASHA",
            recipe="dfn/camvid",
            settings={},
            space={"loss.border_weight": choice(*LAMBDA), "loss.border_width": choice(3, 7)},
            algorithm="asha",
            trials=6,
            grace_steps=50,
            reduction_factor=2,
        ),
        "paper": Preset(
            about="Tables 1 to 3 and Figure 8 on VOC, augmented: ResNet-101, 40k steps (8 GPUs a trial)",
            recipe="dfn/voc_aug",
            settings=OF_PARTS,
            rows=PAPER_ROWS,
            algorithm="grid",
        ),
    },
)

if __name__ == "__main__":
    from rayseg.cli import sweep_job

    sweep_job(SWEEP)
