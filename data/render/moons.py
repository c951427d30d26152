"""Half moons, with labels that may be noisy in a known region."""

from __future__ import annotations

import numpy as np
import torch

from ppl_models.data.render.world_options import frequencies, number, spread
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.hiding import hide_labels
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

MEAN, DEVIATION = np.array([0.5, 0.25]), np.array([0.866, 0.5])  # of moons without noise, about
BORDER = 1.0  # labels may flip right of it
MOONS = ("upper", "lower")


def load(
    train: int = 1_500,
    validation: int = 500,
    test: int = 2_000,
    noise: float = 0.1,
    flip: float = 0.0,
    labelled: int | None = 6,
    seed: int = 0,
    *,
    border: float = BORDER,
    frequency: tuple[float, ...] | None = None,
) -> Dataset:
    """Points ``x`` (2) on two interleaved half circles of radius 1, class ``y`` 0 or 1.

    Class 0 is the upper half circle around (0, 0), class 1 the lower one around (1, 0.5), as in
    scikit-learn's ``make_moons``, but with angles drawn uniformly and coordinates standardised by
    the moons' own mean (0.5, 0.25) and deviation (0.866, 0.5). Each class has its share of every
    part's rows.
    Right of 1 (in the circles' coordinates) each label is flipped with probability ``flip``, in
    all parts. Sites ``clean`` (the label before) and ``region`` (1 right of 1) are for scoring.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        noise: Standard deviation of the Normal noise on both coordinates.
        flip: Probability of a wrong label in the region.
        labelled: Training rows that keep ``y``, balanced over the classes; all rows if None.
        seed: Seed of everything; the parts have draws of their own.
        border: Where the region begins, in the circles' coordinates.
        frequency: Share of the upper and the lower moon; equal if None.

    Raises:
        ValueError: If an option is out of range.
    """
    noise, flip = number("noise", noise, 0), number("flip", flip, 0, 1)
    border, shares = number("border", border), frequencies("frequency", frequency, len(MOONS))
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        clean = draw.permutation(spread(rows, len(MOONS), shares))
        points = circles(clean, draw.uniform(0, np.pi, rows)) + draw.normal(0, noise, (rows, 2))
        region = points[:, 0] > border
        y = np.where(region & (draw.random(rows) < flip), 1 - clean, clean)
        x = (points - MEAN) / DEVIATION
        parts.append({"x": x, "y": y, "clean": clean, "region": region.astype(np.int64)})
    observed = None
    if labelled is not None:
        kept = hide_labels(torch.from_numpy(parts[0]["y"]), labelled, 2, seed)
        observed = {"y": kept.numpy()}
    return from_parts(
        "moons",
        parts,
        options={
            "train": train,
            "validation": validation,
            "test": test,
            "noise": noise,
            "flip": flip,
            "border": border,
            "frequency": shares,
            "labelled": labelled,
        },
        seed=seed,
        classes={
            "y": ("upper", "lower"),
            "clean": ("upper", "lower"),
            "region": ("left", "right"),
        },
        observed=observed,
        roles={"clean": "factor", "region": "factor"},
    )


def circles(y: Array, angle: Array) -> Array:
    """Points ``(N, 2)`` on the half circle of each class at an angle from 0 to pi."""
    upper = np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.where(y[:, None] == 0, upper, [1.0, 0.5] - upper)
