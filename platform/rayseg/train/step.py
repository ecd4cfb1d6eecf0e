"""What an update computes with: precision, images on the device, seeds as functions of the step, the wrapped model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rayseg.backbone import synchronised
from rayseg.config import TrainConfig
from rayseg.errors import UsageError
from rayseg.ops.rank_norm import converted
from rayseg.segmenter import Segmenter
from rayseg.train import start
from rayseg.train.runtime import Runtime

MEAN = (123.675, 116.28, 103.53)
"""ImageNet's mean of R, G, B in 0..255, as timm's weights expect."""
STD = (58.395, 57.12, 57.375)


def choose_precision(wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> torch.dtype:
    """Choose what convolutions and products are computed in: "auto" is bfloat16 where it is native, else float32.

    Float16 is computed on any device, but only the newest CPUs do it natively.
    """
    if wanted != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[wanted]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def to_device(images: np.ndarray, device: torch.device, *, channels_last: bool) -> Tensor:
    """Turn uint8 images (B,H,W,3) into normalised float32 (B,3,H,W) on the device.

    Bytes travel, floats do not: normalising after the copy moves a quarter of the data.
    """
    x_BHWC = torch.from_numpy(images).to(device, non_blocking=True).float()
    mean, std = (torch.tensor(values, device=device) for values in (MEAN, STD))
    x_BCHW = ((x_BHWC - mean) / std).permute(0, 3, 1, 2)
    return x_BCHW if channels_last else x_BCHW.contiguous()


def seed_step(seed: int, step: int, rank: int, part: int = 0) -> None:
    """Seed torch's global generator for a micro-batch of one update: dropout is a function of (seed, step, rank, part).

    A resumed run then draws what the undisturbed one drew, and no generator's state needs keeping.
    """
    words = [seed, step, rank, part] if part else [seed, step, rank]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))


def wrapped(model: Segmenter, config: TrainConfig, runtime: Runtime) -> nn.Module:
    """Give the model as training calls it: norms synchronised, parts frozen, compiled, gradients reduced.

    The model keeps its parameters, their names and its class; it is changed in place.

    Raises:
        UsageError: there is nothing to freeze.
    """
    start.freeze_backbone(model, config.freeze_backbone)
    net = sync_batch_norm(model, config.sync_norm, world=runtime.world, device=runtime.device)
    if config.freeze_norm:
        start.freeze_norm(net)
    if config.compile:
        net = cast(nn.Module, torch.compile(net, dynamic=False))
    if runtime.world == 1:
        return net
    return DistributedDataParallel(net, device_ids=[runtime.device] if runtime.device.type == "cuda" else None)


def sync_batch_norm(
    model: nn.Module, wanted: Literal["auto", "on", "off"], *, world: int, device: torch.device
) -> nn.Module:
    """Take batch norm's statistics over all workers: torch's own on GPUs, `RankBatchNorm` elsewhere if `wanted` "on".

    A head's `RankBatchNorm` layers take them so whatever is wanted.
    """
    if world == 1 or wanted == "off":
        return model
    if device.type == "cuda":
        return synchronised(model)
    return converted(model) if wanted == "on" else model


@contextmanager
def compiler_faults(config: TrainConfig) -> Iterator[None]:
    """Say in a line what torch's compiler has to say in pages.

    Raises:
        UsageError: the model cannot be compiled here, or its compiled form is at fault.
    """
    try:
        yield
    except RuntimeError as error:
        if not config.compile or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        what = f"the model cannot be compiled: {str(error).strip().splitlines()[0]}"
        raise UsageError(what, "train.compile", "install a C++ compiler, or leave it out") from None
