"""Batch norm over ranks: on two processes what torch's own computes on their batches put together."""

from __future__ import annotations

import copy
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from rayseg.heads._blocks import PooledBatchNorm
from rayseg.ops.rank_norm import RankBatchNorm, converted

SHARES = (3, 5)
"""Images of each rank: not as many, so that statistics weigh values and not ranks."""


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Draw images with a mean far from 0, and the gradient of what follows."""
    generator = torch.Generator().manual_seed(0)
    x = 300 + 0.5 * torch.randn(sum(SHARES), 6, 4, 3, generator=generator, dtype=dtype)
    return x, torch.randn(x.shape, generator=generator, dtype=dtype)


def layer(**options: Any) -> nn.BatchNorm2d:
    torch.manual_seed(1)
    made = nn.BatchNorm2d(6, **options).double()
    if made.affine:
        nn.init.normal_(made.weight)
        nn.init.normal_(made.bias)
    return made


def passed(norm: nn.Module, x: Tensor, d_y: Tensor) -> dict[str, Tensor]:
    """Go forward and back twice, so that running statistics build on each other."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        y = norm(x)
        y.backward(d_y)
    return {"y": y.detach(), "x": x.grad} | {n: p.grad for n, p in norm.named_parameters()} | dict(norm.named_buffers())


def shared(rank: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add up over ranks what belongs to parameters; the rest is a rank's own."""
    for name in ("weight", "bias"):
        if name in found:
            dist.all_reduce(found[name])
    return found


OPTIONS = ({}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.1, "momentum": 0.7})


def _rank(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mine = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
    x, d_y = batch()
    found = [shared(rank, passed(converted(layer(**options)), x[mine], d_y[mine])) for options in OPTIONS]
    half = converted(nn.BatchNorm2d(6))(x[mine].bfloat16())
    pooled = converted(PooledBatchNorm(6).double())(x[rank : rank + 1, :, :1, :1])
    held = converted(layer().eval())(x[mine])
    meta = converted(layer().to("meta"))(x[mine].to("meta"))  # must not wait for the other rank
    torch.save({"found": found, "half": half, "pooled": pooled, "held": held, "meta": meta.shape}, out / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run the layers on two gloo processes."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_rank, args=(port, out), nprocs=2, start_method="fork")
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("at", range(len(OPTIONS)), ids=[str(options) for options in OPTIONS])
def test_outputs_gradients_and_statistics_are_those_of_the_whole_batch(ranks: list[dict[str, Any]], at: int) -> None:
    expected = passed(layer(**OPTIONS[at]), *batch())
    for rank, mine in ((0, slice(0, SHARES[0])), (1, slice(SHARES[0], None))):
        found = ranks[rank]["found"][at]
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            whole = expected[name]
            own = whole[mine] if name in ("x", "y") else whole
            torch.testing.assert_close(tensor, own, rtol=1e-9, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}")


def test_half_precision_goes_in_and_out(ranks: list[dict[str, Any]]) -> None:
    x, _ = batch()
    expected = nn.BatchNorm2d(6)(x.bfloat16().float())
    joined = torch.cat([ranks[0]["half"], ranks[1]["half"]])
    assert joined.dtype == torch.bfloat16
    torch.testing.assert_close(joined.float(), expected, rtol=1e-2, atol=1e-2)


def test_a_value_a_rank_is_enough(ranks: list[dict[str, Any]]) -> None:
    x, _ = batch()
    expected = nn.BatchNorm2d(6).double()(x[:2, :, :1, :1])
    torch.testing.assert_close(torch.cat([each["pooled"] for each in ranks]), expected)


def test_held_layers_use_what_they_have(ranks: list[dict[str, Any]]) -> None:
    x, _ = batch()
    torch.testing.assert_close(torch.cat([each["held"] for each in ranks]), layer().eval()(x))
    assert [each["meta"][0] for each in ranks] == list(SHARES)


# --- one process ----------------------------------------------------------------------------------------------------


def test_conversion_keeps_names_values_and_what_follows_the_norm() -> None:
    """EfficientNet's layers norm and activate in one: every output changes when an activation is lost."""
    torch.manual_seed(0)
    before = timm.create_model("efficientnet_lite0", features_only=True)
    norms = [m for m in before.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.running_mean)
    after = converted(copy.deepcopy(before))
    assert sum(isinstance(m, RankBatchNorm) for m in after.modules()) == len(norms) > 10
    assert after.state_dict().keys() == before.state_dict().keys()
    x = torch.randn(2, 3, 64, 64)
    for mode in (False, True):
        one, two = before.train(mode)(x), after.train(mode)(x)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_conversion_keeps_the_parameters_themselves() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    parameters, held = list(net.parameters()), nn.BatchNorm2d(4).eval()
    assert [a is b for a, b in zip(converted(net).parameters(), parameters, strict=True)] == [True] * 4
    assert not converted(held).training


def test_alone_a_lone_value_is_normalised_by_the_running_statistics_only_where_pooled() -> None:
    x = torch.tensor([[[[3.0]]]])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        RankBatchNorm(1)(x)
    pooled = RankBatchNorm(1, pooled=True)
    torch.testing.assert_close(pooled(x), x / (1 + pooled.eps) ** 0.5)
    assert int(pooled.num_batches_tracked) == 0
