"""Digits with a patch in the corner that gives the label away in training and lies in tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppl_models.config import unknown
from ppl_models.data.readers import digits
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

SIDE, MARGIN = 10, 2  # pixels of the image, and of the patch in its margin
ANGLE, SHIFT = 12.0, 0.7  # largest turn in degrees and move in pixels
CLASSES = {"y": ("0-4", "5-9"), "patch": ("dark", "lit"), "digit": digits.CLASSES}
PATCHES = ("label", "opposite", "random")


def load(
    train: int = 12_000,
    validation: int = 1_000,
    test: int = 2_000,
    patch: str = "label",
    labelled: int | Mapping[str, int] | None = None,
    seed: int = 0,
) -> Dataset:
    """Sites ``x`` (10 x 10 pixels), ``y`` (digit at least 5), ``patch`` (lit or dark), ``digit``.

    A stand-in for the shortcut data of Chroma-VAE (Yang et al. 2022, arXiv 2211.15231). Real
    digits of scikit-learn, each turned by up to 12 degrees and moved by up to 0.7 pixels; no
    digit is in two parts. The patch is the 2 x 2 pixels at the top left. In training and
    validation rows it is lit where ``y`` is 1; the option ``patch`` says what it does in test
    rows, whose digits are the same for all choices.

    Args:
        train: Training rows, from 1,197 digits.
        validation: Validation rows, from 200 digits.
        test: Test rows, from 400 digits.
        patch: ``label``, as in training; ``opposite``, always wrong; ``random``, no evidence.
        labelled: Training rows that keep ``y``, or rows by site; all if None.
        seed: Seed of everything.

    Raises:
        ValueError: If there is no such choice, or too few rows or labels.
    """
    if patch not in PATCHES:
        raise ValueError(unknown("patch", patch, PATCHES))
    for part, rows in (("train", train), ("validation", validation), ("test", test)):
        if rows < 1:
            raise ValueError(f"patch_digits has {rows} {part} rows, expected at least 1")
    source = digits.load(seed=seed)
    parts: list[Mapping[str, Array]] = []
    for place, (table, rows, says) in enumerate(
        zip(
            (source.train, source.validation, source.test),
            (train, validation, test),
            ("label", "label", patch),
            strict=True,
        )
    ):
        draw = numpy_generator(seed, place)
        # Each digit is used before any is used again.
        turns = [draw.permutation(len(table)) for _ in range(-(-rows // len(table)))]
        chosen = np.concatenate(turns)[:rows]
        digit = table.sites["y"].numpy()[chosen]
        y = digit >= 5
        x = np.zeros((rows, SIDE, SIDE), np.float32)
        x[:, MARGIN:, MARGIN:] = moved(table.sites["x"].numpy().reshape(-1, 8, 8), chosen, draw)
        guess = draw.random(rows) < 0.5
        lit = {"label": y, "opposite": ~y, "random": guess}[says]
        x[:, :MARGIN, :MARGIN] = lit[:, None, None]
        values = {"y": y, "patch": lit, "digit": digit}
        parts.append({"x": x, **{site: v.astype(np.int64) for site, v in values.items()}})
    options = {"train": train, "validation": validation, "test": test, "patch": patch}
    return from_parts(
        "patch_digits",
        parts,
        options=options,
        labelled={"y": labelled} if isinstance(labelled, int) else labelled,
        seed=seed,
        classes=CLASSES,
        roles={"patch": "factor", "digit": "factor"},
    )


def moved(images: Array, chosen: Array, draw: np.random.Generator) -> Array:
    """Chosen images, each turned and moved at random, interpolated linearly.

    Args:
        images: ``(n, h, w)``.
        chosen: Places ``(m,)`` among them.
        draw: Random generator.

    Returns:
        ``(m, h, w)``; what lies outside an image counts as 0.
    """
    from scipy import ndimage

    angle = np.radians(draw.uniform(-ANGLE, ANGLE, len(chosen)))[:, None, None]
    down, right = draw.uniform(-SHIFT, SHIFT, (2, len(chosen), 1, 1))
    height, width = images.shape[1:]
    row, column = np.indices((height, width))
    row, column = row - (height - 1) / 2 - down, column - (width - 1) / 2 - right
    back = np.broadcast_arrays(
        chosen[:, None, None],
        np.cos(angle) * row + np.sin(angle) * column + (height - 1) / 2,
        np.cos(angle) * column - np.sin(angle) * row + (width - 1) / 2,
    )
    found: Array = ndimage.map_coordinates(images, back, order=1, mode="constant", cval=0.0)
    return found
