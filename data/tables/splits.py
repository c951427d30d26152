"""Splitting rows into parts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate, pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.data.tables.array_kinds import take
from ppl_models.data.tables.labels import labels as labels_of
from ppl_models.data.tables.seeds import SPLIT, generator

PARTS = ("train", "validation", "test")


def parts_of(
    splits: Any, complete: Tensor, labels: Tensor | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of training, validation and test, each increasing.

    Args:
        splits: Shares or numbers of rows that lack nothing, which :func:`split` draws, and all
            others go to training; or the part of each row by name, missing for one in no part; or
            None, which puts all rows into the test part.
        complete: Mask ``(N,)`` of the rows that lack nothing.
        labels: Labels ``(N,)`` that each part has in equal proportion.
        seed: Seed of the split.

    Raises:
        ValueError: If they are neither, or there are too few rows.
    """
    rows = len(complete)
    if splits is None:
        none = torch.arange(0)
        return none, none, torch.arange(rows)
    if (shares := shares_of(splits)) is None:
        codes = torch.from_numpy(_named_parts(splits, rows))
        train, validation, test = ((codes == p).nonzero().flatten() for p in range(3))
        return train, validation, test
    whole = complete.nonzero().flatten()
    drawn = split(len(whole), shares, seed, None if labels is None else labels[whole])
    train, validation, test = (whole[part] for part in drawn)
    train = torch.cat((train, (~complete).nonzero().flatten())).sort().values
    return train, validation, test


def shares_of(splits: Any) -> tuple[int | float, ...] | None:
    """The three shares or numbers, if that is what splits are; else they go by row.

    Raises:
        ValueError: If they are numbers, but not three.
    """
    if not isinstance(splits, tuple | list | np.ndarray | Tensor):
        if isinstance(splits, Real):
            raise ValueError(f"splits are {splits}, expected three: training, validation, test")
        return None
    given = splits.tolist() if isinstance(splits, np.ndarray | Tensor) else list(splits)
    if not all(isinstance(part, Real) and not isinstance(part, bool) for part in given):
        return None
    if len(given) != 3:
        raise ValueError(
            f"splits are {_short(given)}, expected three: training, validation, test; or the part "
            "of each row by name"
        )
    numbers = tuple(int(p) if isinstance(p, Integral) else float(p) for p in given)
    if sum(numbers) == 1:  # (0, 0, 1) are shares, too: nobody splits a single row off
        return tuple(map(float, numbers))
    return numbers


def _named_parts(splits: Any, rows: int) -> np.ndarray[Any, Any]:
    given = take("splits", splits)
    if given.categories is None and given.values.dtype.kind not in "OUST":
        raise ValueError(
            f"splits have type {given.values.dtype}, expected three shares or numbers, or the "
            f"part of each row by name: {', '.join(PARTS)}"
        )
    with warnings.catch_warnings():  # that text means missing: here it means no part
        warnings.simplefilter("ignore")
        codes, _ = labels_of("splits", given, PARTS, whole=False)
    if len(codes) != rows:
        raise ValueError(f"splits name the parts of {len(codes)} rows, expected {rows}")
    return codes


def _short(given: Sequence[Any]) -> str:
    return str(tuple(given)) if len(given) < 6 else f"{len(given)} numbers"


def split(
    rows: int, parts: Sequence[float], seed: int, labels: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Split row numbers at random, each part with the classes in the proportion of the whole.

    Args:
        rows: Number of rows N.
        parts: Number of rows of each part (integers), or its share (floats); a part of 0 is
            empty. Rows left over belong to no part.
        seed: Seed of the split.
        labels: Labels ``(N,)``. Each class has its proportion in each part, up to a few rows.

    Returns:
        Increasing row numbers of each part; no two parts share a row.

    Raises:
        ValueError: If another part is empty or the parts are more than there is.
    """
    if not all(part >= 0 for part in parts):  # which NaN is not
        raise ValueError(f"splits are {tuple(parts)}, expected numbers of at least 0")
    shares = any(isinstance(p, float) for p in parts)
    if shares and sum(parts) > 1 + 1e-9:
        raise ValueError(f"splits are {tuple(parts)}, expected shares that add up to at most 1")
    # Ends are rounded, not sizes, so that shares that add up to 1 use every row.
    ends = [round(rows * end) if shares else int(end) for end in accumulate(parts)]
    counts = [end - start for start, end in pairwise((0, *ends))]
    if any(count < 1 and part for count, part in zip(counts, parts, strict=True)):
        raise ValueError(
            f"splits {tuple(parts)} of {rows} rows give parts of {counts} rows, expected at "
            "least 1 in each, unless it is asked to be 0"
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
