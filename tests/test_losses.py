"""Losses against numpy, and over several ranks against one."""

from __future__ import annotations

import math
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from rayseg.errors import DataError, UsageError
from rayseg.losses import Config, SegmentationLoss, kth_largest
from rayseg.schema import parse

IGNORE = 11
NUM_CLASSES = 5


def criterion(weights: dict[str, float] | None = None, **config: Any) -> SegmentationLoss:
    return SegmentationLoss(parse(Config, config, "loss"), ignore_index=IGNORE, weights=weights or {})


def sample(batch: int = 3, size: int = 8, *, seed: int = 0, ignored: float = 0.3) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, NUM_CLASSES, size, size)
    logits = {n: 3 * torch.randn(shape, generator=generator, dtype=torch.float64) for n in ("main", "aux", "own")}
    target = torch.randint(NUM_CLASSES, (batch, size, size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    return {name: x.requires_grad_() for name, x in logits.items()}, target


def true_probabilities(logits: Tensor, target: Tensor) -> np.ndarray:
    """Probability of the true class at every pixel that is not ignored, flat."""
    x = logits.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, NUM_CLASSES)
    t = target.numpy().ravel()
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    return p[t != IGNORE, t[t != IGNORE]]


# --- one rank -------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_the_mean_over_valid_pixels() -> None:
    outputs, target = sample()
    result = criterion({"own": 0.1}, aux_weight=0.4)(outputs, target)
    expected = {name: -np.log(true_probabilities(x, target)).mean() for name, x in outputs.items()}
    assert list(result) == ["loss", "main", "aux", "own"]
    for name, value in expected.items():
        assert result[name].item() == pytest.approx(value, rel=1e-12)
        assert not result[name].requires_grad
    total = expected["main"] + 0.4 * expected["aux"] + 0.1 * expected["own"]
    assert result["loss"].item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("min_kept", [1, 20, 100, 10_000])
def test_ohem_equals_a_sort(threshold: float, min_kept: int) -> None:
    outputs, target = sample(ignored=0.4)
    result = criterion({"own": 0.0}, ohem=True, ohem_threshold=threshold, ohem_min_kept=min_kept)(outputs, target)
    p = np.sort(true_probabilities(outputs["main"], target))
    limit = max(threshold, p[min(min_kept, p.size) - 1])
    kept = p[p <= limit]
    assert kept.size >= min(min_kept, p.size)
    assert result["main"].item() == pytest.approx(-np.log(kept).mean(), rel=1e-12)
    plain = -np.log(true_probabilities(outputs["aux"], target)).mean()
    assert result["aux"].item() == pytest.approx(plain, rel=1e-12)
    result["loss"].backward()
    learns = outputs["main"].grad.abs().sum(1) > 0
    assert int(learns.sum()) == kept.size


def test_ohem_keeps_its_minimum_where_all_pixels_are_equally_easy() -> None:
    logits = torch.zeros(1, NUM_CLASSES, 4, 4)
    logits[:, 0] = 10.0
    result = criterion(ohem=True, ohem_min_kept=5)({"main": logits}, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert result["main"].item() == pytest.approx(math.log(1 + 4 * math.exp(-10.0)), rel=1e-3)


@pytest.mark.parametrize("ohem", [False, True])
def test_a_batch_without_a_valid_pixel_gives_zero_and_zero_gradients(ohem: bool) -> None:
    outputs, target = sample()
    result = criterion({"own": 1.0}, ohem=ohem, ohem_min_kept=10)(outputs, torch.full_like(target, IGNORE))
    assert all(value.item() == 0 for value in result.values())
    result["loss"].backward()
    assert all(x.grad is not None and not x.grad.any() for x in outputs.values())


def test_ignored_pixels_get_no_gradient() -> None:
    outputs, target = sample()
    criterion({"own": 1.0}, ohem=True, ohem_min_kept=10_000)(outputs, target)["loss"].backward()
    for x in outputs.values():
        assert torch.equal(x.grad.abs().sum(1) > 0, target != IGNORE)


def test_bf16_logits_are_computed_in_float32() -> None:
    outputs, target = sample()
    rough = {name: x.detach().bfloat16() for name, x in outputs.items()}
    result = criterion({"own": 0.0})(rough, target)["loss"]
    exact = criterion({"own": 0.0})({name: x.double() for name, x in rough.items()}, target)["loss"]
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, t: (o, t.int()), r"target is torch.int32 .*\.long\(\)"),
        (lambda o, t: (o, t[:, :4]), r"target is \(3, 4, 8\)"),
        (lambda o, t: (o | {"aux": o["aux"][:, :3]}, t), r"aux is \(3, 3, 8, 8\)"),
        (lambda o, t: (o | {"edge": o["aux"]}, t), "output 'edge' has no weight"),
        (lambda o, t: ({"aux": o["aux"]}, t), "no 'main'"),
    ],
)
def test_misfits_are_said_clearly(change: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        criterion({"own": 1.0})(*change(*sample()))


@pytest.mark.parametrize("label", [NUM_CLASSES, 255, -1])
def test_labels_that_are_no_class_are_refused(label: int) -> None:
    outputs, target = sample()
    target[0, 0, 0] = label
    with pytest.raises(DataError, match=rf"label {label} is no class .*0\.\.4, or 11"):
        criterion({"own": 1.0})(outputs, target)


@pytest.mark.parametrize("config", [{"aux_weight": -0.1}, {"ohem_threshold": 1.0}, {"ohem_min_kept": 0}])
def test_values_out_of_range_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(config))):
        parse(Config, config, "loss")


