"""Evaluation, in a run and on its own: against scikit-learn and brute force, over ranks, kept in commits."""

import io
import math
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score
from torch import nn
from torch.nn import functional

from naive.boundary import band, f1
from rayseg import config as configs
from rayseg.data.reader import ShardSet, open_shards
from rayseg.errors import CheckpointError, DataError, TrainingError
from rayseg.metrics import PAPERS
from rayseg.tracking import NullTracker
from rayseg.train import commit, evaluate, review, views
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime
from rayseg.train.tally import AHEAD, Tally

C, IGNORED = 11, 11


class Patchy(nn.Module):
    """A net whose predictions are patches of many classes, some right."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(C, 3, 5, 5, generator=generator))

    def forward(self, x_BCHW):
        logits = functional.conv2d(functional.avg_pool2d(x_BCHW, 5, 1, 2), self.weight, padding=2)
        logits[:, [2, 6, 9]] -= 100  # never predicted
        return {"main": logits}


def judged(config, folder, rank=0, world=1, progress=None):
    runtime = LocalRuntime(folder, "cpu")
    runtime.rank, runtime.world = rank, world
    shards = open_shards(config.data.shards, "val")
    return evaluate.evaluate(Patchy(), shards, runtime, config=config, precision=torch.float32, progress=progress)


@pytest.fixture
def result(run_config, tmp_path):
    return judged(run_config(), tmp_path)


@pytest.fixture
def pairs(run_config):
    """Predict every image of the split here."""
    config = run_config()
    cpu = torch.device("cpu")
    samples = list(open_shards(config.data.shards, "val"))
    return [(evaluate.predict(Patchy(), s.image, cpu, torch.float32, config.test), s.mask) for s in samples]


def test_figures_are_scikit_learns_and_brute_forces(result, pairs, run_config):
    names = [f"class {i}" for i in range(C)]
    found = result.metrics(names)
    pred, truth = (np.concatenate([each[i].ravel() for each in pairs]) for i in (0, 1))
    pred, truth = pred[truth != IGNORED], truth[truth != IGNORED]
    np.testing.assert_array_equal(result.confusion.counts, confusion_matrix(truth, pred, labels=range(C)))
    iou = jaccard_score(truth, pred, labels=range(C), average=None, zero_division=0)
    iou[~np.isin(range(C), [truth, pred])] = np.nan
    wanted = {f"iou/{name}": value for name, value in zip(names, iou, strict=True) if not math.isnan(value)}
    wanted |= {"miou": np.nanmean(iou), "pixel_accuracy": accuracy_score(truth, pred)}
    odd = pytest.warns(UserWarning, match="y_pred contains classes not in y_true")
    with odd if set(np.unique(pred)) - set(np.unique(truth)) else nullcontext():
        wanted["mean_accuracy"] = balanced_accuracy_score(truth, pred)
    wanted["frequency_weighted_iou"] = jaccard_score(truth, pred, average="weighted", zero_division=0)
    scores = np.mean([f1(p, t, num_classes=C, thresholds=PAPERS, ignored=IGNORED) for p, t in pairs], axis=0)
    for name, row in zip(("3px", "5px", "9px", "12px"), scores, strict=True):
        wanted[f"boundary_f1_{name}"] = row.mean()
    at_3px = [f1(p, t, num_classes=C, thresholds=PAPERS[:1], ignored=IGNORED)[0] for p, t in pairs]
    per_class, overlap = [], []
    for label in range(C):
        each = [(scores[label], *touched(p, t, label)) for scores, (p, t) in zip(at_3px, pairs, strict=True)]
        per_class.append([score for score, here, _, _ in each if here])
        overlap.append([sum(n[i] for n in each) for i in (2, 3)])
    wanted["boundary_f1_3px_present"] = np.mean([np.mean(scores) for scores in per_class if scores])
    wanted["boundary_iou"] = np.mean([hits / union for hits, union in overlap if union])
    assert found.pop("latency_ms") > 0
    assert found == pytest.approx(wanted, abs=1e-9)
    assert found["boundary_f1_3px_present"] < found["boundary_f1_3px"]


def touched(pred, truth, label):
    """Say whether a class has a boundary in either mask, and count the pixels in both of its bands, and in either."""
    regions = [(mask == label) & (truth != IGNORED) for mask in (pred, truth)]
    width = max(1, round(0.02 * math.hypot(*truth.shape)))
    one, other = (band(region, width) for region in regions)
    here = any(region.any() and not region.all() for region in regions)
    return here, int((one & other).sum()), int((one | other).sum())


def test_rows_of_images_are_in_the_splits_order(result, pairs):
    assert result.images.hits.shape == (len(pairs), C)
    for i, (pred, truth) in enumerate(pairs):
        for label in range(C):
            expected = ((pred == label) & (truth == label)).sum(), (truth == label).sum()
            assert (result.images.hits[i, label], result.images.truth[i, label]) == expected
            assert result.images.found[i, label] == ((pred == label) & (truth != IGNORED)).sum()


def test_first_samples_alone(run_config, tmp_path):
    """A run may judge itself by the first images of a split: then there are no more rows."""
    some = judged(run_config(data__val_samples=2), tmp_path)
    assert some.images.truth.shape[0] == some.boundary.images == 2
    assert some.confusion.counts.sum() == some.images.truth.sum()


# ------------------------------------------------------------------------------------------ ranks


def _rank(rank, world, port, config, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    evaluation = judged(config, folder, rank, world)
    (folder / f"{rank}.npz").write_bytes(evaluate.to_bytes(evaluation))
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_add_up_to_the_same_bits(run_config, tmp_path, free_port, result, world):
    mp.start_processes(_rank, args=(world, free_port, run_config(), tmp_path), nprocs=world, start_method="fork")
    for rank in range(world):
        found = evaluate.from_bytes(tmp_path / f"{rank}.npz")
        same(found, result)
        assert bool(found.shown) == (rank == 0)


def same(one, other):
    np.testing.assert_array_equal(one.confusion.counts, other.confusion.counts)
    for mine, theirs in zip(one.images, other.images, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (one.boundary is None) == (other.boundary is None)
    if one.boundary is not None:
        assert (one.boundary.images, one.boundary.thresholds_px) == (
            other.boundary.images,
            other.boundary.thresholds_px,
        )
        for name in ("sums", "present", "hits", "union"):
            np.testing.assert_array_equal(getattr(one.boundary, name), getattr(other.boundary, name))


# ------------------------------------------------------------------------------------------ in a commit


def test_an_evaluation_survives_its_commit(result, tmp_path):
    path = tmp_path / "evaluation.npz"
    path.write_bytes(evaluate.to_bytes(result))
    found = evaluate.from_bytes(path)
    same(found, result)
    assert (found.latency_ms, found.classes) == (result.latency_ms, result.classes)
    assert found.shown.keys() == result.shown.keys() != set()
    for position, mask in found.shown.items():
        np.testing.assert_array_equal(mask, result.shown[position])
    assert found.metrics(found.classes) == result.metrics(result.classes)


def test_what_an_earlier_version_kept_is_read(result, tmp_path):
    path = tmp_path / "evaluation.npz"
    np.savez_compressed(path, counts=result.confusion.counts, mask_4=np.ones((2, 3), np.uint8))
    found = evaluate.from_bytes(path)
    assert found.confusion.miou() == result.confusion.miou()
    assert (found.boundary, found.classes, len(found.images.hits)) == (None, (), 0)
    assert list(found.shown) == [4]


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "flipped", "no counts", "pickled"])
def test_a_damaged_one_is_one_line(result, tmp_path, damage):
    path, data = tmp_path / "evaluation.npz", evaluate.to_bytes(result)
    if damage in ("no counts", "pickled"):
        buffer = io.BytesIO()
        np.savez(buffer, **{"counts": np.array([{}]), "x": 1} if damage == "pickled" else {"x": 1})
        data = buffer.getvalue()
    broken = {"empty": b"", "text": b"hello", "cut": data[: len(data) // 2]}.get(damage, data)
    if damage == "flipped":
        broken = data[:60] + bytes([data[60] ^ 255]) + data[61:]
    if damage != "missing":
        path.write_bytes(broken)
    with pytest.raises(CheckpointError, match=r"not an evaluation|no evaluation") as raised:
        evaluate.from_bytes(path)
    assert "\n" not in str(raised.value)


def test_a_commit_stays_small(result):
    """Cityscapes' 500 images and 19 classes, each image with a third of them: about a byte or two a number."""
    rng = np.random.default_rng(0)
    rows = [
        np.where(rng.random((500, 19)) < 0.33, rng.integers(1, 2**21, (500, 19)), 0).astype(np.int32) for _ in "htf"
    ]
    many = result._replace(images=type(result.images)(*rows), shown={})
    assert len(evaluate.to_bytes(many)) < 60_000


