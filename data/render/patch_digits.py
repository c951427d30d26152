"""Digits with a patch in the corner that gives the label away in training and lies in tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppl_models.config import unknown, whole
from ppl_models.data.readers import digits
from ppl_models.data.render.world_options import number, one_of
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

SIDE, MARGIN = 10, 2  # pixels of the image, and of the patch in its margin
ANGLE, SHIFT = 12.0, 0.7  # largest turn in degrees and move in pixels
CLASSES = {"y": ("0-4", "5-9"), "patch": ("dark", "lit"), "digit": digits.CLASSES}
PATCHES = ("label", "opposite", "random")
CORNERS = ("top_left", "top_right", "bottom_left")  # of the margin; no digit is drawn there


def load(
    train: int = 12_000,
    validation: int = 1_000,
    test: int = 2_000,
    patch: str | float = "label",
    labelled: int | Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    train_patch: str | float = "label",
    corner: str = "top_left",
    width: int = MARGIN,
    brightness: float = 1.0,
) -> Dataset:
    """Sites ``x`` (10 x 10 pixels), ``y`` (digit at least 5), ``patch`` (lit or dark), ``digit``.

    A stand-in for the shortcut data of Chroma-VAE (Yang et al. 2022, arXiv 2211.15231). Real
    digits of scikit-learn, each turned by up to 12 degrees and moved by up to 0.7 pixels; no
    digit is in two parts. The patch is the 2 x 2 pixels at the top left. In training and
    validation rows it is lit where ``y`` is 1; the option ``patch`` says what it does in test
    rows. The digits are the same for all choices of the patch, and the rows where a larger
    share says the label are those of a smaller one, and others.

    Args:
        train: Training rows, from 1,197 digits.
        validation: Validation rows, from 200 digits.
        test: Test rows, from 400 digits.
        patch: What the patch says in test rows: ``label``, lit where ``y`` is 1; ``opposite``,
            always wrong; ``random``, no evidence; or the share of the rows, 0 to 1, where it
            says the label, to the next whole number of rows.
        labelled: Training rows that keep ``y``, or rows by site; all if None.
        seed: Seed of everything.
        train_patch: The same of training and validation rows.
        corner: Where it is: ``top_left``, ``top_right`` or ``bottom_left``.
        width: Pixels per side of the patch, 1 or 2.
        brightness: Of a lit patch, where a dark one has 0 and ink at most 1.

    Raises:
        ValueError: If there is no such choice, or too few rows or labels.
    """
    patch, train_patch = said("patch", patch), said("train_patch", train_patch)
    (down, right), brightness = pixels(corner, width), number("brightness", brightness)
    for part, rows in (("train", train), ("validation", validation), ("test", test)):
        if rows < 1:
            raise ValueError(f"patch_digits has {rows} {part} rows, expected at least 1")
    source = digits.load(seed=seed)
    parts: list[Mapping[str, Array]] = []
    for place, (table, rows, says) in enumerate(
        zip(
            (source.train, source.validation, source.test),
            (train, validation, test),
            (train_patch, train_patch, patch),
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
        lit = patches(y, says, draw)
        x[:, down, right] = brightness * lit[:, None, None]
        values = {"y": y, "patch": lit, "digit": digit}
        parts.append({"x": x, **{site: v.astype(np.int64) for site, v in values.items()}})
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "patch": patch,
        "train_patch": train_patch,
        "corner": corner,
        "width": width,
        "brightness": brightness,
    }
    return from_parts(
        "patch_digits",
        parts,
        options=options,
        labelled={"y": labelled} if isinstance(labelled, int) else labelled,
        seed=seed,
        classes=CLASSES,
        roles={"patch": "factor", "digit": "factor"},
    )


def pixels(corner: str, width: int) -> tuple[slice, slice]:
    """Rows and columns of the patch.

    Raises:
        ValueError: If there is no such corner, or the patch would reach out of the margin.
    """
    if not 1 <= whole("width", width) <= MARGIN:
        raise ValueError(f"width is {width}, expected 1 to {MARGIN}")
    down, right = one_of("corner", corner, CORNERS).split("_")
    first, last = slice(width), slice(SIDE - width, None)
    return last if down == "bottom" else first, last if right == "right" else first


def said(name: str, patch: str | float) -> str | float:
    """What a patch says, if it is one of the names or a share.

    Raises:
        ValueError: If it is neither.
    """
    if not isinstance(patch, str):
        return number(name, patch, 0, 1)
    if patch not in PATCHES:
        raise ValueError(f"{unknown(name, patch, PATCHES)}, or a share in 0..1")
    return patch


def patches(y: Array, says: str | float, draw: np.random.Generator) -> Array:
    """Whether each patch is lit ``(N,)``, of labels ``(N,)`` and what it says of them."""
    order = draw.random(len(y))
    lit: Array = order < 0.5
    if says == "random":
        return lit
    share = {"label": 1.0, "opposite": 0.0}[says] if isinstance(says, str) else says
    right = np.zeros(len(y), bool)
    right[order.argsort()[: round(share * len(y))]] = True
    lit = y == right
    return lit


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
