"""The numbers of a report, recounted from what the sweep's folder was made of."""

import csv
import json
import statistics

import numpy as np
import pytest
from made_sweep import POINTS, Made, score, whole
from scipy.stats import chi2_contingency

from rayseg.report import levels
from rayseg.report.gather import gather
from rayseg.report.tables import costs
from rayseg.report.values import Searched, Trial


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return gather(whole(tmp_path_factory.mktemp("sweep")))


def test_the_ranking_has_what_the_trials_came_to(report):
    expected = sorted(((score(n), f"k{n:07d}", point) for n, point in enumerate(POINTS, 1)), key=lambda each: -each[0])
    assert [(t.miou, t.key, t.point) for t in report.trials] == expected
    assert [t.boundary for t in report.trials] == [pytest.approx(miou / 3) for miou, _, _ in expected]
    assert report.winner == expected[0][1]
    assert report.base == "k0000001"


def test_a_known_sweep_ranks_as_its_own_ranking(report, tmp_path):
    """Equal mIoU: the smaller model is first; a failed trial and a further seed are last, however good."""
    made = Made(tmp_path)
    made.trial(POINTS[0], key="large", miou=0.5, parameters=9_000_000)
    made.trial(POINTS[1], key="small", miou=0.5, parameters=1_000_000)
    made.trial(POINTS[2], key="failed", miou=0.9, outcome="failed", reason="NaN")
    made.trial({**POINTS[1], "seed": 1}, key="further", miou=0.8, final="small")
    found = gather(made.over())
    assert [t.key for t in found.trials] == ["small", "large", "failed", "further"]
    assert [t.counts for t in found.trials] == [True, True, False, False]
    assert "seed" not in [each.name for each in found.searched]


def test_costs_are_sums_over_the_trials(tmp_path):
    made = Made(tmp_path)
    made.trial(POINTS[0], steps=40)
    made.trial(POINTS[1], steps=10, outcome="stopped", reason="under the cut")
    made.trial(POINTS[2], steps=30, donor={"key": "k0000001", "step": 20})
    made.trial(POINTS[3], steps=20, outcome=None)
    said = dict(costs(gather(made.over())))
    assert said["trial hours"].startswith(f"{(101 + 102 + 103) / 3600:.3f} over 3 ")
    assert said["samples seen"].startswith(f"{(40 + 10 + 10 + 20) * 4} ")
    assert said["samples/s"].startswith(f"{(40 + 10 + 10) * 4 / 306:.2f} ")
    assert said["goodput"].startswith(f"{180 / 306:.1%} ")
    assert said["stopped early"].startswith("1 of 4 trials, 30 steps")


def test_marginals_are_means_over_the_trials_with_a_value(report):
    by_name = {each.name: each for each in report.searched}
    for name in ("head.kernel_size", "head.dilation"):
        for level in levels.marginal(by_name[name], report.trials):
            naive = [score(n) for n, point in enumerate(POINTS, 1) if str(point[name]) == level.text]
            assert sorted(level.miou) == sorted(naive)
            assert level.mean == pytest.approx(statistics.mean(naive))
            assert level.spread == pytest.approx(statistics.stdev(naive))


def test_numbers_between_bounds_fall_into_ranges_of_all_trials():
    rng = np.random.default_rng(3)
    rates = [float(f"{v:.4g}") for v in 10 ** rng.uniform(-4, -1, 47)]
    trials = [Trial(str(i), {"optim.lr": v}, "finished", "", miou=i / 100) for i, v in enumerate(rates)]
    found = levels.marginal(Searched("optim.lr", "lr", "log", tuple(sorted(rates))), trials)
    assert sorted(v for level in found for v in level.miou) == [i / 100 for i in range(47)]
    assert {len(level.miou) for level in found} <= {9, 10}
    low = [float(level.text.split(" … ")[0]) for level in found]
    assert low == sorted(low)
    for level in found:
        first, last = map(float, level.text.split(" … "))
        assert all(first <= rates[round(100 * v)] <= last for v in level.miou)


def test_the_grid_has_best_mean_and_count_of_each_cell(tmp_path):
    made = Made(tmp_path)
    for point in [*POINTS, *({**point, "optim.lr": 0.07} for point in POINTS[:3])]:
        made.trial(point)
    report = gather(made.over())
    by_name = {each.name: each for each in report.searched}
    found = levels.grid((by_name["head.kernel_size"], by_name["head.dilation"]), report.trials)
    assert (found.rows, found.columns) == (("3", "5", "7"), ("1", "2"))
    for i, k in enumerate((3, 5, 7)):
        for j, r in enumerate((1, 2)):
            ran = [t.miou for t in report.trials if t.point["head.kernel_size"] == k and t.point["head.dilation"] == r]
            assert found.counts[i, j] == len(ran)
            assert found.best[i, j] == max(ran)
            assert found.mean[i, j] == pytest.approx(statistics.mean(ran))


