"""Tables and columns of pandas, which is not imported for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ppl_models.data.tables.given import Given, names_of, row_names_of
from ppl_models.data.tables.vectors import single


def numbers(frame: Any, names: Sequence[str] | None = None) -> Given:
    """The columns of a table of numbers, in single precision, with their names.

    Args:
        frame: A ``pandas.DataFrame``.
        names: Names of its columns as text, where they are at hand.

    Raises:
        ValueError: If a column holds no numbers, or one that single precision cannot hold; naming
            the column.
    """
    names = names_of(frame.columns) if names is None else tuple(names)
    dtypes = set(frame.dtypes)
    (only,) = dtypes if len(dtypes) == 1 else (None,)
    if isinstance(only, np.dtype) and only.kind in "biuf":
        values = frame.to_numpy()
        return Given(single(values, lambda at: _row_of(names[at[1]], at)), columns=names)
    out = np.empty(frame.shape, np.float32)
    for place, name in enumerate(names):
        own = frame.iloc[:, place]
        kind = getattr(own.dtype, "kind", "O")
        if kind not in "biuf" or hasattr(own.dtype, "categories"):
            raise ValueError(f"column {name!r} has type {own.dtype}, {_expected(kind)}")
        given = _values(own.array)
        out[:, place] = single(given.values, partial(_row_of, name))
        if given.missing is not None:
            out[given.missing, place] = np.nan
    return Given(out, columns=names)


def _row_of(name: str, at: Sequence[int]) -> str:
    return f"column {name!r}, row {at[0]}"


def _expected(kind: str) -> str:
    if kind in "mM":
        return (
            "expected numbers: dates are none; give days since one of them, or name it in labels "
            "if it holds some"
        )
    if kind == "c":
        return "expected real numbers; give its real and imaginary parts as columns"
    return "expected numbers; name it in labels if it holds some"


def vector_or_column(site: str, frame: Any) -> Given:
    """What a table is for a site: a vector, or its only column where that holds no floats."""
    if site != "x" and frame.shape[1] == 1:
        only = column(site, frame.iloc[:, 0])
        if only.values.dtype.kind != "f":
            return only
    return replace(numbers(frame), row_names=row_names_of(frame.index))


def column(site: str, given: Any) -> Given:
    """A column, an index or an array of pandas, with the names of its rows."""
    array = getattr(given, "array", given)
    index = getattr(given, "index", None)
    names = row_names_of(index) if index is not None and not callable(index) else None
    return replace(_values(array), row_names=names)


def _values(array: Any) -> Given:
    dtype = array.dtype
    if hasattr(dtype, "categories"):
        codes = np.asarray(array.codes, dtype=np.int64)
        return Given(codes, categories=tuple(array.categories.tolist()))
    if isinstance(dtype, np.dtype):
        return Given(np.asarray(array))
    kind = getattr(dtype, "kind", "O")
    missing = np.asarray(array.isna(), dtype=bool)
    if kind not in "biuf":
        values = np.asarray(array.to_numpy(dtype=object, na_value=None))
        return Given(values, missing)
    plain = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}[kind]
    blank = np.nan if kind == "f" else 0
    values = np.asarray(array.to_numpy(dtype=plain, na_value=plain(blank)))
    return Given(values, missing if missing.any() else None)
