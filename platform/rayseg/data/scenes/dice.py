"""Dice: the random choices of a scene. Only multiplication and addition touch what the generator gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from rayseg.data.scenes.canvas import RGB

T = TypeVar("T")


class Dice:
    """Random numbers from a generator, drawn by the block: single draws are what a scene needs most."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: Iterator[float] = iter(())

    def random(self) -> float:
        """Draw from 0..1, without 1."""
        number = next(self._block, None)
        if number is None:
            self._block = iter(self._rng.random(1024).tolist())
            number = next(self._block)
        return number

    def uniform(self, low: float, high: float) -> float:
        """Draw from low..high."""
        return low + (high - low) * self.random()

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number from low..high-1."""
        return low + int((high - low) * self.random())

    def chance(self, probability: float) -> bool:
        """Say yes that often."""
        return self.random() < probability

    def side(self) -> int:
        """Draw -1 or +1."""
        return self.integer(0, 2) * 2 - 1

    def among(self, things: Sequence[T], shares: Sequence[float]) -> T:
        """Draw one of the things by its share; the shares add up to 1."""
        left = self.random()
        for thing, share in zip(things, shares, strict=True):
            left -= share
            if left < 0:
                return thing
        return things[-1]

    def pick(self, colors: Sequence[RGB], spread: float = 12) -> RGB:
        """Draw one of the colours and vary it a little."""
        red, green, blue = colors[self.integer(0, len(colors))]
        warm, mid, cold = (self.uniform(-spread, spread) for _ in range(3))
        return max(0.0, red + warm), max(0.0, green + mid), max(0.0, blue + cold)