# ------------------------------------------------------------------------------------------ in a run


class Points(NullTracker):
    def __init__(self):
        self.names = set()

    def metrics(self, values, step):
        self.names |= values.keys()


def run(config, folder, runtime=None):
    tracker = Points()
    fit(config, runtime or LocalRuntime(folder, "cpu"), tracker, show=lambda line: None)
    return tracker.names


BOUNDARY = {f"val/boundary_{name}" for name in ("f1_3px", "f1_5px", "f1_9px", "f1_12px", "f1_3px_present", "iou")}


@pytest.mark.parametrize("wanted", [True, False])
def test_boundary_scores_can_be_left_out(run_config, tmp_path, wanted):
    config = run_config(train__boundary_scores=wanted, train__steps=1, train__eval_every=1)
    names = run(config, tmp_path)
    assert {name for name in names if name.startswith("val/boundary")} == (BOUNDARY if wanted else set())
    assert {"val/miou", "val/frequency_weighted_iou", "val/mean_accuracy", "val/pixel_accuracy"} <= names
    kept = evaluate.from_bytes(review.best_commit(tmp_path).path / commit.EVALUATION)
    assert (kept.boundary is not None) == wanted
    assert kept.images.truth.any()


def test_they_do_not_decide_a_run(run_config):
    assert configs.digest(run_config()) == configs.digest(run_config(train__boundary_scores=False))


