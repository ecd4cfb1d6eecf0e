"""What stands beside the road: trees, lamp posts, signs, traffic lights and clutter that nobody labelled."""

from __future__ import annotations

import numpy as np

from rayseg.data.scenes.canvas import POLE, RGB, ROUND, SIGN, TREE, VOID, Array, Canvas, Patch, noise, sample, toned
from rayseg.data.scenes.dice import Dice
from rayseg.data.scenes.ground import LEAVES, PAINTS

METAL: tuple[RGB, ...] = ((70, 74, 76), (110, 112, 112), (44, 50, 48), (150, 150, 146))
BARK: tuple[RGB, ...] = ((74, 60, 48), (92, 80, 68), (58, 50, 44))
BOARDS: tuple[RGB, ...] = ((178, 34, 38), (30, 76, 150), (34, 104, 66), (222, 218, 208), (206, 164, 46), (60, 60, 66))
LAMPS: tuple[RGB, ...] = ((214, 48, 40), (226, 164, 52), (60, 190, 110))

_TRIANGLE = ((-1, -0.8), (1, -0.8), (0, 1))
_SQUARE = ((-1, -1), (1, -1), (1, 1), (-1, 1))
_TALL = ((-0.8, -1.5), (0.8, -1.5), (0.8, 1.5), (-0.8, 1.5))


def post(canvas: Canvas, place: tuple[float, float], top_m: float, color: RGB) -> None:
    """Paint an upright pole that is thick enough to see, lit from the sun's side."""
    x, z = place
    (u, top), (_, foot) = canvas.project((x, top_m, z)), canvas.project((x, 0, z))
    half = max(canvas.focal_px / z * 0.06, canvas.least_px / 2)
    canvas.polygon([(u - half, top), (u + half, top), (u + half, foot), (u - half, foot)], canvas.hazed(color, z), POLE)
    left, right = (u - half, u) if canvas.light.sun_side < 0 else (u, u + half)
    bright = canvas.hazed(toned(color, 1.3), z)
    canvas.polygon([(left, top), (right, top), (right, foot), (left, foot)], bright, None)


def lamp(canvas: Canvas, dice: Dice, place: tuple[float, float]) -> None:
    """Paint a street lamp whose arm reaches over the road."""
    color, top, arm = dice.pick(METAL), dice.uniform(5, 8), dice.uniform(0.5, 1.8)
    x, z = place
    post(canvas, place, top, color)
    reach, thick = x + (arm if x < 0 else -arm), max(0.1, canvas.least_px * z / canvas.focal_px)
    beam = [(x, top, z), (reach, top + 0.3, z), (reach, top + 0.3 - thick, z), (x, top - thick, z)]
    canvas.face(beam, color, POLE)
    tip = reach + 0.35 * (reach - x)
    head = [(reach, top + 0.36, z), (tip, top + 0.3, z), (tip, top + 0.12, z), (reach, top + 0.12, z)]
    canvas.face(head, toned(color, 1.2), POLE)


def sign(canvas: Canvas, dice: Dice, place: tuple[float, float]) -> None:
    """Paint a round, three-cornered, square or tall sign on a pole."""
    color, rim, metal = dice.pick(BOARDS), dice.pick(BOARDS), dice.pick(METAL)
    outline = (ROUND, _TRIANGLE, _SQUARE, _TALL)[dice.integer(0, 4)]
    half, top = dice.uniform(0.3, 0.5), dice.uniform(2.2, 3.2)
    post(canvas, place, top, metal)
    x, z = place
    canvas.face([(x + dx * half, top + dy * half, z) for dx, dy in outline], rim, SIGN)
    canvas.face([(x + dx * half * 0.72, top + dy * half * 0.72, z) for dx, dy in outline], color, None)


def traffic_light(canvas: Canvas, dice: Dice, place: tuple[float, float]) -> None:
    """Paint a traffic light, one lamp of it lit; it counts as a sign."""
    top, lit, metal = dice.uniform(3, 3.8), dice.integer(0, 3), dice.pick(METAL)
    x, z = place
    post(canvas, place, top, metal)
    canvas.face([(x + dx * 0.28, top + dy * 0.6, z) for dx, dy in _SQUARE], (26, 28, 28), SIGN)
    for i, color in enumerate(LAMPS):
        disk = [(x + dx * 0.17, top + 0.36 - 0.36 * i + dy * 0.17, z) for dx, dy in ROUND]
        canvas.face(disk, color if i == lit else (52, 48, 46), None)


