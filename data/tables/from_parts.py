"""From numpy arrays by part and site to a data set."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.recipe import Labelled, assemble, plain
from ppl_models.data.tables.splits import PARTS
from ppl_models.data.tables.table import Dataset, Table

Array = np.ndarray[Any, Any]


def from_parts(
    name: str,
    parts: Sequence[Mapping[str, Array | Column]],
    *,
    options: Mapping[str, Any],
    labelled: Labelled | None = None,
    seed: int = 0,
    classes: Mapping[str, Sequence[str]] | None = None,
    numbers: Sequence[Array] | None = None,
    observed: Mapping[str, Array] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    roles: Mapping[str, str] | None = None,
) -> Dataset:
    """A data set from drawn arrays.

    Images ``(N, H, W)`` and ``(N, H, W, C)`` are flattened and keep their shape beside. Floats
    and truth values become float32, uint8 too, divided by 255; other integers are labels.

    Args:
        name: What :func:`ppl_models.data.load` calls the set.
        parts: Arrays by site, for training, validation and test.
        options: Options of the loader, for the recipe; the seed is added, and labelled where
            there are label sites.
        labelled: Training rows that keep their label; see
            :func:`ppl_models.data.tables.recipe.assemble`.
        seed: Seed of the labels that are kept.
        classes: Class names by label site.
        numbers: Row numbers of each part; counted through the parts when left out.
        observed: Masks of the training rows, by site.
        shapes: Image shapes of columns, by site.
        roles: What a site is where it is no plain observation or label.

    Raises:
        ValueError: If a value is not finite.
    """
    if numbers is None:
        ends = np.cumsum([0, *(len(next(iter(sites.values()))) for sites in parts)])
        numbers = [np.arange(a, b) for a, b in pairwise(ends)]
    tables = [
        Table(
            f"{name}/{part}",
            {site: _tensor(array) for site, array in sites.items()},
            observed={s: torch.from_numpy(m) for s, m in (observed or {}).items()}
            if part == "train"
            else None,
            numbers=torch.from_numpy(own.astype(np.int64)),
            classes=classes,
            shapes={
                **{s: a.shape[1:] for s, a in sites.items() if _is_image(a)},
                **(shapes or {}),
            },
        )
        for part, sites, own in zip(PARTS, parts, numbers, strict=True)
    ]
    made = assemble(name, *tables, labelled=labelled, seed=seed, options=options)
    labels = {site for site in classes or {} if (roles or {}).get(site) != "covariate"}
    asked = {k: v for k, v in made.recipe["options"].items() if labels or k != "labelled"}
    recipe = {**made.recipe, "options": {**asked, **plain(options)}}
    return dataclasses.replace(made, recipe=recipe, roles=dict(roles or {}))


def _is_image(array: Array | Column) -> bool:
    return not isinstance(array, Column) and array.ndim > 2 and array.dtype.kind in "bfu"


def floats(array: Array) -> Tensor:
    """Values as they stand in a table: float32, images flattened, uint8 divided by 255."""
    values = array.astype(np.float32)
    if array.dtype == np.uint8:
        values /= 255
    if _is_image(array):  # also of no rows, whose size is not to be told from the rest
        values = values.reshape(len(values), int(np.prod(array.shape[1:])))
    return torch.from_numpy(values)


class Rendered:
    """Images of a column that are drawn whenever they are asked for.

    Args:
        name: Name of the set.
        classes: Factors ``(N, F)`` of all rows.
        look: Images ``(n, H, W, ...)`` of factors ``(n, F)``; may differ from look to look.

    Attributes:
        image: Shape of an image.
        digest: What tells these rows from others: which factors they have, not their noise.
    """

    dtype = torch.float32

    def __init__(self, name: str, classes: Array, look: Callable[[Array], Array]) -> None:
        self.classes, self.look = classes, look
        self.image = look(classes[:1]).shape[1:]
        self.shape = (len(classes), int(np.prod(self.image)))
        self.digest = hashlib.sha256(name.encode() + classes.tobytes()).hexdigest()

    def read(self, rows: Tensor) -> Tensor:
        """Flattened images ``(n, D)`` of these rows."""
        return floats(self.look(self.classes[rows.numpy()]))


def _tensor(array: Array | Column) -> Tensor | Column:
    if isinstance(array, Column):
        return array
    return floats(array) if array.dtype.kind in "bfu" else torch.from_numpy(array.astype(np.int64))
