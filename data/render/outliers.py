"""Shapes with systematic errors, for finding and repairing outliers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import MASK, numpy_generator
from ppl_models.data.tables.table import Dataset

SIDE = 28
CLASSES = {
    "y": ("outlier", "inlier"),
    "shape": ("rectangle", "triangle", "disk", "ellipse"),
    "error": ("none", "column", "row", "upper", "lower"),
}


def load(
    train: int = 4_000,
    validation: int = 500,
    test: int = 500,
    dirty: float = 0.35,
    labelled: int | None = 80,
    seed: int = 0,
) -> Dataset:
    """Binary images ``x`` of 28 x 28 pixels, some with an error; ``y`` is 1 for inliers.

    The Synthetic-Shapes of CLSVAE (Eduardo et al. 2022, arXiv 2207.08050), drawn with masks.
    Four shapes in equal parts, each anywhere in the image; a share of the rows has one of four
    errors, in equal parts: column 20, row 15, or a band of two pixels along an anti-diagonal in
    the upper or lower corner is set to 1. Sites ``clean`` (the image without its error),
    ``shape`` and ``error`` are for scoring only.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        dirty: Share of outliers in every part.
        labelled: Training rows that keep ``y``, the trusted set: as many inliers of each shape
            and outliers of each error. Those of a smaller number are among those of a larger;
            all rows if None.
        seed: Seed of everything.

    Raises:
        ValueError: If the share is not in 0..1, or labels cannot be spread over the kinds.
    """
    if not 0 <= dirty <= 1:
        raise ValueError(f"dirty is {dirty}, expected a share in 0..1")
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        shape = draw.permutation(np.arange(rows) % len(CLASSES["shape"]))
        error = np.zeros(rows, np.int64)
        outliers = draw.permutation(rows)[: round(dirty * rows)]
        error[outliers] = 1 + np.arange(len(outliers)) % (len(CLASSES["error"]) - 1)
        clean = shapes(shape, draw)
        x = clean | np.stack([np.zeros((SIDE, SIDE), bool), *errors()])[error]
        parts.append(
            {
                "x": x,
                "y": (error == 0).astype(np.int64),
                "clean": clean,
                "shape": shape,
                "error": error,
            }
        )
    observed = None
    if labelled is not None:
        observed = {"y": trusted(parts[0]["shape"], parts[0]["error"], labelled, seed)}
    return from_parts(
        "outliers",
        parts,
        options={
            "train": train,
            "validation": validation,
            "test": test,
            "dirty": dirty,
            "labelled": labelled,
        },
        seed=seed,
        classes=CLASSES,
        observed=observed,
        roles={"shape": "factor", "error": "factor"},
    )


def templates() -> tuple[Array, ...]:
    """Rectangle, triangle, disk and ellipse as masks ``(h, w)`` that touch all four sides."""
    row, column = np.indices((SIDE, SIDE))
    edges = [(0, 3), (17, 0), (6, 15), (0, 3)]
    inside = [
        (r1 - r0) * (column - c0) - (c1 - c0) * (row - r0) >= 0
        for (r0, c0), (r1, c1) in pairwise(edges)
    ]
    r, c = row - 8, column - 8
    turned, across = (r - c) / np.sqrt(2), (r + c) / np.sqrt(2)
    wide, narrow = 10, 4
    masks = (
        (row < 12) & (column < 6),
        np.logical_and.reduce(inside),
        r**2 + c**2 < 8**2,
        (turned / narrow) ** 2 + (across / wide) ** 2 < 1,
    )
    return tuple(m[np.ix_(m.any(1), m.any(0))] for m in masks)


def errors() -> tuple[Array, ...]:
    """The errors as masks ``(28, 28)``: column 20, row 15, upper and lower band."""
    row, column = np.indices((SIDE, SIDE))
    along = row + column
    return (
        column == 20,
        row == 15,
        (along == 15) | (along == 16),
        (along == 38) | (along == 39),
    )


def shapes(which: Array, draw: np.random.Generator) -> Array:
    """Images ``(N, 28, 28)`` of shapes by number ``(N,)``, each placed anywhere inside."""
    images = np.zeros((len(which), SIDE, SIDE), bool)
    masks = templates()
    for image, k in zip(images, which, strict=True):
        height, width = masks[k].shape
        top, left = draw.integers(SIDE - height + 1), draw.integers(SIDE - width + 1)
        image[top : top + height, left : left + width] = masks[k]
    return images


def trusted(shape: Array, error: Array, labelled: int, seed: int) -> Array:
    """As many inliers of each shape and outliers of each error: a mask ``(N,)``.

    Args:
        shape: Shape of each row ``(N,)``.
        error: Error of each row, 0 for inliers.
        labelled: Rows of all kinds together.
        seed: Seed of the choice.

    Raises:
        ValueError: If they do not divide over the kinds, or there are fewer rows of a kind.
    """
    kinds = np.where(error > 0, len(CLASSES["shape"]) - 1 + error, shape)
    names = (*CLASSES["shape"], *CLASSES["error"][1:])
    there = np.unique(kinds)
    if labelled < 1 or labelled % len(there):
        raise ValueError(
            f"labelled is {labelled}, expected a multiple of {len(there)}, as many rows of each "
            f"of {', '.join(names[kind] for kind in there)}"
        )
    count = labelled // len(there)
    order = numpy_generator(seed, MASK).permutation(len(kinds))
    mask = np.zeros(len(kinds), bool)
    for kind in there:
        rows = order[kinds[order] == kind]
        if len(rows) < count:
            raise ValueError(
                f"labelled is {labelled}, which asks for {count} rows of {names[kind]!r}, but "
                f"there are {len(rows)}"
            )
        mask[rows[:count]] = True
    return mask
