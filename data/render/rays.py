"""Rays of a camera, and where they meet boxes: what scenes that are cast are made of."""

from __future__ import annotations

import numpy as np

from ppl_models.data.tables.from_parts import Array


def camera(eye: Array, target: Array, degrees: float, side: int) -> Array:
    """Unit directions ``(side^2, 3)`` of the pixels of a square picture, top row first.

    Args:
        eye: Where the camera is ``(3,)``; up is the third axis.
        target: What it looks at ``(3,)``, in the middle of the picture.
        degrees: Angle from the picture's left side to its right.
        side: Rays per side.
    """
    ahead = target - eye
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, [0, 0, 1])
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    reach = np.tan(np.deg2rad(degrees / 2)) * (2 * (np.arange(side) + 0.5) / side - 1)
    rays = ahead + reach[None, :, None] * right - reach[:, None, None] * up
    found: Array = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3)
    return found


def box(eye: Array, rays: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Distance ``(n,)`` at which rays meet a box from without, and the normal there ``(n, 3)``.

    Args:
        eye: Where the rays begin ``(3,)``.
        rays: Their directions ``(n, 3)``.
        low: The corner of the smallest coordinates ``(3,)``.
        high: That of the largest.

    Returns:
        Distances are infinite of rays that miss it; their normals mean nothing.
    """
    with np.errstate(divide="ignore"):
        inverse = 1 / rays
    sides = [(corner - eye) * inverse for corner in (low, high)]
    near, far = np.minimum(*sides), np.maximum(*sides)
    enter = np.maximum.reduce([*near.T])  # column by column: rows of three numbers are slow
    hit = (enter < np.minimum.reduce([*far.T])) & (enter > 0)
    axis = near.argmax(1)
    normal = np.eye(3)[axis] * -np.sign(rays[np.arange(len(rays)), axis])[:, None]
    return np.where(hit, enter, np.inf), normal
