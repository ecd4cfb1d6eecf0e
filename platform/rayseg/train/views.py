"""Views of an image at test time: scales, mirrored copies, sliding windows, and their mean as class probabilities.

The mean is taken of probabilities, not of logits, at every level: over the windows that cover a pixel of the scaled
image, then, resized to the image's own size, over scales and mirrored copies. PSPNet's evaluation does so, and DGCWNet
sums "prediction maps"; a mean of logits would let one confident view outvote the rest.

Windows lie `stride` of a window apart, rounded up to whole pixels, and the last one of a row or column is moved back
until it ends with the image. A window larger than the scaled image is cut to it (other code pads the image), so that a
window that covers the image is the whole image. Each window is mirrored by itself.

Images are resized as training does: bilinear, pixels' middles aligned, without a filter when they shrink.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from rayseg.config import ViewConfig


def scores(model: nn.Module, images_BCHW: Tensor, views: ViewConfig) -> Tensor:
    """Compute what the class with the highest value is the prediction of, (B, num_classes, H, W), on the images' size.

    With several views these are mean probabilities; a single view of the whole image gives its logits as they are.

    Args:
        model: maps normalised images to logits by name at their size, `"main"` first; in evaluation mode.
        images_BCHW: normalised images.
    """
    if views.scales == (1.0,) and not views.flip and views.window_px is None:
        return model(images_BCHW)["main"]
    size = (images_BCHW.shape[-2], images_BCHW.shape[-1])
    total: Tensor | None = None
    for scale in views.scales:
        found = _resize(_probabilities(model, _resize(images_BCHW, scaled(size, scale)), views), size)
        total = found if total is None else total.add_(found)  # in place: 160 MB each on Cityscapes
    assert total is not None
    return total.div_(len(views.scales))


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Scale a size (height, width) to whole pixels, at least one."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def passes(size: tuple[int, int], views: ViewConfig) -> list[tuple[int, int]]:
    """List the sizes of what the model is shown of an image of `size` (height, width), one for each forward pass."""
    found = []
    for scale in views.scales:
        for rows, columns in windows(scaled(size, scale), views):
            found += [(rows.stop - rows.start, columns.stop - columns.start)] * (2 if views.flip else 1)
    return found


def _probabilities(model: nn.Module, x_BCHW: Tensor, views: ViewConfig) -> Tensor:
    """Average over the windows and their mirrored copies."""
    size = (x_BCHW.shape[-2], x_BCHW.shape[-1])
    boxes = list(windows(size, views))
    if len(boxes) == 1:
        return _looked_at(model, x_BCHW, flip=views.flip)
    total: Tensor | None = None
    count_HW = x_BCHW.new_zeros(size)
    for rows, columns in boxes:
        part = _looked_at(model, x_BCHW[..., rows, columns], flip=views.flip)
        if total is None:
            total = part.new_zeros(*part.shape[:2], *size)
        total[..., rows, columns] += part
        count_HW[rows, columns] += 1
    assert total is not None
    return total.div_(count_HW)


def windows(size: tuple[int, int], views: ViewConfig) -> Iterator[tuple[slice, slice]]:
    """Lay windows over an image of `size` (height, width), row by row; one covers all of it without `window_px`."""
    window = views.window_px or size
    lefts = _starts(size[1], window[1], views.stride)
    for top in _starts(size[0], window[0], views.stride):
        for left in lefts:
            yield slice(top, min(top + window[0], size[0])), slice(left, min(left + window[1], size[1]))


def _starts(side: int, window: int, stride: float) -> list[int]:
    last, step = max(side - window, 0), math.ceil(window * stride)
    return [*range(0, last, step), last]


def _looked_at(model: nn.Module, x_BCHW: Tensor, *, flip: bool) -> Tensor:
    seen: Tensor = model(x_BCHW)["main"].softmax(1)
    if flip:
        seen = (seen + model(x_BCHW.flip(-1))["main"].softmax(1).flip(-1)) / 2
    return seen


def _resize(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    if size == (x_BCHW.shape[-2], x_BCHW.shape[-1]):
        return x_BCHW
    return functional.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False)
