"""Shapes of images that stand flat in a table: height, width, channels, in this order."""

from __future__ import annotations

from collections.abc import Sequence

COLOURS = (1, 3)


def with_channels(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """A table's shape of a site as ``(H, W, C)``; None where a row is no single image.

    Args:
        shape: ``(H, W)`` for grey images, ``(H, W, C)``, or ``(k, H, W)`` for sets of k grey
            images. Three sizes are an image where the last is 1 or 3, or less than the first
            and no width of a square one; they are a set otherwise.
    """
    if len(shape) == 2:
        height, width = shape
        return height, width, 1
    if len(shape) != 3:
        return None
    first, width, last = shape
    if last in COLOURS or (last < first and last != width):
        return first, width, last
    return None


def same(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes lay the same images flat: ``(H, W)`` is ``(H, W, 1)``."""
    return _plain(one) == _plain(other)


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    return with_channels(shape) or tuple(shape)
