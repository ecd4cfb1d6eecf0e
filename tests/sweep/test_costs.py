"""Costs: what was measured stands as it is, the rest is the nearest one's, scaled by its multiply-adds."""

import itertools

import pytest

from rayseg.sweep.costs import Costs, Load, Measured, distance, reports, spread
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, trials
from rayseg.train.pace import Pace


def made(space, **settings):
    settings = {"train.steps": 100, "train.eval_every": 30} | {k.replace("__", "."): v for k, v in settings.items()}
    preset = Preset(about="a test", recipe="gald/scenes", settings=settings, space=space, algorithm="grid")
    return trials(preset, algorithm="grid", count=1, shards="none", settings={})


WINDOWS = {"head.kernel_size": choice(3, 5, 7), "head.dilation": choice(1, 2, 6)}


def by_channels(config):
    return Load(step=float(config.head.channels), image=2.0 * config.head.channels)


def test_a_measured_trial_costs_what_was_measured():
    pace = Pace(2.0, 0.5, 0.1, 0.3, 1.0, 900.0)
    (trial, *_) = made(WINDOWS)
    costs = Costs([Measured(trial, pace)], by_channels, val_images=20)
    assert costs.pace(trial) == pace
    # after 30, 60, 90 and 100 steps; 20 images each time
    assert reports(trial) == [30, 60, 90, 100]
    assert costs.seconds(trial) == pytest.approx(2.0 + 100 * 0.5 + 4 * (20 * 0.1 + 0.3) + 1.0)
    assert costs.seconds(trial, done=60) == pytest.approx(2.0 + 40 * 0.5 + 2 * (20 * 0.1 + 0.3) + 1.0)


def test_another_one_takes_the_nearest_ones_pace_times_the_ratio_of_multiply_adds():
    space = {"head.channels": choice(32, 64, 128), "head.dilation": choice(1, 6)}
    small, _, _, _, large, far = made(space)
    assert (small.config.head.channels, large.config.head.channels, far.config.head.dilation) == (32, 128, 6)
    costs = Costs(
        [
            Measured(small, Pace(1.0, 0.1, 0.01, 0.5, 1.0, 500.0)),
            Measured(large, Pace(3.0, 0.8, 0.04, 0.5, 1.0, 900.0)),
        ],
        by_channels,
        val_images=20,
    )
    assert costs.pace(far).step_s == pytest.approx(0.8)  # 128 channels, as the large one
    between = next(t for t in made(space) if t.point == {"head.channels": 64, "head.dilation": 1})
    # 64 is as far from 32 as from 128: the mean of what both give, scaled by the channels
    assert costs.pace(between).step_s == pytest.approx((0.1 * 64 / 32 + 0.8 * 64 / 128) / 2)
    assert costs.pace(between).start_s == pytest.approx(2.0)


def test_distance_counts_what_differs():
    point = {"a": 3, "b": "batch", "c": True}
    assert distance(point, dict(point)) == 0
    assert distance(point, {**point, "b": "group"}) == distance(point, {**point, "c": False}) == 1
    assert 0 < distance(point, {**point, "a": 5}) < distance(point, {**point, "a": 7}) < 1
    assert distance({"a": 1}, {}) == 1  # a name that exists under a condition only


def test_measured_are_the_first_the_largest_and_then_the_farthest():
    grid = made(WINDOWS)
    size = {t.key: t.config.head.kernel_size * 10 + t.config.head.dilation for t in grid}
    chosen = spread(grid, lambda t: size[t.key], 4)
    assert chosen[0] == grid[0]
    assert chosen[1].point == {"head.kernel_size": 7, "head.dilation": 6}
    for following in itertools.islice(range(4), 2, 4):
        before = chosen[:following]
        near = {t.key: min(distance(t.point, b.point) for b in before) for t in grid}
        assert near[chosen[following].key] == max(near.values())
    assert len(spread(grid, lambda t: 0, 100)) == len(grid)
