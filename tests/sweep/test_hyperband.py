"""HyperBand's brackets hold what the paper's hold, and each decides as Ray Tune's own does."""

import random
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, HyperBandScheduler

from rayseg.sweep.fixed import Fixed
from rayseg.sweep.hyperband import HyperBand, brackets


def test_the_papers_table():
    laid_out = brackets(grace_steps=1, max_steps=81, reduction_factor=3)
    # Algorithm 1 with R = 81, eta = 3: n = ceil(5/(s+1) * 3^s) trials, the first looked at after r = 81 / 3^s.
    assert [b.trials for b in laid_out] == [81, 34, 15, 8, 5]
    assert [b.asha.steps() for b in laid_out] == [[1, 3, 9, 27], [3, 9, 27], [9, 27], [27], []]


@pytest.mark.parametrize(("longest", "factor"), [(81, 3), (64, 2), (64, 4)])
def test_as_many_trials_a_bracket_as_tunes_hyperband(longest, factor):
    tunes = HyperBandScheduler(max_t=longest, reduction_factor=factor)
    ours = brackets(grace_steps=1, max_steps=longest, reduction_factor=factor)
    most = len(ours) - 1
    assert [b.trials for b in ours] == [tunes._get_n0(s) for s in range(most, -1, -1)]
    assert [(b.asha.steps() or [longest])[0] for b in ours] == [tunes._get_r0(s) for s in range(most, -1, -1)]


@pytest.mark.parametrize("seed", range(20))
def test_each_bracket_decides_as_tunes_asynchronous_one(seed):
    rng = random.Random(seed)
    factor, grace, longest = rng.choice([2, 3]), rng.choice([1, 5]), 200
    ours = HyperBand(grace_steps=grace, max_steps=longest, reduction_factor=factor)
    theirs = AsyncHyperBandScheduler(
        metric="miou",
        mode="max",
        max_t=longest,
        grace_period=grace,
        reduction_factor=factor,
        brackets=len(ours.brackets) - 1,  # the one that never looks has no counterpart
        stop_last_trials=False,
    )
    steps = {f"t{i}": 0 for i in range(30)}
    for key in steps:
        ours.enter(key)
    of = {key: number for number, members in enumerate(ours.members) for key in members}
    stops = 0
    while steps:
        key = rng.choice(list(steps))
        steps[key] += rng.choice([1, 5, 7])
        miou = rng.random()
        verdict = ours.judge(key, steps[key], miou)
        other = "CONTINUE"
        if of[key] < len(theirs._brackets):
            other = theirs._brackets[of[key]].on_result(SimpleNamespace(trial_id=key), steps[key], miou)
        assert (verdict is not None) == (other == "STOP"), (key, steps[key])
        stops += verdict is not None
        if verdict is not None or steps[key] >= longest:
            del steps[key]
    assert stops


def test_any_number_of_trials_has_the_papers_mix():
    band = HyperBand(grace_steps=1, max_steps=81, reduction_factor=3)
    share = [b.trials / 143 for b in band.brackets]
    for begun in range(1, 144):
        band.enter(f"t{begun}")
        for members, part in zip(band.members, share, strict=True):
            assert abs(len(members) - part * begun) < len(share), begun
    assert [len(members) for members in band.members] == [81, 34, 15, 8, 5]


def test_a_verdict_names_the_bracket():
    band = HyperBand(grace_steps=10, max_steps=80, reduction_factor=2)
    for key in "abcdefgh":
        band.enter(key)
    first = sorted(band.members[0])
    assert band.judge(first[0], 10, 0.5) is None
    said = str(band.judge(first[1], 10, 0.4))
    assert said == "stopped at rung 1 (step 10) by HyperBand's bracket 1: mIoU 0.400 under the cut 0.500"


def test_fixed_trials_start_in_order_and_the_rule_hears_of_each(made):
    search = made("hyperband", trials=9, grace_steps=10).search().search
    assert isinstance(search, Fixed)
    named = [search.suggest() for _ in range(10)]
    assert named.pop() == "done"
    assert [s.trial.key for s in named] == [t.key for t in search.trials]
    assert sum(map(len, search.rule.members)) == 9