class Pausing(LocalRuntime):
    left = 2

    def stop(self):
        self.left -= 1
        return "pause" if not self.left else None


def test_a_resumed_run_keeps_the_same_evaluation(run_config, tmp_path):
    run(run_config(), tmp_path / "a")
    run(run_config(), tmp_path / "b", Pausing(tmp_path / "b", "cpu"))
    run(run_config(), tmp_path / "b")
    one, other = (evaluate.from_bytes(review.best_commit(tmp_path / name).path / commit.EVALUATION) for name in "ab")
    same(one, other)


def test_logits_that_are_not_finite_end_a_run_and_leave_nothing(run_config, tmp_path, monkeypatch):
    real = views.scores

    def broken(model, images, config):
        scores = real(model, images, config)
        scores[0, 7, 5, 9] = math.nan
        return scores

    monkeypatch.setattr(views, "scores", broken)
    key = open_shards(run_config().data.shards, "val").index.key[0]
    with pytest.raises(TrainingError, match=f"the logits are not finite on image '{key}'"):
        run(run_config(), tmp_path)
    assert not commit.commits(tmp_path)
    assert not (tmp_path / review.SUMMARY).exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("config", [{}, {"flip": True}, {"scales": (0.5, 1.0)}, {"window_px": (20, 20)}])
