"""Counts as the papers count: parameters, FLOPs in two conventions, bytes alive. Nothing is computed: all is meta."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode


class Convention(NamedTuple):
    """How a published figure was counted: the unit it is given in, how many of what we count that is, and the rules."""

    unit: str
    scale: float
    rules: str


CONVENTIONS = {
    "params+aux": Convention("M", 1e6, "parameters in 1e6, auxiliary heads included"),
    "params": Convention("M", 1e6, "parameters in 1e6, without auxiliary heads"),
    "thop": Convention(
        "GFLOP",
        1e9,
        "thop's: 1 multiply-add = 1 FLOP; a convolution's outputs x (kernel + bias), batch norm 4 an element, adaptive "
        "pooling 1 an input and 1 an output, all else 0; auxiliary heads included; 3x640x320",
    ),
    "2/MAC": Convention(
        "GFLOP",
        1e9,
        "1 multiply-add = 2 FLOPs; convolutions and matrix products of the module alone, nothing else; 512x48x48",
    ),
    "1/MAC": Convention("GMAC", 1e9, "multiply-adds of convolutions and matrix products, auxiliary heads included"),
    "peak": Convention(
        "MB", 1e6, "1e6 bytes of tensors alive at once, beside input and weights; float32 inference; 512x48x48"
    ),
}
"""By the name that the table uses."""


def parameters(*modules: nn.Module | None) -> int:
    """Count the parameters of modules together; one that they share counts once, and None counts nothing."""
    return sum(p.numel() for p in {p for module in modules if module is not None for p in module.parameters()})


def thop_flops(net: nn.Module, *inputs: Tensor) -> int:
    """Count the FLOPs of a forward pass, layer by layer, in thop's convention."""
    total = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += made.numel() * (layer.weight[0].numel() + (layer.bias is not None))
        elif isinstance(layer, nn.Linear):
            total += made.numel() * layer.in_features
        elif isinstance(layer, nn.BatchNorm2d):
            total += 4 * made.numel()
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            total += given[0].numel() + made.numel()

    hooks = [layer.register_forward_hook(count) for layer in net.modules()]
    try:
        with torch.no_grad():
            net(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def product_flops(net: nn.Module, *inputs: Tensor) -> int:
    """Count 2 FLOPs for every multiply-add of convolutions and matrix products; everything else is free."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*inputs)
    return int(counter.get_total_flops())


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations make, until they are freed; views of what was given are not counted."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes = {x.untyped_storage()._cdata: 0 for x in given}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self.bytes:
                self.bytes[key] = tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self.bytes.pop, key)
        self.peak = max(self.peak, sum(self.bytes.values()))
        return result


def peak_bytes(net: nn.Module, *inputs: Tensor) -> int:
    """Find the most bytes of tensors alive at once in an inference of `net`, beside its inputs and weights."""
    with torch.no_grad(), _Alive([*inputs, *net.parameters(), *net.buffers()]) as alive:
        net(*inputs)
    return alive.peak
