"""What stands upright along a street: house fronts, fences, hedges and what closes the view far away."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rayseg.data.scenes.canvas import BUILDING, FENCE, RGB, SIGN, TREE, Array, Canvas, Patch, noise, sample, toned
from rayseg.data.scenes.dice import Dice
from rayseg.data.scenes.ground import LEAVES, PAINTS, WALLS

ROOFS: tuple[RGB, ...] = ((86, 70, 66), (112, 72, 58), (78, 82, 90), (60, 58, 60))
RAILINGS: tuple[RGB, ...] = ((40, 44, 46), (96, 100, 100), (150, 152, 150), (92, 70, 48), (52, 74, 54))

_WALL, _GLASS, _FRAME, _ROOF, _DOOR, _SHOP, _FASCIA, _LAMP = range(8)


class House(NamedTuple):
    """A house: its front runs along the street from `near` to `far`, on side -1 or +1, `front` metres out."""

    side: int
    front: float
    near: float
    far: float
    eaves: float


class Run(NamedTuple):
    """A fence or hedge from (x, z) to (x, z), `height_m` tall."""

    start: tuple[float, float]
    end: tuple[float, float]
    height_m: float


class Fencing(NamedTuple):
    """What a fence is made of: boards or bars, `pitch` metres from one to the next."""

    color: RGB
    boards: bool
    pitch: float


class _Style(NamedTuple):
    colors: Array  # one for each material
    eaves: float
    top: float
    gable: float  # metres from gable to gable; 0: the roof runs along the street
    storey: float
    pitch: float  # metres from window to window
    window: tuple[float, float]  # its shares of pitch and storey
    shop: bool
    shift: int  # where the house's texture begins in the noise


def backdrop(canvas: Canvas, dice: Dice) -> None:
    """Close the street far away with roofs or a line of trees."""
    leafy, z = dice.chance(0.55), dice.uniform(75, 120)
    color = dice.pick(LEAVES if leafy else WALLS)
    base, bumps, shift = dice.uniform(3, 7), dice.uniform(3, 8), dice.integer(0, 256)
    middle = canvas.bend * z * z
    patch = canvas.upright((-120 - middle, z), (120 - middle, z), base + bumps)
    if patch is None:
        return
    profile = base + bumps * sample(noise(8 if leafy else 1), patch.along * (0.9 if leafy else 0.12), shift)
    inside = patch.up < profile
    canvas.put(patch, inside, [color], 0.75 + 0.4 * sample(noise(2, 8), patch.up * 6, patch.along * 6))
    canvas.label(patch, inside, TREE if leafy else BUILDING)


def house(canvas: Canvas, dice: Dice, plan: House) -> None:
    """Paint the end wall that faces the camera, then the front with its windows, door or shop, and roof."""
    x, sun = plan.side * plan.front, canvas.light.sun
    style = _style(canvas, dice, plan.eaves)
    end = canvas.upright((x, plan.near), (x + plan.side * 9, plan.near), style.top)
    if end is not None:
        _facade(canvas, end, style, 1 - 0.25 * sun)
    front = canvas.upright((x, plan.near), (x, plan.far), style.top)
    if front is not None:
        _facade(canvas, front, style, 1.08 if plan.side != canvas.light.sun_side else 1 - 0.42 * sun)


def _style(canvas: Canvas, dice: Dice, eaves: float) -> _Style:
    wall, roof, door, fascia = dice.pick(WALLS), dice.pick(ROOFS), dice.pick(PAINTS), dice.pick(PAINTS, 25)
    glass = toned(canvas.light.zenith, dice.uniform(0.35, 0.8))  # windows mirror the sky
    frame = toned(wall, 1.25) if dice.chance(0.5) else (225, 222, 214)
    colors = np.array([wall, glass, frame, roof, door, toned(glass, 0.75), fascia, (200, 158, 98)], np.float32)
    top = eaves + dice.uniform(0, 3.2)
    gable = dice.uniform(5, 9) if dice.chance(0.4) else 0.0
    window = (dice.uniform(0.35, 0.7), dice.uniform(0.45, 0.65))
    storey, pitch, shop = dice.uniform(2.7, 3.4), dice.uniform(1.8, 4), dice.chance(0.4)
    return _Style(colors, eaves, top, gable, storey, pitch, window, shop, dice.integer(0, 256))


def _facade(canvas: Canvas, patch: Patch, style: _Style, light: float) -> None:
    """Paint a facade from its map of materials."""
    along, up = patch.along, patch.up
    column, row = np.floor(along / style.pitch), np.floor(up / style.storey)
    material = _materials(patch, style, along / style.pitch - column, up / style.storey - row)
    texture = sample(noise(1, 32), up * 10, along * 4 + style.shift) * np.float32(0.5) + np.float32(0.72)
    pane = sample(noise(1), row + style.shift, column)
    glass = (material == _GLASS) | (material == _SHOP)
    material[glass & (pane > 1 - canvas.light.lamps)] = _LAMP
    shade = np.where(glass, pane * np.float32(1.1) + np.float32(0.45), texture) * np.float32(light)
    inside = up <= _roof_line(patch, style)
    inside &= up >= 0
    canvas.put(patch, inside, style.colors, shade, material)
    canvas.label(patch, inside, BUILDING)
    if style.shop:
        canvas.label(patch, inside & (material == _FASCIA) & (column % 5 < 1), SIGN)


def _materials(patch: Patch, style: _Style, across: Array, rise: Array) -> np.ndarray:
    """Say for every pixel (m,n) what it is of, from the place within a window's pitch and storey."""
    wide, tall = style.window
    edge = np.maximum(np.abs(across - 0.5) * (2 / wide), np.abs(rise - 0.52) * (2 / tall))
    material = (edge < 1.12).astype(np.uint8) * np.uint8(_FRAME)
    material[edge < 0.8] = _GLASS
    material[patch.up > style.eaves] = _WALL if style.gable else _ROOF
    ground_floor = patch.up < style.storey
    if style.shop:
        window = (across < 0.9) & (patch.up > 0.5)
        material[ground_floor] = np.where(window, np.uint8(_SHOP), np.uint8(_WALL))[ground_floor]
        material[ground_floor & (patch.up > style.storey - 0.6)] = _FASCIA
    else:
        doors = (np.floor(patch.along / style.pitch) % 3 == 1) & (np.abs(across - 0.5) < 0.25)
        material[ground_floor & (patch.up < 2.1) & doors] = _DOOR
    return material