def board(canvas: Canvas, dice: Dice, place: tuple[float, float]) -> None:
    """Paint an advertising board on two short legs."""
    color, stripe, metal = dice.pick(PAINTS, 30), dice.pick(BOARDS), dice.pick(METAL)
    half, low, high = dice.uniform(0.4, 0.8), dice.uniform(0.4, 0.8), dice.uniform(1.8, 2.6)
    (x, z), left, right = place, place[0] - half, place[0] + half
    for leg in (-0.8, 0.8):
        post(canvas, (x + leg * half, z), low + 0.1, metal)
    canvas.face([(left, low, z), (right, low, z), (right, high, z), (left, high, z)], color, SIGN)
    canvas.face(
        [(left, low + 0.3, z), (right, low + 0.3, z), (right, low + 0.8, z), (left, low + 0.8, z)], stripe, None
    )


def clutter(canvas: Canvas, dice: Dice, place: tuple[float, float]) -> None:
    """Paint a bin or a box that nobody labelled."""
    color, wide, high = dice.pick(PAINTS), dice.uniform(0.25, 0.5), dice.uniform(0.6, 1.3)
    left, right, z = place[0] - wide, place[0] + wide, place[1]
    canvas.darken([(left, 0, z), (right + wide, 0, z), (right + wide, 0, z + 0.7), (left, 0, z + 0.7)], 0.6)
    canvas.face([(left, 0, z), (right, 0, z), (right, high, z), (left, high, z)], color, VOID)
    canvas.face(
        [(left, high, z), (right, high, z), (right, high * 0.9, z), (left, high * 0.9, z)], toned(color, 0.7), None
    )


def tree(canvas: Canvas, dice: Dice, place: tuple[float, float]) -> None:
    """Paint a trunk and a crown of leafy clumps through which the scene behind shows."""
    bark, leaves, bare = dice.pick(BARK), dice.pick(LEAVES), dice.chance(0.25)
    trunk, wide, high = dice.uniform(1.8, 2.8), dice.uniform(1.6, 3.2), dice.uniform(1.6, 3.2)
    clumps = [(dice.uniform(-0.55, 0.55), dice.uniform(-0.5, 0.5), dice.uniform(0.42, 0.62)) for _ in range(6)]
    shift = dice.integer(0, 256)
    (x, z), root, top = place, 0.1 + 0.05 * wide, trunk + high
    canvas.darken([(x + dx * wide * 0.9, 0, z + dy * wide * 0.9) for dx, dy in ROUND], 1 - 0.35 * canvas.light.sun)
    stem = [(x - root, 0, z), (x + root, 0, z), (x + root * 0.5, top, z), (x - root * 0.5, top, z)]
    canvas.face(stem, bark, TREE)
    crown = canvas.upright((x - wide, z), (x + wide, z), trunk + 2 * high)
    if crown is not None:
        right, up = crown.along / wide - 1, (crown.up[:, :1] - top) / np.float32(high)
        body = _clumped(right, up, clumps)
        _leaf(
            canvas,
            crown,
            (right, up, body),
            toned(bark, 1.2) if bare else toned(leaves, 1.35),
            shift,
            0.55 if bare else 0.18,
        )


def _clumped(right: Array, up: Array, clumps: list[tuple[float, float, float]]) -> Array:
    """Give how deep each pixel (m,n) lies in the crown's clumps: 1 in the middle of one, 0 at its edge."""
    body = np.full((len(up), len(right)), np.float32(-9))
    for a, b, radius in clumps:
        across, along = (right - a) / radius, (up - b) / radius
        np.maximum(body, (1 - across * across) - along * along, out=body)
    return body


def _leaf(
    canvas: Canvas, patch: Patch, crown: tuple[Array, Array, Array], color: RGB, shift: int, sparse: float
) -> None:
    right, up, body = crown
    leaf = sample(noise(2, 4), patch.up[:, :1] * 20 + shift, patch.along * 20)
    inside = body + 0.9 * leaf * leaf > sparse
    shade = 0.1 + 0.24 * up + 0.2 * canvas.light.sun_side * right + 1.05 * leaf
    canvas.put(patch, inside, [color], np.clip(shade, 0.2, 1.3))
    canvas.label(patch, inside, TREE)
