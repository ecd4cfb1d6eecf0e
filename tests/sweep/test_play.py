"""A search played through: the clock of a queue worked out by hand, and halving as a plain loop has it."""

import copy
import heapq
import statistics

import numpy as np
import pytest

from rayseg.sweep.costs import Costs, Load, Measured
from rayseg.sweep.play import Luck, Running, Waiting, foresee, play, understudy
from rayseg.sweep.search import Donor, Suggestion
from rayseg.sweep.searches import make
from rayseg.sweep.space import Uniform, choice
from rayseg.sweep.trial import Preset, base_of, trials
from rayseg.train.pace import Pace

SPACE = {"head.kernel_size": choice(3, 5, 7), "head.dilation": choice(1, 2, 3, 6), "loss.ohem": choice(True, False)}


def search_of(algorithm, count=24, *, steps=80, space=SPACE, **fields):
    settings = {"train.steps": steps, "train.eval_every": 10}
    fields = (
        {"grace_steps": 10, "reduction_factor": 2} | fields if algorithm in ("asha", "hyperband", "bohb") else fields
    )
    preset = Preset(about="a test", recipe="gald/scenes", settings=settings, space=space, algorithm=algorithm, **fields)
    base = base_of(preset, shards="none", settings={})
    fixed = algorithm in ("grid", "random", "asha", "hyperband")
    listed = trials(preset, algorithm=algorithm, count=count, shards="none", settings={}) if fixed else []
    search = make(preset, algorithm=algorithm, trials=listed, base=base, count=count, num_classes=11)
    return search, listed, base


def costs_of(trial, pace, **more):
    return Costs([Measured(trial, pace)], lambda config: Load(1, 1), val_images=6, **more)


PACE = Pace(start_s=2.0, step_s=0.5, image_s=0.1, commit_s=0.4, end_s=3.0, peak_mib=1.0)
JUDGED = 6 * 0.1 + 0.4  # one worker predicts each image once


@pytest.mark.parametrize("slots", [1, 2, 5, 40])
def test_a_grid_takes_as_long_as_a_queue_at_so_many_counters(slots):
    search, listed, _ = search_of("grid")
    found = foresee(search, costs_of(listed[0], PACE, boot_s=7.0), slots=slots)
    one = 2.0 + 80 * 0.5 + 8 * JUDGED + 3.0
    counters = [7.0] * slots
    for _ in listed:
        heapq.heapreplace(counters, counters[0] + one)
    assert found.wall_s == pytest.approx(max(counters))
    assert (found.steps, found.trials, found.stopped, found.exact) == (24 * 80, 24, {}, True)
    assert found.busy_s == pytest.approx(24 * one)


def halved(scores, rungs, steps):
    """Halve trials one after the other: at a rung one goes on if it is not under the median of those before it."""
    total, seen = 0, {rung: [] for rung in rungs}
    for curve in scores:
        for rung in rungs:
            before = list(seen[rung])
            seen[rung].append(curve[rung])
            if before and curve[rung] < statistics.median(before):
                total += rung
                break
        else:
            total += steps
    return total


def test_expected_steps_of_halving_are_those_of_a_plain_loop():
    """With scores by chance, trial after trial: the mean of many loops, written without our rule."""
    search, listed, _ = search_of("asha")
    found = foresee(search, costs_of(listed[0], PACE), slots=1, plays=60)
    rng = np.random.default_rng(0)
    totals = []
    for _ in range(400):
        own = rng.uniform(size=24)
        scores = [{rung: v + rng.normal(0, 0.1) for rung in (10, 20, 40)} for v in own]
        totals.append(halved(scores, (10, 20, 40), 80))
    assert found.steps == pytest.approx(np.mean(totals), rel=0.08)
    assert found.steps < 0.7 * 24 * 80
    assert found.steps_range[0] < found.steps < found.steps_range[1]
    assert set(found.stopped) <= {10, 20, 40}
    assert not found.exact


@pytest.mark.parametrize("algorithm", ["grid", "tpe", "asha", "hyperband", "bohb"])
def test_playing_leaves_the_search_as_it_was(algorithm):
    search, listed, base = search_of(algorithm, 12)
    trial = listed[0] if listed else base.trial(1, {})
    first = foresee(search, costs_of(trial, PACE), slots=2, plays=3)
    assert foresee(search, costs_of(trial, PACE), slots=2, plays=3) == first
    twin = search_of(algorithm, 12)[0]
    for _ in range(3):  # and it suggests what it would have suggested
        assert search.suggest().trial.key == twin.suggest().trial.key


