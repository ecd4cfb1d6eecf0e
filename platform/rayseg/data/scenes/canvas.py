"""Canvas: a pinhole camera over a street, and the few ways to put paint and labels through it.

Street coordinates are metres: x to the right of the camera, y up from the ground, z ahead along the (bending) street.
Only + - * / and rounding touch the pixels, so that every machine draws the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, VOID = range(12)

NEAREST_M = 1.2  # nothing is drawn closer to the camera
SHADES = 64  # of a colour in a palette, from black to BRIGHTEST times the colour
BRIGHTEST = 1.6
_SUBPIXEL_BITS = 4
_NOISE_PX = 256

Array = NDArray[np.float32]
RGB = tuple[float, float, float]
Point = tuple[float, float, float]

# fmt: off
ROUND = (
    (1, 0), (0.87, 0.5), (0.5, 0.87), (0, 1), (-0.5, 0.87), (-0.87, 0.5),
    (-1, 0), (-0.87, -0.5), (-0.5, -0.87), (0, -1), (0.5, -0.87), (0.87, -0.5),
)
# fmt: on


class Light(NamedTuple):
    """The hour and the weather: colours in 0..255, `sun` in 0..1; at `haze_m` half of a colour is haze."""

    zenith: RGB
    horizon: RGB
    gain: RGB
    haze_m: float
    sun: float
    sun_side: int  # -1: the sun stands on the left
    lamps: float = 0.0  # share of the windows with a lamp behind them


class View(NamedTuple):
    """Where the camera looks: shares of the picture, metres, and the street's bend in 1/m."""

    center: float
    horizon: float
    focal: float
    eye_m: float
    bend: float


class Patch(NamedTuple):
    """The pixels that an upright wall may cover: metres along the wall (n,) and up (m,n), distance (n,)."""

    rows: slice
    columns: slice
    along: Array
    up: Array
    distance: Array


@cache
def noise(*cells_px: int) -> Array:
    """Give a flat tile of noise in 0..1 that repeats without a seam: the mean of an octave for each cell size."""
    octaves = [_octave(cell) for cell in cells_px]
    return (sum(octaves[1:], octaves[0]) / np.float32(len(octaves))).ravel()