def test_no_view_hides_what_is_not_finite(value, config):
    class Broken(nn.Module):
        def forward(self, x_BCHW):
            logits = x_BCHW.new_zeros(1, 4, *x_BCHW.shape[-2:])
            logits[0, 2, 3, 4] = value
            return {"main": logits}

    image, cpu = np.zeros((24, 30, 3), np.uint8), torch.device("cpu")
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate.predict(Broken(), image, cpu, torch.float32, configs.ViewConfig(**config))


def raising(error):
    raise error


def test_modules_are_as_they_were_after_a_fault(run_config, tmp_path, monkeypatch):
    config = run_config()
    shards = open_shards(config.data.shards, "val")
    model = nn.Sequential(nn.Conv2d(3, C, 1), nn.BatchNorm2d(C).eval()).train()
    model[1].eval()
    monkeypatch.setattr(ShardSet, "read", lambda self, i: raising(DataError("gone", i, "look")))
    with pytest.raises(DataError, match="gone"):
        evaluate.evaluate(model, shards, LocalRuntime(tmp_path, "cpu"), config=config, precision=torch.float32)
    assert [module.training for module in model] == [True, False]


def test_an_empty_split_is_refused(run_config, tmp_path):
    config = run_config()
    whole = open_shards(config.data.shards, "val")
    empty = ShardSet(whole._store, whole.card, whole.index.where(np.zeros(len(whole), bool)))
    with pytest.raises(DataError, match="the split is empty"):
        evaluate.evaluate(Patchy(), empty, LocalRuntime(tmp_path, "cpu"), config=config, precision=torch.float32)


# ------------------------------------------------------------------------------------------ beside the device


def many(shards, copies):
    """Give predictions and truths, many more than threads."""
    masks = [shards.read(i).mask for i in range(len(shards))]
    return [(np.roll(np.where(m == IGNORED, 0, m), i % 4, 1), m) for i in range(copies) for m in masks]


@pytest.mark.parametrize("threads", [1, 3])
def test_scored_in_threads_or_not_is_the_same(tiny_shards, threads):
    shards = open_shards(tiny_shards, "val")
    tallies = []
    for beside in (False, True):
        with Tally(shards, 40, boundary=True, threads=threads) as tally:
            for i, (mask, truth) in enumerate(many(shards, 8)):
                tally.note(i, mask, truth, beside=beside)
        tallies.append(tally)
    one, other = tallies
    assert one.boundary.images == other.boundary.images == 40
    for name in ("sums", "present", "hits", "union"):
        np.testing.assert_array_equal(getattr(one.boundary, name), getattr(other.boundary, name))


def test_what_waits_to_be_scored_does_not_grow(tiny_shards, monkeypatch):
    """With a slow scorer the device waits: a fast one must not fill the memory with masks."""
    shards = open_shards(tiny_shards, "val")
    lock, at_once, most = threading.Lock(), set(), 0
    with Tally(shards, 40, boundary=True, threads=2) as tally:
        real = tally.boundary.of

        def slow(mask, truth):
            time.sleep(0.005)
            scored = real(mask, truth)
            with lock:
                at_once.discard(id(mask))
            return scored

        monkeypatch.setattr(tally.boundary, "of", slow)
        for i, (mask, truth) in enumerate(pairs := many(shards, 8)):
            with lock:
                at_once.add(id(mask))
            tally.note(i, mask, truth, beside=True)
            most = max(most, len(at_once))
    assert len(pairs) == 40
    assert 2 < most <= AHEAD * 2 + 1
    assert tally.boundary.images == 40


def test_a_fault_beside_the_device_is_raised(tiny_shards):
    shards = open_shards(tiny_shards, "val")
    mask = shards.read(0).mask
    with Tally(shards, 1, boundary=True, threads=1) as tally:
        tally.boundary.of = lambda *_: raising(DataError("broken", "here", "mend it"))
        tally.note(0, np.zeros_like(mask), mask, beside=True)
        with pytest.raises(DataError, match="broken"):
            tally.__exit__(None)
