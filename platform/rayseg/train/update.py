"""One optimizer update: from a batch to its losses, and what of it a commit must keep beside the model's weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rayseg import optim
from rayseg.config import RunConfig
from rayseg.data.loader import Batch
from rayseg.losses import SegmentationLoss
from rayseg.segmenter import Segmenter
from rayseg.train import commit
from rayseg.train.commit import Commit, Tensors
from rayseg.train.runtime import Runtime
from rayseg.train.step import seed_step, to_device


class Parts(NamedTuple):
    """What is trained: `net` is the model as it is called (wrapped for DDP), `model` the same one bare."""

    net: nn.Module
    model: Segmenter
    criterion: SegmentationLoss
    optimizer: torch.optim.Optimizer


class Updater:
    """Does a run's updates, one a call; every rank calls it with its own part of the global batch."""

    def __init__(self, parts: Parts, config: RunConfig, runtime: Runtime, precision: torch.dtype) -> None:
        self.parts, self.config, self.runtime, self.precision = parts, config, runtime, precision

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Do update `step`, counted from 1, and give its losses, not yet read from the device."""
        net, _, criterion, optimizer = self.parts
        device, precision = self.runtime.device, self.precision
        seed_step(self.config.seed, step, self.runtime.rank)
        images = to_device(batch.images, device, channels_last=self.config.train.channels_last)
        target = torch.from_numpy(batch.masks).to(device, non_blocking=True).long()
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            outputs = net(images)
        losses: dict[str, Tensor] = criterion(outputs, target)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def set_rate(self, done: int) -> float:
        """Set the learning rate for the update after `done` ones; give the backbone's."""
        return optim.set_rate(self.parts.optimizer, self.config.optim, done, self.config.train.steps)

    @property
    def judged(self) -> Segmenter:
        """The model that is evaluated."""
        return self.parts.model

    def tensors(self) -> dict[str, Tensors]:
        """Give what a commit keeps: the weights, and the optimizer's state."""
        _, model, _, optimizer = self.parts
        return {"model": dict(model.state_dict()), "optimizer": commit.optimizer_tensors(optimizer, model)}

    def load(self, found: Commit) -> None:
        """Go on from a commit's tensors.

        Raises:
            CheckpointError: the model is another one.
        """
        commit.load_model(found, self.parts.model)
        commit.load_optimizer(found, self.parts.optimizer, self.parts.model)
