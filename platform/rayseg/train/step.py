"""One optimizer update: precision, memory format, normalising images on the device, seeds as functions of the step."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rayseg.backbone import synchronised

MEAN = (123.675, 116.28, 103.53)
"""ImageNet's mean of R, G, B in 0..255, as timm's weights expect."""
STD = (58.395, 57.12, 57.375)


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the device computes it natively, else float32."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bf16" else torch.float32
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


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's global generator for one update, so that dropout is a function of (seed, step, rank).

    A resumed run then draws what the undisturbed one drew, and no generator's state needs keeping.
    """
    state = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint32)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))


def sync_batch_norm(model: nn.Module, *, world: int, device: torch.device) -> nn.Module:
    """Normalise over all GPU workers' batches; on one worker, and on the CPU (torch has none there), leave it."""
    if world > 1 and device.type == "cuda":
        return synchronised(model)
    return model
