"""Shapes with systematic errors, for finding and repairing outliers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ppl_models.config import whole
from ppl_models.data.render.world_options import chosen, number
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import MASK, numpy_generator
from ppl_models.data.tables.table import Dataset

SIDE = 28
SHAPES = ("rectangle", "triangle", "disk", "ellipse")
ERRORS = ("column", "row", "upper", "lower")  # of the paper


def load(
    train: int = 4_000,
    validation: int = 500,
    test: int = 500,
    dirty: float = 0.35,
    labelled: int | None = 80,
    seed: int = 0,
    *,
    shapes: tuple[str, ...] = SHAPES,
    errors: tuple[str, ...] = ERRORS,
    width: int = 1,
    shift: int = 0,
) -> Dataset:
    """Binary images ``x`` of 28 x 28 pixels, some with an error; ``y`` is 1 for inliers.

    The Synthetic-Shapes of CLSVAE (Eduardo et al. 2022, arXiv 2207.08050), drawn with masks.
    Four shapes in equal parts, each anywhere in the image; a share of the rows has one of four
    errors, in equal parts: column 20, row 15, or a band of two pixels along an anti-diagonal in
    the upper or lower corner is set to 1 (see :func:`error_masks`, also for what else there is).
    The shapes are drawn alike for all choices of errors. Sites ``clean`` (the image without its
    error), ``shape`` and ``error`` are for scoring only.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        dirty: Share of outliers in every part.
        labelled: Training rows that keep ``y``, the trusted set: as many inliers of each shape
            and outliers of each error. Those of a smaller number are among those of a larger;
            all rows if None.
        seed: Seed of everything.
        shapes: Which shapes, some of ``rectangle``, ``triangle``, ``disk``, ``ellipse``.
        errors: Which errors, some of ``column``, ``row``, ``upper``, ``lower`` and, beyond the
            paper's, ``diagonal``, ``square``, ``frame``.
        width: Thickness of the errors, pixels; bands are twice as thick.
        shift: Pixels by which the errors lie further down and right; the frame stays.

    Raises:
        ValueError: If an option is out of range, or labels cannot be spread over the kinds.
    """
    dirty = number("dirty", dirty, 0, 1)
    shapes = chosen("shapes", shapes, SHAPES)
    masks = error_masks(errors, width, shift)
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        shape = draw.permutation(np.arange(rows) % len(shapes))
        error = np.zeros(rows, np.int64)
        outliers = draw.permutation(rows)[: round(dirty * rows)]
        error[outliers] = 1 + np.arange(len(outliers)) % len(masks)
        clean = placed(np.array([SHAPES.index(kind) for kind in shapes])[shape], draw)
        x = clean | np.stack([np.zeros((SIDE, SIDE), bool), *masks])[error]
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
        kinds = parts[0]["shape"], parts[0]["error"]
        observed = {"y": trusted(*kinds, labelled, seed, shapes, errors)}
    return from_parts(
        "outliers",
        parts,
        options={
            "train": train,
            "validation": validation,
            "test": test,
            "dirty": dirty,
            "shapes": shapes,
            "errors": tuple(errors),
            "width": width,
            "shift": shift,
            "labelled": labelled,
        },
        seed=seed,
        classes={"y": ("outlier", "inlier"), "shape": shapes, "error": ("none", *errors)},
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


def error_masks(
    errors: Sequence[str] = ERRORS, width: int = 1, shift: int = 0
) -> tuple[Array, ...]:
    """The errors as masks ``(28, 28)``, in the order that they are asked for.

    Column 20, row 15, bands along the anti-diagonals 15 and 38 (``upper`` and ``lower``, two
    pixels of each row), the ``diagonal`` from the top left, a ``square`` of 5 pixels from
    (18, 18), the ``frame`` of pixels at the edge.

    Args:
        errors: Their names.
        width: Thickness, pixels; bands are twice as thick, the square five times.
        shift: Pixels by which they lie further down and right; the diagonal only further
            right, and the frame stays.

    Raises:
        ValueError: If there is no such error, or one would lie outside of the image.
    """
    width, shift = whole("width", width, 1), whole("shift", shift)
    row, column = np.indices((SIDE, SIDE))
    along = row + column - 2 * shift
    edge = np.minimum(np.minimum(row, column), SIDE - 1 - np.maximum(row, column))
    first, thick = 18 + shift, 5 * width
    known = {
        "column": (column >= 20 + shift) & (column < 20 + shift + width),
        "row": (row >= 15 + shift) & (row < 15 + shift + width),
        "upper": (along >= 15) & (along < 15 + 2 * width),
        "lower": (along >= 38) & (along < 38 + 2 * width),
        "diagonal": (column - row >= shift) & (column - row < shift + width),
        "square": (np.minimum(row, column) >= first) & (np.maximum(row, column) < first + thick),
        "frame": edge < width,
    }
    masks = tuple(known[kind] for kind in chosen("errors", errors, tuple(known)))
    for kind, mask in zip(errors, masks, strict=True):
        if not mask.any() or mask.all():
            raise ValueError(
                f"width and shift are {width} and {shift}, expected some of the 28 x 28 pixels "
                f"in {kind!r}, not {'all' if mask.all() else 'none'}"
            )
    return masks


def placed(which: Array, draw: np.random.Generator) -> Array:
    """Images ``(N, 28, 28)`` of shapes by number ``(N,)``, each placed anywhere inside."""
    images = np.zeros((len(which), SIDE, SIDE), bool)
    masks = templates()
    for image, k in zip(images, which, strict=True):
        height, width = masks[k].shape
        top, left = draw.integers(SIDE - height + 1), draw.integers(SIDE - width + 1)
        image[top : top + height, left : left + width] = masks[k]
    return images


def trusted(
    shape: Array,
    error: Array,
    labelled: int,
    seed: int,
    shapes: Sequence[str] = SHAPES,
    errors: Sequence[str] = ERRORS,
) -> Array:
    """As many inliers of each shape and outliers of each error: a mask ``(N,)``.

    Args:
        shape: Shape of each row ``(N,)``.
        error: Error of each row, 0 for inliers.
        labelled: Rows of all kinds together.
        seed: Seed of the choice.
        shapes: Names of the shapes.
        errors: Names of the errors, from 1 on.

    Raises:
        ValueError: If they do not divide over the kinds, or there are fewer rows of a kind.
    """
    kinds = np.where(error > 0, len(shapes) - 1 + error, shape)
    names = (*shapes, *errors)
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
