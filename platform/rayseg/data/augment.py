"""Augmentation: random scale, crop and flip in one affine warp, colour jitter in one 3x4 matrix, and blur.

One fused warp is 2.3 times faster than the next library and needs no resized copy of the whole image. Images stay
uint8: they are normalised after batching, on the device. What lies outside the image is filled last, so that neither
jitter nor blur mixes it into the image, and its labels are ignored. DFN's border targets are made of the cropped labels
on the device, by the loss (`borders`).

The papers' settings: DFN, DF-DAM and, on ADE20K, GALD draw from lists of `scales`, the others from [0.5, 2]; all
mirror; Denoised NL alone varies colours. None of them blurs, or places crops by class: both are off unless asked for.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, Self

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rayseg.data.balance import Balance
from rayseg.data.index import Ints
from rayseg.errors import DataError
from rayseg.schema import Value

Pixels = NDArray[np.uint8]
Side = Annotated[int, Field(ge=1, le=16384)]
Scale = Annotated[float, Field(gt=0, le=16)]
Share = Annotated[float, Field(ge=0, le=1)]

PADDING = (124, 116, 104)  # ImageNet's mean colour: zero once normalised
_LUMA = np.array([0.299, 0.587, 0.114])
_ANY_SCALE = (0.5, 2.0)
_BLUR_PX = (0.15, 1.3)
"""Between which the blur's sigma is drawn, in pixels of the crop: from nothing to be seen to a lens out of focus."""


class Config(Value):
    """What is drawn for every training sample; `color_jitter` 0.4 varies brightness, contrast, saturation by 40 %.

    `blur` is the share of samples that are blurred, `class_uniform` the share of crops that contain a pixel of a class
    drawn so that rare classes come as often as frequent ones (`balance`).
    """

    crop_px: tuple[Side, Side]  # height, width
    scale: tuple[Scale, Scale] = _ANY_SCALE  # drawn log-uniformly: halving is as likely as doubling
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] | None = None  # drawn from these instead (DFN, DF-DAM)
    flip: bool = True
    color_jitter: Share = 0.0
    blur: Share = 0.0
    class_uniform: Share = 0.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale = {list(self.scale)}: write the smaller one first")
        if self.scales is not None and self.scale != _ANY_SCALE:
            raise ValueError("scale would be ignored beside scales: give one of them")
        return self


class Window(NamedTuple):
    """Where a crop lies on the scaled image: its size and its corner there, negative where the image is smaller."""

    scaled_px: tuple[int, int]  # height, width
    top: int
    left: int
    flipped: bool


class Augmentation:
    """A split's augmentation: `augment` for each sample by its position, with what its classes ask for."""

    def __init__(self, config: Config, class_pixels: Ints, ignore_index: int) -> None:
        self._config, self._ignore_index = config, ignore_index
        self._balance = Balance(class_pixels) if config.class_uniform else None

    def __call__(self, position: int, image: Pixels, mask: Pixels, rng: Generator) -> tuple[Pixels, Pixels]:
        """Augment the sample at `position`."""
        label = None
        if self._balance is not None and rng.random() < self._config.class_uniform:
            label = self._balance.draw(position, rng)
        return augment(image, mask, self._config, rng, self._ignore_index, label=label)