def _roof_line(patch: Patch, style: _Style) -> Array:
    if not style.gable:
        return np.full_like(patch.along, style.top)
    return np.maximum(style.top - np.abs(patch.along % style.gable - style.gable / 2) * np.float32(0.7), style.eaves)


def hedge(canvas: Canvas, dice: Dice, run: Run) -> None:
    """Paint a hedge with a ragged top."""
    color, shift = dice.pick(LEAVES), dice.integer(0, 256)
    patch = canvas.upright(run.start, run.end, run.height_m * 1.2)
    if patch is None:
        return
    ragged = run.height_m * (0.8 + 0.4 * sample(noise(4), patch.along * 5, shift))
    leaf = 0.45 + 0.6 * sample(noise(2), patch.up * 16, patch.along * 16 + shift) + 0.1 * patch.up
    inside = (patch.up < ragged) & (patch.up > 0)
    canvas.put(patch, inside, [color], leaf)
    canvas.label(patch, inside, TREE)


def fencing(dice: Dice) -> Fencing:
    """Draw what a fence is made of."""
    return Fencing(dice.pick(RAILINGS), dice.chance(0.5), dice.uniform(0.14, 0.3))


def fence(canvas: Canvas, dice: Dice, run: Run, style: Fencing | None = None) -> None:
    """Paint a fence of boards, or of bars through which the scene behind stays in sight."""
    color, boards, pitch = style or fencing(dice)
    patch = canvas.upright(run.start, run.end, run.height_m)
    if patch is None:
        return
    up, step = patch.up, patch.along % pitch
    inside = seen = (up > 0) & (up < run.height_m)
    board = sample(noise(1), patch.along / pitch, 7) * np.float32(0.35) + np.float32(0.8)
    board[step < 0.03] = 0.5
    if not boards:
        rails = (np.abs(up - (run.height_m - 0.08)) < 0.07) | (np.abs(up - 0.2) < 0.05)
        seen = inside & ((step < pitch * 0.38) | rails)
    canvas.put(patch, seen, [color], np.broadcast_to(board, up.shape))
    canvas.label(patch, inside, FENCE)