def test_pbt_is_played_with_its_waits_and_its_donors():
    space = {"optim.lr": Uniform(low=0.01, high=0.1)}
    search, _, base = search_of("pbt", space=space, population=4, perturb_steps=20)
    found = play(understudy(search), costs_of(base.trial(1, {}), PACE), Luck(0), slots=2)
    assert found.trials > 4
    # members go on from commits: all together they do the steps of the population, and what is trained anew
    assert found.steps >= 4 * 80 - 4 * 20


class Story:
    """A search told what to suggest: 'wait' until the first report, then a trial that goes on from another."""

    def __init__(self, first, second):
        self.first, self.second, self.heard, self.given = first, second, [], 0

    def suggest(self):
        if self.given == 0:
            self.given = 1
            return Suggestion(self.first)
        if self.given == 1:
            if not self.heard:
                return "wait"
            self.given = 2
            return Suggestion(self.second, Donor(self.first.key, 30))
        return "done"

    def report(self, key, figures):
        self.heard.append((key, figures["step"]))
        return "enough" if (key, figures["step"]) == (self.first.key, 40) else None

    def ended(self, key, outcome):
        self.heard.append((key, outcome))


def test_waits_donors_and_verdicts():
    _, (first, second, *_), _ = search_of("grid")
    search = Story(first, second)
    found = play(search, costs_of(first, PACE), Luck(0), slots=2)
    reported = 2.0 + 10 * 0.5 + JUDGED  # when the second one may begin
    assert search.heard[0] == (first.key, 10)
    assert {step for key, step in search.heard if key == second.key} == {40, 50, 60, 70, 80, "finished"}
    assert (first.key, "stopped") in search.heard
    assert found.stopped == {40: 1}
    assert found.steps == 40 + 50
    assert found.wall_s == pytest.approx(reported + 2.0 + 50 * 0.5 + 5 * JUDGED + 3.0)


def test_what_runs_already_is_played_from_where_it_is():
    search, listed, _ = search_of("grid", space={"head.kernel_size": choice(3, 5)})
    for _ in listed:
        search.suggest()
    costs = costs_of(listed[0], PACE)
    running = [Running(listed[0], 70, since_s=2.0), Running(listed[1], 80, since_s=1.0)]
    found = play(copy.deepcopy(search), costs, Luck(0), slots=2, running=running)
    assert found.wall_s == pytest.approx(10 * 0.5 + JUDGED - 2.0 + 3.0)
    assert (found.steps, found.trials) == (10, 0)
    again = play(
        copy.deepcopy(search), costs, Luck(0), slots=1, waiting=[Waiting(listed[0], 60), Waiting(listed[1], 0)]
    )
    assert (again.steps, again.trials) == (20 + 80, 2)


def test_not_heeded_it_stops_nothing():
    search, listed, _ = search_of("asha")
    most = play(understudy(search), costs_of(listed[0], PACE), Luck(0), slots=2, heeded=False)
    assert most.steps == 24 * 80


def test_scores_that_were_seen_give_the_cuts_their_meaning():
    """Drawn from what was seen at a step, a score lies among those; a trial keeps about its rank."""
    early = {f"t{i}": 0.3 + i / 1000 for i in range(100)}
    late = {f"t{i}": 0.5 + i / 1000 for i in range(50, 100)}  # the better half came so far
    luck = Luck(0, {20: early, 40: late})
    assert np.median([luck.miou(f"new{i}", 20) for i in range(400)]) == pytest.approx(0.35, abs=0.01)
    # of new trials, whose half is not so good, most are under the median of those that came so far
    assert np.mean([luck.miou(f"new{i}", 40) < 0.575 for i in range(400)]) == pytest.approx(0.75, abs=0.07)
    luck.rank("good", 20, 0.395)
    luck.rank("poor", 20, 0.305)
    later = {name: np.mean([luck.miou(name, 40) for _ in range(200)]) for name in ("good", "poor")}
    assert later == pytest.approx({"good": 0.595, "poor": 0.505}, abs=0.02)
