"""A ball in one of two boxes: which one it is in can be set, and where it is across cannot."""

from __future__ import annotations

from functools import partial

import numpy as np

from ppl_models.config import at_least
from ppl_models.data.render import intervened as of_two_frames
from ppl_models.data.render.raster import Field, as_bytes, in_blocks, paint
from ppl_models.data.render.world_options import number
from ppl_models.data.tables.from_parts import Array
from ppl_models.data.tables.table import Dataset

FIELD = 32.0  # units per side
ACROSS, UP = (3.5, 12.5), (3.5, 28.5)  # where the ball can be in its box
RADIUS, WALL = 1.5, 1.0
GROUND, EDGE, BALL = (0.9, 0.9, 0.9), (0.2, 0.2, 0.2), (0.85, 0.1, 0.1)
KINDS = 2  # variables that are set: box, y


def load(
    train: int = 20_000,
    validation: int = 1_000,
    test: int = 5_000,
    side: int = 32,
    seed: int = 0,
    *,
    noise: float = 1.5,
    radius: float = RADIUS,
    intervened: float = 0.2,
    sequences: int = 50,
) -> Dataset:
    """Sites ``x`` and ``x_next`` (side x side x 3), ``targets`` (2), ``box``, ``y``, ``across``.

    The set Ball-in-Boxes of CITRIS (Lippe et al. 2022, arXiv 2202.03169). A field of 32 x 32
    units has two boxes side by side. A ball walks at random within its box; by hand it is put
    into the other one, at the same place, or at another height. Its place across the box is
    never set by itself: of the ball's position, only which box it is in is ever set across.
    ``box`` (0 or 1), ``y`` and ``across`` (units, across from its box's left end) are those of
    ``x``.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        side: Pixels per side.
        seed: Seed of everything.
        noise: Standard deviation of a step's move, units.
        radius: Of the ball, units.
        intervened: Probability that a variable would be set at a step, were each set apart from
            the other; none is with probability (1 - this) to the power 2, else either.
        sequences: Number of sequences that the training rows are windows of, all of one length;
            of validation rows as many.

    Raises:
        ValueError: If an option is out of range.
    """
    at_least(side=(side, 8))
    noise, radius = number("noise", noise, 0), number("radius", radius, 0.5, ACROSS[0])
    options = {
        "train": train, "validation": validation, "test": test, "side": side, "noise": noise,
        "radius": radius, "intervened": intervened, "sequences": sequences,
    }  # fmt: skip
    return of_two_frames.dataset(
        "ball_in_boxes",
        anywhere,
        anywhere,
        partial(step, noise=noise),
        partial(in_blocks, partial(drawn, side=side, radius=radius)),
        lambda state: dict(zip(("across", "y", "box"), state.T, strict=True)),
        KINDS,
        options,
        seed,
    )


def anywhere(rows: int, draw: np.random.Generator) -> Array:
    """States ``(rows, 3)``: place across its box, height and box, all uniform."""
    place = [draw.uniform(*ends, rows) for ends in (ACROSS, UP)]
    return np.stack([*place, draw.integers(2, size=rows)], 1)


def step(state: Array, target: Array, draw: np.random.Generator, noise: float = 1.5) -> Array:
    """States after these, under targets ``(rows,)``: 0 the box, 1 the height."""
    across, up, box = state.T
    across = (across + draw.normal(0, noise, len(across))).clip(*ACROSS)
    up = (up + draw.normal(0, noise, len(up))).clip(*UP)
    up = np.where(target == 1, draw.uniform(*UP, len(up)), up)
    return np.stack([across, up, np.where(target == 0, 1 - box, box)], 1)


def drawn(state: Array, side: int = 32, radius: float = RADIUS) -> Array:
    """Images ``(rows, side, side, 3)`` of uint8."""
    field = Field(side, FIELD)
    across, up, box = state.T
    images = np.full((len(state), side, side, 3), GROUND, np.float32)
    whole, half = (0.0, FIELD), FIELD / 2
    for place in (0.0, half - WALL / 2, FIELD - WALL):
        paint(images, field.rectangle((place, place + WALL), whole), EDGE)
        if place != half - WALL / 2:
            paint(images, field.rectangle(whole, (place, place + WALL)), EDGE)
    paint(images, field.disc(across + half * box, up, radius), BALL)
    return as_bytes(images)
