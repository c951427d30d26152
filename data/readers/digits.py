"""Digits: 1,797 real handwritten digits of 8 x 8 pixels, embedded in scikit-learn.

The test set of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin and Kaynak
1998).
"""

from __future__ import annotations

import torch

from ppl_models.data.tables.recipe import assemble
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset, Table

CLASSES = tuple("0123456789")


def load(
    train: int = 1197,
    validation: int = 200,
    test: int = 400,
    labelled: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Sites ``x`` (64 pixels, 0 white to 1 black) and ``y`` (the digit).

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        labelled: Training rows that keep their label, balanced over the digits; all if None.
        seed: Seed of the split and of the labels that are kept.

    Raises:
        ValueError: If there are too few rows or labels.
    """
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels / 16).float()  # the source counts 0..16 dark pixels of 4 x 4
    y = torch.from_numpy(digit).long()
    tables = [
        Table(
            f"digits/{part}",
            {"x": x[rows], "y": y[rows]},
            numbers=rows,
            classes={"y": CLASSES},
            shapes={"x": (8, 8)},
        )
        for part, rows in zip(
            ("train", "validation", "test"),
            split(len(y), (train, validation, test), seed, y),
            strict=True,
        )
    ]
    counts = {"train": train, "validation": validation, "test": test}
    return assemble("digits", *tables, labelled=labelled, seed=seed, options=counts)
