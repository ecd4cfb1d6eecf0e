"""Our ASHA decides as Ray Tune's does, and comes back from the journal as it was."""

import random
from types import SimpleNamespace

import pytest
from ray.tune.schedulers.async_hyperband import _Bracket

from rayseg.sweep.asha import Asha


@pytest.mark.parametrize("seed", range(20))
def test_same_decisions_as_tunes_own(seed):
    rng = random.Random(seed)
    factor, grace, longest = rng.choice([2, 3, 4]), rng.choice([1, 5, 10]), 200
    ours = Asha(grace_steps=grace, max_steps=longest, reduction_factor=factor)
    theirs = _Bracket(min_t=grace, max_t=longest, reduction_factor=factor, s=0, stop_last_trials=False)
    steps = {f"t{i}": 0 for i in range(12)}
    stops = 0
    while steps:
        key = rng.choice(list(steps))
        steps[key] += rng.choice([1, 5, 7])
        miou = rng.random()
        mine = ours.judge(key, steps[key], miou)
        other = theirs.on_result(SimpleNamespace(trial_id=key), steps[key], miou)
        assert (mine is not None) == (other == "STOP"), (key, steps[key])
        stops += mine is not None
        if mine is not None or steps[key] >= longest:
            del steps[key]
    assert stops


def test_verdict_says_why():
    asha = Asha(grace_steps=10, max_steps=100, reduction_factor=2)
    asha.judge("a", 10, 0.447)
    assert str(asha.judge("b", 12, 0.412)) == "stopped at rung 1 (step 12) by ASHA: mIoU 0.412 under the cut 0.447"


def test_the_last_step_is_no_rung():
    asha = Asha(grace_steps=10, max_steps=40, reduction_factor=2)
    assert [at for at, _ in asha.rungs] == [10, 20]
    for key, miou in {"a": 0.9, "b": 0.95}.items():
        assert asha.judge(key, 20, miou) is None
    assert asha.judge("b", 40, 0.1) is None
