"""Tables of pandas and data sets of xarray as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_models.config import unknown
from ppl_models.data.tables.own_arrays import from_arrays
from ppl_models.data.tables.table import Dataset


def from_frame(frame: Any, labels: Sequence[str] = (), **options: Any) -> Dataset:
    """A data set from a pandas table: a label site per column named, ``x`` of all the others.

    Args:
        frame: A ``pandas.DataFrame``.
        labels: Columns that hold labels.
        options: See :func:`ppl_models.data.from_arrays`.

    Raises:
        ValueError: If there is no such column, or another one holds no numbers; naming it.
    """
    for name in labels:
        if name not in frame.columns:
            raise ValueError(unknown("column", name, list(map(str, frame.columns))))
    rest = [name for name in frame.columns if name not in labels]
    for name in rest:
        if frame[name].dtype.kind not in "biuf":
            raise ValueError(
                f"column {name!r} has type {frame[name].dtype}, expected numbers; "
                "name it in labels if it holds some"
            )
    # Whole tables only: a float that is a label by its gaps is told by its column.
    x = np.asarray(frame[rest], dtype=np.float64)
    return from_arrays(x, **{name: frame[name] for name in labels}, **options)


def from_xarray(dataset: Any, rows: str, **options: Any) -> Dataset:
    """A data set from the variables of an ``xarray.Dataset`` that have a dimension of rows.

    Args:
        dataset: The ``xarray.Dataset``; one of the variables is ``x``.
        rows: The dimension whose entries are rows; it becomes the first.
        options: See :func:`ppl_models.data.from_arrays`.

    Raises:
        ValueError: If there is no such dimension, or no variable ``x``.
    """
    if rows not in dataset.sizes:
        raise ValueError(unknown("dimension", rows, list(map(str, dataset.sizes))))
    sites = {
        str(name): variable.transpose(rows, ...).values
        for name, variable in dataset.data_vars.items()
        if rows in variable.dims
    }
    if "x" not in sites:
        raise ValueError(f"the data set has the variables {sorted(sites)}, expected one named 'x'")
    return from_arrays(**sites, **options)
