"""Causal Morpho-MNIST: digits with thickness, intensity and slant (Pawlowski et al. 2020)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.special import expit

from ppl_models.data.render.handwriting import handwritten
from ppl_models.data.render.world_options import number
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

FINE = 4  # sub-pixels per side


def load(
    train: int = 3_000,
    validation: int = 500,
    test: int = 500,
    slanted: bool = False,
    source: str | None = None,
    labelled: int | None = None,
    seed: int = 0,
    *,
    intensity_effect: float = 2.0,
    slant_effect: float = 20.0,
    noise: float = 0.5,
) -> Dataset:
    """Real digits edited to a thickness and an intensity drawn from a causal model.

    Thickness t = 0.5 + Gamma(10, rate 5) in pixels; intensity i = 64 + 191 sigmoid(2 (t - 2.5)
    + 0.5 e), e ~ N(0, 1), in grey levels. Sites ``x`` (28 x 28, 0 to 1), ``y`` (the digit),
    ``thickness``, ``intensity``; with ``slanted`` also ``slant`` ~ N(20 (t - 2.5), 1) degrees.

    Args:
        train: Training rows, digits of the source's training rows drawn at random.
        validation: Validation rows, other digits of the same.
        test: Test rows, from its test rows.
        slanted: Whether thicker digits lean to the right, too.
        source: ``mnist`` or ``digits`` (scikit-learn's, enlarged); when left out MNIST if it
            is there. Rows are repeated only where there are fewer digits than rows.
        labelled: Training rows that keep ``y``; all if None.
        seed: Seed of everything.
        intensity_effect: What a pixel of thickness adds to the logit of the intensity; 0 for no
            arrow.
        slant_effect: What a pixel of thickness adds to the slant, degrees.
        noise: Standard deviation of the Normal noise on the logit of the intensity.

    Raises:
        FileNotFoundError: If MNIST was asked for and is not there.
        ValueError: If a part has no rows, or an option is out of range.
    """
    effects = {
        "intensity_effect": number("intensity_effect", intensity_effect),
        "noise": number("noise", noise, 0),
    }
    slant_effect = number("slant_effect", slant_effect)
    source, (known, held) = handwritten(source)
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "slanted": slanted,
        **effects,
        "slant_effect": slant_effect,
        "source": source,
    }
    order = numpy_generator(seed, 3).permutation(len(known[1]))
    share = len(order) * train // (train + validation)
    pools = (
        (*known, order[:share]),
        (*known, order[share:]),
        (*held, numpy_generator(seed, 4).permutation(len(held[1]))),
    )
    parts = []
    for place, ((images, digit, pool), rows) in enumerate(
        zip(pools, (train, validation, test), strict=True)
    ):
        draw = numpy_generator(seed, place)
        chosen = np.resize(pool, rows)
        thickness, intensity = causes(rows, draw, **effects)
        slant = draw.normal(slant_effect * (thickness - 2.5), 1) if slanted else None
        sites = {
            "x": edit(images[chosen], thickness, intensity, slant),
            "y": digit[chosen],
            "thickness": thickness,
            "intensity": intensity,
        }
        parts.append(sites if slant is None else {**sites, "slant": slant})
    return from_parts(
        "morpho_mnist",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"y": tuple("0123456789")},
    )


def causes(
    rows: int, generator: np.random.Generator, intensity_effect: float = 2.0, noise: float = 0.5
) -> tuple[Array, Array]:
    """Thickness ``(n,)`` in pixels and intensity ``(n,)`` in grey levels; see :func:`load`."""
    thickness = 0.5 + generator.gamma(10, 1 / 5, rows)
    logit = intensity_effect * (thickness - 2.5) + noise * generator.normal(size=rows)
    return thickness, 64 + 191 * expit(logit)


def edit(images: Array, thickness: Array, intensity: Array, slant: Array | None = None) -> Array:
    """Images ``(n, h, w)`` of uint8 redrawn.

    Args:
        images: Bright strokes on black, ``(n, h, w)`` of uint8.
        thickness: Wanted ``(n,)``, in pixels.
        intensity: Wanted median ``(n,)`` of the pixels above half of the brightest.
        slant: Wanted ``(n,)`` in degrees to the right; left as it is if None.
    """
    fine = _fine(images)
    if slant is not None:
        fine = np.stack([_lean(image, s) for image, s in zip(fine, slant, strict=True)])
    out = [_thicken(image, t) for image, t in zip(fine, thickness, strict=True)]
    n, height, width = images.shape
    small = np.stack(out).reshape(n, height, FINE, width, FINE).mean((2, 4))
    for image, wanted in zip(small, intensity, strict=True):
        bright = image[image > image.max() / 2]
        image *= wanted / (np.median(bright) if len(bright) else 1)
    grey: Array = np.rint(small.clip(0, 255))
    return grey.astype(np.uint8)


def measure(images: Array) -> Array:
    """Thickness ``(n,)`` in pixels of strokes in images ``(n, h, w)`` of uint8."""
    return np.array([_thickness(image > _half(image))[0] for image in _fine(images)])


def _fine(images: Array) -> Array:
    zoomed: Array = ndimage.zoom(
        images.astype(np.float32), (1, FINE, FINE), order=3, mode="nearest", grid_mode=True
    )
    return zoomed


def _half(image: Array) -> float:
    return float(image.min() + image.max()) / 2


def _thickness(stroke: Array) -> tuple[float, Array]:
    """Mean thickness in pixels, and the distance to the background of each sub-pixel."""
    inner = ndimage.distance_transform_edt(stroke)
    ridge = (inner >= 1.5) & (inner == ndimage.maximum_filter(inner, 3))
    if not ridge.any():
        ridge = inner == inner.max()
    return 2 * float(inner[ridge].mean()) / FINE, inner


def _thicken(image: Array, wanted: float) -> Array:
    """The image's stroke with this thickness, 0 or 1 per sub-pixel."""
    stroke = image > _half(image)
    had, inner = _thickness(stroke)
    signed = ndimage.distance_transform_edt(~stroke) - inner
    # Growing both edges by r adds 2 r; the first guess is off where strokes meet, so its
    # error is measured and made good once. A digit never shrinks to nothing.
    least = 1.5 - inner.max()
    first = max(FINE * (wanted - had) / 2, least)
    got, _ = _thickness(signed <= first)
    second = max(first + FINE * (wanted - got) / 2, least)
    redrawn: Array = (signed <= second).astype(np.float32)
    return redrawn


def _lean(image: Array, degrees: float) -> Array:
    """The image sheared about its centroid until it leans by this much."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = np.maximum(image, 0) / np.maximum(image, 0).sum()
    cx, cy = (weight * x).sum(), (weight * y).sum()
    now = (weight * (x - cx) * (y - cy)).sum() / (weight * (y - cy) ** 2).sum()
    # Rows count downwards, so leaning to the right is a negative shear.
    by = -np.tan(np.deg2rad(degrees)) - now
    matrix = np.array([[1, 0], [-by, 1]])
    leaning: Array = ndimage.affine_transform(image, matrix, offset=(0, by * cy), order=1)
    return leaning
