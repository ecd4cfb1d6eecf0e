"""Scenes: street scenes with exact masks, drawn from a seed; the built-in data set needs no download.

    image, mask = draw(seed=0, index=7, height=144, width=192)

The classes are CamVid's eleven in its order and 11 is void. Grass and hedges count as tree and traffic lights as
sign, as they do there. A scene keeps its layout at every size, and is hard where real ones are: road, pavement and
walls share their greys, signs, coats and cars their hues, windows mirror the sky: what is around a pixel decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from rayseg.data.scenes import roadside, traffic, walls
from rayseg.data.scenes.canvas import VOID, Canvas, Light, View, noise, sample
from rayseg.data.scenes.dice import Dice
from rayseg.data.scenes.ground import Street, ground, sky

_SUPERSAMPLE = 2  # the image is drawn this much larger and averaged: soft edges as a lens gives them

Item = tuple[float, Callable[[Canvas, Dice], None]]  # how far, and what paints it


def draw(seed: int, index: int, *, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scene `index` of the endless series `seed`: image (H,W,3) RGB and mask (H,W), both uint8.

    A pure function: the same bytes on every call, in every process.
    """
    dice = Dice(np.random.Generator(np.random.PCG64([seed, index])))
    view, light, street = _view(dice), _light(dice), _street(dice)
    canvas = Canvas((height * _SUPERSAMPLE, width * _SUPERSAMPLE), view, light, least_px=_SUPERSAMPLE)
    sky(canvas, dice)
    ground(canvas, dice, street)
    walls.backdrop(canvas, dice)
    items = [*_sides(dice, street), *_verges(dice, street), *_traffic(dice, street)]
    for _, paint in sorted(items, key=lambda item: -item[0]):
        paint(canvas, dice)
    _hood(canvas, dice)
    return _photograph(canvas, dice)


def _view(dice: Dice) -> View:
    bend = dice.uniform(-0.002, 0.002) if dice.chance(0.6) else 0.0
    center, horizon = dice.uniform(0.42, 0.58), dice.uniform(0.42, 0.54)
    return View(center, horizon, dice.uniform(0.8, 1.0), dice.uniform(1.3, 1.7), bend)


def _light(dice: Dice) -> Light:
    hour, side, strength = dice.random(), dice.side(), dice.uniform(0.6, 1)
    dim, haze = dice.uniform(0.6, 0.85), dice.uniform(60, 140)
    if hour < 0.4:  # sun
        return Light((96, 146, 208), (206, 220, 232), (1.08, 1.04, 0.98), 420, strength, side)
    if hour < 0.68:  # overcast
        return Light((172, 178, 184), (222, 224, 226), (0.92, 0.94, 0.97), 260, 0.15, side)
    if hour < 0.86:  # dusk
        return Light((92, 96, 132), (228, 168, 124), (dim * 1.12, dim, dim * 0.98), 260, 0.5 * strength, side, 0.3)
    return Light((188, 194, 198), (214, 216, 216), (0.95, 0.95, 0.96), haze, 0.0, side, 0.08)


def _street(dice: Dice) -> Street:
    left, right = dice.uniform(-4.2, -1.9), dice.uniform(3.0, 6.5)
    return Street((left, right), (left - dice.uniform(1.8, 4), right + dice.uniform(1.8, 4)))


def _sides(dice: Dice, street: Street) -> list[Item]:
    """Line both sides with houses and, in their gaps, gardens."""
    items: list[Item] = []
    for side, front in ((-1, -street.front[0]), (1, street.front[1])):
        built, z = dice.uniform(0.45, 1.0), dice.uniform(-6, 2)
        while z < 75:
            far = z + dice.uniform(8, 18)
            if dice.chance(built):
                plan = walls.House(side, front + dice.uniform(0, 0.6), max(z, 0.3), far, dice.uniform(4.5, 10.5))
                items.append((far, partial(walls.house, plan=plan)))
            else:
                items += _garden(dice, side * front, (max(z, 1.5), far))
            z = far + (dice.uniform(1, 4) if dice.chance(0.25) else 0.0)
    return items


def _garden(dice: Dice, front: float, reach: tuple[float, float]) -> list[Item]:
    """Fence or hedge a gap between houses, and plant it."""
    near, far = reach
    bound = walls.fence if dice.chance(0.45) else walls.hedge
    run = walls.Run((front, near), (front, far), dice.uniform(0.9, 1.9))
    items: list[Item] = [(far, partial(bound, run=run))]
    for _ in range(dice.integer(1, 3)):
        x, z = front + (1 if front > 0 else -1) * dice.uniform(1.5, 6), max(dice.uniform(near, far), 4)
        items.append((far + 0.1, partial(roadside.tree, place=(x, z))))
    return items


