"""Losses: what each output of a model is trained with, by name; over any number of ranks that of the whole batch.

DistributedDataParallel averages gradients over ranks. A mean over each rank's own pixels would then weigh a pixel by
how many of its rank's are ignored, OHEM's minimum would be taken per rank, and Dice and Lovász would see a part of
each class. So while gradients are recorded and several ranks train, sums and counts are those of the global batch:
the averaged gradient is the one that a single rank computes on the concatenated batch, and every rank returns the
same value (a NaN anywhere is seen everywhere).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayseg.borders import BorderTarget, border_targets
from rayseg.errors import DataError, UsageError
from rayseg.losses.config import Config, nothing_trains, resolve_weights
from rayseg.losses.overlap import dice, lovasz
from rayseg.losses.pixelwise import border_focal, focal, hard_pixels
from rayseg.losses.ranks import global_mean, kth_largest, or_one

__all__ = [
    "Config",
    "SegmentationLoss",
    "border_focal",
    "dice",
    "focal",
    "for_model",
    "global_mean",
    "kth_largest",
    "lovasz",
]


class Trainable(Protocol):
    """What a loss asks of a model: how much each of its outputs counts, and which of them are borders."""

    @property
    def border_outputs(self) -> tuple[str, ...]:
        """The outputs of one channel."""

    def loss_weights(self) -> dict[str, float]:
        """Weight of each output of the head's own."""


_NO_LABEL = torch.iinfo(torch.int64).min


def for_model(config: Config, model: Trainable, *, ignore_index: int, num_classes: int) -> SegmentationLoss:
    """Make the loss of a model, checked against its outputs and its classes before anything is computed.

    Raises:
        UsageError: as `SegmentationLoss`.
    """
    return SegmentationLoss(
        config,
        ignore_index=ignore_index,
        weights=model.loss_weights(),
        borders=model.border_outputs,
        num_classes=num_classes,
    )