def test_kth_largest_is_the_sorts() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for k in (1, 7, 50):
        assert kth_largest(values, k) == values.sort(descending=True).values[k - 1]
    assert kth_largest(values, 51) == -math.inf


# --- two ranks ------------------------------------------------------------------------------------------------------

PARTS = (2, 1)  # images of each rank; the second rank has less, and much more of it is ignored
CASES: list[dict[str, Any]] = [
    {},
    {"ohem": True, "ohem_min_kept": 5},  # the threshold decides
    {"ohem": True, "ohem_threshold": 1e-5, "ohem_min_kept": 40},  # the k-th hardest of all ranks decides
    {"ohem": True, "ohem_threshold": 1e-5, "ohem_min_kept": 10_000},  # fewer pixels than the minimum
]


def global_batch(*, second_ignored: bool) -> tuple[dict[str, Tensor], Tensor]:
    outputs, target = sample(batch=sum(PARTS), ignored=0.1)
    hard = target[PARTS[0] :]
    hard[:, :6] = IGNORE
    if second_ignored:
        hard[:] = IGNORE
    return outputs, target


def rank_main(rank: int, folder: str, port: int) -> None:
    """Compute every case on this rank's part; keep values and gradients for the test to compare."""
    torch.set_num_threads(1)
    rendezvous = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    start = sum(PARTS[:rank])
    mine = slice(start, start + PARTS[rank])
    found = {}
    for number, config in enumerate(CASES):
        for second_ignored in (False, True):
            outputs, target = global_batch(second_ignored=second_ignored)
            outputs = {name: x.detach()[mine].requires_grad_() for name, x in outputs.items()}
            result = criterion({"own": 0.1}, **config)(outputs, target[mine])
            result["loss"].backward()
            found[f"{number} {second_ignored}"] = (
                {name: value.item() for name, value in result.items()},
                {name: x.grad for name, x in outputs.items()},
            )
    if rank == 0:  # alone: without gradients no rank waits for another
        with torch.no_grad():
            criterion({"own": 0.1})(*sample())
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(rank_main, args=(str(folder), port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("second_ignored", [False, True])
def test_two_ranks_equal_one_on_the_whole_batch(
    two_ranks: list[dict[str, Any]], number: int, second_ignored: bool
) -> None:
    outputs, target = global_batch(second_ignored=second_ignored)
    whole = criterion({"own": 0.1}, **CASES[number])(outputs, target)
    whole["loss"].backward()
    (values, first), (others, second) = (rank[f"{number} {second_ignored}"] for rank in two_ranks)
    assert values == others
    if CASES[number].get("ohem_min_kept") == 40:
        assert int((outputs["main"].grad.abs().sum(1) > 0).sum()) == 40
    for name, value in whole.items():
        assert values[name] == pytest.approx(value.item(), rel=1e-12)
    for name, x in outputs.items():
        averaged = torch.cat([first[name], second[name]]) / 2  # as DistributedDataParallel does
        torch.testing.assert_close(averaged, x.grad, rtol=1e-12, atol=1e-15)
