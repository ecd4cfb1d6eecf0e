"""The hardest images: chosen as by hand, kept by an evaluation while it goes by, over ranks and for a whole sweep."""

import json
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional

from rayseg import config as configs
from rayseg.data import cursor
from rayseg.data.reader import open_shards
from rayseg.errors import CheckpointError
from rayseg.metrics import PerImage
from rayseg.train import evaluate, hardest
from rayseg.train.runtime import LocalRuntime

C = 11


def drawn(rng, images, classes):
    """Counts of images, some classes absent, the last image without a label; whole tenths, so that scores tie."""
    truth = rng.integers(0, 4, (images, classes)).astype(np.int32) * 10
    hits = (truth * rng.integers(0, 3, truth.shape) // 2).astype(np.int32)
    found = hits + (truth - hits) // 2
    for each in (truth, hits, found):
        each[-1] = 0
    return PerImage(hits, truth, found)


def naive(seen, count):
    """Write the choice out."""
    scored = []
    for i in range(min(len(each.hits) for each in seen)):
        means = []
        for hits, truth, found in ((e.hits[i], e.truth[i], e.found[i]) for e in seen):
            ious = [
                int(h) / (int(t) + int(f) - int(h)) for h, t, f in zip(hits, truth, found, strict=True) if t + f - h
            ]
            means += [sum(ious) / len(ious)] if ious else []
        if means:
            scored.append((sum(means) / len(means), i))
    return [i for _, i in sorted(scored)[:count]]


@pytest.mark.parametrize("many", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 16, 99])
def test_chosen_as_by_hand(many, count):
    seen = [drawn(np.random.default_rng(n), 40, 5) for n in range(many)]
    scores = np.mean([hardest.scores(each) for each in seen], axis=0)
    chosen, expected = hardest.choose(seen, count), naive(seen, count)
    np.testing.assert_allclose(scores[chosen], scores[expected], atol=1e-12)  # the order of equals is tested below
    assert len(chosen) == len(set(chosen)) == min(count, 39)
    assert 39 not in chosen, "an image without a label is never one"


def test_of_equals_the_first():
    same = PerImage(*(np.full((9, 3), n, np.int32) for n in (1, 2, 2)))
    same.hits[6] = 0
    assert hardest.choose([same, same], 4) == [6, 0, 1, 2]


def test_evaluations_of_different_length_share_their_first_images():
    rng = np.random.default_rng(0)
    long, short = drawn(rng, 40, 5), drawn(rng, 8, 5)
    assert max(hardest.choose([long, short], 16)) < 7


def test_what_is_kept_while_it_goes_by_is_what_is_chosen_at_the_end():
    images = drawn(np.random.default_rng(1), 60, 4)
    seen, kept = PerImage.empty(60, 4), hardest.Kept(7, None)
    for i in range(60):
        for mine, theirs in zip(seen, images, strict=True):
            mine[i] = theirs[i]
        kept.note(i, np.full((2, 2), i, np.uint8), seen)
        assert len(kept.masks) <= 7
    assert set(kept.masks) == set(hardest.choose([images], 7)) == set(kept.positions(images))
    assert all((mask == i).all() for i, mask in kept.masks.items())


# ------------------------------------------------------------------------------------------ in an evaluation


class Patchy(nn.Module):
    """A net whose predictions are patches of many classes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(C, 3, 5, 5, generator=torch.Generator().manual_seed(3)))

    def forward(self, x_BCHW):
        return {"main": functional.conv2d(functional.avg_pool2d(x_BCHW, 5, 1, 2), self.weight, padding=2)}


def judged(config, folder, rank=0, world=1):
    runtime = LocalRuntime(folder, "cpu")
    runtime.rank, runtime.world = rank, world
    shards = open_shards(config.data.shards, "val")
    return evaluate.evaluate(Patchy(), shards, runtime, config=config, precision=torch.float32)


def _rank(rank, world, port, config, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    (folder / f"{rank}.npz").write_bytes(evaluate.to_bytes(judged(config, folder, rank, world)))
    dist.destroy_process_group()


def test_an_evaluation_keeps_its_own_hardest_and_ranks_the_same(run_config, tmp_path, free_port):
    config = run_config(train__shown_images=3)
    seen = judged(config, tmp_path)
    assert list(seen.shown) == naive([seen.images], 3)
    mp.start_processes(_rank, args=(2, free_port, config, tmp_path), nprocs=2, start_method="fork")
    first, second = (evaluate.from_bytes(tmp_path / f"{rank}.npz") for rank in range(2))
    assert list(first.shown) == list(seen.shown)
    assert not second.shown
    for position, mask in seen.shown.items():
        np.testing.assert_array_equal(first.shown[position], mask)


@pytest.fixture
def trial(tmp_path):
    """A trial's folder in a sweep's."""
    run_dir = tmp_path / "sweep" / "trials" / "abc"
    run_dir.mkdir(parents=True)
    return run_dir


def chosen(trial, shards, positions, **other):
    plain = {
        "positions": positions,
        "keys": ["k"] * len(positions),
        "trials": ["a"],
        "data": cursor.digest(shards.index),
    }
    (trial.parents[1] / "hardest.json").write_text(json.dumps(plain | other))


def test_an_evaluation_keeps_what_its_sweep_chose(run_config, trial):
    config = run_config(train__shown_images=2)
    own, shards = judged(config, trial), open_shards(config.data.shards, "val")
    easiest = [i for i in reversed(naive([own.images], 5)) if i not in own.shown][:3]
    chosen(trial, shards, easiest)
    seen = judged(config, trial)
    assert list(seen.shown) == easiest
    assert seen.confusion.miou() == own.confusion.miou()
    assert not judged(run_config(train__shown_images=0), trial).shown
    chosen(trial, shards, easiest, data="of another split")
    assert list(judged(config, trial).shown) == list(own.shown)
    chosen(trial, shards, ["damaged"])
    assert list(judged(config, trial).shown) == list(own.shown)
    with pytest.raises(CheckpointError, match="remove it"):
        hardest.read(trial.parents[1])


def test_a_choice_is_what_is_read_again(run_config, trial):
    config = run_config(train__shown_images=3)
    shards = open_shards(config.data.shards, "val")
    seen = [drawn(np.random.default_rng(n), 5, C) for n in range(2)]
    assert hardest.read(trial.parents[1]) is None
    assert hardest.of_sweep(trial, shards) is None
    made = hardest.write(trial.parents[1], [("a", seen[0]), ("b", seen[1])], shards, 3)
    assert made == hardest.read(trial.parents[1]) == hardest.of_sweep(trial, shards)
    assert (made.trials, list(made.positions)) == (("a", "b"), hardest.choose(seen, 3))
    assert made.keys == tuple(shards.read(position).key for position in made.positions)
    assert hardest.of_sweep(trial.parents[1] / "alone", shards) is None


def test_how_many_are_shown_decides_no_result(run_config):
    assert configs.digest(run_config(train__shown_images=0)) == configs.digest(run_config(train__shown_images=16))
    assert not math.isnan(hardest.scores(PerImage(*(np.ones((1, 2), np.int32) for _ in range(3))))[0])
