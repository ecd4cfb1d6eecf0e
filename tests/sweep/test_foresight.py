"""What is said to be left, against what then came, by a clock that we turn."""

import heapq
import itertools

import numpy as np
import pytest

from rayseg.sweep.board import Event
from rayseg.sweep.costs import Costs, Load, Measured
from rayseg.sweep.foresight import Foresight, Predicted
from rayseg.sweep.play import Waiting
from rayseg.sweep.search import Suggestion
from rayseg.sweep.searches import make
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, base_of, trials
from rayseg.train.pace import Pace

SPACE = {"head.kernel_size": choice(3, 5, 7), "head.dilation": choice(1, 2, 3, 6), "loss.ohem": choice(True, False)}


class Clock:
    """Shows what its `now` says."""

    now = 1000.0

    def __call__(self):
        return self.now


def search_of(algorithm):
    fields = {"asha": {"grace_steps": 10, "reduction_factor": 2}, "pbt": {"perturb_steps": 20}}.get(algorithm, {})
    settings = {"train.steps": 80, "train.eval_every": 10}
    space = {"optim.lr": choice(0.01, 0.02, 0.03, 0.04)} if algorithm == "pbt" else SPACE
    preset = Preset(about="a test", recipe="gald/scenes", settings=settings, space=space, algorithm=algorithm, **fields)
    base = base_of(preset, shards="none", settings={})
    listed = [] if algorithm == "pbt" else trials(preset, algorithm=algorithm, count=24, shards="none", settings={})
    return make(preset, algorithm=algorithm, trials=listed, base=base, count=24, num_classes=11), listed


class World:
    """Runs a search for real, as far as anyone can tell: every trial 3 s to start, 1 s a step, 2 s to end."""

    def __init__(self, search, foresight, clock, seed, slots=2):
        self.search, self.foresight, self.clock, self.slots = search, foresight, clock, slots
        self.rng = np.random.default_rng(seed)
        self.due, self.ties = [], itertools.count()
        self.running = self.steps = 0
        self.said = []

    def run(self):
        began = self.clock.now
        self.fill()
        while self.due:
            self.clock.now, _, kind, trial, step = heapq.heappop(self.due)
            getattr(self, kind)(trial, step)
            left = self.foresight.left()
            self.said.append((self.clock.now - began, left))
        return self.clock.now - began

    def push(self, after, kind, trial, step):
        heapq.heappush(self.due, (self.clock.now + after, next(self.ties), kind, trial, step))

    def fill(self):
        while self.running < self.slots and isinstance(following := self.search.suggest(), Suggestion):
            self.running += 1
            begun = following.donor.step if following.donor else 0
            self.foresight.take(Event("start", following.trial, {"step": begun}))
            self.push(3 + 10, "report", following.trial, begun + 10)

    def report(self, trial, step):
        self.steps += 10
        miou = 0.1 * np.log(step) + 0.05 * (trial.number * 7 % 24) / 24 + self.rng.normal(0, 0.01)
        reason = self.search.report(trial.key, {"step": step, "miou": miou, "loss": 1.0})
        figures = {"step": step, "miou": miou, "loss": 1.0, "best_miou": miou, "ends": reason is not None}
        self.foresight.take(Event("result", trial, figures))
        if reason or step == 80:
            self.push(2, "stopped" if reason else "finished", trial, step)
        else:
            self.push(10, "report", trial, step + 10)

    def over(self, trial, outcome):
        self.search.ended(trial.key, outcome)
        self.running -= 1
        self.foresight.take(Event(outcome, trial, {"reason": ""}))
        self.fill()

    def stopped(self, trial, step):
        self.over(trial, "stopped")

    def finished(self, trial, step):
        self.over(trial, "finished")


def foreseen(search, clock, **more):
    return Foresight(search, lambda config: Load(1, 1), slots=2, clock=clock, **more)


def test_a_grid_is_foreseen_from_its_first_trials_on():
    search, _ = search_of("grid")
    clock = Clock()
    foresight = foreseen(search, clock)
    whole = World(search, foresight, clock, 0).run()
    assert foresight.predicted.steps == 24 * 80
    # the first prediction does not know yet that a trial takes 2 s to end: 12 a slot
    assert foresight.predicted.wall_s == pytest.approx(whole - 24, abs=3)
    assert f"took {int(whole // 60)}:" in foresight.verdict()
    assert foresight.verdict().endswith("and 1920 steps (+0 %)")


