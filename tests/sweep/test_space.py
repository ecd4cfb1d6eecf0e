"""Spaces: whole grids, draws that repeat for a seed and never repeat a point."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import UsageError
from rayseg.schema import parse, to_dict
from rayseg.sweep.space import Choice, Integer, Uniform, choice, draw, grid, one, settle

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


BEFORE_CONDITIONS = [
    (7, "group", 0.388, 0.7757),
    (7, "batch", 0.001587, 0.8736),
    (7, "batch", 0.1927, 0.7971),
    (3, "batch", 0.00163, 0.2784),
]


def test_draws_of_a_space_without_conditions_are_those_of_earlier_versions():
    """Drawn by the version of 2026-11-20; a sweep that began with it goes on with the same points."""
    space = {
        "head.kernel_size": choice(3, 5, 7),
        "head.norm": choice("batch", "group"),
        "optim.lr": Uniform(low=1e-4, high=1.0, log=True),
        "loss.aux_weight": Uniform(low=0.0, high=1.0),
    }
    assert [tuple(point.values()) for point in draw(space, 4, seed=7)] == BEFORE_CONDITIONS


# --- conditions -----------------------------------------------------------------------------------------------------

TREE = {
    "head.name": choice("fcn", "gald", "denoised_nl"),
    "head.norm": choice("batch", "group"),
    "head.ld": choice("v1", "v2", when={"head.name": "gald"}),
    "head.kernel_size": choice(3, 5, 7, when={"head.ld": "v2"}),
    "head.dropout": choice(0.0, 0.1, when={"head.name": ["fcn", "denoised_nl"]}),
}


def by_hand():
    """The points of `TREE`, written without conditions."""
    for norm in ("batch", "group"):
        for name in ("fcn", "denoised_nl"):
            for dropout in (0.0, 0.1):
                yield {"head.name": name, "head.norm": norm, "head.dropout": dropout}
        yield {"head.name": "gald", "head.norm": norm, "head.ld": "v1"}
        for kernel_size in (3, 5, 7):
            yield {"head.name": "gald", "head.norm": norm, "head.ld": "v2", "head.kernel_size": kernel_size}


def sets(points):
    return {frozenset(point.items()) for point in points}


def test_a_grid_has_a_name_only_where_its_condition_is_met():
    points = grid(TREE)
    assert len(points) == len(sets(points)) == 16
    assert sets(points) == sets(by_hand())


@given(seed=st.integers(0, 2**32 - 1), trials=st.integers(1, 17))
def test_conditional_draws_are_distinct_points_of_the_grid_and_a_longer_draw_begins_with_the_shorter(seed, trials):
    points = draw(TREE, trials, seed)
    assert len(points) == len(sets(points)) == min(trials, 16)
    assert sets(points) <= sets(by_hand())
    assert draw(TREE, trials + 1, seed)[: len(points)] == points


def test_what_is_seldom_met_is_drawn_to_the_last_point():
    """The last point of this space has one chance in 60,000."""
    space = {"a": choice(*range(40))}
    space |= {name: choice(*range(40), when={"a": 0}) for name in "b"} | {"c": choice(*range(40), when={"b": 1})}
    for seed in range(3):
        points = draw(space, 10**6, seed)
        assert len(points) == len(sets(points)) == 39 + 39 + 40
        assert draw(space, 117, seed) == points[:117]


def test_heads_are_as_likely_whatever_the_number_of_their_options():
    wide = {"head.name": choice("fcn", "gald"), "x": Uniform(low=0.0, high=1.0, when={"head.name": "gald"})}
    rng = np.random.default_rng(0)
    names = [one(wide, rng)["head.name"] for _ in range(2000)]
    assert 0.45 < names.count("gald") / 2000 < 0.55


def test_rows_are_combined_with_the_space_and_meet_conditions():
    rows = ({"head.ld": "none"}, {"head.ld": "v2"})
    space = {"head.kernel_size": choice(3, 5, when={"head.ld": "v2"}), "seed": choice(0, 1)}
    settled = settle(space, {}, {"head.ld"})
    wanted = [{"head.ld": "none", "seed": s} for s in (0, 1)]
    wanted += [{"head.ld": "v2", "head.kernel_size": k, "seed": s} for k in (3, 5) for s in (0, 1)]
    assert grid(settled, rows) == wanted
    assert sets(draw(settled, 99, 0, rows)) == sets(wanted)


def test_conditions_on_the_base_are_decided_by_it():
    space = {
        "head.kernel_size": choice(3, 5, when={"head.ld": "v2"}),
        "head.ld_residual": choice("paper", "official", when={"head.ld": "v1"}),
        "x": choice(1, 2, when={"head.ld_residual": "paper"}),
        "y": choice(1, 2, when={"augment.scales": [[0.5, 1.0], [1.0]]}),
    }
    settled = settle(space, {"head.ld": "v2", "augment.scales": [0.5, 1.0], "head.ld_residual": None})
    assert settled == {"head.kernel_size": choice(3, 5), "y": choice(1, 2)}


@pytest.mark.parametrize("other", ["b", "no.such"])
def test_a_condition_on_what_is_not_there_yet_is_refused(other):
    with pytest.raises(UsageError, match=rf"'a' is searched only with {other} = 1"):
        settle({"a": choice(1, 2, when={other: 1}), "b": choice(1, 2)}, {"c": 1})


# --- whole numbers, lists -------------------------------------------------------------------------------------------


@given(low=st.integers(-20, 20), steps=st.integers(1, 30), step=st.integers(1, 5), seed=st.integers(0, 99))
def test_whole_numbers_are_all_reached_and_no_other(low, steps, step, seed):
    space = {"x": Integer(low=low, high=low + steps * step, step=step)}
    rng = np.random.default_rng(seed)
    drawn = {one(space, rng)["x"] for _ in range(60 * (steps + 1))}
    assert drawn == set(range(low, low + steps * step + 1, step))
    assert all(type(x) is int for x in drawn)


def test_whole_numbers_on_a_log_scale_spread_over_magnitudes():
    rng = np.random.default_rng(0)
    drawn = [one({"x": Integer(low=1, high=1000, log=True)}, rng)["x"] for _ in range(3000)]
    assert set(drawn) >= {1, 2, 3}
    assert 1 <= min(drawn) <= max(drawn) <= 1000
    assert 0.28 < sum(x < 10 for x in drawn) / 3000 < 0.38  # a third of log 1000


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"low": 3, "high": 3}, "bounds 3 .. 3"),
        ({"low": 0, "high": 3, "log": True}, "bounds 0 .. 3"),
        ({"low": 1, "high": 4, "step": 2}, "end at 3"),
        ({"low": 1, "high": 5, "step": 2, "log": True}, "step = 2 on a log scale"),
    ],
)
def test_impossible_whole_numbers_are_refused(bounds, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        Integer(**bounds)


def test_lists_are_choices_from_python_and_from_json():
    made = choice([0.5, 1.0], (0.75, 1.25), None, when={"head.name": ["fcn", "psp"], "augment.scales": [[1.0]]})
    assert made.values == ((0.5, 1.0), (0.75, 1.25), None)
    assert parse(Choice, to_dict(made), "space") == made
    with pytest.raises(UsageError, match="are equal"):
        choice([0.5, 1.0], (0.5, 1.0))
