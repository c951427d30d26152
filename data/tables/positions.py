"""Rows of a table as somebody chooses them: positions, a slice, a range or a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def positions(rows: Any, count: int, where: str) -> Tensor:
    """Positions ``(n,)`` in a table of so many rows.

    Args:
        rows: Whole numbers (a list, an array, a tensor, a range, or a single one), a slice, or
            truth values, one for each row of the table.
        count: Number of rows of the table.
        where: Its name, for messages.

    Raises:
        ValueError: If they are neither, or one is outside the table.
    """
    if isinstance(rows, slice):
        return torch.arange(count)[rows] if (rows.step or 1) > 0 else _reversed(rows, count)
    if isinstance(rows, list | tuple) and {bool, int} <= {type(row) for row in rows}:
        raise ValueError(f"rows of {where} are truth values and numbers, expected one of both")
    try:
        array = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
    except ValueError:
        raise ValueError(
            f"rows of {where} are a {type(rows).__name__} that makes no array, expected positions "
            f"in 0..{count - 1} or a mask"
        ) from None
    if array.dtype.kind == "b":
        if array.shape != (count,):
            raise ValueError(
                f"rows of {where} are truth values of shape {array.shape}, expected ({count},) "
                "for a mask, or positions"
            )
        return torch.from_numpy(np.flatnonzero(array))
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(
            f"rows of {where} have type {array.dtype}, expected positions in 0..{count - 1} or a "
            "mask"
        )
    bad = (array < 0) | (array >= count)
    if bad.any():
        raise ValueError(
            f"row {array[bad][0]} is not in {where}, expected positions in 0..{count - 1}"
        )
    return torch.from_numpy(array.astype(np.int64)).flatten()


def _reversed(rows: slice, count: int) -> Tensor:  # tensors know no negative steps
    return torch.tensor(range(*rows.indices(count)), dtype=torch.int64)
