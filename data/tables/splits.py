"""Splitting rows into parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.own_values import Own, own
from ppl_models.data.tables.seeds import SPLIT, generator
from ppl_models.data.tables.table import PARTS

# Shares or numbers of the parts; the part of each row; the name of what says so; or none.
Splits = Sequence[float] | Sequence[str] | str | None
SPLITS: Splits = (0.7, 0.1, 0.2)
SHORT = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}


def parted(
    splits: Splits | Own, complete: Tensor, seed: int, labels: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Increasing positions of training, validation and test rows.

    Rows that lack a value are only ever trained on: by shares and numbers they come on top of
    the training rows, or of the last part that is not empty where there are none.

    Args:
        splits: As :func:`ppl_models.data.from_arrays` takes them; no name.
        complete: Mask ``(N,)`` of the rows that have all their values.
        seed: Seed of the split.
        labels: Labels ``(N,)`` to stratify by.

    Raises:
        ValueError: If they are no three parts, or a row's part has another name.
    """
    everything = torch.arange(len(complete))
    if splits is None:
        return everything[:0], everything[:0], everything
    if isinstance(splits, Own) or _is_by_row(splits):
        return _by_row(own("splits", splits), len(complete))
    shares: Any = splits
    if len(shares) != 3:
        raise ValueError(f"splits are {splits}, expected three: training, validation, test")
    rows = complete.nonzero().flatten()
    parts = [
        rows[p] for p in split(len(rows), shares, seed, None if labels is None else labels[rows])
    ]
    rest = (~complete).nonzero().flatten()
    takes = 0 if shares[0] else max(place for place, share in enumerate(shares) if share)
    parts[takes] = torch.cat((parts[takes], rest)).sort().values
    return tuple(parts)


def split(
    rows: int, parts: Sequence[float], seed: int, labels: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Split row numbers at random, each part with the classes in the proportion of the whole.

    Args:
        rows: Number of rows N.
        parts: Number of rows of each part (integers), or its share (floats); 0 for none. Rows
            left over belong to no part.
        seed: Seed of the split.
        labels: Labels ``(N,)``. Each class has its proportion in each part, up to a few rows.

    Returns:
        Increasing row numbers of each part; no two parts share a row.

    Raises:
        ValueError: If a part that is asked for is empty or the parts are more than there is.
    """
    shares = any(isinstance(p, float) for p in parts)
    if min(parts) < 0 or not any(parts):
        raise ValueError(f"splits are {tuple(parts)}, expected numbers of at least 0, not all 0")
    if shares and sum(parts) > 1 + 1e-9:
        raise ValueError(f"splits are {tuple(parts)}, expected shares that add up to at most 1")
    # Ends are rounded, not sizes, so that shares that add up to 1 use every row.
    ends = [round(rows * end) if shares else int(end) for end in accumulate(parts)]
    counts = [end - start for start, end in pairwise((0, *ends))]
    if any(part and count < 1 for part, count in zip(parts, counts, strict=True)):
        raise ValueError(
            f"splits {tuple(parts)} of {rows} rows give parts of {counts} rows, expected at "
            "least 1 in each"
        )
    if sum(counts) > rows:
        raise ValueError(f"splits {tuple(parts)} need {sum(counts)} rows, but there are {rows}")
    draw = generator(seed, SPLIT)
    order = torch.randperm(rows, generator=draw)
    if labels is not None:
        # Spread each class evenly over (0, 1): any interval then holds its share of the class.
        # Each starts at random, lest small classes all fall into the same part.
        order = order[labels[order].argsort(stable=True)]
        _, size = torch.unique_consecutive(labels[order], return_counts=True)
        first = (size.cumsum(0) - size).repeat_interleave(size)
        start = torch.rand(len(size), generator=draw, dtype=torch.float64).repeat_interleave(size)
        place = (torch.arange(rows) - first + start) / size.repeat_interleave(size)
        order = order[place.argsort(stable=True)]
    return tuple(order[start:end].sort().values for start, end in pairwise((0, *ends)))


def _is_by_row(splits: Any) -> bool:
    return hasattr(splits, "dtype") or any(isinstance(part, str) for part in splits)


def _by_row(given: Own, rows: int) -> tuple[Tensor, ...]:
    names = (
        np.asarray(given.classes, dtype=object)[given.values] if given.classes else given.values
    )
    if names.shape != (rows,) or names.dtype.kind != "O":
        raise ValueError(
            f"splits have type {names.dtype} and shape {names.shape}, expected three numbers, or "
            f"one of {', '.join(PARTS)} for each of {rows} rows"
        )
    found = np.full(rows, -1)
    for row in np.flatnonzero(~given.missing):
        name = SHORT.get(str(names[row]).lower(), str(names[row]).lower())
        if name not in PARTS:
            raise ValueError(f"splits, row {row}: {unknown('part', names[row], PARTS)}")
        found[row] = PARTS.index(name)
    parts = tuple(torch.from_numpy(np.flatnonzero(found == place)) for place in range(3))
    if not any(map(len, parts)):
        raise ValueError("splits put no row into any part, expected some")
    return parts
