"""Scenes after Shapes3D, cast with rays."""

from __future__ import annotations

import colorsys
import functools

import numpy as np

from ppl_models.data.factors.grid import FactorData
from ppl_models.data.factors.loaders import sampled
from ppl_models.data.factors.published import AZIMUTHS, HUES, SHAPES3D, SIZES
from ppl_models.data.render.rays import box, camera
from ppl_models.data.tables import correlations
from ppl_models.data.tables.from_parts import Array

SIDE = 64
LIGHT = np.array([0.45, 0.3, 0.85]) / np.linalg.norm([0.45, 0.3, 0.85])
FLOOR, WALL, OBJECT = range(3)
WALLS = ((0, -4, 1), (1, -4, 1), (1, 4, -1))  # axis, place on it, direction of the normal


def shapes3d_like() -> FactorData:
    """Rooms of 64 x 64 x 3 pixels with one object, 480,000 of them, after Shapes3D.

    Factors floor_hue 10, wall_hue 10, object_hue 10, size 8, shape 4 (cube, cylinder, sphere,
    capsule) and azimuth 15 (-30 to 30 degrees), in the order of the official file (Burgess
    and Kim 2018). The geometry is our own, so pixels are not those of the file: a room with
    three walls, light from one direction, no shadows, 2 x 2 rays per pixel.
    """
    return FactorData("shapes3d_like", SHAPES3D, _draw, correlations=correlations.SHAPES3D)


load = sampled(shapes3d_like)


def _draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
    hues, size, shape, azimuth = classes[:, :3], *classes[:, 3:].T
    palette = np.array([colorsys.hsv_to_rgb(h, 1, 1) for h in HUES], dtype=np.float32)[hues]
    cover = geometries()[shape, azimuth, size]  # (n, pixels, 3 surfaces)
    image = cover @ palette
    return {"x": np.rint(255 * image).astype(np.uint8).reshape(-1, SIDE, SIDE, 3)}


@functools.cache
def geometries() -> Array:
    """How much light of each surface reaches each pixel ``(4, 15, 8, 4096, 3)``.

    Surfaces are floor, walls and object. An image is linear in their colours, so that all
    480,000 images are a product of these 480 geometries with a palette.
    """
    solids = _cube, _cylinder, _sphere, _capsule
    cover = np.zeros((len(solids), len(AZIMUTHS), len(SIZES), SIDE**2, 3), dtype=np.float32)
    for turn, degrees in enumerate(AZIMUTHS):
        eye, rays = _camera(np.deg2rad(degrees))
        room = _room(eye, rays)
        for shape, meet in enumerate(solids):
            for place, size in enumerate(SIZES):
                cover[shape, turn, place] = _pool(*_nearest(room, meet(eye, rays, size)))
    return cover


def _camera(azimuth: float) -> tuple[Array, Array]:
    """Eye ``(3,)`` and unit rays ``(128^2, 3)``."""
    eye = np.array([5 * np.cos(azimuth), 5 * np.sin(azimuth), 2.2])
    return eye, camera(eye, np.array([0, 0, 0.9]), 45, 2 * SIDE)


def _room(eye: Array, rays: Array) -> tuple[Array, Array, Array]:
    """Distance, normal and label of floor and walls."""
    distance = np.full(len(rays), np.inf)
    normal, label = np.zeros_like(rays), np.full(len(rays), FLOOR)
    for axis, place, way in ((2, 0, 1), *WALLS):
        with np.errstate(divide="ignore"):
            own = (place - eye[axis]) / rays[:, axis]
        hit = (own > 0) & (own < distance)
        distance[hit] = own[hit]
        normal[hit] = way * np.eye(3)[axis]
        label[hit] = FLOOR if axis == 2 else WALL
    return distance, normal, label


def _nearest(room: tuple[Array, Array, Array], solid: tuple[Array, Array]) -> tuple[Array, Array]:
    """Label and shade of what each ray meets first."""
    (behind, normal, label), (distance, own) = room, solid
    front = distance < behind
    normal = np.where(front[:, None], own, normal)
    shade = 0.55 + 0.45 * np.maximum(0, normal @ LIGHT)
    return np.where(front, OBJECT, label), shade


def _pool(label: Array, shade: Array) -> Array:
    parts = (label[:, None] == np.arange(3)) * shade[:, None]
    pooled: Array = parts.reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3)).reshape(-1, 3)
    return pooled


def _first(eye: Array, rays: Array, distance: Array) -> Array:
    point: Array = eye + np.where(np.isfinite(distance), distance, 0)[:, None] * rays
    return point


def _ball(eye: Array, rays: Array, height: float, radius: float) -> tuple[Array, Array]:
    centre = np.array([0, 0, height])
    b = rays @ (eye - centre)
    under = b**2 - (eye - centre) @ (eye - centre) + radius**2
    distance = np.where(under >= 0, -b - np.sqrt(np.maximum(under, 0)), np.inf)
    return distance, (_first(eye, rays, distance) - centre) / radius


def _tube(eye: Array, rays: Array, low: float, high: float, radius: float) -> tuple[Array, Array]:
    a = (rays[:, :2] ** 2).sum(1)
    b = rays[:, :2] @ eye[:2] / a
    under = b**2 - (eye[:2] @ eye[:2] - radius**2) / a
    distance = np.where(under >= 0, -b - np.sqrt(np.maximum(under, 0)), np.inf)
    point = _first(eye, rays, distance)
    distance = np.where((point[:, 2] >= low) & (point[:, 2] <= high), distance, np.inf)
    return distance, point * [1, 1, 0] / radius


def _closer(*solids: tuple[Array, Array]) -> tuple[Array, Array]:
    (distance, normal), *others = solids
    for own, facing in others:
        normal = np.where((own < distance)[:, None], facing, normal)
        distance = np.minimum(own, distance)
    return distance, normal


def _sphere(eye: Array, rays: Array, size: float) -> tuple[Array, Array]:
    return _ball(eye, rays, 0.85 * size, 0.85 * size)


def _capsule(eye: Array, rays: Array, size: float) -> tuple[Array, Array]:
    low, high, radius = 0.55 * size, 1.25 * size, 0.55 * size
    ends = (_ball(eye, rays, z, radius) for z in (low, high))
    return _closer(_tube(eye, rays, low, high, radius), *ends)


def _cylinder(eye: Array, rays: Array, size: float) -> tuple[Array, Array]:
    radius, high = 0.75 * size, 1.5 * size
    down = rays[:, 2] < 0
    lid = np.where(down, (high - eye[2]) / np.where(down, rays[:, 2], -1), np.inf)
    inside = (_first(eye, rays, lid)[:, :2] ** 2).sum(1) <= radius**2
    top = np.where(inside & down, lid, np.inf), np.tile([0.0, 0, 1], (len(rays), 1))
    return _closer(_tube(eye, rays, 0, high, radius), top)


def _cube(eye: Array, rays: Array, size: float) -> tuple[Array, Array]:
    half = 0.7 * size
    centre = np.array([0, 0, half])
    return box(eye, rays, centre - half, centre + half)
