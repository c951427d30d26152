"""The values of a site as somebody gave them, in one form for all libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Given:
    """The values of a site as they were given.

    Attributes:
        values: Numbers, truth values, text or objects ``(N, ...)``; codes where there are
            categories, -1 for a missing one.
        missing: Mask of the same shape, True where there is no value.
        categories: The values that the codes stand for, in their order.
        columns: Names of the numbers of a vector.
        row_names: Names of the rows, where they are more than their number.
        units: Units.
    """

    values: Array
    missing: Array | None = None
    categories: tuple[Any, ...] | None = None
    columns: tuple[str, ...] | None = None
    row_names: Array | None = None
    units: str | None = None


def names_of(axis: Any) -> tuple[str, ...]:
    """Names along an axis of pandas or xarray as text; levels with slashes between."""
    listed = axis.tolist() if hasattr(axis, "tolist") else list(axis)
    return tuple(
        "/".join(map(_text, name)) if isinstance(name, tuple) else _text(name) for name in listed
    )


def row_names_of(axis: Any) -> Array | None:
    """Names of rows as text; None where they are 0 to N - 1, which says nothing."""
    if getattr(axis, "start", None) == 0 and getattr(axis, "step", None) == 1:  # pandas' range
        return None
    names = names_of(axis)
    if all(name == str(row) for row, name in enumerate(names)):
        return None
    return np.array([*names, None], dtype=object)[:-1]  # one dimension, whatever the names


def _text(name: Any) -> str:
    if isinstance(name, bytes):
        return name.decode(errors="replace")
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)
