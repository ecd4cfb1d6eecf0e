"""Batch norm over the batches of all ranks, on any device: torch's SyncBatchNorm refuses the CPU.

Each rank sends its mean, its sum of squared distances and its number of values once forward, two sums a channel once
backward. Output, gradients and running statistics are those of `nn.BatchNorm2d` on the ranks' batches put together,
whatever each rank's share. Statistics are put together in float64 from distances to each rank's own mean: sums of
squares would lose the digits of a small variance beside a large mean.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class RankBatchNorm(_BatchNorm):
    """A batch norm (B, C, ...) in the place of one of torch's or timm's: `converted` makes it of that one.

    In training every rank must call it, as often as the others. With one rank, in evaluation mode and on the meta
    device it is torch's own. `pooled`: a lone value per channel is normalised by the running statistics, no error.
    """

    def __init__(self, num_features: int, *, pooled: bool = False, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.pooled = pooled
        # Timm's layers norm, drop and activate in one; `converted` brings theirs.
        self.drop: nn.Module = nn.Identity()
        self.act: nn.Module = nn.Identity()

    def extra_repr(self) -> str:
        """Say what it is in the model's repr, and so in its fingerprint."""
        return f"{super().extra_repr()}, pooled={self.pooled}"

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, ...), got {input.dim()} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...), then do what the replaced layer did after it."""
        if self.training and _several_ranks() and input.device.type != "meta":
            return self.act(self.drop(self._over_ranks(input)))
        if self.training and self.pooled and input.numel() == input.shape[1]:
            mean, var = self.running_mean, self.running_var
            return self.act(self.drop(functional.batch_norm(input, mean, var, self.weight, self.bias, eps=self.eps)))
        return self.act(self.drop(super().forward(input)))

    @torch.compiler.disable  # a compiler would trace the exchange; it breaks the graph here instead
    def _over_ranks(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        mean, var, count = _statistics(x.detach())
        if self.track_running_stats:
            self._track(mean, var * (count / (count - 1)))
        return _Normalise.apply(x, self.weight, self.bias, (mean, var, count, self.eps))

    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.mul_(1 - share).add_(now.to(running.dtype), alpha=share)


class _Normalise(torch.autograd.Function):
    """Normalise by given statistics, which depend on the input of every rank."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, given: Any) -> Tensor:
        mean, var, count, eps = given
        exact = torch.promote_types(x.dtype, torch.float32)
        invstd = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean.to(exact), invstd.to(exact))
        ctx.count, ctx.has_bias = count, bias is not None
        return functional.batch_norm(x, mean.to(exact), var.to(exact), weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the sum of all ranks' outputs: what a rank's input changes in the others' statistics too."""
        x, weight, mean, invstd = ctx.saved_tensors
        d_y = d_y.to(mean.dtype)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        normed = (x.to(mean.dtype) - mean.view(shape)) * invstd.view(shape)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        d_bias, d_weight = d_y.sum(axes), (d_y * normed).sum(axes)
        sums = torch.stack([d_bias, d_weight]).double()
        dist.all_reduce(sums)
        of_mean, of_var = (sums / ctx.count).to(mean.dtype)
        d_x = d_y - of_mean.view(shape) - normed.mul_(of_var.view(shape))
        scale = invstd if weight is None else invstd * weight
        d_x = d_x.mul_(scale.view(shape)).to(x.dtype)
        return d_x, None if weight is None else d_weight, d_bias if ctx.has_bias else None, None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give mean and (biased) variance per channel over all ranks, and the number of values: float64."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = [axis for axis in range(x.dim()) if axis != 1]
    var, mean = torch.var_mean(exact, axes, correction=0)
    own = torch.cat([mean.double(), var.double(), var.new_tensor([x.numel() // x.shape[1]], dtype=torch.float64)])
    ranks = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(ranks, own)
    packed = torch.stack(ranks)
    means, variances, counts = packed[:, : len(mean)], packed[:, len(mean) : -1], packed[:, -1:]
    count = counts.sum()
    whole = (means * counts).sum(0) / count
    spread = ((variances + (means - whole) ** 2) * counts).sum(0) / count
    return whole, spread, count


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def converted(model: nn.Module) -> nn.Module:
    """Put a `RankBatchNorm` in the place of every batch norm, with its parameters and statistics; names stay.

    What timm's layers do after the norm (`drop`, `act`) goes with it: dropping it loses every activation of a model.
    """
    if isinstance(model, _BatchNorm) and not isinstance(model, RankBatchNorm):
        return _of(model)
    for name, child in model.named_children():
        if (new := converted(child)) is not child:
            setattr(model, name, new)
    return model


def _of(layer: _BatchNorm) -> RankBatchNorm:
    new = RankBatchNorm(
        layer.num_features,
        pooled=True,  # the ranks have a value each, at least
        eps=layer.eps,
        momentum=layer.momentum,
        affine=False,
        track_running_stats=False,
    )
    new.affine, new.track_running_stats = layer.affine, layer.track_running_stats
    new.weight, new.bias = layer.weight, layer.bias
    new.running_mean, new.running_var = layer.running_mean, layer.running_var
    new.num_batches_tracked = layer.num_batches_tracked
    new.drop, new.act = (getattr(layer, name, None) or nn.Identity() for name in ("drop", "act"))
    new.training = layer.training
    return new
