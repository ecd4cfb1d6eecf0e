"""Lines of progress: what is over, what is left, the best so far and an ETA, with a clock that we turn."""

import pytest

from rayseg.sweep.lines import Event, Lines
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, trials


@pytest.fixture
def clock():
    """A clock that shows what its `now` says."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def ten():
    """Ten trials of 100 steps."""
    settings = {"train.steps": 100, "train.eval_every": 5}
    preset = Preset(about="a test", recipe="gald/scenes", settings=settings, space={}, algorithm="grid")
    space = {"head.dilation": choice(1, 2, 3, 4, 5), "head.kernel_size": choice(3, 5)}
    preset = preset.model_copy(update={"space": space})
    return trials(preset, algorithm="grid", count=1, shards="none", settings={})


def result(trial, step, best_miou=0.5):
    return Event("result", trial, {"step": step, "loss": 1.0, "miou": 0.4, "best_miou": best_miou})


def test_a_fresh_sweep(ten, clock):
    said = []
    lines = Lines(ten, left={t.key: 100 for t in ten}, best=None, show=said.append, clock=clock)
    lines.tell(Event("start", ten[0], {}))
    assert said == [f"[ 0/10 done] {ten[0].key} starts   dilation=1 kernel_size=3"]
    assert lines.eta() == "?"
    clock.now += 30
    lines.tell(result(ten[0], 20, best_miou=0.5))
    lines.tell(result(ten[1], 10, best_miou=0.45))
    # 30 of 1000 steps in 30 s
    key = ten[1].key
    assert said[-1] == (f"[ 0/10 done] {key} step 10/100  loss 1.000  mIoU 0.400  best 0.500 ({ten[0].key})  eta 16:10")
    lines.tell(result(ten[1], 20, best_miou=0.55))
    assert f"best 0.550 ({key})" in said[-1]


def test_a_resumed_sweep_counts_only_what_is_left_and_what_was_done_since(ten, clock):
    said = []
    lines = Lines(ten, left={ten[3].key: 50}, best=(0.7, ten[1].key), show=said.append, clock=clock)
    clock.now += 10
    lines.tell(result(ten[3], 75, best_miou=0.6))  # it had done 50 of its 100 steps before
    assert said == [
        f"[ 9/10 done] {ten[3].key} step 75/100  loss 1.000  mIoU 0.400  best 0.700 ({ten[1].key})  eta 0:10"
    ]
    clock.now += 10
    lines.tell(result(ten[3], 100, best_miou=0.8))
    assert said[-1].endswith(f"best 0.800 ({ten[3].key})  eta 0:00")
    lines.tell(Event("finished", ten[3], {"reason": ""}))
    assert said[-1] == f"[10/10 done] {ten[3].key} finished"


@pytest.mark.parametrize("kind", ["stopped", "failed"])
def test_a_trial_that_ends_early_drops_out_of_what_is_left(ten, clock, kind):
    said = []
    lines = Lines(ten[:2], left={t.key: 100 for t in ten[:2]}, best=None, show=said.append, clock=clock)
    clock.now += 20
    lines.tell(result(ten[0], 20))
    assert said[-1].endswith("eta 3:00")  # 180 steps at one a second
    lines.tell(Event(kind, ten[0], {"reason": "under the cut"}))
    assert said[-1] == f"[1/2 done] {ten[0].key} {kind}  under the cut"
    assert lines.eta() == "1:40"  # the other's 100


def test_a_trial_started_again_from_its_commit_has_that_left_again(ten, clock):
    lines = Lines(ten[:1], left={ten[0].key: 100}, best=None, show=lambda line: None, clock=clock)
    clock.now += 40
    lines.tell(result(ten[0], 40))
    clock.now += 10
    lines.tell(result(ten[0], 25))  # its process died; the newest commit was at 20
    assert lines.eta() == "2:30"  # 25 steps kept in 50 s, 75 to go


def test_what_is_handed_in_is_not_changed(ten, clock):
    left = {ten[0].key: 50}
    lines = Lines(ten, left=left, best=None, show=lambda line: None, clock=clock)
    lines.tell(result(ten[0], 75))
    assert left == {ten[0].key: 50}
