"""What a metric gives: numbers and matrices over codes and factors, with how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
import sklearn
import xarray as xr

from ppl_models.config import whole
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.sampler import Sampler
from ppl_models.version import __version__

CODE, FACTOR = "code", "factor"  # names of the dimensions
VERSIONS = {
    "version_ppl_models": __version__,
    "version_numpy": np.__version__,
    "version_scipy": scipy.__version__,
    "version_scikit_learn": sklearn.__version__,
}


def result(
    table: CodeTable | Sampler,
    values: Mapping[str, Any],
    coords: Mapping[str, Any] | None = None,
    **settings: Any,
) -> xr.Dataset:
    """A metric's numbers and matrices.

    Args:
        table: What it was asked of, a table or a sampler, which has no number of rows.
        values: By name a number, or dimensions and an array: ``(("code", "factor"), array)``.
        coords: Of dimensions other than ``code`` and ``factor``.
        settings: What changes the values, such as ``bins`` and ``seed``; an attribute of each of
            the variables, so that they stay with it when results are merged.

    Returns:
        The values, with names along ``code`` and ``factor``. Its attributes record where the
        codes are from, versions of the libraries, and the factors that were left out.
    """
    variables = {
        name: value if isinstance(value, tuple) else ((), value) for name, value in values.items()
    }
    dims = {dim for of, *_ in variables.values() for dim in of}
    known = {CODE: list(table.code_names), FACTOR: list(table.factor_names)}
    names = {dim: labels for dim, labels in known.items() if dim in dims} | dict(coords or {})
    rows = {"rows": len(table)} if isinstance(table, CodeTable) else {}
    found = xr.Dataset(
        {name: (dims, np.asarray(array), settings) for name, (dims, array) in variables.items()},
        names,
        {**table.source, **rows, **VERSIONS},
    )
    if table.excluded:
        found.attrs["excluded_factors"] = ", ".join(table.excluded)
    return found


def mean_known(values: np.ndarray[Any, Any]) -> float:
    """The mean of the numbers that are no NaN; NaN where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def several(name: str, numbers: Any) -> list[int]:
    """An option of several whole numbers of at least 1, such as ``(1, 2)``.

    Raises:
        ValueError: If it is none, naming the option and what it is.
    """
    if np.ndim(numbers) != 1:
        raise ValueError(f"{name} is {numbers!r}, expected whole numbers, such as (1, 2)")
    return [whole(name, number, 1) for number in numbers]
