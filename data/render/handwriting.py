"""Real handwritten digits for the sets that edit or combine them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ppl_models.config import unknown
from ppl_models.data.readers import digits, mnist
from ppl_models.data.tables.from_parts import Array

SOURCES = ("mnist", "digits")


def handwritten(
    source: str | None, side: int = 28, kinds: Sequence[int] = tuple(range(10))
) -> tuple[str, list[tuple[Array, Array]]]:
    """Images ``(n, side, side)`` of uint8 and digits ``(n,)``, for training and for test.

    Args:
        source: ``mnist``, or ``digits``: the 1,797 of scikit-learn, enlarged. When left out,
            MNIST if its files are there.
        side: 28 or 14.
        kinds: Which digits; all of them by default.

    Returns:
        The source, and the two parts; none of them in both.

    Raises:
        FileNotFoundError: If MNIST was asked for and is not there.
        ValueError: If there is no such source.
    """
    if files(source):
        loaded = mnist.load(side=side)
        parts = []
        for tables in ((loaded.train, loaded.validation), (loaded.test,)):
            x, y = (torch.cat([t.sites[s][:] for t in tables]).numpy() for s in ("x", "y"))
            x, y = x[own := np.isin(y, kinds)], y[own]
            parts.append((np.rint(255 * x).astype(np.uint8).reshape(-1, side, side), y))
        return "mnist", parts
    loaded = digits.load(train=1_197, validation=200, test=400)
    return "digits", [
        (_enlarge(x[own := np.isin(y, kinds)].reshape(-1, 8, 8), side), y[own])
        for x, y in (
            (loaded.train.sites["x"].numpy(), loaded.train.sites["y"].numpy()),
            (loaded.test.sites["x"].numpy(), loaded.test.sites["y"].numpy()),
        )
    ]


def files(source: str | None = None) -> list[Path]:
    """The files of the digits; none of scikit-learn's. See :func:`handwritten`."""
    if source not in (None, *SOURCES):
        raise ValueError(unknown("source", source, SOURCES))
    if source == "digits":
        return []
    try:
        return mnist.files()
    except FileNotFoundError:
        if source is not None:
            raise
        return []


def _enlarge(images: Array, side: int) -> Array:
    # To the 20 of 28 pixels that MNIST's digits fill, with an empty frame.
    from scipy import ndimage

    inner = side * 20 // 28
    factor = inner / 8
    big = ndimage.zoom(images, (1, factor, factor), order=3, mode="grid-constant", grid_mode=True)
    frame = (side - inner) // 2
    room = ((0, 0), (frame, side - inner - frame), (frame, side - inner - frame))
    return np.pad(np.rint(255 * big.clip(0, 1)).astype(np.uint8), room)
