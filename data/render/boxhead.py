"""Boxhead: the hues of four tiles vary about an overall hue, which shows nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_models.config import at_least
from ppl_models.data.render.rays import box, camera
from ppl_models.data.render.world_options import Span, one_of, span
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.recipe import Labelled
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

SIDE = 64
CIRCLE = 70  # steps of hue: the steps of all laws below are whole numbers of these
EYES = ("eye_1", "eye_2", "eye_3", "eye_4")
HUES = ("cube", "overall", *EYES, "floor", "wall")
FACTORS = ("cube", "scale", "overall", *EYES, "floor", "wall", "azimuth")
# By variant: steps of the scale, and steps of hue from class to class of `overall` and of an eye.
VARIANTS = {"three_levels": (15, 1, 1), "two_levels": (10, 10, 1), "two_levels_wide": (10, 10, 2)}
PLAIN = 10  # steps of the other uniform laws
SHOWN = ("floor", "wall", "cube", *EYES)  # surfaces with a hue, as geometries have them
SKY = np.array([65, 105, 225]) / 255
HALF = 3 / 14  # of a tile's side, and of a cube's side of 2; tiles stand out by STEP
STEP = 0.026
FAR, LEFT, RIGHT, HIGH = -12.0, -12.0, 12.0, 6.0  # walls of the room, and how high they are


def load(
    train: int = 10_000,
    validation: int = 1_000,
    test: int = 5_000,
    variant: str = "three_levels",
    labelled: Labelled | None = None,
    seed: int = 0,
    *,
    scale: tuple[float, float] = (1.0, 1.25),
    azimuth: tuple[float, float] = (-30.0, 30.0),
) -> Dataset:
    """A cube with four tiles in a room, 64 x 64 x 3 pixels, whose hues form a hierarchy.

    The laws of Boxhead (Chen et al. 2021, arXiv 2110.03628), read off its released generator.
    With U(n) = round(n u) / n of a uniform u, whose ends are half as likely as what is between,
    and G = round(7 e) / 7 of a normal e: ``cube``, ``floor`` and ``wall`` are U(10), ``scale``
    and ``azimuth`` U from one end of their range to the other. In ``two_levels`` the hue
    ``overall`` is U(7), and each of ``eye_1`` to ``eye_4`` is overall + 0.1 G, in
    ``two_levels_wide`` overall + 0.2 G; in ``three_levels`` overall is cube + 0.2 G and an eye
    overall - 0.1 + 0.2 U(7). Hues are told modulo 1: 0 and 1 are one colour and one class.
    No surface has the overall hue. Geometry and colours are those of the generator; rays are our
    own, with light from where the camera is and no shadows, so pixels are not the published ones.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        variant: ``three_levels`` (the published boxhead_07), ``two_levels`` (boxheadsimple) or
            ``two_levels_wide`` (boxheadsimple2).
        labelled: Training rows that keep a factor's value, by factor; see
            :func:`ppl_models.data.tables.recipe.assemble`. All if None.
        seed: Seed of everything.
        scale: Range of the size of cube and tiles, within 0.5 to 2, in 16 values, or in 11.
        azimuth: Range of the camera's turn about the cube, degrees, within -60 to 60, in 11.

    Raises:
        ValueError: If a part has no rows, or an option is out of range.
    """
    at_least(train=(train, 1), validation=(validation, 1), test=(test, 1))
    variant = one_of("variant", variant, tuple(VARIANTS))
    ranges = {
        "scale": _range("scale", scale, 0.5, 2),
        "azimuth": _range("azimuth", azimuth, -60, 60),
    }
    known = values(variant, **ranges)
    parts = []
    for place, rows in enumerate((train, validation, test)):
        classes = labels(steps(variant, rows, numpy_generator(seed, place)), variant)
        shown = {name: np.array(known[name])[column] for name, column in classes.items()}
        hues = np.stack([shown[name] for name in SHOWN], 1)
        parts.append({"x": images(hues, shown["scale"], shown["azimuth"]), **classes})
    return from_parts(
        "boxhead",
        parts,
        options={
            "train": train, "validation": validation, "test": test, "variant": variant, **ranges
        },
        labelled=labelled,
        seed=seed,
        classes={name: [f"{value:.6g}" for value in column] for name, column in known.items()},
        roles=dict.fromkeys(FACTORS, "factor"),
    )  # fmt: skip


def _range(name: str, value: Any, least: float, most: float) -> Span:
    low, high = span(name, value, least, most)
    if low == high:
        raise ValueError(f"{name} is {value!r}, expected two different numbers")
    return low, high


def values(
    variant: str, scale: Span = (1.0, 1.25), azimuth: Span = (-30.0, 30.0)
) -> dict[str, tuple[float, ...]]:
    """What each class of each factor stands for: hues from 0 to 1, sizes, degrees."""
    sizes, overall, eye = VARIANTS[variant]
    apart = {"overall": overall, **dict.fromkeys(EYES, eye)}
    found = {
        name: tuple(np.arange(0, CIRCLE, apart.get(name, CIRCLE // PLAIN)) / CIRCLE)
        for name in HUES
    }
    found["scale"] = tuple(np.linspace(*scale, sizes + 1))
    found["azimuth"] = tuple(np.linspace(*azimuth, PLAIN + 1))
    return {name: found[name] for name in FACTORS}


def steps(variant: str, rows: int, draw: np.random.Generator) -> dict[str, Array]:
    """Draws of the generator's laws, by factor ``(rows,)``, before hues are put on the circle.

    ``cube``, ``floor``, ``wall``, ``scale`` and ``azimuth`` are numbers of steps from the first
    of their values, both ends included; ``overall`` and the eyes are hues in steps of 1/70.
    """

    def uniform(count: int) -> Array:
        return np.rint(count * draw.random(rows)).astype(np.int64)

    def normal() -> Array:
        return np.rint(7 * draw.normal(size=rows)).astype(np.int64)

    found = {name: uniform(PLAIN) for name in ("cube", "floor", "wall", "azimuth")}
    found["scale"] = uniform(VARIANTS[variant][0])
    if variant == "three_levels":  # 0.2 / 7 of the circle are two steps, a tenth of it are seven
        overall = CIRCLE // PLAIN * found["cube"] + 2 * normal()
        eyes = {name: overall + 2 * uniform(7) - 7 for name in EYES}
    else:
        overall = 10 * uniform(7)
        width = 2 if variant == "two_levels_wide" else 1
        eyes = {name: overall + width * normal() for name in EYES}
    return {"overall": overall, **eyes, **found}


def labels(drawn: Mapping[str, Array], variant: str) -> dict[str, Array]:
    """The class of each factor ``(rows,)`` of what :func:`steps` drew: hues modulo 1."""
    _, overall, eye = VARIANTS[variant]
    apart = {"overall": overall, **dict.fromkeys(EYES, eye)}
    found = {}
    for name in FACTORS:
        found[name] = drawn[name]
        if name in HUES:
            found[name] = drawn[name] % (CIRCLE if name in apart else PLAIN) // apart.get(name, 1)
    return found


def images(hues: Array, scale: Array, azimuth: Array) -> Array:
    """Pictures ``(n, 64, 64, 3)`` of uint8.

    Args:
        hues: Of floor, wall, cube and the four eyes ``(n, 7)``, in turns; the first eye is below
            on the left, the second above it, the third below on the right.
        scale: Size of cube and tiles ``(n,)``.
        azimuth: Turn of the camera about the cube ``(n,)``, degrees, to the right.
    """
    palette = np.concatenate([colours(hues), np.tile(SKY, (len(hues), 1, 1))], 1).astype(
        np.float32
    )
    found = np.empty((len(hues), SIDE**2, 3), np.uint8)
    views, of = np.unique(np.stack([azimuth, scale], 1), axis=0, return_inverse=True)
    for view, (turn, size) in enumerate(views):
        rows = np.flatnonzero(of.reshape(-1) == view)
        found[rows] = np.rint(255 * (geometry(float(turn), float(size)) @ palette[rows]))
    return found.reshape(-1, SIDE, SIDE, 3)


def colours(hues: Array) -> Array:
    """Colours ``(..., 3)`` of full saturation, at half of the lightness."""
    away = np.abs((6 * hues[..., None] - np.array([0, 2, 4]) + 3) % 6 - 3)  # sixths of a turn
    found: Array = (2 - away).clip(0, 1)
    return found


@functools.lru_cache(maxsize=1024)
def geometry(azimuth: float, scale: float) -> Array:
    """How much light of each surface reaches each pixel ``(4096, 8)``: the hued ones and the sky.

    A picture is linear in the surfaces' colours, so that all of a set are products of some 176
    geometries with palettes.

    Args:
        azimuth: Turn of the camera about the cube, degrees.
        scale: Size of cube and tiles.
    """
    turn, tilt = np.deg2rad(azimuth), np.deg2rad(89)
    to = np.array([np.cos(turn) * np.sin(tilt), np.sin(turn) * np.sin(tilt), np.cos(tilt)])
    eye = np.array([0, 0, 2]) + 12 * to
    rays = camera(eye, np.array([0, 0, 2]), 30, 2 * SIDE)
    distance, normal, surface = _room(eye, rays)
    solids = _solids(scale)
    corners = np.min([low for low, _ in solids], 0), np.max([high for _, high in solids], 0)
    near = np.flatnonzero(np.isfinite(box(eye, rays, *corners)[0]))  # no other ray meets a solid
    for place, (low, high) in enumerate(solids, SHOWN.index("cube")):
        own, facing = box(eye, rays[near], low, high)
        front = own < distance[near]
        pixels = near[front]
        distance[pixels], normal[pixels], surface[pixels] = own[front], facing[front], place
    shade = 0.35 + 0.65 * np.maximum(0, normal @ eye / np.linalg.norm(eye))
    shade[surface == len(SHOWN)] = 1  # the sky is not lit
    parts = (surface[:, None] == np.arange(len(SHOWN) + 1)) * shade[:, None]
    pooled = parts.reshape(SIDE, 2, SIDE, 2, -1).mean((1, 3)).reshape(SIDE**2, -1)
    found: Array = pooled.astype(np.float32)
    return found


def _solids(scale: float) -> list[tuple[Array, Array]]:
    """Corners of the cube and of the tiles, in the order of their eyes."""
    boxes = [(np.array([-1.0, -1, 0]), np.array([1.0, 1, 2]))]
    for y in (-HALF, HALF):
        for z in (1 - HALF, 1 + HALF):
            low, high = (
                np.array([STEP, y - HALF, z - HALF]),
                np.array([1 + STEP, y + HALF, z + HALF]),
            )
            boxes.append((low, high))
    return [(scale * low, scale * high) for low, high in boxes]


def _room(eye: Array, rays: Array) -> tuple[Array, Array, Array]:
    """Distance, normal and surface of floor, walls and sky, of rays from within the room."""
    distance = np.full(len(rays), np.inf)
    normal, surface = np.zeros_like(rays), np.full(len(rays), len(SHOWN))
    for axis, place in ((2, 0.0), (0, FAR), (1, LEFT), (1, RIGHT)):
        with np.errstate(divide="ignore"):
            own = (place - eye[axis]) / rays[:, axis]
        hit = (own > 0) & (own < distance)
        distance[hit] = own[hit]
        normal[hit] = np.sign(eye[axis] - place) * np.eye(3)[axis]
        surface[hit] = SHOWN.index("floor" if axis == 2 else "wall")
    with np.errstate(invalid="ignore"):
        above = eye[2] + distance * rays[:, 2] > HIGH
    surface[above] = len(SHOWN)
    return distance, normal, surface
