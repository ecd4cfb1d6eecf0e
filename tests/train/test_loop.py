"""`fit`: interrupted equals uninterrupted, two ranks equal one, what is wrong is said."""

import hashlib
import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rayseg import config as configs
from rayseg.errors import CheckpointError, TrainingError
from rayseg.schema import to_dict
from rayseg.tracking import NullTracker
from rayseg.train import commit, review
from rayseg.train.inference import evaluate_run
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime


class Recorder(NullTracker):
    """Keeps the points it gets."""

    def __init__(self):
        self.points, self.files, self.status = {}, [], None

    def metrics(self, values, step):
        for name, value in values.items():
            self.points[name, step] = value

    def artifact(self, source, folder=""):
        self.files.append((folder, source.name, source.stat().st_size))

    def close(self, status):
        self.status = status


class Pausing(LocalRuntime):
    """Asks for a pause after `steps` questions."""

    def __init__(self, run_dir, steps):
        super().__init__(run_dir, "cpu")
        self.left = steps

    def stop(self):
        self.left -= 1
        return "pause" if self.left <= 0 else None


def train(config, run_dir, runtime=None):
    tracker, lines = Recorder(), []
    summary = fit(config, runtime or LocalRuntime(run_dir, "cpu"), tracker, show=lines.append)
    return summary, tracker, lines


def weights(run_dir):
    found = commit.newest(run_dir)
    data = commit.tensors(found, "model") | commit.tensors(found, "optimizer")
    digest = hashlib.sha256()
    for name in sorted(data):
        digest.update(name.encode() + data[name].numpy().tobytes())
    return digest.hexdigest()


def losses(tracker):
    return [value for (name, _), value in sorted(tracker.points.items()) if name == "train/loss"]


def test_paused_and_resumed_equals_undisturbed_bit_for_bit(run_config, tmp_path):
    config = run_config()
    whole, straight, _ = train(config, tmp_path / "a")
    for stop_after in (2, 1):
        assert train(config, tmp_path / "b", Pausing(tmp_path / "b", stop_after))[0] is None
    resumed, after, lines = train(config, tmp_path / "b")
    assert any("resuming at step" in line for line in lines)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert losses(straight)[-len(losses(after)) :] == losses(after)
    assert (whole.miou, whole.step, whole.fingerprint) == (resumed.miou, resumed.step, resumed.fingerprint)


