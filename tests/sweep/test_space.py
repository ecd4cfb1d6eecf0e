"""Spaces: whole grids, draws that repeat for a seed and never repeat a point."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import UsageError
from rayseg.schema import parse
from rayseg.sweep.space import Choice, Uniform, choice, draw, grid

SPACE = {"head.kernel_size": choice(3, 5, 7), "head.norm": choice("batch", "group")}


def test_grid_is_the_product():
    expected = {frozenset(zip(SPACE, pair, strict=True)) for pair in itertools.product((3, 5, 7), ("batch", "group"))}
    assert {frozenset(point.items()) for point in grid(SPACE)} == expected
    assert len(grid(SPACE)) == 6


def test_grid_refuses_bounds():
    with pytest.raises(UsageError, match=r"optim\.lr"):
        grid({"optim.lr": Uniform(low=0.1, high=0.2)})


@given(seed=st.integers(0, 2**32 - 1), trials=st.integers(1, 9))
def test_draws_are_distinct_and_a_longer_draw_begins_with_the_shorter(seed, trials):
    points = draw(SPACE, trials, seed)
    assert len(points) == min(trials, 6)
    assert len({tuple(p.items()) for p in points}) == len(points)
    assert draw(SPACE, trials + 1, seed)[: len(points)] == points


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((3, 3), "values 3 and 3 are equal"),
        ((3, 5, 3.0), "values 3 and 3.0 are equal"),
        ((True, 2, 1), "values True and 1 are equal"),
        (("batch", "group", "batch"), "values 'batch' and 'batch' are equal"),
    ],
)
def test_equal_values_are_refused(values, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        choice(*values)
    with pytest.raises(UsageError, match=re.escape(says)):
        parse(Choice, {"values": list(values)}, "space")


NARROW = Uniform(low=0.12341, high=0.12369)
"""At four digits: 0.1234, 0.1235, 0.1236 and 0.1237."""


def test_bounds_that_hold_too_few_numbers_are_refused_after_a_bounded_search():
    with pytest.raises(UsageError, match=r"4 distinct points found, 5 asked for \(optim\.lr\)"):
        draw({"optim.lr": NARROW}, 5, seed=0)
    with pytest.raises(UsageError, match="8 distinct points found, 9 asked for"):
        draw({"optim.lr": NARROW, "loss.ohem": choice(False, True)}, 9, seed=0)


def test_narrow_bounds_give_what_they_hold():
    points = draw({"optim.lr": NARROW}, 4, seed=0)
    assert {p["optim.lr"] for p in points} == {
        0.12341,
        0.1235,
        0.1236,
        0.12369,
    }  # rounded to four digits, kept in the bounds
    assert draw({"optim.lr": NARROW}, 3, seed=0) == points[:3]


def test_a_large_space_is_drawn_to_its_last_point():
    """The bound on tries must not cut off who asks for all of a space: here the last point takes 700 tries or so."""
    space = {"a": choice(*range(20)), "b": choice(*range(10))}
    for seed in range(20):
        assert len(draw(space, 10**6, seed)) == 200


def test_no_trials_no_points():
    assert draw(SPACE, 0, seed=0) == []


def test_log_scale_spreads_over_magnitudes():
    values = [p["x"] for p in draw({"x": Uniform(low=1e-4, high=1.0, log=True)}, 400, 1)]
    assert min(values) >= 1e-4
    assert max(values) <= 1.0
    assert 0.4 < sum(v < 1e-2 for v in values) / 400 < 0.6


@pytest.mark.parametrize("bounds", [{"low": 1.0, "high": 1.0}, {"low": 0.0, "high": 1.0, "log": True}])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(UsageError, match="bounds"):
        Uniform(**bounds)


def test_rounding_stays_within_the_bounds():
    narrow = {"x": Uniform(low=0.12341, high=0.12344)}
    assert 0.12341 <= draw(narrow, 1, 0)[0]["x"] <= 0.12344
