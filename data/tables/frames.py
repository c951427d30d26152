"""Tables of pandas, data sets of xarray and AnnData as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_models.config import unknown
from ppl_models.data.tables.own_arrays import Known, build
from ppl_models.data.tables.own_values import dense, names_of, own, text
from ppl_models.data.tables.table import Dataset

X = "x"  # the site of all that is no label


def from_frame(
    frame: Any,
    labels: str | Sequence[str] = (),
    *,
    name: str = "frame",
    splits: Any = (0.7, 0.1, 0.2),
    **options: Any,
) -> Dataset:
    """A data set from a pandas table: a label site per column named, ``x`` of all the others.

    The columns' names are those of ``x``, the index names the rows unless it counts them, and
    categories keep their order.

    Args:
        frame: A ``pandas.DataFrame``.
        labels: Columns that hold labels, of text, categories or numbers.
        name: Name of the data set.
        splits: As in :func:`ppl_models.data.from_arrays`; also the name of a column.
        options: ``labelled``, ``classes``, ``units``, ``roles``, ``seed`` of
            :func:`ppl_models.data.from_arrays`.

    Raises:
        ValueError: If there is no such column, it comes twice, or another one holds no numbers;
            naming it.
    """
    labels = listed(labels)
    columns = [text(c) if not isinstance(c, tuple) else "/".join(map(text, c)) for c in frame]
    twice = (
        next((c for c in columns if columns.count(c) > 1), None)
        if len(set(columns)) < len(columns)
        else None
    )
    if twice is not None:
        raise ValueError(f"the table has the column {twice!r} twice, expected different names")
    part_of_row = [splits] if isinstance(splits, str) else []
    for wanted in (*labels, *part_of_row):
        if wanted not in columns:
            raise ValueError(unknown("column", wanted, columns))
    check_free(labels)
    place = {column: at for at, column in enumerate(columns)}
    rest = [at for column, at in place.items() if column not in (*labels, *part_of_row)]
    sites = {label: frame.iloc[:, place[label]] for label in labels}
    if rest:
        sites = {X: frame.iloc[:, rest], **sites}
    if part_of_row:
        splits = own(splits, frame.iloc[:, place[splits]])
    return _built(sites, labels, name, splits, options)


def from_xarray(
    dataset: Any,
    rows: str,
    labels: str | Sequence[str] = (),
    *,
    name: str = "xarray",
    splits: Any = (0.7, 0.1, 0.2),
    **options: Any,
) -> Dataset:
    """A data set from the variables of an ``xarray.Dataset`` that have a dimension of rows.

    Coordinates name columns and rows, and the attribute ``units`` is kept.

    Args:
        dataset: The ``xarray.Dataset``; one of the variables is ``x``.
        rows: The dimension whose entries are rows; it becomes the first.
        labels: Variables that are labels although they are whole floats.
        name: Name of the data set.
        splits: As in :func:`ppl_models.data.from_arrays`; also the name of a variable.
        options: ``labelled``, ``classes``, ``roles``, ``seed`` of
            :func:`ppl_models.data.from_arrays`.

    Raises:
        ValueError: If there is no such dimension, or no variable ``x``.
    """
    if rows not in dataset.sizes:
        raise ValueError(unknown("dimension", rows, list(map(str, dataset.sizes))))
    sites, columns, units = {}, {}, {}
    for key, variable in dataset.data_vars.items():
        if rows not in variable.dims:
            continue
        site, variable = str(key), variable.transpose(rows, ...)
        sites[site] = variable.values
        if "units" in variable.attrs:
            units[site] = str(variable.attrs["units"])
        if variable.ndim == 2 and (across := variable.dims[1]) in dataset.coords:
            columns[site] = [text(value) for value in dataset.coords[across].values.tolist()]
    if X not in sites:
        raise ValueError(f"the data set has the variables {sorted(sites)}, expected one named 'x'")
    index = dataset.coords[rows].to_index() if rows in dataset.coords else None
    named = None if index is None or index.dtype.kind in "iu" else names_of(index)
    options.setdefault("units", units)
    return _built(sites, listed(labels), name, splits, options, columns, named)


def from_anndata(
    adata: Any,
    labels: str | Sequence[str] = (),
    *,
    layer: str = "X",
    counts: bool = True,
    name: str = "anndata",
    splits: Any = (0.7, 0.1, 0.2),
    **options: Any,
) -> Dataset:
    """A data set from an ``anndata.AnnData``: ``x`` of the genes of each cell, and labels.

    ``var_names`` name the columns, ``obs_names`` the rows, and categories keep their order.

    Args:
        adata: The ``AnnData``, in memory.
        labels: Columns of ``obs`` that hold labels.
        layer: Where the values are: ``X``, ``raw/X`` or ``layers/NAME``.
        counts: Whether values must be counts, whole and not negative.
        name: Name of the data set.
        splits: As in :func:`ppl_models.data.from_arrays`; also the name of a column of ``obs``.
        options: ``labelled``, ``classes``, ``roles``, ``seed`` of
            :func:`ppl_models.data.from_arrays`.

    Raises:
        ValueError: If there is no such layer or column, or a value is no count; naming it.
    """
    labels = listed(labels)
    values, genes = _layer(adata, layer)
    x = np.asarray(dense(X, values) if hasattr(values, "tocsr") else values)
    if counts:
        check_counts(f"AnnData, {layer}", x)
    check_free(labels)
    obs = adata.obs
    for wanted in (*labels, *([splits] if isinstance(splits, str) else [])):
        if wanted not in obs.columns:
            raise ValueError(unknown("obs column", wanted, list(map(str, obs.columns))))
    if isinstance(splits, str):
        splits = own(splits, obs[splits])
    sites = {X: x, **{label: obs[label] for label in labels}}
    options.setdefault("roles", dict.fromkeys(labels, "intervention"))
    columns = {X: [text(gene) for gene in genes]}
    return _built(sites, labels, name, splits, options, columns, names_of(adata.obs_names))


def check_counts(where: str, x: Any) -> None:
    """Refuse values that are no counts.

    Raises:
        ValueError: Naming row, column and value; starting with ``where``.
    """
    bad = (x < 0) | (x != np.rint(x))
    if bad.any():
        row, gene = np.argwhere(bad)[0]
        raise ValueError(
            f"{where} holds {x[row, gene]} at row {row}, column {gene}, expected counts; "
            "name another layer, or say counts=False"
        )


def check_free(labels: Sequence[str]) -> None:
    """Refuse a label of the name that the site of all other columns has.

    Raises:
        ValueError: If there is one.
    """
    if X in labels:
        raise ValueError(
            f"the label column is called {X!r}, which is the site of the other columns; rename it"
        )


def listed(labels: str | Sequence[str]) -> list[str]:
    """Names, of which a single one may come alone."""
    return [labels] if isinstance(labels, str) else [text(label) for label in labels]


def _built(
    sites: Any,
    labels: Sequence[str],
    name: str,
    splits: Any,
    options: dict[str, Any],
    columns: Any = None,
    row_names: Any = None,
) -> Dataset:
    known = Known(
        columns=columns or {},
        units=options.pop("units", None) or {},
        row_names=row_names,
        roles=options.pop("roles", None) or {},
        labels=labels,
    )
    fitting = ("labelled", "classes", "shapes", "seed")
    for option in options:
        if option not in fitting:
            raise ValueError(unknown("option", option, (*fitting, "units", "roles")))
    return build(sites, name, splits=splits, known=known, **options)


def _layer(adata: Any, layer: str) -> tuple[Any, Any]:
    """The values of a layer and the names of its genes."""
    if layer == "X" and adata.X is not None:
        return adata.X, adata.var_names
    if layer == "raw/X" and adata.raw is not None:
        return adata.raw.X, adata.raw.var_names
    if layer.startswith("layers/") and layer[7:] in adata.layers:
        return adata.layers[layer[7:]], adata.var_names
    there = ["X"] * (adata.X is not None) + ["raw/X"] * (adata.raw is not None)
    there += [f"layers/{name}" for name in adata.layers]
    raise ValueError(f"no {layer!r}; there is {', '.join(there) or 'nothing'}")