def test_another_seed_gives_other_weights(run_config, tmp_path):
    train(run_config(train__steps=1), tmp_path / "a")
    train(run_config(train__steps=1, seed=1), tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_what_a_run_leaves(run_config, tmp_path):
    summary, tracker, lines = train(run_config(), tmp_path)
    assert summary == review.read_summary(tmp_path)
    assert (summary.status, summary.step, tracker.status) == ("finished", 6, "FINISHED")
    names = {(folder, name) for folder, name, size in tracker.files if size}
    assert names >= {
        ("review", "per_class.csv"),
        ("review", "confusion_matrix.png"),
        ("review", "hardest.jpg"),
        ("best", "model.safetensors"),
    }
    counts = np.load(review.best_commit(tmp_path).path / "evaluation.npz")["counts"]
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    iou = np.diag(counts)[union > 0] / union[union > 0]
    assert summary.best_miou == pytest.approx(iou.mean(), abs=1e-12)
    assert {("val/miou", 3), ("val/miou", 6), ("train/loss", 1), ("train/loss", 6)} <= tracker.points.keys()
    assert any("step 3/6" in line and "eta" in line and "img/s" in line for line in lines)


def test_a_finished_run_is_not_trained_again(run_config, tmp_path):
    first, _, _ = train(run_config(train__steps=1, train__eval_every=1), tmp_path)
    before = weights(tmp_path)
    again, tracker, lines = train(run_config(train__steps=1, train__eval_every=1), tmp_path)
    assert again == first
    assert not tracker.points
    assert not lines
    assert weights(tmp_path) == before


def test_a_finished_run_does_not_answer_for_another_config(run_config, tmp_path):
    train(run_config(train__steps=1, train__eval_every=1), tmp_path)
    with pytest.raises(CheckpointError, match=r"optim\.lr"):
        train(run_config(train__steps=1, train__eval_every=1, optim__lr=0.5), tmp_path)


def test_the_best_commit_is_of_the_best_evaluation_and_is_kept(run_config, tmp_path):
    config = run_config(train__steps=8, train__eval_every=1, optim__lr=0.2)
    summary, tracker, _ = train(config, tmp_path)
    curve = {step: value for (name, step), value in tracker.points.items() if name == "val/miou"}
    best = review.best_commit(tmp_path)
    assert best.step == summary.best_step == max(curve, key=lambda step: (curve[step], -step))
    assert best.state["progress"]["miou"] == pytest.approx(max(curve.values()))
    assert len(commit.commits(tmp_path)) <= 3


def test_killed_after_the_last_commit_is_only_closed(run_config, tmp_path):
    first, _, _ = train(run_config(), tmp_path)
    (tmp_path / "summary.json").unlink()
    again, tracker, _ = train(run_config(), tmp_path)
    assert (again.best_miou, again.step) == (first.best_miou, first.step)
    assert tracker.status == "FINISHED"
    assert not losses(tracker)


def test_other_config_in_the_same_directory_is_refused(run_config, tmp_path):
    train(run_config(train__steps=3), tmp_path, Pausing(tmp_path, 1))
    with pytest.raises(CheckpointError, match=r"optim\.lr = 0\.02, this one 0\.5"):
        train(run_config(train__steps=3, optim__lr=0.5), tmp_path)


def test_directory_in_use_is_refused(run_config, tmp_path, monkeypatch):
    from rayseg.train import runtime

    monkeypatch.setattr(runtime, "PATIENCE_S", 0.2)
    with runtime.holding(LocalRuntime(tmp_path, "cpu")), pytest.raises(CheckpointError, match="another process"):
        train(run_config(), tmp_path)


def test_loss_that_is_not_finite_ends_the_run_and_is_never_committed(run_config, tmp_path):
    with pytest.raises(TrainingError, match="loss is"):
        train(run_config(optim__lr=1e30), tmp_path)
    for path in commit.commits(tmp_path):
        assert all(
            t.isfinite().all() for t in commit.tensors(commit.read(path), "model").values() if t.is_floating_point()
        )


def test_it_learns(run_config, tmp_path):
    """A few steps on a handful of scenes beat the untrained model's loss by a wide margin."""
    _, tracker, _ = train(run_config(train__steps=40, train__eval_every=40, optim__lr=0.05), tmp_path)
    curve = losses(tracker)
    assert np.mean(curve[-5:]) < 0.6 * curve[0]


def test_end_draws_and_closes(run_config, tmp_path):
    class Ending(LocalRuntime):
        def report(self, metrics):
            self.wanted = "end"

    summary, tracker, _ = train(run_config(), tmp_path, Ending(tmp_path, "cpu"))
    assert (summary.status, summary.step) == ("stopped", 3)
    assert ("best", "model.safetensors") in {(folder, name) for folder, name, _ in tracker.files}


def _rank(rank, world, port, plain, run_dir):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    runtime = LocalRuntime(run_dir, "cpu")
    runtime.rank, runtime.world = rank, world
    tracker = Recorder()
    fit(configs.from_dict(plain), runtime, tracker, show=lambda line: None)
    if rank == 0:
        (run_dir / "losses.json").write_text(json.dumps(losses(tracker)))
    dist.destroy_process_group()


def test_two_ranks_train_as_one_with_the_same_global_batch(run_config, tmp_path, free_port):
    """Without batch statistics and dropout, in fp32, every step's loss and the evaluation agree to rounding."""
    config = run_config(
        **{"head.name": "fcn", "head.norm": "group", "head.dropout": 0.0, "loss.aux_weight": 0.0},
        backbone__name="convnext_atto",
        backbone__output_stride=32,
    )
    one, tracker, _ = train(config, tmp_path / "one")
    (tmp_path / "two").mkdir()
    mp.spawn(_rank, args=(2, free_port, to_dict(config), tmp_path / "two"), nprocs=2)
    two = json.loads((tmp_path / "two" / "losses.json").read_text())
    assert two == pytest.approx(losses(tracker), rel=1e-4)
    assert review.read_summary(tmp_path / "two").miou == pytest.approx(one.miou, abs=5e-3)


def test_what_two_ranks_report_is_what_the_committed_weights_give(run_config, tmp_path, free_port):
    """Each rank has running statistics of its own; rank 0 commits its, so those must be the ones that are evaluated."""
    mp.spawn(_rank, args=(2, free_port, to_dict(run_config(optim__lr=0.1)), tmp_path), nprocs=2)
    reported = review.read_summary(tmp_path).best_miou
    assert evaluate_run(tmp_path, None, None)["miou"] == pytest.approx(reported, abs=1e-9)