class SegmentationLoss(nn.Module):
    """The weighted sum of every output's loss."""

    class_weights: Tensor | None
    wrong_label: Tensor | None

    def __init__(
        self,
        config: Config,
        *,
        ignore_index: int,
        weights: Mapping[str, float],
        borders: Collection[str] = (),
        num_classes: int | None = None,
    ) -> None:
        """Make the loss of a model whose own outputs have these `weights`, those in `borders` one channel.

        Args:
            num_classes: given, the config is checked against it now, and not at the first batch.

        Raises:
            UsageError: a setting names an output that is not there, would be ignored, or does not fit the classes.
        """
        super().__init__()
        self.config, self.ignore_index, self.borders = config, ignore_index, frozenset(borders)
        self.weights = resolve_weights(config, weights, self.borders)
        self.target_options = _given(
            edges=config.border_edges, width=config.border_width, legacy_ignore=config.border_legacy_ignore
        )
        self.focal_options = _given(gamma=config.border_gamma, alpha=config.border_alpha)
        by_class = None if config.class_weights is None else torch.tensor(config.class_weights, dtype=torch.float64)
        self.register_buffer("class_weights", by_class, persistent=False)
        self.register_buffer("wrong_label", None, persistent=False)
        if num_classes is not None:
            self._check_classes(num_classes)

    @property
    def divisible(self) -> bool:
        """Whether a batch's loss is the sum of its parts' shares: OHEM, Dice and Lovász need all pixels at once."""
        return not (self.config.ohem or self.config.dice_weight or self.config.lovasz_weight)

    def counts(self, target: Tensor) -> dict[str, Tensor]:
        """Give what the losses of a batch are divided by, so that those of its parts can be: see `forward`."""
        kept, by_class = target != self.ignore_index, self.class_weights
        borders = torch.ones_like(kept) if self.config.border_legacy_ignore else kept
        weights = kept
        if by_class is not None:  # a label that is no class is refused with the part that has it
            weights = by_class.to(target.device)[target.clamp(0, len(by_class) - 1)] * kept
        return {"classes": weights.sum(), "borders": borders.sum()}

    def forward(
        self, outputs: Mapping[str, Tensor], target: Tensor, counts: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute `"loss"`, and the loss of each output of weight above 0, unweighted and detached: float32 scalars.

        `"dice"` and `"lovasz"` stand beside `"main"`, which contains them, where they have a weight. Ignored pixels
        never count; where all are ignored, the loss and its gradients are 0. While gradients are recorded, every rank
        calls it together.

        Args:
            outputs: logits (B, C, H, W) by name, `"main"` among them; those of borders are (B, 1, H, W).
            target: (B, H, W) int64, classes or `ignore_index`.
            counts: those of the whole batch of which this is a part, where the loss is `divisible`; what is computed
                is then this part's share, and the shares of all parts add up to the losses of the batch.

        Raises:
            UsageError: shapes, types or names do not fit; or gradients are recorded, and no output has a weight.
            DataError: a label is neither a class nor `ignore_index`. On a GPU only the first call looks: see `check`.
        """
        assert counts is None or self.divisible
        self._check_outputs(outputs, target)
        labels = self._checked_labels(target, outputs["main"].shape[1])
        exact = {n: x.to(torch.promote_types(x.dtype, torch.float32)) for n, x in outputs.items()}
        counted = {name: logits for name, logits in exact.items() if self.weights[name] > 0}
        if not counted and torch.is_grad_enabled():
            raise nothing_trains()
        parts = self._parts(counted, labels, counts or {})
        overlaps = self._overlaps(counted["main"], labels) if "main" in counted else {}
        for name, value in overlaps.items():
            parts["main"] = parts["main"] + getattr(self.config, f"{name}_weight") * value
        # The sum over no image of what has no weight is 0, and so is its gradient, whatever the logits are.
        terms = [self.weights[n] * parts[n] if n in parts else logits[:0].sum() for n, logits in exact.items()]
        return {"loss": torch.stack(terms).sum()} | {n: part.detach() for n, part in (parts | overlaps).items()}

    def check(self) -> None:
        """Raise what later calls saw on a GPU; it waits for the queue, so call it where values are read anyway.

        Until then such labels are ignored: one of them would otherwise end the process by an assert in a kernel.

        Raises:
            DataError: a label was neither a class nor `ignore_index`.
        """
        if self.wrong_label is not None and (label := int(self.wrong_label)) != _NO_LABEL:
            raise _no_class(label, self.ignore_index)

    # --- each output's loss -----------------------------------------------------------------------------------------

    def _parts(self, outputs: Mapping[str, Tensor], labels: Tensor, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: BorderTarget | None = None
        parts = {}
        for name, logits in outputs.items():
            if name in self.borders:
                found = found or border_targets(labels, ignore_index=self.ignore_index, **self.target_options)
                losses = border_focal(logits[:, 0], found.border, **self.focal_options)
                count = counts["borders"] if counts else found.valid.sum()
                parts[name] = global_mean(losses.masked_fill(~found.valid, 0), count)
            else:
                hard = self.config.ohem and name == "main"
                parts[name] = self._over_classes(logits, labels, ohem=hard, count=counts.get("classes"))
        return parts

    def _over_classes(self, logits: Tensor, labels: Tensor, *, ohem: bool, count: Tensor | None) -> Tensor:
        config = self.config
        losses = functional.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")
        kept = labels != self.ignore_index
        if ohem:
            kept = hard_pixels(losses.detach(), kept, threshold=config.ohem_threshold, min_kept=config.ohem_min_kept)
        if config.focal_gamma is not None and config.focal_alpha is not None:
            losses = focal(losses, config.focal_gamma, config.focal_alpha)
        by_class = self._class_weights(logits)
        weights = kept if by_class is None else by_class[labels.masked_fill(~kept, 0)] * kept
        return global_mean(losses * weights, weights.sum() if count is None else count)

    def _overlaps(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute Dice and Lovász where they have a weight: means over the classes shown."""
        wanted = {"dice": (dice, self.config.dice_weight), "lovasz": (lovasz, self.config.lovasz_weight)}
        used = {name: loss for name, (loss, weight) in wanted.items() if weight > 0}
        if not used:
            return {}
        p, valid, by_class = logits.softmax(1), labels != self.ignore_index, self._class_weights(logits)
        values = {}
        for name, loss in used.items():
            losses_C, shown_C = loss(p, labels, valid)
            weights_C = shown_C.to(p.dtype) if by_class is None else by_class * shown_C
            values[name] = (losses_C * weights_C).sum() / or_one(weights_C.sum())
        return values

    def _class_weights(self, logits: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        if self.class_weights.device != logits.device:  # once: copying in every step would wait for the queue
            self.class_weights = self.class_weights.to(logits.device)
        return self.class_weights.to(logits.dtype)

    # --- checks -----------------------------------------------------------------------------------------------------

    def _check_outputs(self, outputs: Mapping[str, Tensor], target: Tensor) -> None:
        where = "SegmentationLoss"
        if unknown := [name for name in outputs if name not in self.weights]:
            fix = "give its weight in the head's loss_weights()"
            raise UsageError(f"output '{unknown[0]}' has no weight", where, fix)
        if "main" not in outputs:
            raise UsageError("the outputs have no 'main'", where, "name the head's main logits 'main'")
        if target.dtype != torch.int64:
            raise UsageError(f"target is {target.dtype}", where, "convert it with .long()")
        batch, num_classes, *size = outputs["main"].shape
        self._check_classes(num_classes)
        for name, logits in outputs.items():
            channels = 1 if name in self.borders else num_classes
            if logits.shape != (batch, channels, *size) or target.shape != (batch, *size):
                shapes = f"{name} is {tuple(logits.shape)}, target is {tuple(target.shape)}"
                fix = "logits are (B, C, H, W), borders' (B, 1, H, W), target is (B, H, W)"
                raise UsageError(shapes, where, fix)
            if not logits.is_floating_point():
                raise UsageError(f"{name} is {logits.dtype}", where, "give logits: floating-point numbers")

    def _check_classes(self, num_classes: int) -> None:
        if 0 <= self.ignore_index < num_classes:
            fix = f"choose one outside 0..{num_classes - 1}, such as 255"
            raise UsageError(f"ignore_index = {self.ignore_index} is a class", "SegmentationLoss", fix)
        given = self.config.class_weights
        if given is not None and len(given) != num_classes:
            what = f"{len(given)} class weights for {num_classes} classes"
            raise UsageError(what, "loss.class_weights", f"give {num_classes} numbers, in the order of the classes")

    def _checked_labels(self, target: Tensor, num_classes: int) -> Tensor:
        """Give labels that are all a class or ignored; see `check`."""
        wrong = ((target < 0) | (target >= num_classes)) & (target != self.ignore_index)
        if (at_once := _reads_at_once(target)) or self.wrong_label is None:
            if (labels := target[wrong]).numel():
                raise _no_class(int(labels[0]), self.ignore_index, num_classes)
            if at_once:
                return target
        seen = target.masked_fill(~wrong, _NO_LABEL).amax()
        self.wrong_label = seen if self.wrong_label is None else torch.maximum(self.wrong_label, seen)
        return target.masked_fill(wrong, self.ignore_index)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _reads_at_once(tensor: Tensor) -> bool:
    """Whether reading a value waits for nothing. On a GPU it would wait for the queue in every step."""
    return tensor.device.type == "cpu"


def _no_class(label: int, ignore_index: int, num_classes: int | None = None) -> DataError:
    classes = "a class" if num_classes is None else f"0..{num_classes - 1}"
    fix = f"labels are {classes}, or {ignore_index} to ignore: compare the card with num_classes"
    return DataError(f"label {label} is no class", "mask", fix)