def test_a_whole_grid_is_not_confounded_and_what_goes_together_is():
    places = [(a, b) for a in range(3) for b in range(4)]
    assert levels.entangled([a for a, _ in places], [b for _, b in places]) == 0
    assert levels.entangled([0, 1, 2] * 4, [0, 1, 2] * 4) == pytest.approx(1)


def test_entanglement_is_bergsmas_v():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 3, 40)
    other = np.where(rng.random(40) < 0.5, one, rng.integers(0, 3, 40))
    table = np.zeros((3, 3))
    np.add.at(table, (one, other), 1)
    chance = 4 / 39
    apart = max(chi2_contingency(table, correction=False).statistic / 40 - chance, 0)
    assert levels.entangled(one.tolist(), other.tolist()) == pytest.approx((apart / (3 - 4 / 39 - 1)) ** 0.5)


def test_a_confounded_search_is_named(tmp_path):
    made = Made(tmp_path)
    for n in range(12):
        made.trial({"head.kernel_size": (3, 5)[n % 2], "head.dilation": (1, 2)[n % 2], "optim.lr": 0.01 + n // 2 / 100})
    report = gather(made.over())
    assert [(a, b) for a, b, _ in levels.confounded(report.searched, report.trials)] == [("kernel_size", "dilation")]


def test_classes_are_the_winners_less_the_bases(tmp_path):
    made = Made(tmp_path)
    made.trial(POINTS[0], key="base", miou=0.2)
    made.trial(POINTS[1], key="best", miou=0.4)
    made.classes("base", {"Sky": 0.5, "Road": 0.75, "Never": ""})
    made.classes("best", {"Sky": 0.25, "Road": 0.875, "Never": ""})
    found = {each.name: (each.here, each.base) for each in gather(made.over()).classes}
    assert found == {"Sky": (0.25, 0.5), "Road": (0.875, 0.75), "Never": (None, None)}


def test_a_sweep_that_was_resumed_counts_each_trial_once(tmp_path):
    made = Made(tmp_path)
    key = made.trial(POINTS[0], outcome="failed", reason="a node died", miou=0.3)
    made.tell("resume", {"left": []})
    made.tell("retry", {"key": key})
    running = gather(tmp_path)
    assert [(t.state, t.miou) for t in running.trials] == [("runs", 0.3)]
    made.tell("end", {"key": key, "outcome": "finished", "reason": ""})
    made.summary(key, 0.35, 40, "finished", 5)
    assert [(t.state, t.miou, t.step) for t in gather(made.over()).trials] == [("finished", 0.35, 40)]


def test_trials_known_from_an_earlier_sweep_are_ranked_once(tmp_path):
    made = Made(tmp_path)
    known = [{"number": n, "point": POINTS[n], "curve": {"10": 0.3, "20": 0.7}, "figures": {"miou": 0.7}, "run": "old"}
             for n in (0, 1)]  # fmt: skip
    plan = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    made.tell("plan", {**plan, "known": known})
    made.trial(POINTS[0], key="again", miou=0.5)
    report = gather(made.over())
    assert [(t.key, t.state, t.miou) for t in report.trials] == [("known 1", "known", 0.7), ("again", "finished", 0.5)]


def test_what_a_trial_left_as_a_table_is_a_csv(tmp_path):
    """The fixture writes as the trial does: comma-separated, empty where IoU is not defined."""
    made = Made(tmp_path)
    made.classes(made.trial(POINTS[0]), {'a "b", c': 0.5})
    with next(tmp_path.rglob("per_class.csv")).open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [each.name for each in gather(made.over()).classes]


def test_the_heat_map_is_of_the_values_that_the_sweep_is_about(tmp_path):
    made = Made(tmp_path)
    plan = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    for point in POINTS:
        made.trial(point)
    assert gather(tmp_path).picture == ("head.kernel_size", "head.dilation")
    made.tell("plan", {**plan, "picture": ["head.dilation", "optim.lr"]})
    assert gather(made.over()).picture == ("head.dilation", "optim.lr")
