"""Discs and rectangles as shares of pixels that they cover, for many images at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ppl_models.data.tables.from_parts import Array

FINE = 3  # sub-pixels per side
Ends = tuple[Array | float, Array | float]


class Field:
    """A square field of coordinates seen as pixels, its origin at the bottom left.

    Args:
        side: Pixels per side.
        size: Units per side.
    """

    def __init__(self, side: int, size: float) -> None:
        self.side = side
        fine = (np.arange(side * FINE, dtype=np.float32) + 0.5) * (size / (side * FINE))
        self.x, self.y = fine[None, None, :], fine[::-1][None, :, None]

    def disc(self, x: Array, y: Array, radius: float) -> Array:
        """Shares ``(n, side, side)`` of discs about centres ``(n,)``."""
        across, down = self.x - _wide(x), self.y - _wide(y)
        return self._pooled(across**2 + down**2 <= radius**2)

    def rectangle(self, x: Ends, y: Ends) -> Array:
        """Shares of rectangles between two ``x`` and two ``y``, numbers or ``(n,)``."""
        across, up = (
            ((axis >= _flat(low)) & (axis < _flat(high)))
            .reshape(-1, self.side, FINE)
            .mean(2, dtype=np.float32)
            for axis, (low, high) in ((self.x[0], x), (self.y[..., 0], y))
        )
        shares: Array = up[:, :, None] * across[:, None, :]
        return shares

    def _pooled(self, inside: Array) -> Array:
        side = self.side
        shares: Array = inside.reshape(-1, side, FINE, side, FINE).mean((2, 4), dtype=np.float32)
        return shares


def paint(images: Array, shares: Array, colour: Sequence[float]) -> None:
    """Lay a colour over images ``(n, side, side, C)`` in place, where shares ``(n, ...)`` are."""
    over = shares[..., None]
    images *= 1 - over
    images += over * np.asarray(colour, np.float32)


def as_bytes(images: Array) -> Array:
    """Images from 0 to 1 as uint8."""
    found: Array = np.rint(255 * images.clip(0, 1)).astype(np.uint8)
    return found


def in_blocks(draw: Callable[[Array], Array], states: Array, rows: int = 2000) -> Array:
    """What a function draws of states ``(n, S)``, so many at a time."""
    parts = [draw(states[k : k + rows]) for k in range(0, len(states), rows)]
    return np.concatenate(parts)


def _wide(value: Array | float) -> Array:
    return np.asarray(value, np.float32).reshape(-1, 1, 1)


def _flat(value: Array | float) -> Array:
    return np.asarray(value, np.float32).reshape(-1, 1)