def _octave(cell_px: int) -> Array:
    rng = np.random.Generator(np.random.PCG64(cell_px))
    lattice = rng.integers(0, 256, (_NOISE_PX // cell_px,) * 2).astype(np.float32) / 255
    position = np.arange(_NOISE_PX, dtype=np.float32) / np.float32(cell_px)
    low = position.astype(np.intp)
    high, part = (low + 1) % len(lattice), position - low
    rows = lattice[low] * (1 - part)[:, None] + lattice[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


def sample(tile: Array, first: ArrayLike, second: ArrayLike) -> Array:
    """Look noise up at whole positions, wrapped around."""
    wrap = _NOISE_PX - 1
    row = (np.asarray(first).astype(np.int32) & wrap) * _NOISE_PX
    return tile.take(row + (np.asarray(second).astype(np.int32) & wrap))


def toned(color: RGB, factor: float) -> RGB:
    """Make a colour darker or brighter."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def packed(colors: Array) -> NDArray[np.uint32]:
    """Make colours (...,3) pixels that move as one number each (...)."""
    pixels = np.zeros((*colors.shape[:-1], 4), np.uint8)
    pixels[..., :3] = np.minimum(colors, np.float32(255))
    return pixels.view(np.uint32)[..., 0]


def levels(shade: Array) -> NDArray[np.uint16]:
    """Take shades in 0..BRIGHTEST to columns of a palette."""
    column = np.clip(shade, np.float32(0), np.float32(BRIGHTEST * 0.999)) * np.float32(SHADES / BRIGHTEST)
    return column.astype(np.uint16)


class Canvas:
    """An RGB image and its mask, painted from far to near."""

    def __init__(self, shape: tuple[int, int], view: View, light: Light, *, least_px: float) -> None:
        self.height, self.width = shape
        self.light, self.least_px = light, least_px  # least_px: no pole is drawn thinner
        self.image = np.zeros((*shape, 4), np.uint8)  # the fourth byte is there to move a pixel as one number
        self.pixels = self.image.view(np.uint32)[..., 0]
        self.mask = np.full(shape, VOID, np.uint8)
        self.center_px, self.horizon_px = view.center * self.width, view.horizon * self.height
        self.focal_px, self.eye_m, self.bend = view.focal * self.width, view.eye_m, view.bend

    def project(self, point: Point) -> tuple[float, float]:
        """Take a street point to its column and row."""
        x, y, z = point
        z = z if z > NEAREST_M else NEAREST_M
        u = self.center_px + self.focal_px * (x / z + self.bend * z)
        return u, self.horizon_px + self.focal_px * (self.eye_m - y) / z

    def face(self, points: Sequence[Point], color: RGB, label: int | None) -> None:
        """Fill a polygon given in street coordinates; label None leaves the mask as it is."""
        corners = [self.project(point) for point in points]
        if points[0][2] > NEAREST_M or points[2][2] > NEAREST_M:
            self.polygon(corners, self.hazed(color, points[0][2]), label)

    def hazed(self, color: RGB, distance: float) -> RGB:
        """Blend a colour into the haze."""
        veil = distance / (distance + self.light.haze_m)
        (red, green, blue), haze = color, self.light.horizon
        return red + (haze[0] - red) * veil, green + (haze[1] - green) * veil, blue + (haze[2] - blue) * veil

    def polygon(self, corners: Sequence[tuple[float, float]], color: RGB, label: int | None) -> None:
        """Fill a polygon given in columns and rows."""
        one = 1 << _SUBPIXEL_BITS
        fixed = np.array([(round(u * one), round(v * one)) for u, v in corners], np.int32)
        paint = (round(color[0]), round(color[1]), round(color[2]))
        cv2.fillPoly(self.image, [fixed], paint, cv2.LINE_8, _SUBPIXEL_BITS)
        if label is not None:
            cv2.fillPoly(self.mask, [fixed], label, cv2.LINE_8, _SUBPIXEL_BITS)

    def darken(self, points: Sequence[Point], factor: float) -> None:
        """Lay a shadow over a polygon in street coordinates."""
        corners = np.array([[round(part) for part in self.project(point)] for point in points], np.int32)
        left, top, wide, high = cv2.boundingRect(corners)
        first, last = max(top, 0), min(top + high, self.height)
        start, end = max(left, 0), min(left + wide, self.width)
        if first >= last or start >= end:
            return
        keep = np.ones((last - first, end - start), np.float32)
        cv2.fillPoly(keep, [corners - np.array((start, first), np.int32)], factor)
        part = self.image[first:last, start:end]
        part[:] = part * keep[..., None]

    def upright(self, start: tuple[float, float], end: tuple[float, float], top_m: float) -> Patch | None:
        """Find the pixels of a wall that stands on the line from `start` to `end`, both (x, z); None: out of sight."""
        (x0, z0), (x1, z1) = ((x + self.bend * z * z, z) for x, z in (start, end))
        if max(z0, z1) <= NEAREST_M:
            return None
        (x_a, z_a), (x_b, z_b) = _clipped((x0, z0), (x1, z1)), _clipped((x1, z1), (x0, z0))
        left, right = sorted(self.center_px + self.focal_px * x / z for x, z in ((x_a, z_a), (x_b, z_b)))
        nearest = self.focal_px / min(z_a, z_b)
        top, foot = self.horizon_px + nearest * min(self.eye_m - top_m, 0), self.horizon_px + nearest * self.eye_m
        columns, rows = _inside(left, right, self.width), _inside(top, foot, self.height)
        if columns.start >= columns.stop or rows.start >= rows.stop:
            return None
        slope = ((np.arange(columns.start, columns.stop) + 0.5 - self.center_px) / self.focal_px).astype(np.float32)
        share = (slope * z0 - x0) / ((x1 - x0) - slope * (z1 - z0))
        distance = (z0 + share * (z1 - z0)).astype(np.float32)
        drop = ((np.arange(rows.start, rows.stop) + 0.5 - self.horizon_px) / self.focal_px).astype(np.float32)
        length = math.sqrt((x1 - x0) * (x1 - x0) + (z1 - z0) * (z1 - z0))
        up = (self.eye_m - drop[:, None] * distance).astype(np.float32)
        return Patch(rows, columns, (share * length).astype(np.float32), up, distance)

    def palette(self, colors: ArrayLike, distances: ArrayLike) -> NDArray[np.uint32]:
        """Mix every colour (k,3) in every shade and at every distance (d,): packed pixels (d,k,SHADES)."""
        haze = np.float32(self.light.haze_m)
        keep = haze / (np.asarray(distances, np.float32)[:, None, None, None] + haze)
        shades = np.arange(SHADES, dtype=np.float32)[:, None] * np.float32(BRIGHTEST / SHADES)
        mixed = np.asarray(colors, np.float32)[:, None] * shades * keep
        mixed += np.array(self.light.horizon, np.float32) * (1 - keep)
        return packed(mixed)

    def put(
        self, patch: Patch, inside: NDArray[np.bool_], colors: ArrayLike, shade: Array, material: Array | int = 0
    ) -> None:
        """Paint where `inside` (m,n): of `colors` (k,3) the one that `material` (m,n) names, times `shade` (m,n)."""
        middle = patch.distance[len(patch.distance) // 2]
        index = levels(shade) + material * np.uint16(SHADES)
        paint = self.palette(colors, [middle]).take(index)
        np.copyto(self.pixels[patch.rows, patch.columns], paint, where=inside)

    def label(self, patch: Patch, inside: NDArray[np.bool_], label: int) -> None:
        """Write a label where `inside` (m,n)."""
        self.mask[patch.rows, patch.columns][inside] = label


def _clipped(end: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Move a wall's end along the wall to where the camera begins to see."""
    (x, z), (other_x, other_z) = end, other
    if z >= NEAREST_M:
        return x, z
    share = (NEAREST_M - z) / (other_z - z)
    return x + share * (other_x - x), NEAREST_M


def _inside(low: float, high: float, size: int) -> slice:
    return slice(round(min(max(low, 0), size)), round(min(max(high, 0), size)))
