"""From arrays with a published test set to a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables.from_parts import from_parts
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset


def from_published(
    name: str,
    training: Mapping[str, Array],
    testing: Mapping[str, Array],
    *,
    root: str | Path | None,
    sizes: Sequence[int | None],
    classes: Mapping[str, Sequence[str]],
    labelled: int | Mapping[str, int] | None,
    seed: int,
    options: Mapping[str, Any] | None = None,
    numbers: Sequence[Array] | None = None,
) -> Dataset:
    """Validation rows are drawn from the training rows, with the shares of the labels ``y``.

    Args:
        name: Name of the set.
        training: Arrays of the published training rows, by site.
        testing: Those of the test rows; their numbers count on.
        root: Folder that was asked for, for the recipe.
        sizes: Training, validation and test rows; all there are if None.
        classes: Class names by label site.
        labelled: Training rows that keep their label.
        seed: Seed of the subsets and labels.
        options: Further options, for the recipe.
        numbers: Row numbers of the training rows and of the test rows.

    Raises:
        ValueError: If there are not that many rows.
    """
    y, test_y = torch.from_numpy(training["y"]), torch.from_numpy(testing["y"])
    train, validation, test = sizes
    wanted = (len(y) - (validation or 0) if train is None else train, validation or 0)
    first, second = (part.numpy() for part in split(len(y), wanted, seed, y))
    (third,) = split(len(test_y), (len(test_y) if test is None else test,), seed, test_y)
    own, other = numbers or (np.arange(len(y)), len(y) + np.arange(len(test_y)))
    parts = [
        {site: array[rows] for site, array in arrays.items()}
        for arrays, rows in ((training, first), (training, second), (testing, third.numpy()))
    ]
    asked = {
        "root": None if root is None else str(root),
        **(options or {}),
        **dict(zip(("train", "validation", "test"), sizes, strict=True)),
    }
    return from_parts(
        name,
        parts,
        options=asked,
        labelled=labelled,
        seed=seed,
        classes=classes,
        numbers=[own[first], own[second], other[third.numpy()]],
    )
