"""Digits: 1,797 real handwritten digits of 8 x 8 pixels, embedded in scikit-learn.

The test set of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin and Kaynak
1998).
"""

from __future__ import annotations

from typing import Any

import torch

from ppl_models.config import native
from ppl_models.data.tables.recipe import assemble
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset, Table

CLASSES = tuple("0123456789")


def load(
    train: int = 1197,
    validation: int = 200,
    test: int = 400,
    labelled: int | None = None,
    seed: int = 0,
    *,
    ink: tuple[float, float] | None = None,
) -> Dataset:
    """Sites ``x`` (64 pixels, 0 white to 1 black) and ``y`` (the digit).

    With ``ink``, each image times a level of its own, and that level as a site ``ink``.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        labelled: Training rows that keep their label, balanced over the digits; all if None.
        seed: Seed of the split, of the labels that are kept, and of the levels of ink.
        ink: Least and largest level, in (0, 1], between which it is uniform; no such site by
            default.

    Raises:
        ValueError: If there are too few rows or labels, or the levels are no such two numbers.
    """
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels / 16).float()  # the source counts 0..16 dark pixels of 4 x 4
    sites = {"x": x, "y": torch.from_numpy(digit).long()}
    counts: dict[str, Any] = {"train": train, "validation": validation, "test": test}
    if ink is not None:
        low, high = _levels(ink)
        level = numpy_generator(seed).uniform(low, high, len(x))
        sites["ink"] = torch.from_numpy(level).float()
        sites["x"] = x * sites["ink"].unsqueeze(-1)
        counts["ink"] = (low, high)
    tables = [
        Table(
            f"digits/{part}",
            {site: values[rows] for site, values in sites.items()},
            numbers=rows,
            classes={"y": CLASSES},
            shapes={"x": (8, 8)},
        )
        for part, rows in zip(
            ("train", "validation", "test"),
            split(len(x), (train, validation, test), seed, sites["y"]),
            strict=True,
        )
    ]
    return assemble("digits", *tables, labelled=labelled, seed=seed, options=counts)


def _levels(ink: Any) -> tuple[float, float]:
    ends = native(ink)
    two = isinstance(ends, tuple | list) and len(ends) == 2
    two = two and all(isinstance(end, int | float) for end in ends)
    if not two or not 0 < ends[0] <= ends[1] <= 1:
        raise ValueError(f"ink is {ink!r}, expected two numbers with 0 < low <= high <= 1")
    return float(ends[0]), float(ends[1])
