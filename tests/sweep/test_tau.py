"""Kendall's tau against scipy's, the Pareto front against comparing all with all, and what the report says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rayseg.sweep import pareto
from rayseg.sweep.tau import Scored, kendall, report

FEW = st.integers(0, 4).map(float)  # so few values that many are equal


@given(st.lists(st.tuples(FEW, FEW), min_size=2, max_size=15))
def test_tau_b_is_scipys(pairs):
    one, other = zip(*pairs, strict=True)
    theirs = stats.kendalltau(one, other, variant="b").statistic
    ours = kendall(one, other)
    assert math.isnan(ours) == math.isnan(theirs)
    assert math.isnan(ours) or ours == pytest.approx(theirs, abs=1e-12)


def test_too_few_points_have_no_tau():
    assert math.isnan(kendall([], []))
    assert math.isnan(kendall([0.5], [0.4]))


@given(st.lists(st.tuples(FEW, FEW), max_size=15))
def test_the_front_is_what_nothing_beats(points):
    def beaten(mine):
        return any(all(np.array(o) >= mine) and any(np.array(o) > mine) for o in points)

    naive = {i for i, point in enumerate(points) if not beaten(np.array(point))}
    found = pareto.front(list(enumerate(points)))
    assert set(found) == naive
    assert len(found) == len(naive)
    assert [points[i][0] for i in found] == sorted((points[i][0] for i in found), reverse=True)


def test_the_report_names_what_was_run_again_and_whether_it_would_have_won():
    points = [
        Scored("aaaa", {0: 0.3, 1: 0.5}, 0.6),
        Scored("bbbb", {0: 0.4, 1: 0.6}, 0.7),
        Scored("cccc", {0: 0.2, 1: 0.55}, 0.8, stopped_at=0),
        Scored("dddd", {0: 0.1, 1: 0.3}, 0.5, stopped_at=0),
        Scored("eeee", {0: 0.1}, None, stopped_at=0),
    ]
    assert report(points, ["step 10", "step 20"]) == [
        "ranking at each rung against the full run (Kendall's tau-b; 1: the same order, 0: no relation):",
        "  rung 1 (step 10): tau +0.33 over 4 points",
        "  rung 2 (step 20): tau +0.67 over 4 points",
        "2 of 3 stopped points were run to the end to check the verdict:",
        "  cccc stopped at rung 1 with 0.200, came to 0.800 (best of the others 0.700): it would have won",
        "  dddd stopped at rung 1 with 0.100, came to 0.500 (best of the others 0.700): the verdict holds",
        "1 of 2 re-run points would have won",
    ]


def test_the_report_owns_up_to_what_was_not_checked():
    points = [Scored("aaaa", {0: 0.3}, 0.6), Scored("bbbb", {0: 0.2}, None, stopped_at=0)]
    lines = report(points, ["step 10"])
    assert lines[1] == "  rung 1 (step 10): too few to tell over 1 points"
    assert lines[-1] == "none of 1 stopped points was run to the end: `recheck` asks for some"
    assert report([Scored("aaaa", {}, None)], ["step 10"]) == []
