"""Sets of different sizes as somebody has them: padded, and which elements there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.data.tables.given import Array
from ppl_models.elements import THERE, filled


def padded(sites: Mapping[str, Any]) -> dict[str, Any]:
    """Sites in which every set has one length, with a site ``x_there`` beside a set ``x``.

    Args:
        sites: By site what was given. A list of arrays ``(m, ...)`` whose numbers of elements m
            differ becomes ``(N, M, ...)``, M the largest of them. A set that comes padded, with a
            site ``x_there`` ``(N, M)``, may have anything in its padding.

    Returns:
        The same, with each row's first element in its padding, and 1 or 0 in ``x_there``.

    Raises:
        ValueError: If elements of a set differ in shape, a row of a ragged set holds none, or a
            given ``x_there`` does not fit; naming site and row.
    """
    found: dict[str, Any] = {}
    for site, values in sites.items():
        there = sites.get(site + THERE)
        if (rows := _ragged(site, values)) is not None:
            if there is not None:
                raise ValueError(
                    f"site {site!r} is a list of sets of different sizes, expected no site "
                    f"{site + THERE!r} beside it, which would say them again"
                )
            found[site], found[site + THERE] = _pad(site, rows)
        elif there is not None:
            found[site], found[site + THERE] = _fill(site, values, there)
        elif site not in found:
            found[site] = values
    return found


def _ragged(site: str, values: Any) -> list[Array] | None:
    """The rows of a list of sets that differ in size; None of anything else."""
    listed = isinstance(values, list | tuple) or (
        isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1
    )
    if not listed or not len(values):
        return None
    if not all(isinstance(row, np.ndarray | Tensor | list | tuple) for row in values):
        return None
    arrays = [_elements(site, place, row) for place, row in enumerate(values)]
    return None if len({array.shape for array in arrays}) == 1 else arrays


def _elements(site: str, place: int, row: Any) -> Array:
    try:
        return np.asarray(row)
    except ValueError:  # elements of different sizes
        raise ValueError(
            f"site {site!r}, row {place}: its elements differ in shape, expected one shape"
        ) from None


def _pad(site: str, rows: list[Array]) -> tuple[Array, Array]:
    first = rows[0]
    for place, row in enumerate(rows):
        if row.dtype.kind not in "biuf":
            raise ValueError(f"site {site!r}, row {place}: is {row.dtype}, expected numbers")
        if not len(row) or row.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"site {site!r}, row {place}: is a set of shape {row.shape}, expected at least "
                f"one element, of shape {first.shape[1:]} as in row 0"
            )
    most = max(map(len, rows))
    values = np.stack([np.concatenate([row, row[:1].repeat(most - len(row), 0)]) for row in rows])
    counts = np.array([len(row) for row in rows])
    return values, (np.arange(most) < counts[:, None]).astype(np.float32)


def _fill(site: str, values: Any, there: Any) -> tuple[Any, Any]:
    mask, array = np.asarray(there), np.asarray(values)
    if mask.ndim != 2 or array.shape[:2] != mask.shape:
        raise ValueError(
            f"site {site + THERE!r} has shape {mask.shape}, expected the rows and elements of "
            f"site {site!r}, {array.shape[:2]}"
        )
    if array.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"site {site + THERE!r} has values other than 0 and 1, or {site!r} is no "
            "set of numbers"
        )
    full = filled(torch.from_numpy(array), torch.from_numpy(mask > 0))
    return full.numpy(), mask.astype(np.float32)
