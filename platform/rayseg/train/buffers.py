"""What a model remembers beside its weights, put back when a step does not count; and the average of all of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rayseg.segmenter import Segmenter


class Buffers:
    """A copy of a model's buffers, batch norm's running statistics among them: a failed step moves them too."""

    def __init__(self, model: nn.Module) -> None:
        self._lists = [(found, [buffer.clone() for buffer in found]) for found in _by_type(list(model.buffers()))]

    def keep(self) -> None:
        """Copy them as they are now."""
        for buffers, kept in self._lists:
            torch._foreach_copy_(kept, buffers)

    def restore(self) -> None:
        """Put them back in place."""
        for buffers, kept in self._lists:
            torch._foreach_copy_(buffers, kept)


class Average:
    """The exponential moving average of a model's weights and running statistics, as a model in evaluation mode.

    It starts as the model is; each update moves it by `1 - decay` of the way. Whole numbers are copied.
    """

    def __init__(self, model: Segmenter, decay: float) -> None:
        self._decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        mine, theirs = (_by_type(list(of.state_dict().values())) for of in (self.model, model))
        self._lists = list(zip(mine, theirs, strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model after an update."""
        for mine, theirs in self._lists:
            if mine[0].is_floating_point():
                torch._foreach_lerp_(mine, theirs, 1 - self._decay)
            else:
                torch._foreach_copy_(mine, theirs)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from saved ones."""
        self.model.load_state_dict(dict(tensors))


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Put tensors of one type together: a GPU then works on each list at once and not on each small tensor."""
    types = dict.fromkeys(tensor.dtype for tensor in tensors)
    return [[tensor for tensor in tensors if tensor.dtype == one] for one in types]
