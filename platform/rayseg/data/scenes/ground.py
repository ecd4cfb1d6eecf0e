"""Sky and ground of a scene, the palettes that the rest of it shares, and where the street's edges run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayseg.data.scenes.canvas import (
    PAVEMENT,
    RGB,
    ROAD,
    SHADES,
    SKY,
    TREE,
    Array,
    Canvas,
    levels,
    noise,
    packed,
    sample,
)
from rayseg.data.scenes.dice import Dice

_CLOUDS = 64  # steps from clear sky to white
_BAND_PX = 4  # rows of the ground that share their haze

# fmt: off
WALLS: tuple[RGB, ...] = (
    (142, 84, 64), (158, 110, 82), (190, 172, 140), (206, 198, 182), (128, 124, 118), (104, 98, 96), (168, 150, 128),
    (120, 72, 58), (176, 176, 172), (146, 138, 108),
)
LEAVES: tuple[RGB, ...] = ((66, 96, 44), (88, 112, 52), (52, 76, 46), (112, 108, 54), (126, 92, 50), (92, 78, 62))
PAINTS: tuple[RGB, ...] = (
    (28, 30, 34), (60, 62, 66), (122, 124, 128), (186, 188, 190), (232, 232, 228), (138, 30, 30), (34, 58, 112),
    (46, 84, 58), (90, 70, 52), (190, 156, 60), (70, 110, 140), (168, 74, 42),
)
# fmt: on


class Street(NamedTuple):
    """Where the road's edges and the house fronts run, in metres from the camera, left and right."""

    kerb: tuple[float, float]
    front: tuple[float, float]


def sky(canvas: Canvas, dice: Dice) -> None:
    """Fill the picture with a gradient and clouds, drawn at half size: nothing in a sky is sharp."""
    cover, row, column = dice.uniform(0.3, 0.7), dice.integer(0, 256), dice.integer(0, 256)
    scale, rows = 192 / canvas.width, int(canvas.horizon_px) // 2 + 1
    v = np.arange(rows, dtype=np.float32)[:, None] * 2
    u = np.arange(canvas.width // 2, dtype=np.float32) * 2
    field = sample(noise(64, 32, 8), row + v * (scale * 2.2), column + u * scale) - np.float32(cover)
    height = 1 - v / np.float32(canvas.horizon_px + 1)
    cloud = np.clip(field * 4, 0, 0.999) * (np.float32(0.35) + np.float32(0.65) * height)
    pixels = _gradient(canvas, height).take((cloud * _CLOUDS).astype(np.int32) + np.arange(rows)[:, None] * _CLOUDS)
    canvas.pixels[: rows * 2] = pixels.repeat(2, axis=0).repeat(2, axis=1)
    canvas.mask[:] = SKY


def _gradient(canvas: Canvas, height: Array) -> NDArray[np.uint32]:
    """Give the packed colours of the sky at every height (n,1) over the horizon, from clear to white (n,_CLOUDS)."""
    low, high = np.array(canvas.light.horizon, np.float32), np.array(canvas.light.zenith, np.float32)
    white = low + (250 - low) * np.float32(0.2 + 0.6 * canvas.light.sun)
    clear = (low + (high - low) * height)[:, None]
    cover = np.arange(_CLOUDS, dtype=np.float32)[:, None] / np.float32(_CLOUDS)
    return packed(clear + (white - clear) * cover)


def ground(canvas: Canvas, dice: Dice, street: Street) -> None:
    """Lay the road with its markings, kerbs, pavements and the grass behind them."""
    first = int(canvas.horizon_px) + 1
    v = np.arange(first, canvas.height, dtype=np.float32)[:, None] + np.float32(0.5)
    u = np.arange(canvas.width, dtype=np.float32) + np.float32(0.5)
    z = np.float32(canvas.focal_px * canvas.eye_m) / (v - np.float32(canvas.horizon_px))
    x = (u - np.float32(canvas.center_px)) / np.float32(canvas.focal_px) * z - np.float32(canvas.bend) * z * z
    (left, right), (front_left, front_right) = street.kerb, street.front
    material = ((x < left) | (x > right)).astype(np.uint8)
    material += (x < front_left) | (x > front_right)
    material[_markings(dice, street, x, z)] = 3
    material[(np.abs(x - (left - 0.08)) < 0.1) | (np.abs(x - (right + 0.08)) < 0.1)] = 4
    light = _grain(dice, x, z)
    light[(material == 1) & _joints(x, z)] *= np.float32(0.8)
    light[_shade(canvas, dice, street, x, z)] *= np.float32(1 - 0.45 * canvas.light.sun)
    palette = canvas.palette(_surfaces(dice), z[::_BAND_PX, 0])
    band = (np.arange(len(z)) // _BAND_PX)[:, None] * palette[0].size
    canvas.pixels[first:] = palette.take(levels(light) + material * np.uint16(SHADES) + band)
    canvas.mask[first:] = np.array([ROAD, PAVEMENT, TREE, ROAD, PAVEMENT], np.uint8).take(material)


def _surfaces(dice: Dice) -> Array:
    """Draw the colours of road, pavement, grass, markings and kerb; the greys of the first two may coincide."""
    road, slabs, tint = dice.uniform(70, 125), dice.uniform(90, 160), dice.uniform(-9, 9)
    asphalt, stone = (road + tint, road, road - tint), (slabs + 8, slabs, slabs - 10 + tint)
    return np.array([asphalt, stone, dice.pick(LEAVES), (205, 205, 195), (slabs * 0.8,) * 3], np.float32)


def _markings(dice: Dice, street: Street, x: Array, z: Array) -> NDArray[np.bool_]:
    """Paint a dashed middle line, lines along the kerbs and sometimes a zebra crossing."""
    left, right = street.kerb
    middle, dash, phase = (left + right) / 2 + dice.uniform(-0.8, 0.8), dice.uniform(4, 8), dice.uniform(0, 8)
    lined, crossing, striped = dice.chance(0.6), dice.uniform(7, 22), dice.chance(0.3)
    painted = (np.abs(x - middle) < 0.07) & ((z + phase) % dash < dash * 0.55)
    if lined:
        painted |= (np.abs(x - (left + 0.35)) < 0.06) | (np.abs(x - (right - 0.35)) < 0.06)
    if striped:
        painted |= (np.abs(z - crossing) < 1.3) & (x > left + 0.3) & (x < right - 0.3) & (x % 1.1 < 0.55)
    return painted


def _joints(x: Array, z: Array) -> NDArray[np.bool_]:
    """Find the joints between the slabs: one of 16 parts of 0.8 m, both ways."""
    sixteenths = 16 / 0.8
    return (((x * sixteenths).astype(np.int32) & 15) == 0) | (((z * sixteenths).astype(np.int32) & 15) == 0) & (z < 14)


def _grain(dice: Dice, x: Array, z: Array) -> Array:
    """Give the grain of the surface, and its stains and patches."""
    shift = dice.integer(0, 256)
    return sample(noise(1, 32), z * 20 + shift, x * 20) * np.float32(0.46) + np.float32(0.74)


def _shade(canvas: Canvas, dice: Dice, street: Street, x: Array, z: Array) -> NDArray[np.bool_]:
    """Find what the houses on the sun's side keep from the sun."""
    reach, shift = dice.uniform(1.5, 7), dice.integer(0, 256)
    side = canvas.light.sun_side
    front = street.front[0 if side < 0 else 1]
    roofs = sample(noise(16), z * 1.7, shift) > 0.45
    return x * side > front * side - reach * (0.4 + 1.2 * roofs)
