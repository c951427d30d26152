"""Two digits side by side whose classes are correlated, behind occlusion (Funke et al. 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_models.config import native, whole
from ppl_models.data.render.handwriting import handwritten
from ppl_models.data.render.world_options import number
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.recipe import Labelled
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

SIDE = 28  # pixels at which digits are occluded, before they are made smaller
CELLS = 4  # uniform numbers along each side of an occlusion
GREY = 0.5  # of hidden pixels
HELD = 6  # one of so many digits of the source's training rows is for validation
AT_ONCE = 2_000  # rows drawn at once: of each, the field of numbers has the size of the image


def load(
    train: int = 20_000,
    validation: int = 2_000,
    test: int = 4_000,
    correlation: float = 0.9,
    source: str | None = None,
    labelled: Labelled | None = None,
    seed: int = 0,
    *,
    test_correlation: float | None = None,
    occlusion: float = 0.4,
    digits: tuple[int, int] = (3, 8),
    side: int = 14,
) -> Dataset:
    """Images ``x`` of two digits, and the class of each, ``s_1`` of the left and ``s_2``.

    The classes have the joint probabilities [[1 + c, 1 - c], [1 - c, 1 + c]] / 4 with c the
    correlation; the images are drawn from their classes independently of each other. Per digit
    a field of 4 x 4 uniform numbers is made as large as the image by linear interpolation, and
    pixels where it is at most ``occlusion`` become grey. Rows of one seed differ between
    correlations in as many right digits as the classes do (arXiv 2112.14754, Section 5.2).

    Args:
        train: Training rows, with digits of the source's training rows.
        validation: Validation rows, with other digits of the same and the same correlation.
        test: Test rows, with digits of its test rows.
        correlation: Of the classes, -1 to 1.
        source: ``mnist`` or ``digits`` (scikit-learn's, enlarged); when left out MNIST if it
            is there.
        labelled: Training rows that keep a label, or their share, by site, each site drawn for
            itself: ``{"s_1": 0.1, "s_2": 0.1}``; all if None.
        seed: Seed of everything.
        test_correlation: Of the classes in test rows; ``correlation`` if None.
        occlusion: Threshold of the field, 0 (all is seen) to 1 (nothing is).
        digits: The two digits, of class 0 and of class 1.
        side: Pixels per side of a digit, 28 or 14; 14 are means of 2 x 2 pixels.

    Raises:
        FileNotFoundError: If MNIST was asked for and is not there.
        ValueError: If a part has no rows, or an option is out of range.
    """
    c = number("correlation", correlation, -1, 1)
    other = test_correlation
    if other is not None:
        other = number("test_correlation", other, -1, 1)
    occlusion, digits, side = number("occlusion", occlusion, 0, 1), _digits(digits), _side(side)
    for part, rows in (("train", train), ("validation", validation), ("test", test)):
        if rows < 1:
            raise ValueError(f"correlated_digits has {rows} {part} rows, expected at least 1")
    source, (known, held) = handwritten(source, SIDE, digits)
    first = len(known[1]) - len(known[1]) // HELD
    pools = [(*known, slice(first)), (*known, slice(first, None)), (*held, slice(None))]
    parts = []
    for place, ((images, label, own), rows) in enumerate(
        zip(pools, (train, validation, test), strict=True)
    ):
        kinds = [np.flatnonzero(label[own] == digit) + (own.start or 0) for digit in digits]
        draw = numpy_generator(seed, place)
        s = classes(rows, c if place < 2 or other is None else other, draw)
        chosen = _chosen(s, kinds, draw)
        looks = numpy_generator(seed, 3 + place)
        x = [
            np.concatenate([_half(images[k], occlusion, side, looks) for k in batch], axis=2)
            for batch in np.split(chosen, range(AT_ONCE, rows, AT_ONCE), axis=1)
        ]
        parts.append({"x": np.concatenate(x), "s_1": s[0], "s_2": s[1]})
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "correlation": c,
        "source": source,
        "test_correlation": other,
        "occlusion": occlusion,
        "digits": digits,
        "side": side,
    }
    names = tuple(map(str, digits))
    return from_parts(
        "correlated_digits",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"s_1": names, "s_2": names},
    )


def _side(value: Any) -> int:
    side = whole("side", value, 1)
    if side not in (SIDE, SIDE // 2):
        raise ValueError(f"side is {value}, expected {SIDE} or {SIDE // 2}")
    return side


def _digits(value: Any) -> tuple[int, int]:
    found = native(value)
    two = isinstance(found, list | tuple) and len(found) == 2
    if not two or any(isinstance(d, bool) or d not in range(10) for d in found):
        raise ValueError(f"digits is {value!r}, expected two digits, 0 to 9")
    if found[0] == found[1]:
        raise ValueError(f"digits is {value!r}, expected two different ones")
    return int(found[0]), int(found[1])


def classes(rows: int, correlation: float, draw: np.random.Generator) -> Array:
    """Pairs of classes ``(2, N)``, each 0 or 1 alike and equal with probability (1 + c) / 2."""
    left = draw.integers(2, size=rows)
    differs = draw.random(rows) >= (1 + correlation) / 2
    return np.stack([left, left ^ differs])


def _chosen(s: Array, kinds: list[Array], draw: np.random.Generator) -> Array:
    """Which image of its class each digit is ``(2, N)``."""
    place = np.asarray(draw.random(s.shape))
    by_class = np.stack([kind[(place * len(kind)).astype(np.int64)] for kind in kinds])
    found: Array = np.take_along_axis(by_class, s[None], 0)[0]
    return found


def _half(images: Array, occlusion: float, side: int, draw: np.random.Generator) -> Array:
    seen = field(len(images), draw) > occlusion
    grey = np.where(seen, images / np.float32(255), np.float32(GREY))
    small = grey.reshape(len(images), side, SIDE // side, side, SIDE // side).mean((2, 4))
    half: Array = small.astype(np.float32)
    return half


def field(rows: int, draw: np.random.Generator) -> Array:
    """4 x 4 uniform numbers a row as a picture ``(N, 28, 28)``, interpolated linearly.

    The middle of a cell of 7 x 7 pixels has the number itself; beyond the outer middles it is
    that of the nearest.
    """
    at = ((np.arange(SIDE) + 0.5) * CELLS / SIDE - 0.5).clip(0, CELLS - 1)
    weight = (1 - np.abs(at[:, None] - np.arange(CELLS))).clip(0).astype(np.float32)
    numbers = draw.random((rows, CELLS, CELLS), dtype=np.float32)
    picture: Array = weight @ numbers @ weight.T
    return picture
