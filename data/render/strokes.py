"""Digits drawn as strokes, plain and styled; a stand-in for digit sets that nobody bundles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppl_models.data.render.world_options import frequencies, number, redrawn, span
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

# Polylines on the unit square, x to the right, y down, in tenths or hundredths as written.
TEMPLATES = (
    ((0.5, 0.1), (0.8, 0.3), (0.8, 0.7), (0.5, 0.9), (0.2, 0.7), (0.2, 0.3), (0.5, 0.1)),
    ((0.35, 0.25), (0.55, 0.1), (0.55, 0.9)),
    ((0.2, 0.25), (0.5, 0.1), (0.8, 0.3), (0.2, 0.9), (0.8, 0.9)),
    ((0.2, 0.15), (0.75, 0.15), (0.45, 0.45), (0.8, 0.68), (0.5, 0.9), (0.2, 0.8)),
    ((0.65, 0.9), (0.65, 0.1), (0.2, 0.6), (0.85, 0.6)),
    ((0.8, 0.1), (0.25, 0.1), (0.25, 0.45), (0.7, 0.45), (0.8, 0.7), (0.6, 0.9), (0.2, 0.85)),
    ((0.7, 0.1), (0.3, 0.4), (0.2, 0.7), (0.5, 0.9), (0.8, 0.7), (0.5, 0.5), (0.25, 0.65)),
    ((0.2, 0.1), (0.8, 0.1), (0.4, 0.9)),
    (
        (0.5, 0.5), (0.75, 0.3), (0.5, 0.1), (0.25, 0.3), (0.5, 0.5),
        (0.8, 0.7), (0.5, 0.9), (0.2, 0.7), (0.5, 0.5),
    ),
    ((0.75, 0.35), (0.5, 0.5), (0.2, 0.3), (0.5, 0.1), (0.8, 0.3), (0.7, 0.9)),
)  # fmt: skip
DIGITS = tuple("0123456789")


def load(
    train: int = 5_000,
    validation: int = 500,
    test: int = 1_000,
    side: int = 12,
    labelled: Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    angle: tuple[float, float] = (-0.5, 0.5),
    scale: tuple[float, float] = (0.7, 1.05),
    width: tuple[float, float] = (0.04, 0.12),
    thick: float = 0.08,
    frequency: tuple[float, ...] | None = None,
) -> Dataset:
    """Stroke digits of Guided-VAE's stand-in (Ding et al. 2020): ``x`` from 0 to 1.

    Digits drawn from ten templates, turned by U(-0.5, 0.5) radians, scaled by U(0.7, 1.05),
    with strokes of width U(0.04, 0.12). Sites ``y`` (the digit), ``thick`` (width above
    0.08), and the numbers ``angle``, ``scale``, ``width``.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        side: Pixels per side.
        labelled: Training rows that keep their label, by site; all if None.
        seed: Seed of everything.
        angle: Range of turns clockwise, radians, uniform.
        scale: Range of sizes, where 1 fills the picture, uniform.
        width: Range of the strokes' half width, in units of the picture's side, uniform.
        thick: Width above which a stroke is thick.
        frequency: Probability of each digit; equal if None.

    Raises:
        ValueError: If a part has no rows, or an option is out of range.
    """
    angle, scale, width = (
        span("angle", angle),
        span("scale", scale, 0),
        span("width", width, 0),
    )
    thick, shares = number("thick", thick), frequencies("frequency", frequency, len(DIGITS))
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        digit = draw.integers(10, size=rows)
        digit = redrawn(digit, len(DIGITS), shares, numpy_generator(seed, place, 1))
        turn, size, half = (draw.uniform(*ends, rows) for ends in (angle, scale, width))
        x = ink(strokes(digit, turns(turn) * size[:, None, None]), half, side, 0.06)
        parts.append(
            {
                "x": x,
                "y": digit,
                "thick": (half > thick).astype(np.int64),
                "angle": turn,
                "scale": size,
                "width": half,
            }
        )
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "side": side,
        "angle": angle,
        "scale": scale,
        "width": width,
        "thick": thick,
        "frequency": shares,
    }
    return from_parts(
        "stroke_digits",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"y": DIGITS, "thick": ("no", "yes")},
    )


def styled(
    digit: Array,
    generator: np.random.Generator,
    side: int = 12,
    *,
    angle: tuple[float, float] = (-0.25, 0.25),
    scale: tuple[float, float] = (0.75, 1.0),
    width: tuple[float, float] = (0.05, 0.09),
    inverted: float = 0.5,
    noise: float = 0.02,
) -> Array:
    """Images ``(n, side, side)`` of digits ``(n,)`` in a style of their own each (MEME's t).

    Turned, sheared, scaled, shifted; on a grey ground of U(0, 0.35) with ink of U(0.65, 1),
    the two swapped half of the time, a gradient of 0.1 across, and noise of 0.02.

    Args:
        digit: The digits.
        generator: Source of the styles.
        side: Pixels per side.
        angle: Range of turns, radians.
        scale: Range of sizes, where 1 fills the picture.
        width: Range of the strokes' half width, in units of the picture's side.
        inverted: Probability that ground and ink are swapped.
        noise: Standard deviation of the Normal noise on every pixel.
    """
    n = len(digit)
    linear = turns(generator.uniform(*angle, n))
    shear = np.tile(np.eye(2), (n, 1, 1))
    shear[:, 0, 1] = generator.uniform(-0.2, 0.2, n)
    linear = linear @ shear * generator.uniform(*scale, (n, 1, 1))
    shift = generator.uniform(-0.06, 0.06, (n, 2))
    cover = ink(strokes(digit, linear, shift), generator.uniform(*width, n), side, 0.05)
    ground, paint = (generator.uniform(a, b, (n, 1, 1)) for a, b in ((0, 0.35), (0.65, 1)))
    swap = generator.random((n, 1, 1)) < inverted
    ground, paint = np.where(swap, paint, ground), np.where(swap, ground, paint)
    slope, turn = generator.uniform(-0.1, 0.1, n), generator.uniform(0, 2 * np.pi, n)
    span = 2 * (np.arange(side) + 0.5) / side - 1
    along = np.cos(turn)[:, None, None] * span + np.sin(turn)[:, None, None] * span[:, None]
    grain = generator.normal(0, noise, cover.shape)
    image: Array = ground + (paint - ground) * cover + slope[:, None, None] * along + grain
    return image.clip(0, 1).astype(np.float32)


def turns(angle: Array) -> Array:
    """Rotations ``(n, 2, 2)`` by angles in radians ``(n,)``."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1)


def strokes(digit: Array, linear: Array, shift: Array | float = 0.0) -> Array:
    """Segments ``(n, 8, 2 ends, 2)`` of digits under a linear map about the middle and a shift.

    Templates of fewer segments repeat their last point.
    """
    most = max(map(len, TEMPLATES))
    points = np.array([[*t, *[t[-1]] * (most - len(t))] for t in TEMPLATES])[digit]
    moved = (points - 0.5) @ linear.swapaxes(1, 2) + 0.5
    moved = moved + np.reshape(shift, (-1, 1, 2) if np.ndim(shift) else ())
    return np.stack([moved[:, :-1], moved[:, 1:]], axis=2)


def ink(segments: Array, width: Array, side: int, soft: float) -> Array:
    """Grey images ``(n, side, side)``: ``clip((width - d) / soft + 0.5, 0, 1)``.

    Args:
        segments: Ends ``(n, m, 2, 2)`` on the unit square.
        width: Half width of the strokes ``(n,)``.
        side: Pixels per side.
        soft: Width of the edge.
    """
    span = ((np.arange(side) + 0.5) / side).astype(np.float32)
    pixel = np.stack(np.broadcast_arrays(span, span[:, None]), -1).reshape(-1, 2)
    nearest = np.full((len(segments), side**2), np.inf, dtype=np.float32)
    for start, end in segments.astype(np.float32).transpose(1, 2, 0, 3):
        way = end - start
        offset = pixel - start[:, None]
        length2 = np.maximum((way**2).sum(-1), 1e-12)
        along = ((offset @ way[:, :, None])[..., 0] / length2[:, None]).clip(0, 1)
        away = offset - along[..., None] * way[:, None]
        nearest = np.minimum(nearest, (away**2).sum(-1))
    cover = (width.astype(np.float32)[:, None] - np.sqrt(nearest)) / np.float32(soft) + 0.5
    image: Array = cover.clip(0, 1).reshape(-1, side, side)
    return image
