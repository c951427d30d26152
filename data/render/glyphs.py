"""Procedural glyphs: three parts that are there or not, and if there, to some degree."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppl_models.data.render.world_options import number, numbers
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

SIDE = 16
PARTS = ("bar", "blob", "square")


def load(
    train: int = 4_000,
    validation: int = 500,
    test: int = 1_000,
    noise: float = 0.05,
    labelled: int | Mapping[str, int] | None = 400,
    seed: int = 0,
    *,
    frequency: tuple[float, ...] = (0.5, 0.5, 0.5),
    least: float = 0.35,
) -> Dataset:
    """Pictures ``x`` of 16 x 16 pixels with a ``bar``, a ``blob`` and a ``square``, or without.

    Each part is there with probability 1/2, and then to a degree that is uniform in 0.35 to 1,
    the bar's height, the blob's brightness, the square's size (see :func:`pictures`). Sites
    ``bar_degree``, ``blob_degree`` and ``square_degree`` (0 where it is absent) are for scoring
    only. Stands in for attributes of faces in CCVAE (Joy et al. 2021, arXiv 2006.10102).

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        noise: Standard deviation of the Normal noise on every pixel.
        labelled: Training rows that keep all three labels, those of a smaller number among
            those of a larger; or a number by label, whose rows are chosen each for itself,
            balanced (labels left out keep all); all rows if None.
        seed: Seed of everything; the parts have draws of their own.
        frequency: Probability that bar, blob and square are there, each for itself.
        least: Least degree of a part that is there, 0 to 1.

    Raises:
        ValueError: If an option is out of range.
    """
    noise, least = number("noise", noise, 0), number("least", least, 0, 1)
    shares = numbers("frequency", frequency, len(PARTS), 0, 1)
    if isinstance(labelled, int) and not 1 <= labelled <= train:
        raise ValueError(f"labelled is {labelled}, expected 1 to {train} training rows")
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        # The first digit of a uniform number, to the base 2: 1 where that is below 1/2.
        first = draw.integers(2, size=(rows, len(PARTS)))
        rest = numpy_generator(seed, place, 1).random(first.shape)
        there = ((1 - first + rest) / 2 < shares).astype(np.int64)
        degree = there * draw.uniform(least, 1, there.shape)
        x = pictures(degree) + draw.normal(0, noise, (rows, SIDE, SIDE))
        found: dict[str, Array] = {"x": x}
        for k, name in enumerate(PARTS):
            found |= {name: there[:, k], f"{name}_degree": degree[:, k]}
        parts.append(found)
    known, by_site = None, labelled
    if isinstance(labelled, int):
        known, by_site = dict.fromkeys(PARTS, np.arange(train) < labelled), None
    return from_parts(
        "glyphs",
        parts,
        options={
            "train": train,
            "validation": validation,
            "test": test,
            "noise": noise,
            "frequency": shares,
            "least": least,
            "labelled": dict(labelled) if isinstance(labelled, Mapping) else labelled,
        },
        labelled=by_site,
        seed=seed,
        classes=dict.fromkeys(PARTS, ("absent", "there")),
        observed=known,
        roles=dict.fromkeys((f"{name}_degree" for name in PARTS), "factor"),
    )


def pictures(degree: Array) -> Array:
    """Pictures ``(N, 16, 16)`` without noise of degrees ``(N, 3)``, 0 for a part that is absent.

    Pixels are counted from the top left. The bar (1.0) fills columns 2 to 4 from the bottom to
    height 16 c; the blob, c exp(-r^2 / 6), lies at (4, 11); the square (0.8) is all within
    4 c - 0.5 of (12, 11), across and down.
    """
    row, column = np.mgrid[:SIDE, :SIDE].astype(float)
    bar, blob, square = (degree[:, k, None, None] for k in range(len(PARTS)))
    inside = (column >= 2) & (column <= 4) & (row >= SIDE * (1 - bar))
    page: Array = inside + blob * np.exp(-((row - 4) ** 2 + (column - 11) ** 2) / 6)
    apart = np.maximum(abs(row - 12), abs(column - 11))
    page += 0.8 * ((apart <= 4 * square - 0.5) & (square > 0))
    return page