def test_the_eta_of_a_grid_is_sure_and_right():
    search, _ = search_of("grid")
    clock = Clock()
    foresight = foreseen(search, clock)
    world = World(search, foresight, clock, 0)
    whole = world.run()
    for at, left in world.said[len(world.said) // 3 :]:
        assert left.seconds == pytest.approx(whole - at, rel=0.03, abs=6)
        assert left.sure


def test_a_population_is_foreseen_over_its_generations():
    search, _ = search_of("pbt")
    clock = Clock()
    foresight = foreseen(search, clock)
    world = World(search, foresight, clock, 0)
    whole = world.run()
    assert world.steps == foresight.steps == 4 * 80  # four members, whatever they go on from
    assert foresight.predicted.steps == 4 * 80
    at, left = world.said[len(world.said) // 3]
    assert left.seconds == pytest.approx(whole - at, rel=0.1)


def test_under_halving_the_eta_is_near_what_comes_and_far_under_the_most(monkeypatch):
    monkeypatch.setattr("rayseg.sweep.foresight.PLAYS", 5)
    off, most = [], []
    for seed in range(4):
        search, _ = search_of("asha")
        clock = Clock()
        foresight = foreseen(search, clock)
        world = World(search, foresight, clock, seed)
        whole = world.run()
        at, left = world.said[len(world.said) // 3]
        off.append(left.seconds / (whole - at) - 1)
        most.append(left.most_s / (whole - at) - 1)
        assert not left.sure
    assert abs(np.mean(off)) < 0.2
    assert max(map(abs, off)) < 0.5
    assert np.mean(most) > 0.4


def test_before_the_first_report_nothing_is_known_and_between_reports_the_clock_runs():
    search, (first, *_) = search_of("grid")
    clock = Clock()
    foresight = foreseen(search, clock)
    search.suggest()
    foresight.take(Event("start", first, {}))
    assert foresight.left() is None
    assert foresight.left_of(first.key) is None
    clock.now += 10
    foresight.take(Event("result", first, {"step": 10, "miou": 0.1}))
    before, own = foresight.left(), foresight.left_of(first.key)
    assert own == pytest.approx(70)
    clock.now += 4
    assert foresight.left().seconds == pytest.approx(before.seconds - 4)
    assert foresight.left_of(first.key) == pytest.approx(own - 4)


def test_a_plan_is_what_the_sweep_is_held_to():
    search, (first, *_) = search_of("grid")
    clock = Clock()
    costs = Costs([Measured(first, Pace(0, 1, 0, 0, 0, 0))], lambda config: Load(1, 1), val_images=0)
    foresight = foreseen(search, clock, planned=(costs, Predicted(1000.0, 1920, "by --plan")))
    foresight.take(Event("start", first, {}))
    assert foresight.left() is not None  # known before anything was reported
    whole = World(search, foresight, clock, 0).run()
    took = f"{100 * (whole / 1000 - 1):+.0f} %"
    assert foresight.verdict().startswith("predicted 16:40 and 1920 steps (by --plan)")
    assert took in foresight.verdict()


def test_a_resumed_sweep_counts_what_its_open_trials_have_left():
    search, (first, second, *_) = search_of("grid")
    for _ in range(24):
        search.suggest()
    clock = Clock()
    foresight = foreseen(search, clock, waiting=[Waiting(first, 60), Waiting(second, 70)])
    assert foresight.trials() == 2
    foresight.take(Event("start", first, {}))
    clock.now += 10
    foresight.take(Event("result", first, {"step": 70, "miou": 0.1}))  # from its commit at step 60: 1 s a step
    assert foresight.left().steps == 10 + 10
    assert foresight.steps == 10


def test_a_trial_begun_again_after_its_process_died_is_not_counted_twice():
    search, (first, *_) = search_of("grid")
    search.suggest()
    clock = Clock()
    foresight = foreseen(search, clock)
    foresight.take(Event("start", first, {}))
    foresight.take(Event("result", first, {"step": 40, "miou": 0.1}))
    foresight.take(Event("start", first, {}))
    foresight.take(Event("result", first, {"step": 50, "miou": 0.1}))
    assert foresight.steps == 50
