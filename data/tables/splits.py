"""Splitting rows into parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ppl_models.data.tables.seeds import SPLIT, generator


def split(
    rows: int, parts: Sequence[float], seed: int, labels: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Split row numbers at random, each part with the classes in the proportion of the whole.

    Args:
        rows: Number of rows N.
        parts: Number of rows of each part (integers), or its share (floats). Rows left over
            belong to no part.
        seed: Seed of the split.
        labels: Labels ``(N,)``. Each class has its proportion in each part, up to a few rows.

    Returns:
        Increasing row numbers of each part; no two parts share a row.

    Raises:
        ValueError: If a part is empty or the parts are more than there is.
    """
    shares = any(isinstance(p, float) for p in parts)
    if shares and sum(parts) > 1 + 1e-9:
        raise ValueError(f"splits are {tuple(parts)}, expected shares that add up to at most 1")
    # Ends are rounded, not sizes, so that shares that add up to 1 use every row.
    ends = [round(rows * end) if shares else int(end) for end in accumulate(parts)]
    counts = [end - start for start, end in pairwise((0, *ends))]
    if min(counts) < 1:
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
