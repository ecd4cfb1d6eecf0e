"""A small sweep without data: the searches' tests play it, nothing is trained."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from rayseg.sweep.origin import Base
from rayseg.sweep.preset import Preset
from rayseg.sweep.search import Search
from rayseg.sweep.searches import BEFOREHAND, make
from rayseg.sweep.space import Uniform
from rayseg.sweep.trial import base_of, trials

SPACE = {
    "optim.lr": Uniform(low=0.001, high=0.1, log=True),
    "optim.momentum": Uniform(low=0.5, high=0.99),
    "loss.aux_weight": Uniform(low=0.1, high=0.9),
}


class Made(NamedTuple):
    """What is searched, and how to make the search anew."""

    base: Base
    search: Callable[[], Search]


@pytest.fixture
def made():
    """Make a search over learning rate, momentum and auxiliary weight, 80 steps with an evaluation every 10."""

    def build(algorithm, *, seed=0, known=(), settings=None, num_classes=None, **fields):
        settings = {"train.steps": 80, "train.eval_every": 10, "seed": seed} | (settings or {})
        fields = {"space": SPACE} | fields
        preset = Preset(about="", recipe="gald/scenes", settings=settings, algorithm=algorithm, **fields)
        base = base_of(preset, shards="/nowhere", settings={})
        fixed = []
        if algorithm in BEFOREHAND:
            fixed = trials(preset, algorithm=algorithm, count=preset.trials, shards="/nowhere", settings={})
        arguments = {"trials": fixed, "base": base, "count": preset.trials, "num_classes": num_classes, "known": known}
        return Made(base, lambda: make(preset, algorithm=algorithm, **arguments))

    return build
