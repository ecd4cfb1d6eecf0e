"""The stopwatch of `--plan`: what it says a step, an image and the end take is what they take."""

import json
import subprocess
import sys

import pytest
import torch

from rayseg import config as configs
from rayseg import segmenter
from rayseg.errors import TrainingError
from rayseg.schema import to_dict
from rayseg.train import evaluate, pace, review
from rayseg.train.feed import Feed
from rayseg.train.pace import BLOCK, LEAST_S, Clock, Pace, Request, images_of, measure
from rayseg.train.update import Updater


@pytest.fixture
def config(tiny_shards):
    """A run of 500 steps, of which a probe does a few."""
    return configs.from_dict(
        {
            "data": {"shards": str(tiny_shards)},
            "backbone": {"name": "resnet10t", "output_stride": 16},
            "head": {"name": "fcn"},
            "augment": {"crop_px": [48, 48]},
            "train": {"steps": 500, "batch": 4, "eval_every": 100, "precision": "fp32"},
        }
    )


class Hands:
    """A clock that only moves when something that was made slow is called."""

    def __init__(self, monkeypatch):
        self.now, self.monkeypatch = 100.0, monkeypatch
        monkeypatch.setattr(pace, "time", self)

    def monotonic(self):
        return self.now

    def slow(self, owner, name, seconds):
        before = getattr(owner, name)

        def slower(*args, **kwargs):
            self.now += seconds
            return before(*args, **kwargs)

        self.monkeypatch.setattr(owner, name, slower)


@pytest.fixture
def hands(monkeypatch):
    """The clock of the probe."""
    return Hands(monkeypatch)


def clock(folder, limit_s=60.0):
    return Clock(folder, torch.device("cpu"), limit_s=limit_s)


def test_every_part_of_a_run_is_found_to_take_what_it_takes(config, tmp_path, hands):
    hands.slow(segmenter, "build", 7.0)
    hands.slow(Updater, "__call__", 1.5)
    hands.slow(evaluate, "predict", 0.25)
    hands.slow(Feed, "state", 0.5)  # asked for each commit
    hands.slow(review, "publish", 3.0)
    watch = clock(tmp_path)
    found = measure(config, watch)
    assert found._replace(peak_mib=0) == pytest.approx(Pace(7.0, 1.5, 0.25, 0.5, 3.0, 0))
    assert 50 < found.peak_mib < 4000
    assert watch.step == BLOCK + 1  # the step after the evaluation shows what its commit takes


def test_steps_whose_batches_were_made_during_an_evaluation_do_not_count(config, tmp_path, hands, monkeypatch):
    before = Updater.__call__

    def update(self, batch, step):
        hands.now += 1.5 if (step - 1) % BLOCK >= 3 else 0.5  # three batches lie ready before step 1, and before 7
        return before(self, batch, step)

    monkeypatch.setattr(Updater, "__call__", update)
    assert measure(config, clock(tmp_path)).step_s == pytest.approx(1.5)


def test_it_goes_on_where_there_is_time(config, tmp_path, hands):
    hands.slow(Updater, "__call__", 0.75 * LEAST_S / BLOCK)
    watch = clock(tmp_path)
    measure(config, watch)
    assert watch.step == 9  # the first at which LEAST_S are over


def test_no_time_for_a_first_evaluation_is_said_in_one_line(config, tmp_path, hands):
    hands.slow(Updater, "__call__", 6.0)
    with pytest.raises(TrainingError, match=f"its first {BLOCK} steps take more than 10 s here"):
        measure(config, clock(tmp_path, limit_s=10))


def test_images_of_an_evaluation(config):
    assert images_of(config, 101) == 101
    two = config.model_copy(update={"train": config.train.model_copy(update={"workers": 2})})
    assert images_of(two, 101) == 101 + config.train.shown_images  # which the first worker may predict once more
    few = two.model_copy(update={"data": config.data.model_copy(update={"val_samples": 3})})
    assert images_of(few, 101) == 3 + 3


@pytest.mark.slow
def test_a_process_answers_for_each_run_and_leaves_nothing(config, tmp_path):
    wrong = configs.merged(to_dict(config), {"data.train_split": "nowhere"})
    request = Request(configs=[to_dict(config), wrong], folder=str(tmp_path), threads=1, limit_s=60.0)
    done = subprocess.run(
        [sys.executable, "-m", "rayseg.train.pace"],
        input=f"{request.model_dump_json()}\ngo\n",
        capture_output=True,
        text=True,
        check=True,
    )
    ready, first, second = done.stdout.splitlines()
    assert ready == "ready"
    assert Pace(**json.loads(first)).step_s > 0
    assert json.loads(second)["kind"] == "DataError"
    assert list(tmp_path.iterdir()) == []
