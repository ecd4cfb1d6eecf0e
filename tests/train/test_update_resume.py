"""Interrupted equals uninterrupted, bit for bit, with every setting of an update: a commit keeps all there is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_update import GROUP, config, digest, updated, updater

from rayseg.schema import to_dict
from rayseg.train import commit
from rayseg.train.inference import load as load_best
from rayseg.train.start import load_weights
from rayseg.train.update import Updater

STATE: dict[str, Any] = {"progress": {"miou": 0.5, "best_step": 2, "step": 2}}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adamw": {"optim__name": "adamw"},
    "no momentum": {"optim__momentum": 0.0},
    "cosine": {"optim__schedule": "cosine", "optim__warmup_steps": 3},
    "accumulate": {"train__accumulate": 2},
    "ohem in parts": {"train__accumulate": 2, "loss__ohem": True, "loss__ohem_min_kept": 500, "loss__dice_weight": 0.5},
    "clip": {"train__clip_norm": 0.5},
    "ema": {"train__ema_decay": 0.9},
    "bf16": {"train__precision": "bf16"},
    "fp16": {"train__precision": "fp16"},
    "frozen": {"train__freeze_backbone": 2},
    "frozen norm": {"train__freeze_norm": True},
    "group norm": GROUP,
    "all": {
        "optim__name": "adamw",
        "optim__schedule": "cosine",
        "optim__warmup_steps": 3,
        "optim__head_lr_factor": 10.0,
        "train__accumulate": 2,
        "train__clip_norm": 0.5,
        "train__ema_decay": 0.9,
        "train__precision": "bf16",
        "train__freeze_backbone": 1,
    },
}


def kept(of: Updater, run_dir: Path, step: int) -> commit.Commit:
    state = STATE | {"config": to_dict(of.config)}
    return commit.read(commit.write(run_dir, step, of.tensors(), state, {commit.EVALUATION: b""}))


@pytest.mark.parametrize("name", OPTIONS)
def test_interrupted_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    run = config(**OPTIONS[name])
    straight = updater(run)
    before = digest(straight)
    updated(straight, 1)
    found = kept(straight, tmp_path, 1)
    curve = updated(straight, 1, start=1)
    resumed = updater(run)
    resumed.load(found)
    assert updated(resumed, 1, start=1) == curve
    assert digest(resumed) == digest(straight) != before


def test_a_scale_that_has_moved_is_gone_on_with(tmp_path: Path) -> None:
    run = config(train__precision="fp16")
    first = updater(run)
    first._scaler.load_state_dict(first._scaler.state_dict() | {"scale": 2.0**9, "_growth_tracker": 1999})
    updated(first, 1)
    found = kept(first, tmp_path, 1)
    assert {k: float(v) for k, v in commit.tensors(found, "scaler").items()} == {"scale": 2.0**10, "growth_tracker": 0}
    resumed = updater(run)
    resumed.load(found)
    assert resumed._scaler.get_scale() == 2.0**10


def test_micro_batches_halved_for_want_of_memory_stay_halved(tmp_path: Path) -> None:
    run = config()
    short = updater(run)
    short.parts.model.register_forward_pre_hook(_at_most(2))
    updated(short, 1)
    resumed = updater(run)
    resumed.load(kept(short, tmp_path, 1))
    updated(resumed, 1, start=1)
    updated(short, 1, start=1)
    assert digest(resumed) == digest(short)


def _at_most(images: int) -> Any:
    def hook(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if len(given[0]) > images:
            raise torch.OutOfMemoryError("too many")

    return hook


@pytest.mark.parametrize("before", ["sgd", "adamw"])
def test_another_optimizer_begins_with_a_state_of_its_own(before: str, tmp_path: Path) -> None:
    """A search may change it in the middle of a run."""
    after = {"sgd": "adamw", "adamw": "sgd"}[before]
    first = updater(config(optim__name=before, train__ema_decay=0.9))
    updated(first, 1)
    other = updater(config(optim__name=after, train__precision="fp16"))
    other.load(kept(first, tmp_path, 1))
    updated(other, 1, start=1)
    assert all(name.endswith(("::step", "::exp_avg", "::exp_avg_sq")) is (after == "adamw") for name in _state(other))
    assert other.finite()


def _state(of: Updater) -> list[str]:
    return list(of.tensors()["optimizer"])


def test_an_average_that_begins_later_begins_at_the_weights(tmp_path: Path) -> None:
    first = updater(config())
    updated(first, 2)
    later = updater(config(train__ema_decay=0.9))
    later.load(kept(first, tmp_path, 2))
    expected = first.parts.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in later.judged.state_dict().items())


def test_a_run_starts_from_the_average_and_is_judged_by_it(tmp_path: Path) -> None:
    """Commits with AdamW's state and an average are starts of other runs, and what inference loads."""
    run = config(optim__name="adamw", train__ema_decay=0.5)
    trained = updater(run)
    updated(trained, 2)
    found = kept(trained, tmp_path, 2)
    average = trained.judged.state_dict()
    assert not all(torch.equal(t, trained.parts.model.state_dict()[n]) for n, t in average.items())
    model = updater(config()).parts.model
    load_weights(model, str(found.path), [].append)
    assert all(torch.equal(tensor, average[name]) for name, tensor in model.state_dict().items())
    loaded = load_best(tmp_path, 5).model
    assert all(torch.equal(tensor, average[name]) for name, tensor in loaded.state_dict().items())
