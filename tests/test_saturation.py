"""The play of a large sweep against what can be worked out by hand."""

import random

import pytest

from saturation import report_s, spool_line_bytes
from simulated.sweep import Desk, Figures, full_at, lengths, play

CALM = Figures(step_s=0.1, steps=4000, eval_every=500, mtbf_h=1e9)


def test_desk_serves_one_after_the_other():
    desk = Desk("x")
    for now, work_s in ((0.0, 2.0), (1.0, 2.0), (1.0, 1.0), (9.0, 1.0)):
        desk.take(now, work_s)
    assert (desk.busy_s, desk.free_at, desk.longest_wait_s) == (6.0, 10.0, 3.0)


def test_every_step_is_done_once_where_nothing_is_taken_away():
    done = play(CALM, trials=50, gpus=8)
    assert done.kept == sum(lengths(50, 4000, 500, random.Random(0)))
    assert (done.redone, done.taken_away) == (0, 0)
    assert done.wall_s >= done.kept * 0.1 / 8


def test_one_gpu_takes_the_sum_of_all_trials():
    done = play(CALM, trials=7, gpus=1)
    assert done.wall_s - done.kept * 0.1 <= 50.0  # it begins within its first period
    assert done.wall_s >= done.kept * 0.1


def test_load_is_rate_times_service():
    done = play(CALM._replace(storage_mib_s=1000.0), trials=400, gpus=10)
    storage = done.desks[2]
    idle = 1 - done.kept * 0.1 / 10 / done.wall_s  # the tail, in which fewer GPUs work
    assert done.load(storage) == pytest.approx(10 / 50.0 * 361 / 1000 * (1 - idle), rel=1e-6)


def test_a_desk_is_full_where_its_load_is_one():
    for place, (name, gpus) in enumerate(full_at(CALM).items()):
        done = play(CALM, trials=2000, gpus=20)
        working = done.kept * 0.1 / done.wall_s  # GPUs that work, on average
        assert done.load(done.desks[place]) == pytest.approx(working / gpus, rel=1e-6), name


def test_full_desk_makes_a_queue_that_grows():
    slow, fast = (play(CALM._replace(storage_mib_s=rate), trials=200, gpus=10).desks[2] for rate in (36.1, 361.0))
    assert slow.longest_wait_s > 20 * fast.longest_wait_s  # twice as much comes as it takes; a fifth of it


def test_spot_costs_what_the_formula_says():
    figures = CALM._replace(mtbf_h=0.5, recovery_s=60.0, steps=40_000)
    done = play(figures, trials=300, gpus=4, seed=1)
    interval_s = 50.0
    expected = 1 / (1 - (60 + interval_s / 2) / 1800)  # to first order, wall over kept
    busy_s = done.kept * 0.1 + done.redone * 0.1 + done.taken_away * 60
    assert busy_s / (done.kept * 0.1) == pytest.approx(expected, rel=0.02)


def test_shorter_trials_are_more_frequent():
    drawn = lengths(2000, 4000, 500, random.Random(3))
    assert set(drawn) == {4000, 2000, 1000, 500}
    assert drawn.count(4000) / 2000 == pytest.approx(0.5, abs=0.05)


def test_what_is_measured_here(tmp_path):
    assert 100 < spool_line_bytes(tmp_path / "s") < 1000
    assert 0 < report_s(tmp_path / "j") < 1
