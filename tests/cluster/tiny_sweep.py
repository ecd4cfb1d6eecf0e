#!/usr/bin/env python3
"""A job file as small as one can be: what the tests of sweeps run and submit."""

from pathlib import Path

from rayseg.cli import sweep_job
from rayseg.sweep.space import Uniform, choice
from rayseg.sweep.trial import Preset, Sweep

RECIPE = str(Path(__file__).resolve().with_name("tiny_recipe.toml"))
DILATION = {"head.dilation": choice(1, 2)}
WINDOW = {"head.kernel_size": choice(3, 5, 7)} | DILATION
RATE = {"optim.lr": choice(0.05, 1e-7)}

RATES = {"optim.lr": Uniform(low=1e-7, high=0.1, log=True)}
SHORT = {"train.steps": 6}


def preset(space, algorithm="grid", **more):
    """A preset over the tiny recipe."""
    return Preset(about="a test", recipe=RECIPE, space=space, algorithm=algorithm, **({"settings": {}} | more))


SWEEP = Sweep(
    name="tiny",
    about="A test.",
    picture=("head.kernel_size", "head.dilation"),
    presets={
        "demo": preset(WINDOW),
        "two": preset(DILATION),
        "asha": preset(WINDOW | RATE, "asha", trials=8, grace_steps=2, reduction_factor=2),
        "failing": preset({"optim.lr": choice(0.05, 1e30)}),
        "pbt": preset(RATES, "pbt", settings=SHORT, population=4, perturb_steps=2),
        "hyperband": preset(RATES, "hyperband", settings=SHORT, trials=8, grace_steps=2, reduction_factor=2),
        "tpe": preset(RATES, "tpe", settings=SHORT, trials=8),
        "workers": preset(DILATION, settings={"train.workers": 2}),
    },
)

if __name__ == "__main__":
    sweep_job(SWEEP)
