"""Procedural faces and multi-digit canvases (after Siddharth et al. 2017, arXiv 1706.00400)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage
from scipy.special import expit

from ppl_models.config import whole
from ppl_models.data.render.handwriting import handwritten
from ppl_models.data.render.world_options import (
    frequencies,
    number,
    own_seed,
    redrawn,
    span,
    spread,
)
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

CANVAS, DIGIT, MOST = 40, 14, 3


def load_faces(
    train: int = 3_000,
    validation: int = 200,
    test: int = 1_000,
    identities: int = 8,
    side: int = 16,
    noise: float = 0.05,
    labelled: Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    azimuth: tuple[float, float] = (-1.2, 1.2),
    elevation: tuple[float, float] = (-0.8, 0.8),
    relief: float = 1.6,
    frequency: tuple[float, ...] | None = None,
    people_seed: int | None = None,
) -> Dataset:
    """Lambertian reliefs ``x`` of a few ``identity`` under a ``light`` (3 numbers).

    Each identity is a relief (normals of 1.6 times a smooth random height map) with an
    albedo; light comes from within 1.2 radians to the side and 0.8 up or down;
    x = albedo max(n . l, 0) plus noise. Stands in for Yale B. Site ``shading`` is
    max(n . l, 0) and ``albedo`` the rest, for scoring only. Pictures of the same people:
    ``people_seed=0`` with another ``seed``; other people under the same lights: the reverse.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        identities: Number of identities.
        side: Pixels per side.
        noise: Standard deviation of the noise.
        labelled: Training rows that keep ``identity``; all if None.
        seed: Seed of the pictures, who is in them and in what light, and of what is labelled.
        azimuth: Range of the light's angle to the side, radians, uniform.
        elevation: Range of its angle up, radians, uniform.
        relief: How high the reliefs are, in units of the smooth random height map.
        frequency: Probability of each identity; equal if None.
        people_seed: Seed of the people, reliefs and albedos; ``seed`` if None.

    Raises:
        ValueError: If an option is out of range.
    """
    identities = whole("identities", identities, 2)
    noise, relief = number("noise", noise, 0), number("relief", relief, 0)
    azimuth, elevation = span("azimuth", azimuth), span("elevation", elevation)
    shares = frequencies("frequency", frequency, identities)
    normal, albedo = people(identities, side, relief, own_seed("people_seed", people_seed, seed))
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        who = draw.integers(identities, size=rows)
        who = redrawn(who, identities, shares, numpy_generator(seed, place, 1))
        light = directions(draw.uniform(*azimuth, rows), draw.uniform(*elevation, rows))
        shading = np.maximum(np.einsum("nhwk,nk->nhw", normal[who], light), 0)
        x = albedo[who] * shading + draw.normal(0, noise, shading.shape)
        parts.append(
            {"x": x, "identity": who, "light": light, "shading": shading, "albedo": albedo[who]}
        )
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "identities": identities,
        "side": side,
        "noise": noise,
        "azimuth": azimuth,
        "elevation": elevation,
        "relief": relief,
        "frequency": shares,
        "people_seed": people_seed,
    }
    return from_parts(
        "faces",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"identity": tuple(map(str, range(identities)))},
    )


def people(identities: int, side: int, relief: float, seed: int) -> tuple[Array, Array]:
    """Unit normals ``(identities, side, side, 3)`` and albedos ``(identities, side, side)``."""
    draw = numpy_generator(seed, 3)
    height = relief * _smooth(draw.normal(size=(identities, 5, 5)), side)
    down, across = np.gradient(height, axis=(1, 2))
    normal = np.stack([-2 * across, -2 * down, np.ones_like(height)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return normal, 0.35 + 0.6 * expit(2 * _smooth(draw.normal(size=(identities, 6, 6)), side))


def directions(azimuth: Array, elevation: Array) -> Array:
    """Unit vectors ``(n, 3)`` to the right, up and to the front of angles in radians ``(n,)``."""
    return np.stack(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        axis=1,
    )


def load_multi_digits(
    train: int = 5_000,
    validation: int = 500,
    test: int = 1_000,
    source: str | None = None,
    labelled: Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    side: int = CANVAS,
    most: int = MOST,
    scale: tuple[float, float] = (0.8, 1.2),
    frequency: tuple[float, ...] | None = None,
) -> Dataset:
    """Canvases ``x`` of 40 x 40 pixels with 0 to 3 real digits, and their ``count``.

    Digits of 14 x 14 pixels, scaled by U(0.8, 1.2), anywhere on the canvas; where they
    overlap the brighter pixel stays. Sites ``digit_0`` to ``digit_2`` say which, with the
    class ``none`` from ``count`` on. Each count has its share of every part's rows.

    Args:
        train: Training rows, with digits of the source's training rows.
        validation: Validation rows, likewise.
        test: Test rows, with digits of its test rows.
        source: ``mnist`` or ``digits``; when left out MNIST if it is there.
        labelled: Training rows that keep their label, by site; all if None.
        seed: Seed of everything.
        side: Pixels per side of the canvas.
        most: Most digits on a canvas, 1 to 10.
        scale: Range of the digits' size, in units of 14 pixels, uniform.
        frequency: Share of the rows with 0, 1, ... digits; equal if None.

    Raises:
        FileNotFoundError: If MNIST was asked for and is not there.
        ValueError: If a part has no rows, or an option is out of range.
    """
    side, most = whole("side", side, DIGIT), whole("most", most, 1)
    if most > 10:
        raise ValueError(f"most is {most}, expected 1 to 10")
    scale = span("scale", scale, 0.1, side / DIGIT)
    shares = frequencies("frequency", frequency, most + 1)
    source, (known, held) = handwritten(source, DIGIT)
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        images, label = held if place == 2 else known
        count = draw.permutation(spread(rows, most + 1, shares))
        chosen = draw.integers(len(label), size=(rows, most))
        there = np.arange(most) < count[:, None]
        x = canvases(images[chosen], there, draw, side, scale)
        digit = np.where(there, label[chosen], 10)
        parts.append({"x": x, "count": count, **{f"digit_{k}": digit[:, k] for k in range(most)}})
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "side": side,
        "most": most,
        "scale": scale,
        "frequency": shares,
        "source": source,
    }
    names = (*"0123456789", "none")
    return from_parts(
        "multi_digits",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={
            "count": tuple(map(str, range(most + 1))),
            **{f"digit_{k}": names for k in range(most)},
        },
    )


def canvases(
    images: Array,
    there: Array,
    generator: np.random.Generator,
    side: int = CANVAS,
    sizes: tuple[float, float] = (0.8, 1.2),
) -> Array:
    """Canvases ``(n, side, side)`` of uint8 with images ``(n, k, 14, 14)`` where they are there.

    Args:
        images: Digits of uint8.
        there: Which of them are drawn ``(n, k)``.
        generator: Source of sizes and places.
        side: Pixels per side.
        sizes: Range of the digits' size, in units of 14 pixels.
    """
    n, most = there.shape
    scale = generator.uniform(*sizes, (n, most))
    half = scale * DIGIT / 2
    centre = generator.uniform(half[..., None], side - half[..., None], (n, most, 2))
    page = np.zeros((n, side, side), dtype=np.float32)
    pixel = np.arange(side) + 0.5
    slot = np.broadcast_to(np.arange(n)[:, None, None], page.shape)
    for k in range(most):
        # Where each pixel of the canvas comes from in the digit's own pixels.
        down, across = (
            (pixel - centre[:, k, axis, None]) / scale[:, k, None] + DIGIT / 2 - 0.5
            for axis in (0, 1)
        )
        at = np.broadcast_arrays(slot, down[:, :, None], across[:, None])
        drawn = ndimage.map_coordinates(
            images[:, k].astype(np.float32), np.stack(at), order=1, mode="grid-constant"
        )
        page = np.maximum(page, drawn * there[:, k, None, None])
    return np.rint(page).astype(np.uint8)


def _smooth(grid: Array, side: int) -> Array:
    factor = side / grid.shape[1]
    smooth: Array = ndimage.zoom(
        grid, (1, factor, factor), order=3, mode="nearest", grid_mode=True
    )
    return smooth
