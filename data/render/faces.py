"""Procedural faces and multi-digit canvases (after Siddharth et al. 2017, arXiv 1706.00400)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage
from scipy.special import expit

from ppl_models.data.render.handwriting import handwritten
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
) -> Dataset:
    """Lambertian reliefs ``x`` of a few ``identity`` under a ``light`` (3 numbers).

    Each identity is a relief (normals of 1.6 times a smooth random height map) with an
    albedo; light comes from within 1.2 radians to the side and 0.8 up or down;
    x = albedo max(n . l, 0) plus noise. Stands in for Yale B. Site ``shading`` is
    max(n . l, 0) and ``albedo`` the rest, for scoring only.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        identities: Number of identities.
        side: Pixels per side.
        noise: Standard deviation of the noise.
        labelled: Training rows that keep ``identity``; all if None.
        seed: Seed of everything.

    Raises:
        ValueError: If an option is out of range.
    """
    if identities < 2:
        raise ValueError(f"identities is {identities}, expected at least 2")
    people = numpy_generator(seed, 3)
    height = 1.6 * _smooth(people.normal(size=(identities, 5, 5)), side)
    down, across = np.gradient(height, axis=(1, 2))
    normal = np.stack([-2 * across, -2 * down, np.ones_like(height)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    albedo = 0.35 + 0.6 * expit(2 * _smooth(people.normal(size=(identities, 6, 6)), side))
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        who = draw.integers(identities, size=rows)
        azimuth, elevation = draw.uniform(-1.2, 1.2, rows), draw.uniform(-0.8, 0.8, rows)
        light = np.stack(
            [
                np.sin(azimuth) * np.cos(elevation),
                np.sin(elevation),
                np.cos(azimuth) * np.cos(elevation),
            ],
            axis=1,
        )
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
    }
    return from_parts(
        "faces",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"identity": tuple(map(str, range(identities)))},
    )


def load_multi_digits(
    train: int = 5_000,
    validation: int = 500,
    test: int = 1_000,
    source: str | None = None,
    labelled: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Dataset:
    """Canvases ``x`` of 40 x 40 pixels with 0 to 3 real digits, and their ``count``.

    Digits of 14 x 14 pixels, scaled by U(0.8, 1.2), anywhere on the canvas; where they
    overlap the brighter pixel stays. Sites ``digit_0`` to ``digit_2`` say which, with the
    class ``none`` from ``count`` on. Counts are balanced.

    Args:
        train: Training rows, with digits of the source's training rows.
        validation: Validation rows, likewise.
        test: Test rows, with digits of its test rows.
        source: ``mnist`` or ``digits``; when left out MNIST if it is there.
        labelled: Training rows that keep their label, by site; all if None.
        seed: Seed of everything.

    Raises:
        FileNotFoundError: If MNIST was asked for and is not there.
        ValueError: If a part has no rows.
    """
    source, (known, held) = handwritten(source, DIGIT)
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        images, label = held if place == 2 else known
        count = draw.permutation(np.arange(rows) % (MOST + 1))
        chosen = draw.integers(len(label), size=(rows, MOST))
        there = np.arange(MOST) < count[:, None]
        x = canvases(images[chosen], there, draw)
        digit = np.where(there, label[chosen], 10)
        parts.append({"x": x, "count": count, **{f"digit_{k}": digit[:, k] for k in range(MOST)}})
    options = {"train": train, "validation": validation, "test": test, "source": source}
    names = (*"0123456789", "none")
    return from_parts(
        "multi_digits",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"count": tuple("0123"), **{f"digit_{k}": names for k in range(MOST)}},
    )


def canvases(images: Array, there: Array, generator: np.random.Generator) -> Array:
    """Canvases ``(n, 40, 40)`` of uint8 with images ``(n, 3, 14, 14)`` where they are there."""
    n = len(images)
    scale = generator.uniform(0.8, 1.2, (n, MOST))
    half = scale * DIGIT / 2
    centre = generator.uniform(half[..., None], CANVAS - half[..., None], (n, MOST, 2))
    page = np.zeros((n, CANVAS, CANVAS), dtype=np.float32)
    span = np.arange(CANVAS) + 0.5
    slot = np.broadcast_to(np.arange(n)[:, None, None], page.shape)
    for k in range(MOST):
        # Where each pixel of the canvas comes from in the digit's own pixels.
        down, across = (
            (span - centre[:, k, axis, None]) / scale[:, k, None] + DIGIT / 2 - 0.5
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