def augment(
    image: Pixels, mask: Pixels, config: Config, rng: Generator, ignore_index: int, *, label: int | None = None
) -> tuple[Pixels, Pixels]:
    """Draw a scale, a crop, a flip, colours and blur, and apply them.

    Args:
        image: (H,W,3) uint8 RGB, `mask`: (H,W) uint8.
        rng: the only source of chance.
        ignore_index: the label of what lies outside the image.
        label: a class of the mask; the crop contains a pixel of it, drawn among all of them.

    Returns:
        Image and mask of exactly `config.crop_px`; they may be views of what was given.

    Raises:
        DataError: image and mask differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise DataError(f"image {image.shape[:2]} and mask {mask.shape} differ in size", "augment", "mend the sample")
    window = draw_window(mask.shape, config, rng, None if label is None else _pixel_of(label, mask, rng))
    image, mask = cut(image, window, config.crop_px, cv2.INTER_LINEAR), cut(mask, window, config.crop_px)
    if config.color_jitter:
        image = _jitter(image, config.color_jitter, rng)
    if config.blur and rng.random() < config.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(*_BLUR_PX)), np.uint8)
    _pad(image, window, PADDING)
    _pad(mask, window, ignore_index)
    return image, mask


def draw_window(size: tuple[int, ...], config: Config, rng: Generator, inside: tuple[int, int] | None = None) -> Window:
    """Draw scale, place and flip of the crop for an image of `size` (height, width).

    A scaled image smaller than the crop lies anywhere inside it, whole. The pixel `inside` (row, column of the image),
    where given, is in the crop.
    """
    drawn, at_row, at_column, mirrored = rng.random(4).tolist()  # one call: each costs 20 us where caches are cold
    if config.scales is None:
        low, high = config.scale
        scale = low * (high / low) ** drawn
    else:
        scale = config.scales[int(drawn * len(config.scales))]
    scaled = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    row, column = (None, None) if inside is None else ((inside[i] + 0.5) / size[i] for i in range(2))
    top = _begin(scaled[0], config.crop_px[0], row, at_row)
    left = _begin(scaled[1], config.crop_px[1], column, at_column)
    return Window(scaled, top, left, config.flip and mirrored < 0.5)


def _begin(scaled: int, crop: int, inside: float | None, drawn: float) -> int:
    """Say where along one axis a crop begins: `drawn` of the way through what is possible, `inside` being in it."""
    low, high = min(0, scaled - crop), max(0, scaled - crop)
    if inside is not None and scaled > crop:
        pixel = int(inside * scaled)
        low, high = max(low, pixel - crop + 1), min(high, pixel)
    return low + int(drawn * (high - low + 1))


def _pixel_of(label: int, mask: Pixels, rng: Generator) -> tuple[int, int]:
    """Draw one of the pixels of a class."""
    found = np.flatnonzero(mask == label)
    row, column = divmod(int(found[rng.integers(len(found))]), mask.shape[1])
    return row, column


def cut(pixels: Pixels, window: Window, crop_px: tuple[int, int], how: int = cv2.INTER_NEAREST) -> Pixels:
    """Scale, crop and flip in one warp; what lies outside repeats the edge, as a resize does.

    A crop of the image as it is, and inside it, is no more than a view of it, or mirrored: 20 us instead of 240.
    """
    (height, width), (top, left) = window.scaled_px, (window.top, window.left)
    inside = 0 <= top <= height - crop_px[0] and 0 <= left <= width - crop_px[1]
    if inside and pixels.shape[:2] == window.scaled_px:
        part = pixels[top : top + crop_px[0], left : left + crop_px[1]]
        return np.asarray(cv2.flip(part, 1), np.uint8) if window.flipped else part
    step_y, step_x = (side / scaled for side, scaled in zip(pixels.shape, window.scaled_px, strict=False))
    first_y, first_x = (window.top + 0.5) * step_y - 0.5, (window.left + 0.5) * step_x - 0.5  # pixels' middles match
    if window.flipped:
        first_x, step_x = first_x + (crop_px[1] - 1) * step_x, -step_x
    inverse = np.array([[step_x, 0, first_x], [0, step_y, first_y]])
    size = (crop_px[1], crop_px[0])
    warped = cv2.warpAffine(pixels, inverse, size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def _pad(pixels: Pixels, window: Window, value: int | tuple[int, int, int]) -> None:
    """Fill what lies outside the image, in place."""
    height, width = pixels.shape[:2]
    first, last = max(0, -window.top), min(height, window.scaled_px[0] - window.top)
    start, end = max(0, -window.left), min(width, window.scaled_px[1] - window.left)
    if (first, last, start, end) == (0, height, 0, width):
        return
    if window.flipped:
        start, end = width - end, width - start
    pixels[:first], pixels[last:], pixels[:, :start], pixels[:, end:] = value, value, value, value


def _jitter(image: Pixels, strength: float, rng: Generator) -> Pixels:
    """Vary brightness, contrast and saturation jointly and clip once; contrast turns around the crop's mean grey."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    grey = float(_LUMA @ np.array(cv2.mean(image)[:3]))
    colors = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
    shift = np.full((3, 1), brightness * (1 - contrast) * grey)
    return np.asarray(cv2.transform(image, np.hstack([colors, shift])), np.uint8)
