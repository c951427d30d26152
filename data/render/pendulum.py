"""The pendulum and its shadow (Yang et al. 2021), and stand-ins of DEAR (Shen et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl_models.config import check_seed
from ppl_models.data.factors.grid import BLOCK
from ppl_models.data.render.world_options import Span, number, numbers, span
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset

PIVOT = (10.0, 10.5)
GROUND, LIGHT_HEIGHT = -0.5, 20.5
ROD = 8.0
FINE = 3  # sub-pixels per side
# Where a figure with matplotlib's margins puts the axes, as shares of its side.
LEFT, RIGHT, BOTTOM, TOP = 0.125, 0.9, 0.11, 0.88
FIREBRICK, ORANGE, BLACK = (178, 34, 34), (255, 165, 0), (0, 0, 0)
UPRIGHT = 90.0  # slope of a ray, degrees, of which no picture is drawn
# Pendulum angle on length and on position of the shadow, light angle on both.
EDGES = (1.0, 0.8, -1.0, 1.2)
NAMES = ("pendulum_angle", "light_angle", "shadow_length", "shadow_position")


def load(
    side: int = 64,
    validation: int = 500,
    labelled: int | None = None,
    seed: int = 0,
    *,
    pendulum_angle: tuple[float, float] = (-36.0, 38.7),
    light_angle: tuple[float, float] = (54.0, 132.3),
    step: float = 0.9,
    shortest: float = 3.0,
    noise: float = 0.0,
) -> Dataset:
    """All 7,308 pendulums, sites ``x`` (side x side x 3) and four numbers.

    ``pendulum_angle`` and ``light_angle`` in degrees cause ``shadow_length`` and
    ``shadow_position`` in units of the drawing, of 20 x 22. The recipe is that of CausalVAE:
    angles in steps of 0.9 degrees, the fifth image and every fourth from there on for the
    test. Images are drawn in the frame of the published figures, margins included.

    Args:
        side: Pixels per side, 64 or what else you like.
        validation: Training rows set aside.
        labelled: Training rows that keep their four numbers; all if None.
        seed: Seed of both choices.
        pendulum_angle: Range of the angles to the vertical, degrees, ends included.
        light_angle: Range of the slopes of the rays, degrees, within 0 to 180 without either;
            90 is left out.
        step: From one angle to the next, degrees.
        shortest: Least length of a shadow, in units of the drawing, at least 0.01.
        noise: Standard deviation of the Normal noise on shadow length and position. Images are
            drawn without it.

    Raises:
        ValueError: If an option is out of range or there are too few rows.
    """
    grid = _grid(pendulum_angle, light_angle, step)
    own, slopes = grid.pop("angles")
    true = shadow(own, slopes, number("shortest", shortest, 0.01))
    is_test = np.arange(1, len(true) + 1) % 4 == 1
    is_test[0] = False
    options = {
        "side": side, **grid, "shortest": shortest, "noise": noise,
        "validation": validation, "labelled": labelled,
    }  # fmt: skip
    return _dataset("pendulum", true, np.flatnonzero(is_test), options, seed)


def load_dear(
    side: int = 64,
    noise: float = 1.1,
    validation: int = 500,
    labelled: int | None = None,
    seed: int = 0,
    *,
    pendulum_angle: tuple[float, float] = (0.0, 40.5),
    light_angle: tuple[float, float] = (48.0, 88.5),
    step: float = 0.5,
    shortest: float = 2.0,
) -> Dataset:
    """The 6,724 pendulums of DEAR, whose archive is not what the script of CausalVAE draws.

    Angles of 0 to 40.5 and 48 to 88.5 degrees in steps of 0.5, shadows of length 2 at least,
    and noise on the labels of the shadow (found from the moments in the paper's code). Sites
    as of :func:`load`; a quarter of the rows, drawn at random, for the test.

    Args:
        side: Pixels per side.
        noise: Standard deviation of the noise on shadow length and position. Images are
            drawn without it.
        validation: Training rows set aside.
        labelled: Training rows that keep their four numbers; all if None.
        seed: Seed of noise, split and the numbers that are kept.
        pendulum_angle: Range of the angles to the vertical, degrees, ends included.
        light_angle: Range of the slopes of the rays, degrees, within 0 to 180 without either;
            90 is left out.
        step: From one angle to the next, degrees.
        shortest: Least length of a shadow, in units of the drawing, at least 0.01.

    Raises:
        ValueError: If an option is out of range or there are too few rows.
    """
    grid = _grid(pendulum_angle, light_angle, step)
    own, slopes = grid.pop("angles")
    true = shadow(own, slopes, number("shortest", shortest, 0.01))
    (test,) = split(len(true), (len(true) // 4,), seed)
    options = {
        "side": side, "noise": noise, **grid, "shortest": shortest,
        "validation": validation, "labelled": labelled,
    }  # fmt: skip
    return _dataset("pendulum_dear", true, test.numpy(), options, seed)


def load_vectors(
    train: int = 4_800,
    validation: int = 200,
    test: int = 1_000,
    labelled: int | None = None,
    seed: int = 0,
    *,
    edges: tuple[float, ...] = EDGES,
    noise: float = 0.02,
    network_seed: int | None = None,
) -> Dataset:
    """A pendulum without pictures: sites ``x`` (16 numbers) and the four factors.

    A linear structural model u = e (I - A)^-1 of sd(e) = (1, 1, 0.5, 0.5) whose columns are
    standardised, two nuisances beside it, and x a fixed random network of all six plus noise
    of 0.02.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        labelled: Training rows that keep their factors; all if None.
        seed: Seed of the rows and the factors that are kept.
        edges: Entries of A: how much the pendulum's angle acts on the shadow's length and on
            its position, and how much the light's angle acts on both; 0 for no arrow.
        noise: Standard deviation of the Normal noise on ``x``.
        network_seed: Seed of the network, which is then the same for all seeds and numbers of
            rows; if None each has a network of its own.

    Raises:
        ValueError: If a part has no rows, or an option is out of range.
    """
    edges = numbers("edges", edges, 4)
    noise, draw = number("noise", noise, 0), numpy_generator(seed, 0)
    rows = train + validation + test
    factors = (
        draw.normal(size=(rows, 4)) * [1, 1, 0.5, 0.5] @ np.linalg.inv(np.eye(4) - graph(edges))
    )
    factors = (factors - factors.mean(0)) / factors.std(0)
    sources = np.hstack([factors, draw.normal(size=(rows, 2))])
    own = draw
    if network_seed is not None:
        own = numpy_generator(check_seed(network_seed, "network_seed"), 4)
    hidden = np.tanh(sources @ own.normal(0, 6**-0.5, (6, 24)))
    x = 1.5 * hidden @ own.normal(0, 24**-0.5, (24, 16)) + draw.normal(0, noise, (rows, 16))
    sites = {"x": x, **dict(zip(NAMES, factors.T, strict=True))}
    ends = np.cumsum([train, validation])
    parts = [
        dict(zip(sites, values, strict=True))
        for values in zip(*(np.split(v, ends) for v in sites.values()), strict=True)
    ]
    options = {
        "train": train, "validation": validation, "test": test, "edges": edges,
        "noise": noise, "network_seed": network_seed, "labelled": labelled,
    }  # fmt: skip
    observed = _keep(train, labelled, seed)
    return from_parts("pendulum_vectors", parts, options=options, seed=seed, observed=observed)


def graph(edges: Sequence[float] = EDGES) -> Array:
    """The matrix A ``(4, 4)`` of :func:`load_vectors`: row i acts on column j."""
    acts = np.zeros((4, 4))
    acts[:2, 2:] = np.reshape(edges, (2, 2))
    return acts


def shadow(pendulum: Array, light: Array, shortest: float = 3) -> Array:
    """Angles in degrees, length and position of the shadow ``(n, 4)``.

    The shadow lies between where the rays through the pivot and through the tip of the rod
    reach the ground. Its tip is 9.5 from the pivot: the bob hides the rest of it.

    Args:
        pendulum: Angles to the vertical ``(n,)``.
        light: Slopes of the rays ``(n,)``.
        shortest: Least length.
    """
    x, y = _end(pendulum, 9.5)
    ends = np.stack([_reach(light, *PIVOT, GROUND), _reach(light, x, y, GROUND)])
    length = np.maximum(shortest, np.abs(ends[0] - ends[1]))
    return np.stack([pendulum, light, length, ends.mean(0)], axis=1)


def draw_pendulums(numbers: Array, side: int = 64) -> Array:
    """Images ``(n, side, side, 3)`` of uint8 for the four numbers ``(n, 4)`` of each.

    Args:
        numbers: As :func:`shadow` gives them.
        side: Pixels per side.
    """
    return np.concatenate(
        [_block(numbers[k : k + BLOCK // 8], side) for k in range(0, len(numbers), BLOCK // 8)]
    )


def _block(numbers: Array, side: int) -> Array:
    pendulum, light, length, position = numbers.T.astype(np.float32)
    share = ((np.arange(side * FINE) + 0.5) / (side * FINE)).astype(np.float32)
    x = (20 * (share - LEFT) / (RIGHT - LEFT))[None, None, :]
    y = (21 - 22 * (share - (1 - TOP)) / (TOP - BOTTOM))[None, :, None]
    inside = (x >= 0) & (x <= 20) & (y >= -1) & (y <= 21)
    bob = _end(pendulum, ROD)
    lamp = _reach(light, *PIVOT, LIGHT_HEIGHT)

    def disc(centre_x: Array, centre_y: Array | float, radius: float) -> Array:
        centre_y = np.broadcast_to(centre_y, centre_x.shape)
        across, down = x - centre_x[:, None, None], y - centre_y[:, None, None]
        lit: Array = across**2 + down**2 <= radius**2
        return lit

    image = np.full((len(numbers), side * FINE, side * FINE, 3), 255, dtype=np.uint8)
    zero = np.full_like(lamp, GROUND)
    for mask, colour in (
        (disc(*bob, 1.5), FIREBRICK),
        (disc(lamp, LIGHT_HEIGHT, 3), ORANGE),
        (_line(x, y, (np.full_like(lamp, PIVOT[0]), np.full_like(lamp, PIVOT[1])), bob), BLACK),
        (_line(x, y, (position - length / 2, zero), (position + length / 2, zero)), BLACK),
    ):
        image[mask & inside] = colour
    fine = image.reshape(-1, side, FINE, side, FINE, 3)
    pooled: Array = np.rint(fine.mean((2, 4), dtype=np.float32)).astype(np.uint8)
    return pooled


def _line(x: Array, y: Array, start: tuple[Array, Array], end: tuple[Array, Array]) -> Array:
    # A line of 3 points in a figure of an inch is about 0.9 units wide.
    (x0, y0), (x1, y1) = ((a[:, None, None], b[:, None, None]) for a, b in (start, end))
    along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
    along = along.clip(0, 1)
    away = (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2
    lit: Array = away <= 0.45**2
    return lit


def _end(degrees: Array, length: float) -> tuple[Array, Array]:
    angle = np.deg2rad(degrees)
    return PIVOT[0] + length * np.sin(angle), PIVOT[1] - length * np.cos(angle)


def _reach(degrees: Array, x: Array | float, y: Array | float, height: float) -> Array:
    """Where the ray of this slope through a point is at this height."""
    slope = np.tan(np.deg2rad(degrees))
    where: Array = (height - (y - x * slope)) / slope
    return where


def _grid(pendulum: Span, light: Span, step: float) -> dict[str, Any]:
    """The checked options, and ``angles`` ``(2, n)`` of each combination of both."""
    if not number("step", step) > 0:
        raise ValueError(f"step is {step}, expected more than 0 degrees")
    pendulum = span("pendulum_angle", pendulum, -180, 180)
    light = span("light_angle", light, 0, 180)
    if not 0 < light[0] <= light[1] < 180:
        raise ValueError(f"light_angle is {light}, expected slopes between 0 and 180 degrees")
    own, slopes = (_steps(*ends, step) for ends in (pendulum, light))
    slopes = slopes[np.abs(slopes - UPRIGHT) > 1e-9]
    angles = np.stack([a.ravel() for a in np.meshgrid(own, slopes, indexing="ij")])
    return {"pendulum_angle": pendulum, "light_angle": light, "step": step, "angles": angles}


def _steps(low: float, high: float, step: float) -> Array:
    """Numbers from low to high, both included where steps lead there."""
    first = round(low / step)
    if abs(first * step - low) < 1e-9:  # whole steps from 0, without an error that adds up
        return np.arange(first, math.floor(high / step + 1e-9) + 1) * step
    return low + np.arange(math.floor((high - low) / step + 1e-9) + 1) * step


def _dataset(
    name: str, true: Array, test: Array, options: Mapping[str, Any], seed: int
) -> Dataset:
    seen, noise = true.copy(), number("noise", options["noise"], 0)
    seen[:, 2:] += numpy_generator(seed, 0).normal(0, noise, (len(seen), 2)) if noise else 0
    rest = np.setdiff1d(np.arange(len(true)), test)
    held = options["validation"]
    left, validation = split(len(rest), (len(rest) - held, held), seed)
    rows = [rest[left.numpy()], rest[validation.numpy()], test]
    images = draw_pendulums(true, options["side"])
    parts = [{"x": images[r], **dict(zip(NAMES, seen[r].T, strict=True))} for r in rows]
    observed = _keep(len(rows[0]), options["labelled"], seed)
    return from_parts(name, parts, options=options, seed=seed, numbers=rows, observed=observed)


def _keep(rows: int, labelled: int | None, seed: int) -> dict[str, Array]:
    """Masks under which so many rows keep all four numbers."""
    if labelled is None:
        return {}
    if not 1 <= labelled <= rows:
        raise ValueError(f"labelled is {labelled}, expected 1 to {rows}")
    mask = np.zeros(rows, dtype=bool)
    mask[numpy_generator(seed, 3).permutation(rows)[:labelled]] = True
    return dict.fromkeys(NAMES, mask)
