"""From the numbers that somebody has to vectors in single precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.data.tables.given import Array, Given
from ppl_models.data.tables.missing import is_missing

EXACT = 1 << 24  # single precision holds all whole numbers up to here
KINDS = {
    "c": "expected real numbers; give its real and imaginary parts, or modulus and phase",
    "m": "expected numbers; divide it by a unit such as numpy.timedelta64(1, 's')",
    "M": "expected numbers: dates are none; give days since one of them, or name it in classes "
    "if it holds labels",
    "U": "expected numbers, got text",
    "S": "expected numbers, got text",
    "T": "expected numbers, got text",
    "V": "expected numbers; give each of its fields as a site, or "
    "numpy.lib.recfunctions.structured_to_unstructured of it",
}


def vectors(site: str, given: Given) -> tuple[Tensor, Tensor]:
    """Vectors ``(N, D)`` in single precision, NaN where one is missing, and which these are.

    Args:
        site: Name of the site, for messages.
        given: What was given for it; a row is missing where all its numbers are.

    Raises:
        ValueError: If they are no real numbers, single precision cannot hold one, or only a part
            of a row is masked; naming site, row and column.
    """
    values, missing = given.values, given.missing
    if values.dtype.kind == "O":
        values, missing = _objects(site, values), None
    if values.dtype.kind not in "biuf":
        why = KINDS.get(values.dtype.kind, "expected numbers")
        raise ValueError(f"site {site!r} has type {values.dtype} and shape {values.shape}, {why}")
    rows = len(values)

    def where(index: Sequence[int]) -> str:
        place = f"site {site!r}, row {index[0]}"
        if len(index) > 1:
            at = index[1] if len(index) == 2 else tuple(index[1:])
            named = f" ({given.columns[index[1]]!r})" if given.columns and len(index) == 2 else ""
            place += f", column {at}{named}"
        return place

    flat = single(values, where).reshape(rows, -1)
    if missing is not None:
        gaps = missing.reshape(rows, -1)
        some = gaps.any(1) & ~gaps.all(1)
        if some.any():
            at = np.argwhere(missing & some.reshape(-1, *[1] * (missing.ndim - 1)))[0]
            raise ValueError(
                f"{where(at.tolist())}: is masked, but not all of its row; a vector is missing as "
                "a whole: fill in the number, or mask the row"
            )
        flat[gaps.all(1)] = np.nan
    tensor = torch.from_numpy(flat)
    return tensor, tensor.isnan().all(-1)


def single(values: Array, where: Callable[[Sequence[int]], str]) -> Array:
    """Numbers in single precision, always a copy.

    Args:
        values: Numbers or truth values.
        where: The words for the place of one, from its index.

    Raises:
        ValueError: If a whole number would be rounded, or a number become infinite.
    """
    with np.errstate(over="ignore"):
        out: Array = np.array(values, dtype=np.float32, order="C", copy=True)
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and values.size:
        if values.max() > EXACT or values.min() < -EXACT:
            _check_exact(values, where)
    elif values.dtype.kind == "f" and values.dtype.itemsize > 4 and not np.isfinite(out).all():
        bad = np.isinf(out) & np.isfinite(values)
        if bad.any():
            at = np.argwhere(bad)[0].tolist()
            raise ValueError(
                f"{where(at)}: got {values[tuple(at)]:g}, which is too large for single "
                "precision; scale the numbers first"
            )
    return out


def _check_exact(values: Array, where: Callable[[Sequence[int]], str]) -> None:
    # Exact is what has no more than 24 bits once the zeros at its end are taken off.
    size = np.abs(values.astype(np.int64)).astype(np.uint64) if values.dtype.kind == "i" else (
        values.astype(np.uint64)
    )  # fmt: skip
    last = np.where(size == 0, np.uint64(1), size & (~size + np.uint64(1)))
    bad = size // last > EXACT
    if bad.any():
        at = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"{where(at)}: got {values[tuple(at)]}, which single precision would round; centre or "
            "scale the numbers first, or give them as floats"
        )


def _objects(site: str, values: Array) -> Array:
    entries = [np.nan if is_missing(value) else value for value in values.ravel().tolist()]
    found = np.array(entries) if entries else np.zeros(0)
    if found.dtype.kind == "O" and all(isinstance(value, Real | Decimal) for value in entries):
        found = found.astype(np.float64)
    if found.dtype.kind not in "biufc" or found.ndim != 1:
        kinds = {type(value) for value in entries}
        text = any(issubclass(kind, str | bytes) for kind in kinds)
        got: Any = "some text" if text else sorted(kind.__name__ for kind in kinds)[0]
        raise ValueError(
            f"site {site!r} has type object and shape {values.shape}, expected numbers, got {got}"
        )
    return found.reshape(values.shape)
