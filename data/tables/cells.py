"""AnnData in memory, and what it shares with its files: counts of genes by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ppl_models.config import unknown
from ppl_models.data.tables.array_kinds import take
from ppl_models.data.tables.given import Given, names_of
from ppl_models.data.tables.labels import categories_of
from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.names import twice_in
from ppl_models.data.tables.own_arrays import build, checked, names_in
from ppl_models.data.tables.table import Dataset

ROWS = 1 << 12  # cells that are looked at at once


@dataclass(frozen=True)
class Cells:
    """What a table of cells holds.

    Attributes:
        x: Values ``(cells, genes)``, or a column of them that stands in a file.
        genes: Names of the genes, if there are some.
        names: Names of the cells, if there are some.
        labels: Columns of ``obs`` that hold labels, by name.
        splits: The column of ``obs`` that holds the parts, if one was named.
        covariates: Columns of ``obs`` that condition a story, by name.
    """

    x: Given | Column
    genes: Sequence[str] | None
    names: Sequence[str] | None
    labels: Mapping[str, Given]
    splits: Given | None = None
    covariates: Mapping[str, Given] = field(default_factory=dict)


def from_anndata(
    adata: Any,
    labels: str | Sequence[str] = (),
    layer: str = "X",
    counts: bool = True,
    covariates: str | Sequence[str] = (),
    library: str = "",
    **options: Any,
) -> Dataset:
    """A data set from an ``AnnData``: site ``x``, and a label site per column of ``obs`` named.

    ``var_names`` name the columns and ``obs_names`` the rows. Categories keep their order, also
    those of no cell; whole numbers are classes in their order. As from an h5ad file, labels have
    the role ``intervention``.

    Args:
        adata: The ``anndata.AnnData``.
        labels: Columns of ``obs`` that say what was done to a cell: one, several with commas
            between, or a list.
        layer: Where the values are: ``X``, ``raw/X`` or ``layers/NAME``; dense or sparse.
        counts: Whether values must be counts, whole and not negative.
        covariates: Columns of ``obs`` that condition a story, such as the batch; named as labels
            are. Text, categories and whole numbers are classes, other numbers stay numbers.
        library: A site of this name gets each cell's sum of all counts, if named.
        options: See :func:`ppl_models.data.from_arrays`; ``splits`` may name a column of ``obs``.

    Raises:
        ValueError: If there is no such column or layer, or values are no counts; naming it.
    """
    if not (hasattr(adata, "obs") and hasattr(adata, "var_names")):
        raise ValueError(f"the data are of type {type(adata).__name__}, expected an AnnData")
    known = names_of(adata.obs.columns)
    chosen = names_in("obs column", labels, known)
    fixed = names_in("obs column", covariates, known)
    splits = checked(options).get("splits")
    part = names_in("obs column", [splits], known) if isinstance(splits, str) else []
    values, genes = _layer(adata, layer)
    cells = Cells(
        x=take("x", values),
        genes=names_of(genes),
        names=names_of(adata.obs_names),
        labels={name: take(name, _column(adata, known, name)) for name in chosen},
        splits=take("splits", _column(adata, known, part[0])) if part else None,
        covariates={name: take(name, _column(adata, known, name)) for name in fixed},
    )
    made = from_cells(cells, layer, counts, "", options, library)
    # What other cells are read by, too.
    how = {"layer": layer, "counts": counts, **({"library": library} if library else {})}
    recipe = {**made.recipe, "options": {**made.recipe["options"], **how}}
    return replace(made, recipe=recipe)


def from_cells(
    cells: Cells,
    layer: str,
    counts: bool,
    file: str,
    options: Mapping[str, Any],
    library: str = "",
) -> Dataset:
    """A data set of cells, in memory or from a file.

    Args:
        cells: What they are.
        layer: What their values are called.
        counts: Whether values must be counts.
        file: The file they came from, for messages; empty if none.
        options: Further options of :func:`ppl_models.data.tables.own_arrays.build`.
        library: The site of each cell's sum of all counts, if named.

    Raises:
        ValueError: If values are no counts, two sites have one name, or a cell whose library
            size is asked for has no counts.
    """
    where = f"{file}: " if file else ""
    for kind in (cells.labels, cells.covariates):
        if "x" in kind:
            raise ValueError(
                f"{where}obs column 'x' has the name of the site of the {layer} values; rename it"
            )
    named = [*cells.labels, *cells.covariates, *([library] if library else [])]
    if (twice := twice_in(["x", *named])) is not None:
        raise ValueError(f"{where}two sites are called {twice!r}, expected different names")
    sums = sums_of(cells.x, where, layer, counts)
    given = dict(options)
    if cells.splits is not None:
        given["splits"] = cells.splits
    columns, roles = given.pop("columns", None), given.pop("roles", None)
    own = None if cells.genes is None else {"x": tuple(cells.genes)}
    labels = {name: categories_of(name, values) for name, values in cells.labels.items()}
    fixed: dict[str, Given] = {}
    for name, values in cells.covariates.items():
        measured = values.categories is None and values.values.dtype.kind == "f"
        fixed[name] = values if measured else categories_of(name, values)
    if library:
        fixed[library] = Given(_library(sums, where, layer))
    return build(
        {"x": cells.x, **labels, **fixed},
        labels=tuple(labels),
        columns=own if columns is None else columns,
        roles={
            **dict.fromkeys(labels, "intervention"),
            **dict.fromkeys(fixed, "covariate"),
            **(roles or {}),
        },
        **{"row_names": cells.names, **given},
    )


def sums_of(x: Given | Column, where: str, layer: str, counts: bool) -> Any:
    """Sums of cells ``(cells, 1)``, once their values are looked at block by block.

    Args:
        x: Their values.
        where: Where they are from, for messages.
        layer: What they are called.
        counts: Whether they must be counts.

    Raises:
        ValueError: If they are none, naming row and column.
    """
    sums = []
    for start in range(0, len(x) if isinstance(x, Column) else len(x.values), ROWS):
        part = slice(start, start + ROWS)
        block = x[part].numpy() if isinstance(x, Column) else x.values[part]
        if counts and block.dtype.kind in "fi":
            bad = (block < 0) | (block != np.rint(block))
            if bad.any():
                row, gene = np.argwhere(bad)[0]
                raise ValueError(
                    f"{where}{layer} holds {block[row, gene]} at row {start + row}, "
                    f"column {gene}, expected counts; name another layer, or say counts=False"
                )
        sums.append(block.sum(1, dtype=np.float64, keepdims=True))
    return np.concatenate(sums) if sums else np.zeros((0, 1))


def _library(sums: Any, where: str, layer: str) -> Any:
    """Sums of counts ``(cells, 1)``, all above 0."""
    if not (sums > 0).all():
        row = int(np.argmin(sums))
        raise ValueError(
            f"{where}row {row} of {layer} sums to {sums[row, 0]:g}, expected a library size above "
            "0; leave such cells out"
        )
    return sums


def _layer(adata: Any, layer: str) -> tuple[Any, Any]:
    place, _, name = layer.partition("/")
    there = ["X"] * (adata.X is not None) + ["raw/X"] * (adata.raw is not None)
    there += [f"layers/{key}" for key in adata.layers]
    if layer not in there:
        raise ValueError(unknown("layer", layer, there))
    values = adata.X if place == "X" else adata.raw.X if place == "raw" else adata.layers[name]
    if hasattr(values, "to_memory"):  # a file's, not read yet
        values = values.to_memory()
    return values, adata.raw.var_names if place == "raw" else adata.var_names


def _column(adata: Any, known: Sequence[str], name: str) -> Any:
    return adata.obs.iloc[:, list(known).index(name)]