def _verges(dice: Dice, street: Street) -> list[Item]:
    """Set lamps, signs, lights, trees, railings and clutter along both kerbs."""
    items: list[Item] = []
    kinds = (roadside.lamp, roadside.sign, roadside.traffic_light, roadside.board, roadside.tree, roadside.clutter)
    for kerb, out in ((street.kerb[0] - 0.4, -1), (street.kerb[1] + 0.4, 1)):
        z = dice.uniform(5, 11)
        while z < 50:
            kind = dice.among(kinds, (0.34, 0.2, 0.09, 0.05, 0.17, 0.15))
            aside = dice.uniform(0.2, 0.9) if kind in (roadside.clutter, roadside.board) else 0
            items.append((z, partial(kind, place=(kerb + out * aside, z))))
            z += dice.uniform(4, 12)
        if dice.chance(0.3):
            items += _railing(dice, kerb, dice.uniform(4, 20))
    return items


def _railing(dice: Dice, kerb: float, near: float) -> list[Item]:
    """Put a railing between pavement and road, in pieces: what is between two of them is painted between them."""
    piece, height, style = dice.uniform(1.8, 2.4), dice.uniform(0.9, 1.2), walls.fencing(dice)
    starts = [near + piece * i for i in range(dice.integer(3, 8))]
    runs = [walls.Run((kerb, z), (kerb, z + piece), height) for z in starts]
    return [(run.start[1], partial(walls.fence, run=run, style=style)) for run in runs]


def _traffic(dice: Dice, street: Street) -> list[Item]:
    """Park and drive cars, and put people on the pavements and bicyclists by the kerbs."""
    (left, right), (front_left, front_right) = street.kerb, street.front
    middle = (left + right) / 2
    cars = [(middle - dice.uniform(1.2, 1.8), dice.uniform(7, 45), 1) for _ in range(dice.integer(1, 3))]
    cars += [(middle + dice.uniform(1.2, 1.8), dice.uniform(8, 45), -1) for _ in range(dice.integer(0, 3))]
    for kerb, facing in ((left + 1.05, 1), (right - 1.05, -1)):
        if dice.chance(0.4):
            first, gap = dice.uniform(4, 14), dice.uniform(5.2, 8)
            cars += [(kerb, first + gap * i, facing) for i in range(dice.integer(1, 5))]
    people = []
    for _ in range(dice.integer(3, 9)):
        low, high = (front_left + 0.3, left - 0.2) if dice.chance(0.5) else (right + 0.2, front_right - 0.3)
        people.append((dice.uniform(low, high), dice.uniform(5, 30), dice.side()))
    if dice.chance(0.2):
        people.append((dice.uniform(left, right), dice.uniform(7, 20), 1))
    riders = []
    for _ in range(dice.integer(1, 3)):
        kerb, facing = (left + 0.7, 1) if dice.chance(0.5) else (right - 0.7, -1)
        riders.append((kerb + dice.uniform(-0.2, 0.9) * facing, dice.uniform(6, 28), facing))
    return _placed(traffic.car, cars) + _placed(traffic.pedestrian, people) + _placed(traffic.bicyclist, riders)


def _placed(kind: Callable[..., None], places: list[tuple[float, float, int]]) -> list[Item]:
    return [(place[1], partial(kind, place=traffic.Place(*place))) for place in places]


def _hood(canvas: Canvas, dice: Dice) -> None:
    """Show the own car's bonnet at the lower edge of some scenes; it is void."""
    shown, rise, tilt, tone = dice.chance(0.4), dice.uniform(0.04, 0.11), dice.uniform(-0.3, 0.3), dice.uniform(12, 60)
    if not shown:
        return
    edge = []
    for i in range(-10, 11):
        across = i / 10
        drop = canvas.height * (1 - rise * (1 - 0.8 * across * across + tilt * across))
        edge.append(((across + 1) / 2 * canvas.width, drop))
    foot: list[tuple[float, float]] = [(canvas.width, canvas.height + 1), (0, canvas.height + 1)]
    canvas.polygon([*edge, *foot], (tone, tone, tone + 6), VOID)
    shine = [(u, v + canvas.height * 0.012) for u, v in reversed(edge)]
    canvas.polygon([*edge, *shine], (tone + 70, tone + 70, tone + 74), None)


def _photograph(canvas: Canvas, dice: Dice) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Average the canvas down to the picture, light it, add the sensor's grain, and void labels at some borders."""
    n = _SUPERSAMPLE
    height, width = canvas.height // n, canvas.width // n
    row, column, grain = dice.integer(0, 256), dice.integer(0, 256), dice.uniform(4, 14)
    small = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    v, u = np.arange(height)[:, None] + row, np.arange(width) + column
    speckle = (sample(noise(1), v, u) - np.float32(0.5)) * np.float32(grain)
    image = small[..., :3] * np.array(canvas.light.gain, np.float32)
    np.add(image, speckle[..., None], out=image)
    mask = np.ascontiguousarray(canvas.mask[n // 2 :: n, n // 2 :: n])
    border = np.zeros(mask.shape, bool)
    border[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    border[1:] |= mask[1:] != mask[:-1]
    mask[border & (sample(noise(8), v, u) > 0.62)] = VOID
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8), mask
