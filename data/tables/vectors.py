"""Vectors: from what users have to float32 rows, and the mask of rows that are there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.data.tables.own_values import Own, check_exact


def vectors(site: str, own: Own) -> tuple[Tensor, Tensor | None]:
    """Rows ``(N, D)`` of float32, and where they are there; None where all are.

    A row is missing where all its numbers are: NaN, masked or none.

    Args:
        site: The site, for messages.
        own: The values; further dimensions are flattened.

    Raises:
        ValueError: If they are no numbers, or float32 does not hold them; naming site, row and
            column.
    """
    values = own.values
    if values.dtype.kind == "O" or own.classes is not None:
        raise ValueError(f"site {site!r} holds text, expected numbers")
    flat = values.reshape(len(values), -1)
    gaps = own.missing.reshape(flat.shape)
    if gaps.any():
        flat = np.where(gaps, 0, flat)
    check_exact(f"site {site!r}", flat)
    # A copy in any case: what the user does to the array later is no concern of the table.
    with np.errstate(over="ignore"):
        rows = flat.astype(np.float32)
    if flat.dtype.kind == "f" and flat.dtype.itemsize > 4:
        over = np.isinf(rows) & np.isfinite(flat)
        if over.any():
            row, column = np.argwhere(over)[0]
            raise ValueError(
                f"site {site!r}, row {row}, column {column}: got {flat[row, column]}, more than "
                "float32 holds; scale it first"
            )
    gone: Any = gaps | np.isnan(rows) if flat.dtype.kind == "f" else gaps
    missing: Any = gone.all(axis=1)
    if (gaps & ~missing[:, None]).any():
        row, column = np.argwhere(gaps & ~missing[:, None])[0]
        raise ValueError(
            f"site {site!r}, row {row}, column {column}: has no value, though others of its row "
            "do; expected rows that are there or missing as a whole"
        )
    if not missing.any() or missing.all():
        if missing.all() and gaps.any():
            raise ValueError(f"site {site!r} has no value in any row, expected some")
        return torch.from_numpy(rows), None
    rows[missing] = 0
    return torch.from_numpy(rows), torch.from_numpy(~missing)
