"""Who is on the street: cars and vans, pedestrians, bicyclists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rayseg.data.scenes.canvas import BICYCLIST, CAR, PEDESTRIAN, RGB, ROUND, Canvas, toned
from rayseg.data.scenes.dice import Dice
from rayseg.data.scenes.ground import PAINTS

SKIN: tuple[RGB, ...] = ((224, 178, 150), (188, 136, 106), (120, 82, 62), (84, 58, 46))
RUBBER: RGB = (24, 24, 26)
_STEEL: RGB = (116, 118, 120)

Outline = Sequence[tuple[float, float]]


class Place(NamedTuple):
    """Where somebody is: metres right and ahead; `facing` +1 looks away from the camera, -1 towards it."""

    x: float
    z: float
    facing: int


class _Car(NamedTuple):
    place: Place
    half: float  # of its width, metres as all that follow
    length: float
    waist: float
    roof: float
    near_slant: float
    far_slant: float
    paint: RGB
    glass: RGB


def car(canvas: Canvas, dice: Dice, place: Place) -> None:
    """Paint a car, or one in six a van, as a box with a cabin: the side and the end that the camera sees."""
    body = _car(canvas, dice, place)
    (x, z, _), wide = place, body.half + 0.12
    canvas.darken(_level((x - wide, x + wide), 0, (z - 0.1, z + body.length)), 0.45)
    _paint_side(canvas, body)
    _paint_end(canvas, body)


def _car(canvas: Canvas, dice: Dice, place: Place) -> _Car:
    paint, glass = dice.pick(PAINTS, 16), toned(canvas.light.zenith, dice.uniform(0.25, 0.6))
    half, length, van = dice.uniform(0.82, 0.95), dice.uniform(3.7, 4.7), dice.chance(0.17)
    waist, roof = dice.uniform(0.78, 0.95), dice.uniform(1.4, 1.6)
    rear, bonnet = dice.uniform(0.25, 0.55), length * 0.26
    if van:
        waist, roof, rear = waist + 0.4, roof * 1.55, 0.05
    slants = (rear, bonnet) if place.facing > 0 else (bonnet, rear)
    return _Car(place, half, length, waist, roof, *slants, paint, glass)


def _paint_side(canvas: Canvas, body: _Car) -> None:
    x, z, _ = body.place
    side = -1 if x + canvas.bend * z * z > 0 else 1
    flank, inner, far = x + side * body.half, x + side * body.half * 0.86, z + body.length
    paint = toned(body.paint, 0.95 if side == canvas.light.sun_side else 1 - 0.4 * canvas.light.sun)
    canvas.face([(flank, 0.28, z), (flank, 0.28, far), (flank, body.waist, far), (flank, body.waist, z)], paint, CAR)
    canvas.face(_level((x - body.half, x + body.half), body.waist, (z, far)), toned(body.paint, 1.12), CAR)
    for inset, color in ((0.0, paint), (0.12, body.glass)):
        low, high = body.waist + inset / 2, body.roof - inset * 0.8
        near, end = z + body.near_slant * 0.4 + inset, far - body.far_slant * 0.4 - inset
        top = [(inner, high, end - body.far_slant * 0.6), (inner, high, near + body.near_slant * 0.6)]
        canvas.face([(flank, low, near), (flank, low, end), *top], color, CAR)
    for axle in (z + body.length * 0.19, z + body.length * 0.8):
        for radius, color in ((0.33, RUBBER), (0.18, _STEEL)):
            canvas.face([(flank, 0.33 + dy * radius, axle + dz * radius) for dz, dy in ROUND], color, CAR)


def _paint_end(canvas: Canvas, body: _Car) -> None:
    (x, z, facing), half, waist, roof = body.place, body.half, body.waist, body.roof
    near, back = z + body.near_slant * 0.4, z + body.near_slant
    tone = toned(body.paint, 0.86)
    for share, low, high, color in ((1.0, waist, roof, body.paint), (0.84, waist + 0.06, roof - 0.1, body.glass)):
        wide, top = half * share, half * share * 0.87
        pane = [(x - wide, low, near), (x + wide, low, near), (x + top, high, back), (x - top, high, back)]
        canvas.face(pane, color, CAR)
    for wheel in (x - half * 0.82, x + half * 0.82):
        canvas.face(_flat((wheel - 0.1, wheel + 0.1), (0, 0.34), z), RUBBER, CAR)
    canvas.face(_flat((x - half, x + half), (0.26, waist), z), tone, CAR)
    canvas.face(_flat((x - half, x + half), (0.26, 0.4), z), toned(tone, 0.6), None)
    canvas.face(_flat((x - 0.26, x + 0.26), (0.44, 0.56), z), (226, 222, 200), None)
    for end in (x - half * 0.8, x + half * 0.8):
        lamp = _flat((end - half * 0.16, end + half * 0.16), (waist - 0.28, waist - 0.1), z)
        canvas.face(lamp, (178, 30, 28) if facing > 0 else (236, 234, 214), None)


def _flat(across: tuple[float, float], up: tuple[float, float], z: float) -> list[tuple[float, float, float]]:
    (left, right), (low, high) = across, up
    return [(left, low, z), (right, low, z), (right, high, z), (left, high, z)]


def _level(across: tuple[float, float], y: float, ahead: tuple[float, float]) -> list[tuple[float, float, float]]:
    (left, right), (near, far) = across, ahead
    return [(left, y, near), (right, y, near), (right, y, far), (left, y, far)]


def pedestrian(canvas: Canvas, dice: Dice, place: Place) -> None:
    """Paint somebody who walks or stands."""
    coat, legs, skin = dice.pick(PAINTS, 25), toned(dice.pick(PAINTS), 0.8), dice.pick(SKIN)
    hair, tall = toned(dice.pick(SKIN), 0.4), dice.uniform(1.5, 1.9)
    stride, b = dice.uniform(0, 0.24), dice.uniform(0.19, 0.27)
    (x, z, facing), side = place, -canvas.light.sun_side
    canvas.darken([(x - 0.25, 0, z), (x + 0.25, 0, z), (x + side * 1.1, 0, z + 0.8), (x + side * 0.7, 0, z + 0.9)], 0.6)

    def part(outline: Outline, color: RGB) -> None:
        canvas.face([(x + dx, dy * tall, z) for dx, dy in outline], color, PEDESTRIAN)

    for step in (-1, 1):
        hip, foot = step * 0.03, step * stride
        part([(hip - 0.1, 0.5), (hip + 0.1, 0.5), (foot + 0.09, 0), (foot - 0.09, 0)], toned(legs, 1 + 0.1 * step))
    part([(-b * 0.75, 0.45), (b * 0.75, 0.45), (b, 0.78), (b * 0.5, 0.84), (-b * 0.5, 0.84), (-b, 0.78)], coat)
    for step in (-1, 1):
        hand = step * (b + 0.3 * stride)
        arm = [(step * b * 0.8, 0.8), (step * (b + 0.05), 0.76), (hand + 0.04, 0.47), (hand - 0.04, 0.47)]
        part(arm, toned(coat, 0.85 + 0.1 * step))
    part([(dx * 0.12, 0.92 + dy * 0.08) for dx, dy in ROUND], hair if facing > 0 else skin)
    if facing < 0:
        part([(-0.12, 0.94), (0.12, 0.94), (0.09, 1.0), (-0.09, 1.0)], hair)


def bicyclist(canvas: Canvas, dice: Dice, place: Place) -> None:
    """Paint a bicycle and its rider, along the road or, one in three, across it."""
    coat, legs, across = dice.pick(PAINTS, 25), toned(dice.pick(PAINTS), 0.8), dice.chance(0.35)
    colors = {"coat": coat, "sleeve": toned(coat, 0.85), "legs": legs, "leg": toned(legs, 1.2), "tyre": RUBBER}
    colors |= {
        "spokes": _STEEL,
        "frame": dice.pick(PAINTS, 30),
        "skin": dice.pick(SKIN),
        "helmet": dice.pick(PAINTS, 30),
    }
    (x, z, facing), half = place, 0.9 if across else 0.25
    canvas.darken(_level((x - half, x + half), 0, (z, z + 0.7)), 0.6)
    for name, outline in _ACROSS if across else _ALONG:
        canvas.face([(x + dx * facing, dy, z) for dx, dy in outline], colors[name], BICYCLIST)


def _disk(x: float, y: float, radius: float) -> Outline:
    return [(x + dx * radius, y + dy * radius) for dx, dy in ROUND]


# Outlines in metres from the ground below the rider, painted in this order.
_ACROSS: tuple[tuple[str, Outline], ...] = (
    ("tyre", _disk(-0.52, 0.34, 0.34)),
    ("spokes", _disk(-0.52, 0.34, 0.26)),
    ("tyre", _disk(0.52, 0.34, 0.34)),
    ("spokes", _disk(0.52, 0.34, 0.26)),
    ("frame", ((-0.52, 0.34), (-0.16, 0.86), (-0.1, 0.82), (-0.02, 0.36), (-0.04, 0.3))),
    ("frame", ((-0.12, 0.8), (0.42, 0.82), (0.52, 0.34), (0.46, 0.34), (0.38, 0.76), (0.02, 0.36), (-0.04, 0.4))),
    ("legs", ((-0.28, 0.92), (-0.02, 1.0), (0.2, 0.66), (0.06, 0.24), (-0.06, 0.24), (0.03, 0.64))),
    ("coat", ((-0.3, 0.9), (0.0, 0.92), (0.3, 1.42), (0.2, 1.54), (0.02, 1.5))),
    ("sleeve", ((0.2, 1.42), (0.32, 1.36), (0.5, 1.0), (0.42, 0.98))),
    ("skin", _disk(0.27, 1.63, 0.12)),
    ("helmet", ((0.14, 1.65), (0.4, 1.65), (0.36, 1.78), (0.2, 1.79))),
)
_ALONG: tuple[tuple[str, Outline], ...] = (
    ("tyre", ((-0.05, 0.0), (0.05, 0.0), (0.05, 0.68), (-0.05, 0.68))),
    ("frame", ((-0.05, 0.5), (0.05, 0.5), (0.04, 0.95), (-0.04, 0.95))),
    ("legs", ((-0.17, 0.95), (-0.05, 0.95), (-0.07, 0.36), (-0.16, 0.36))),
    ("leg", ((0.05, 0.95), (0.17, 0.95), (0.16, 0.16), (0.07, 0.16))),
    ("coat", ((-0.17, 0.86), (0.17, 0.86), (0.23, 1.4), (0.12, 1.52), (-0.12, 1.52), (-0.23, 1.4))),
    ("sleeve", ((-0.2, 1.4), (-0.26, 1.34), (-0.3, 1.02), (-0.22, 1.02))),
    ("sleeve", ((0.2, 1.4), (0.26, 1.34), (0.3, 1.02), (0.22, 1.02))),
    ("skin", _disk(0.0, 1.63, 0.12)),
    ("helmet", ((-0.13, 1.64), (0.13, 1.64), (0.09, 1.78), (-0.09, 1.78))),
)
