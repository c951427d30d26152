"""Scenes after CANDLE, with its confounded support (Reddy et al. 2022, arXiv 2112.05746)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ppl_models.config import check_seed
from ppl_models.data.factors.grid import FactorData
from ppl_models.data.factors.loaders import sampled
from ppl_models.data.factors.published import CANDLE
from ppl_models.data.tables.from_parts import Array

SIDE = 64
RGB = {
    "red": (0.85, 0.1, 0.1),
    "blue": (0.1, 0.2, 0.9),
    "yellow": (0.9, 0.85, 0.1),
    "purple": (0.55, 0.1, 0.7),
    "orange": (0.95, 0.5, 0.05),
}
SCENES = CANDLE["scene"]
LIGHTS = {"left": (-5, -5, 7), "middle": (0, -3, 7), "right": (5, -5, 7)}
HALF = (0.9, 1.2, 1.5)  # s of small, medium and large
EYE = np.array([0, -7, 3], dtype=np.float32)
STEPS, NEAR = 24, 0.02
# What does not occur: for each rule, the values that may not meet.
ABSENT: tuple[dict[str, tuple[str, ...]], ...] = (
    {"size": ("large",), "object": ("cube", "sphere", "cylinder", "cone")},
    {"size": ("small",), "scene": ("garden", "garage")},
    {"colour": ("yellow",), "scene": ("bridge", "city square")},
    {"size": ("large",), "scene": ("hall",)},
    {"object": ("cone",), "scene": ("hall", "tunnel", "skywalk")},
    {"colour": ("orange", "yellow"), "scene": ("station", "dusk city", "playground")},
    {"object": ("sphere",), "scene": ("skywalk",)},
)


def candle_like(confounded: bool = True, scenes_seed: int = 12) -> FactorData:
    """One object in one of 16 scenes, 64 x 64 x 3 pixels, after CANDLE: 12,546 cells.

    Factors object 5, colour 5, size 3, rotation 6, scene 16, light 3. Combinations that CANDLE
    leaves out are left out, which makes object, size, scene and colour dependent; an
    unobserved confounder makes the light stronger or weaker by scene. Our own geometry, so
    pixels are not CANDLE's. Rotation shows on cubes only.

    Beside ``x`` each look has ``mask`` (64 x 64, the object), ``box`` (first column, first
    row, last column, last row of the object, from 0 to 1) and ``centre`` (x to the right, y
    away from the eye, in units of the scene).

    Args:
        confounded: Whether combinations are left out; all 21,600 cells if not.
        scenes_seed: Seed of the scenes: their colours, and how strong the light is in each.

    Raises:
        ValueError: If an option is of another kind.
    """
    if not isinstance(confounded, bool):
        raise ValueError(f"confounded is {confounded!r}, expected True or False")
    draw = functools.partial(_draw, check_seed(scenes_seed, "scenes_seed"))
    return FactorData("candle_like", CANDLE, draw, cells=_support() if confounded else None)


load = sampled(candle_like)


@functools.cache
def _support() -> Array:
    sizes = tuple(len(v) for v in CANDLE.values())
    exists = np.ones(sizes, dtype=bool)
    for rule in ABSENT:
        met = [
            [value in rule.get(factor, values) for value in values]
            for factor, values in CANDLE.items()
        ]
        exists[np.ix_(*(np.flatnonzero(m) for m in met))] = False
    return np.flatnonzero(exists)


@functools.cache
def _scenes(seed: int) -> tuple[Array, Array]:
    """Two colours ``(16, 2, 3)`` of each scene, and how strong its light is ``(16,)``."""
    draw = np.random.default_rng(seed)
    colours = draw.uniform(0.25, 0.95, (len(SCENES), 2, 3))
    return colours.astype(np.float32), draw.uniform(0.6, 1.1, len(SCENES)).astype(np.float32)


def _rays() -> Array:
    """Unit directions ``(4096, 3)`` of the pixels, top row first."""
    span = ((np.arange(SIDE) + 0.5) * 2 / SIDE - 1).astype(np.float32)
    v, u = np.meshgrid(-span, span, indexing="ij")
    rays = np.stack([0.6 * u, np.ones_like(u), 0.6 * v - 0.25], axis=-1).reshape(-1, 3)
    return _unit(rays)


def _draw(seed: int, classes: Array, generator: np.random.Generator) -> dict[str, Array]:
    n = len(classes)
    kind, colour, size, rotation, scene, light = classes.T
    half = np.array(HALF, dtype=np.float32)[size]
    centre = np.stack(
        [generator.uniform(-1.5, 1.5, n), generator.uniform(-1, 2, n), half], axis=1
    ).astype(np.float32)
    lamp = np.array(list(LIGHTS.values()), dtype=np.float32)[light]
    colours, strengths = _scenes(seed)
    strength = strengths[scene] * np.exp(generator.normal(0, 0.03, n)).astype(np.float32)

    rays = _rays()
    image = _ground(rays, centre, half, scene, colours[scene], lamp, strength)
    mask = np.zeros((n, SIDE**2), dtype=bool)
    turn = np.deg2rad(np.array(CANDLE["rotation"])[rotation]).astype(np.float32)
    tint = np.array(list(RGB.values()), dtype=np.float32)[colour]
    for code, distance in enumerate((_cube, _sphere, _cylinder, _cone, _torus)):
        rows = np.flatnonzero(kind == code)
        row, pixel, point, normal = _hits(distance, rays, centre[rows], half[rows], turn[rows])
        row = rows[row]
        to_lamp = _unit(lamp[row] - point)
        facing = np.maximum(0, (normal * to_lamp).sum(1)) * strength[row]
        image[row, pixel] = tint[row] * (0.3 + 0.7 * facing)[:, None]
        mask[row, pixel] = True
    square = mask.reshape(n, SIDE, SIDE)
    return {
        "x": np.rint(255 * image.clip(0, 1)).astype(np.uint8).reshape(n, SIDE, SIDE, 3),
        "mask": square,
        "box": _boxes(square),
        "centre": centre[:, :2],
    }


def _ground(
    rays: Array,
    centre: Array,
    half: Array,
    scene: Array,
    colours: Array,
    lamp: Array,
    strength: Array,
) -> Array:
    """Background and floor ``(n, 4096, 3)``."""
    (low, high), down = colours.swapaxes(0, 1), rays[:, 2] < -1e-3
    height = np.repeat(np.linspace(1, 0, SIDE, dtype=np.float32), SIDE)[:, None]
    image: Array = low[:, None] + (high - low)[:, None] * height
    floor = EYE + rays[down] * (-EYE[2] / rays[down, 2])[:, None]  # (m, 3)

    waves = 1 + np.stack([scene % 4, scene // 4], axis=1).astype(np.float32)
    grain = np.sin(waves[:, :1] * floor[:, 0]) * np.sin(waves[:, 1:] * floor[:, 1])
    away = lamp[:, None] - floor  # (n, m, 3)
    distance2 = (away**2).sum(-1)
    # Light on a horizontal plane: cos^2 to the vertical and the square law, cut where glaring.
    glow = 0.8 * away[..., 2] ** 2 / distance2 * 49 / distance2 * strength[:, None]
    factor = np.minimum(0.35 + glow, 1.2)
    to_centre = centre[:, None] - floor
    along = ((to_centre * away).sum(-1) / distance2).clip(0, 1)
    miss2 = ((to_centre - along[..., None] * away) ** 2).sum(-1)
    factor = np.where(miss2 < (0.9 * half[:, None]) ** 2, 0.45 * factor, factor)
    image[:, down] = (image[:, down] + 0.12 * grain[..., None]) * factor[..., None]
    return image


Distance = Callable[[Array, Array], Array]


def _hits(
    distance: Distance, rays: Array, centre: Array, half: Array, turn: Array
) -> tuple[Array, Array, Array, Array]:
    """Image, pixel, point and normal of each ray that meets its object, by sphere tracing."""
    to_centre = centre - EYE
    along = to_centre @ rays.T  # (n, 4096)
    miss2 = (to_centre**2).sum(1)[:, None] - along**2
    reach = 1.75 * half[:, None]  # the corner of a cube is sqrt(3) away
    row, pixel = np.nonzero(miss2 < reach**2)
    start, ray, size = EYE - centre[row], rays[pixel], half[row]
    cos, sin = np.cos(turn[row]), np.sin(turn[row])

    def local(point: Array) -> Array:
        x, y, z = point.T
        own: Array = distance(np.stack([cos * x + sin * y, cos * y - sin * x, z]), size)
        return own

    travelled = np.maximum(0, along[row, pixel] - reach[row, 0])
    for _ in range(STEPS):
        travelled += local(start + travelled[:, None] * ray)
    point = start + travelled[:, None] * ray
    hit = local(point) < NEAR
    step = 1e-3 * np.eye(3, dtype=np.float32)
    slope = np.stack([local(point + e) - local(point - e) for e in step], axis=1)
    return row[hit], pixel[hit], (point + centre[row])[hit], _unit(slope[hit])


def _unit(vectors: Array) -> Array:
    unit: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return unit


# Signed distances: points (3, m) about the object's centre, half sizes (m,).


def _cube(point: Array, s: Array) -> Array:
    beyond = np.abs(point) - s
    outside: Array = np.sqrt((np.maximum(beyond, 0) ** 2).sum(0))
    distance: Array = outside + np.minimum(beyond.max(0), 0)
    return distance


def _sphere(point: Array, s: Array) -> Array:
    distance: Array = np.sqrt((point**2).sum(0)) - s
    return distance


def _cylinder(point: Array, s: Array) -> Array:
    beyond = np.stack([np.hypot(point[0], point[1]), np.abs(point[2])]) - s
    outside: Array = np.sqrt((np.maximum(beyond, 0) ** 2).sum(0))
    distance: Array = outside + np.minimum(beyond.max(0), 0)
    return distance


def _cone(point: Array, s: Array) -> Array:
    # Tip at s, base of radius s at -s: the larger of the distances to mantle and base plane,
    # which never exceeds the true distance, so that tracing is safe.
    mantle = (2 * np.hypot(point[0], point[1]) + point[2] - s) / np.sqrt(np.float32(5))
    distance: Array = np.maximum(mantle, -point[2] - s)
    return distance


def _torus(point: Array, s: Array) -> Array:
    ring = np.hypot(point[0], point[1]) - 0.7 * s
    distance: Array = np.hypot(ring, point[2]) - 0.3 * s
    return distance


def _boxes(mask: Array) -> Array:
    """First column, first row, last column and last row ``(n, 4)``, as shares of the side."""
    ends = []
    for axis in (1, 2):  # over rows: which columns are met, and the other way round
        met: Array = np.any(mask, axis=axis)
        ends.append((met.argmax(1), SIDE - met[:, ::-1].argmax(1)))
    (left, right), (top, bottom) = ends
    return (np.stack([left, top, right, bottom], axis=1) / SIDE).astype(np.float32)
