"""Updates on two ranks (gloo processes): as one rank with the same global batch, and what the ranks agree on."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_update import DROPLESS, GROUP, config, digest, updated, updater, weights
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from rayseg.config import RunConfig

STEPS = 3
DICE = {"loss__dice_weight": 0.5}
OHEM = {"loss__ohem": True, "loss__ohem_min_kept": 2000}
"""Both are of all ranks' pixels. OHEM's choice may turn over where a loss differs in its last digit."""
SYNC = {"train__sync_norm": "on"}
CURVES: dict[str, dict[str, Any]] = {
    "group norm": GROUP,
    "group norm in parts": GROUP | OHEM | DICE | {"train__accumulate": 2},
    "synchronised norm": DROPLESS | SYNC | DICE,
    "norms of each rank": DROPLESS,
}


def trained(run: RunConfig, rank: int, before: Callable[[Any], None]) -> dict[str, Any]:
    """Train on this rank, and give what it leaves."""
    of = updater(run, rank=rank, world=2)
    before(of)
    try:
        losses = updated(of, STEPS)
    except torch.OutOfMemoryError as error:
        return {"error": str(error)}
    asked = of.finite()
    return {
        "losses": losses,
        "weights": weights(of),
        "digest": digest(of),
        "notes": of.notes,
        "parts": of._divided,
        "finite": asked,
    }


def as_it_is(of: Any) -> None:
    """Change nothing."""


def counted(exchanges: list[int]) -> Callable[[Any], None]:
    """Note the parameters of each exchange of gradients."""

    def hook(_, bucket):  # type: ignore[no-untyped-def] # torch compares annotations, which are text here
        exchanges.append(len(bucket.parameters()))
        return allreduce_hook(None, bucket)

    return lambda of: of.parts.net.register_comm_hook(None, hook)


def short_of(images: int) -> Callable[[Any], None]:
    def before(of: Any) -> None:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            if len(given[0][0]) > images:
                raise torch.OutOfMemoryError(f"no room for {len(given[0][0])}")

        of.parts.model.head.register_forward_pre_hook(hook)

    return before


def not_a_number(of: Any) -> None:
    next(iter(of.parts.model.head.parameters())).register_hook(lambda grad: grad * float("nan"))


def settled(of: Any) -> None:
    of._settled = True


def _rank(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    only = rank == 1
    found = {name: trained(config(**settings), rank, as_it_is) for name, settings in CURVES.items()}
    found["short"] = trained(config(**SYNC), rank, short_of(1) if only else as_it_is)
    exchanges: list[int] = []
    found["asked"] = trained(config(**SYNC, train__accumulate=2), rank, counted(exchanges))
    found["exchanged"] = exchanges
    found["too short"] = trained(config(**SYNC), rank, short_of(0) if only else as_it_is)
    found["without a rehearsal"] = trained(config(**DROPLESS), rank, settled)
    found["not finite"] = trained(config(), rank, not_a_number if only else as_it_is)
    torch.save(found, out / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run everything on two ranks at once: a process group costs more than what it does here."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_rank, args=(port, out), nprocs=2, start_method="fork")
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Give the largest difference of a tensor's values beside the largest of them."""
    pairs = [(tensor, other[name]) for name, tensor in one.items() if tensor.is_floating_point()]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in pairs)


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[list[dict[str, float]], dict[str, Tensor]]]:
    """Train each on one rank with the same global batch, undivided."""
    found = {}
    for name, settings in CURVES.items():
        of = updater(config(**settings | {"train__accumulate": 1}))
        found[name] = updated(of, STEPS), weights(of)
    return found


LOSS, WEIGHT = 1e-5, 1e-4
"""Relative: what float32 leaves of a loss, and of the weights after three updates."""


@pytest.mark.parametrize("name", [name for name in CURVES if name != "norms of each rank"])
def test_two_ranks_train_as_one_with_the_same_global_batch(ranks: Any, alone: Any, name: str) -> None:
    losses, expected = alone[name]
    for rank in ranks:
        for step, one in zip(rank[name]["losses"], losses, strict=True):
            assert step == pytest.approx(one, rel=LOSS)
        assert apart(rank[name]["weights"], expected) < WEIGHT


def test_norms_of_each_rank_are_told_apart(ranks: Any, alone: Any) -> None:
    losses, expected = alone["norms of each rank"]
    differences = [
        abs(a["loss"] / b["loss"] - 1) for a, b in zip(ranks[0]["norms of each rank"]["losses"], losses, strict=True)
    ]
    assert max(differences) > 100 * LOSS
    assert apart(ranks[0]["norms of each rank"]["weights"], expected) > 100 * WEIGHT


def test_all_ranks_halve_where_one_is_short(ranks: Any) -> None:
    """Bit for bit as if the micro-batches had been asked for."""
    assert [rank["short"]["parts"] for rank in ranks] == [2, 2]
    assert ["memory is short (no room for 2)" in rank["short"]["notes"][0] for rank in ranks] == [False, True]
    assert all(rank["short"]["losses"] == rank["asked"]["losses"] for rank in ranks)
    for name, tensor in ranks[0]["short"]["weights"].items():
        assert torch.equal(tensor, ranks[0]["asked"]["weights"][name]), name


def test_gradients_are_exchanged_once_an_update_and_not_with_every_micro_batch(ranks: Any) -> None:
    parameters = len(list(updater(config()).parts.model.parameters()))
    for rank in ranks:
        assert sum(rank["exchanged"]) == STEPS * parameters


def test_all_ranks_give_up_where_one_has_no_room_for_a_sample(ranks: Any) -> None:
    assert [rank["too short"].get("error") for rank in ranks] == ["on another rank", "no room for 1"]


def test_trying_what_fits_leaves_no_trace(ranks: Any) -> None:
    for rank in ranks:
        assert rank["without a rehearsal"]["digest"] == rank["norms of each rank"]["digest"]


def test_a_gradient_that_is_not_finite_on_one_rank_is_seen_on_all(ranks: Any) -> None:
    for rank in ranks:
        assert not rank["not finite"]["finite"]
        assert not any("grad_norm" in losses for losses in rank["not finite"]["losses"])
