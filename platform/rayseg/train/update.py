"""One optimizer update: from a batch to its losses, and what of it a commit must keep beside the model's weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from rayseg import optim
from rayseg.config import RunConfig
from rayseg.data.loader import Batch
from rayseg.losses import SegmentationLoss
from rayseg.segmenter import Segmenter
from rayseg.train import commit, divided, shortage
from rayseg.train.buffers import Average, Buffers
from rayseg.train.commit import TENSORS, Commit, Tensors
from rayseg.train.divided import Work
from rayseg.train.runtime import Runtime
from rayseg.train.step import compiler_faults, seed_step, to_device, wrapped


class Parts(NamedTuple):
    """What is trained: `net` is the model as it is called (compiled, wrapped for DDP), `model` the same one bare."""

    net: nn.Module
    model: Segmenter
    criterion: SegmentationLoss
    optimizer: torch.optim.Optimizer


class Updater:
    """Does a run's updates, one a call; every rank calls it with its own part of the global batch.

    `notes` are lines to show the user, for whoever shows them to clear.
    """

    def __init__(self, parts: Parts, config: RunConfig, runtime: Runtime, precision: torch.dtype) -> None:
        self.parts, self.config, self.runtime, self.precision = parts, config, runtime, precision
        self.notes: list[str] = []
        self._divided, self._halved = config.train.accumulate, False
        self._settled = runtime.world == 1  # several ranks agree before their first update on what fits
        self._finite = True
        self._buffers = Buffers(parts.model)
        self._trained = [p for p in parts.model.parameters() if p.requires_grad]
        decay = config.train.ema_decay
        self._average = None if decay is None else Average(parts.model, decay)
        self._scaler = torch.amp.GradScaler(runtime.device.type, enabled=precision == torch.float16)

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Do update `step`, counted from 1, and give its losses, not yet read from the device, and `grad_norm`.

        Where a gradient is not finite, weights, momentum and running statistics stay as they were, `grad_norm` is left
        out, and `finite` says so. Where memory is short, the step is done again in twice as many micro-batches.

        Raises:
            torch.OutOfMemoryError: memory is short for a single sample, or, on several ranks, after the first update.
        """
        work = self._work(batch, step)
        if not self._settled:
            self._settle(work)
        self._buffers.keep()
        losses: dict[str, Tensor] = {}

        def attempt(parts: int) -> None:
            self._back_to_start()
            with compiler_faults(self.config.train):
                losses.update(divided.backward(self.parts.net, self.parts.criterion, work, parts))

        begin = min(self._divided, len(work.images))
        found, said = shortage.smallest(attempt, begin, len(work.images) if self.runtime.world == 1 else begin)
        self._divide(found, said, len(work.images))
        return losses | self._applied(losses["loss"])

    def finite(self) -> bool:
        """Say whether every loss and gradient since the last question was finite; all ranks have the same answer.

        Float16's gradients may overflow until the scale that they are computed with has found its place: no fault.
        """
        finite, self._finite = self._finite, True
        return finite

    def set_rate(self, done: int) -> float:
        """Set the learning rate for the update after `done` ones; give the backbone's."""
        return optim.set_rate(self.parts.optimizer, self.config.optim, done, self.config.train.steps)

    @property
    def judged(self) -> Segmenter:
        """The model that is evaluated: the moving average where there is one."""
        return self.parts.model if self._average is None else self._average.model

    # --- what a commit keeps ----------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensors]:
        """Give what a commit keeps by group: what is there only with some settings has a group of its own."""
        _, model, _, optimizer = self.parts
        groups = {"model": dict(model.state_dict()), "optimizer": optim.state_tensors(optimizer, model)}
        if self._average is not None:
            groups["ema"] = dict(self._average.model.state_dict())
        if self._scaler.is_enabled():
            state = self._scaler.state_dict()
            tracker = torch.tensor(state["_growth_tracker"], dtype=torch.int64)
            groups["scaler"] = {"scale": torch.tensor(state["scale"], dtype=torch.float64), "growth_tracker": tracker}
        if self._halved:
            groups["division"] = {"micro_batches": torch.tensor(self._divided * self.runtime.world)}
        return groups

    def load(self, found: Commit) -> None:
        """Go on from a commit's tensors.

        Raises:
            CheckpointError: the model is another one.
        """
        _, model, _, optimizer = self.parts
        commit.load_model(found, model)
        optim.load_state(commit.tensors(found, "optimizer"), optimizer, model)
        if self._average is not None:
            self._average.load(commit.best_weights(found))
        if self._scaler.is_enabled() and _has(found, "scaler"):
            saved = commit.tensors(found, "scaler")
            state = {"scale": float(saved["scale"]), "_growth_tracker": int(saved["growth_tracker"])}
            self._scaler.load_state_dict(self._scaler.state_dict() | state)
        if _has(found, "division"):
            of_batch = int(commit.tensors(found, "division")["micro_batches"])
            self._divided, self._halved = max(self._divided, -(-of_batch // self.runtime.world)), True

    # --- an update's parts ------------------------------------------------------------------------------------------

    def _work(self, batch: Batch, step: int) -> Work:
        device, config = self.runtime.device, self.config
        seed, rank = config.seed, self.runtime.rank
        return Work(
            images=to_device(batch.images, device, channels_last=config.train.channels_last),
            target=torch.from_numpy(batch.masks).to(device, non_blocking=True).long(),
            seed=lambda part: seed_step(seed, step, rank, part),
            scale=self._scaler.scale,
            precision=self.precision,
        )

    def _back_to_start(self) -> None:
        self._buffers.restore()
        self.parts.optimizer.zero_grad(set_to_none=True)

    def _settle(self, work: Work) -> None:
        """Agree with the other ranks on the number of micro-batches; see `shortage`."""
        net, model, criterion, optimizer = self.parts
        inner = net.module if isinstance(net, DistributedDataParallel) else net
        slots = 0 if optimizer.state else optim.slots(self.config.optim)

        def attempt(parts: int) -> None:
            self._back_to_start()
            _state = [torch.empty_like(p) for p in self._trained * slots]
            with compiler_faults(self.config.train):
                divided.backward(inner, criterion, work, parts)

        fits: int | None = None
        said, most = "", len(work.images)
        self._buffers.keep()
        try:
            with shortage.by_itself(model):
                fits, said = shortage.smallest(attempt, min(self._divided, most), most)
        except torch.OutOfMemoryError as error:
            said = str(error)
        self._back_to_start()
        agreed = shortage.agree(fits, self.runtime.device)
        said = said or "on another rank"
        if agreed is None:
            raise torch.OutOfMemoryError(said)
        self._divide(agreed, said, most)
        self._settled = True

    def _divide(self, parts: int, said: str, images: int) -> None:
        if parts <= self._divided:
            return
        self._divided, self._halved = parts, True
        size = -(-images // parts)
        self.notes.append(f"memory is short ({said}): {parts} micro-batches of {size} a worker, the same global batch")

    def _applied(self, loss: Tensor) -> dict[str, Tensor]:
        """Change the weights, unless a gradient is not finite. It waits for the device once, as copying images does."""
        clip, optimizer, scaler = self.config.train.clip_norm, self.parts.optimizer, self._scaler
        scaler.unscale_(optimizer)
        norm = get_total_norm([p.grad for p in self._trained if p.grad is not None])
        finite = bool(norm.isfinite())
        if finite:
            if clip is not None:
                clip_grads_with_norm_(self._trained, clip, norm)
            scaler.step(optimizer)
            if self._average is not None:
                self._average.update()
        else:
            self._buffers.restore()
            too_large_a_scale = scaler.is_enabled() and scaler.get_scale() > 1 and bool(loss.isfinite())
            self._finite = self._finite and too_large_a_scale
        if scaler.is_enabled():
            scaler.update()
        return {"grad_norm": norm} if finite else {}


def make(
    model: Segmenter, criterion: SegmentationLoss, config: RunConfig, runtime: Runtime, precision: torch.dtype
) -> Updater:
    """Make a run's updater from its model, on its device: optimizer, frozen parts, wrapping.

    Raises:
        UsageError: there is nothing to freeze, or the model cannot be trained so.
    """
    optimizer = optim.build(config.optim, model.backbone, model)
    net = wrapped(model.train(), config.train, runtime)
    return Updater(Parts(net, model, criterion, optimizer), config, runtime, precision)


def _has(found: Commit, group: str) -> bool:
    return (found.path / f"{group}{TENSORS}").exists()
