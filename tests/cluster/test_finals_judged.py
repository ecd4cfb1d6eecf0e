"""What is said and written of finalists, from counts that are made up: winner, tie, and what cannot be decided."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rayseg import config as configs
from rayseg.cluster import finals
from rayseg.errors import CheckpointError
from rayseg.sweep.finals import Finals
from rayseg.sweep.search import Donor, Suggestion
from rayseg.sweep.space import choice
from rayseg.sweep.table import Row
from rayseg.sweep.trial import Trial
from rayseg.train.review import Summary

CONFIG = configs.from_dict(
    {
        "data": {"shards": "/s"},
        "head": {"name": "fcn"},
        "augment": {"crop_px": [48, 48]},
        "train": {"steps": 6, "batch": 4, "eval_every": 2},
    }
)
SPACE = {"optim.lr": choice(0.1, 0.2, 0.3)}


class Stage:
    """A sweep that is over, as far as `judge` looks: its trials, what they counted, and what was said."""

    def __init__(self, folder, monkeypatch, images=40):
        self.folder, self.images, self.said = folder, images, []
        self.rng = np.random.default_rng(0)
        self.truth = self.rng.integers(50, 900, (images, 3)).astype(np.int32)
        self.counts, self.rows, self.suggestions = {}, [], {}
        monkeypatch.setattr(finals, "counts_of", lambda run_dir: self.counts[run_dir.name])

    def trial(self, key, recall, *, seed=0, lr=None, donor=None, over=True, run=""):
        """Add a trial that finds such a share of each class, and a little more or less in each image."""
        point = {"optim.lr": lr or 0.1 * (1 + len(self.rows))} | ({"seed": seed} if seed else {})
        trial = Trial(len(self.rows) + 1, key, point, CONFIG.model_copy(update={"seed": seed}))
        share = recall + self.rng.normal(0, 0.02, self.truth.shape)
        hits = np.rint(self.truth * np.clip(share, 0, 1)).astype(np.int32)
        self.counts[key] = np.stack([hits, self.truth, hits])
        summary = Summary(step=6, best_miou=recall, best_step=6, status="finished", samples_per_s=1.0)
        self.rows.append(Row(trial, summary if over else None, run))
        self.suggestions[key] = Suggestion(trial, donor)

    def judge(self, groups=None):
        """Judge it, with finals where there are `groups`."""
        search = object()
        if groups is not None:
            search = Finals.__new__(Finals)
            search.groups = groups
        base = SimpleNamespace(space=SPACE, rows=())
        attempt = SimpleNamespace(
            search=SimpleNamespace(search=search, suggestions=self.suggestions),
            sweeping=SimpleNamespace(folder=self.folder, planner=SimpleNamespace(plan=SimpleNamespace(base=base))),
            run_dir=lambda key: self.folder / "trials" / key,
        )
        ranked = sorted(self.rows, key=lambda row: -row.summary.best_miou if row.summary else 1.0)
        return finals.judge(attempt, ranked, self.said.append)

    def pairs_of_seeds(self, *recalls):
        """Add a trial of two seeds for each share; give the groups."""
        groups = {}
        for number, recall in enumerate(recalls):
            keys = [f"{letter}{number}" for letter in "ab"]
            for seed, key in enumerate(keys):
                self.trial(key, recall + (0.001 if seed else -0.001), seed=seed, lr=0.1 * (number + 1))
            groups[keys[0]] = keys
        return groups


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def test_a_winner_is_the_one_that_is_clear_of_all_others(stage):
    judged = stage.judge(stage.pairs_of_seeds(0.5, 0.7, 0.6))
    assert judged.verdict == "winner a1"
    assert judged.winner
    assert [each.key for each in judged.finalists] == ["a1", "a2", "a0"]
    assert [(pair.best, pair.other, pair.level) for pair in judged.pairs] == [("a1", "a2", 0.95), ("a1", "a0", 0.975)]
    assert json.loads((stage.folder / "finals.json").read_text())["verdict"] == judged.verdict
    assert stage.said[0] == ("finals: the best 3 with 2 seeds each, over 40 images; intervals are of images and seeds:")
    assert [line.split()[0] for line in stage.said[1:4]] == ["a1", "a2", "a0"]
    assert stage.said[4].startswith("  a1 - a2: ")
    assert stage.said[5].endswith("(97.5%)")
    near = judged.pairs[0]
    found = f"{near.difference:.4f} [{near.low:.4f}, {near.high:.4f}]"
    assert stage.said[6] == f"winner: a1 is {found} mIoU above a2, the nearest of 2"


def test_one_rival_that_is_not_clear_makes_a_tie(stage):
    judged = stage.judge(stage.pairs_of_seeds(0.6, 0.601, 0.3))
    assert judged.verdict.startswith("tie: ")
    assert judged.verdict.endswith("; no champion is named")
    assert {judged.pairs[0].best, judged.pairs[0].other} == {"a0", "a1"}
    assert stage.said[-1] == judged.verdict
    assert not judged.winner


def test_images_that_are_few_decide_nothing(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, images=19)
    judged = stage.judge(stage.pairs_of_seeds(0.3, 0.7))
    assert judged.pairs[0].low > 0
    assert judged.verdict.endswith("; 19 images are too few to decide, so no champion is named")


def test_a_run_that_failed_is_left_out_and_said(stage):
    groups = stage.pairs_of_seeds(0.3, 0.7)
    stage.rows = [row._replace(summary=None) if row.trial.key == "b1" else row for row in stage.rows]
    judged = stage.judge(groups)
    assert stage.said[0] == "warning: 1 of 2 runs of finalist a1 failed: it is judged by the others"
    assert judged.finalists[0].trials == ("a1",)
    assert judged.finalists[0].spread is None
    assert judged.verdict.endswith("; not every finalist has a second seed, so no champion is named")


def test_finalists_that_all_failed_are_said(stage):
    groups = stage.pairs_of_seeds(0.3, 0.7)
    stage.rows = [row._replace(summary=None) if row.trial.key in groups["a1"] else row for row in stage.rows]
    assert stage.judge(groups) is None
    assert stage.said[-1] == "the best trials cannot be compared: fewer than two came to their end"
    assert not (stage.folder / "finals.json").exists()


def test_other_images_are_not_compared(stage):
    groups = stage.pairs_of_seeds(0.3, 0.7)
    stage.counts["b1"] = stage.counts["b1"] + np.array([0, 1, 0], np.int32)[:, None, None]
    assert stage.judge(groups) is None
    assert "they were not judged on the same images" in stage.said[-1]
    stage.counts["b1"] = stage.counts["b1"][:, :30]
    assert stage.judge(groups) is None
    assert "they were not judged on the same images" in stage.said[-1]


def test_an_evaluation_of_an_earlier_version_is_a_line(stage, monkeypatch):
    def refuse(run_dir):
        raise CheckpointError("its evaluation does not tell images apart", run_dir, "run the sweep anew")

    monkeypatch.setattr(finals, "counts_of", refuse)
    assert stage.judge(stage.pairs_of_seeds(0.3, 0.7)) is None
    (line,) = stage.said
    assert line.startswith("warning: the best trials cannot be compared: its evaluation does not tell images apart")


def test_without_finals_the_best_two_are_compared_and_nobody_wins(stage):
    for key, recall in (("x", 0.3), ("y", 0.7), ("z", 0.5)):
        stage.trial(key, recall)
    judged = stage.judge()
    (line,) = stage.said
    assert line.startswith("best two: y is ")
    assert " above z (95%, over 40 images); seeds were not varied (--seeds), so no champion is named" in line
    assert judged.verdict.startswith("open: y and z differ by ")
    assert not judged.winner


def test_the_second_is_no_earlier_or_later_stage_of_the_best(stage):
    stage.trial("root", 0.68, lr=0.1)
    stage.trial("best", 0.7, lr=0.2, donor=Donor("root", 2))
    stage.trial("onward", 0.69, lr=0.3, donor=Donor("best", 4))
    stage.trial("twin", 0.66, lr=0.2)
    stage.trial("other", 0.5, lr=0.4)
    judged = stage.judge()
    assert (judged.pairs[0].best, judged.pairs[0].other) == ("best", "other")


def test_a_trial_of_an_earlier_sweep_has_no_images_here(stage):
    stage.trial("known", 0.7, run="older/known")
    stage.trial("here", 0.5)
    assert stage.judge() is None
    assert "known was run by an earlier sweep" in stage.said[-1]


def test_one_trial_alone_is_no_comparison(stage):
    stage.trial("alone", 0.7)
    stage.trial("failed", 0.5, over=False)
    assert stage.judge() is None
    assert stage.said == []
