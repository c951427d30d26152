"""AnnData h5ad files: counts of genes by cell, and what was done to each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py

from ppl_models.data.readers import modalities
from ppl_models.data.readers.files import naming, reading
from ppl_models.data.readers.h5ad_layout import column, columns_of, names_along, values_of
from ppl_models.data.store.checked_h5 import opened
from ppl_models.data.tables.cells import Cells, from_cells
from ppl_models.data.tables.given import Given
from ppl_models.data.tables.labels import Classes
from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.own_arrays import SPLITS, Splits
from ppl_models.data.tables.table import Dataset

MEMORY = modalities.MEMORY


def load_file(
    path: str,
    labels: str | Sequence[str] = "",
    layer: str = "X",
    counts: bool = True,
    labelled: int | None = None,
    splits: Splits = SPLITS,
    seed: int = 0,
    classes: Mapping[str, Classes] | None = None,
    covariates: str | Sequence[str] = "",
    library: str = "",
    memory: int = MEMORY,
    beside: Mapping[str, str] | None = None,
    site: str = "x",
) -> Dataset:
    """Site ``x`` (genes of each cell) and, where asked for, labels from the table of cells.

    Further files may hold other modalities of the same cells, such as proteins, which are known
    by their names: see :func:`ppl_models.data.readers.modalities.load_files`.

    Names of genes and cells come along. Categories keep their order, also those of no cell; whole
    numbers are classes in their order. Values that would take more than ``memory`` stay in the
    file and are read by blocks of cells, where they are dense or CSR; CSC is made whole.

    Args:
        path: The file; read with h5py, in the layouts of anndata before and since 0.7.
        labels: Column of ``obs`` that says what was done to a cell, such as ``gene``; several
            with commas between, or a list. Each becomes a label site of its name.
        layer: Where the values are: ``X``, ``raw/X`` or ``layers/NAME``; dense, CSR or CSC.
        counts: Whether values must be counts, whole and not negative.
        labelled: Training rows that keep their label, balanced over the classes; all if None.
        splits: Shares, or numbers, of training, validation and test rows; or the column of
            ``obs`` that says the part of each cell; or None for all in the test part, to predict.
        seed: Seed of the split and of the labels that are kept.
        classes: Names of the classes in order, by label site.
        covariates: Columns of ``obs`` that condition a story, such as the batch; named as labels
            are. Text, categories and whole numbers are classes, other numbers stay numbers.
        library: A site of this name gets each cell's sum of all counts, if named.
        memory: Bytes that values may take, dense, or that a stream of larger ones holds.
        beside: Paths of further h5ad files, by the names of their sites.
        site: Name of the site that is ``x`` by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has no such column or layer, naming it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an h5ad file")
    if beside:
        if library:
            raise ValueError(f"library is {library!r} beside other files, expected none there")
        return modalities.load_files(
            {site: path, **beside}, labels, layer, counts, labelled, splits, seed, classes,
            covariates, memory,
        )  # fmt: skip
    if site != "x":
        raise ValueError(f"site is {site!r} and there are no files beside it, expected 'x'")
    cells = _cells(path, layer, labels, covariates, splits, memory)
    names, fixed = list(cells.labels), list(cells.covariates)
    options = {"labels": ",".join(names), "layer": layer, "counts": counts, "splits": splits}
    if any("," in name for name in names):
        options["labels"] = names
    if fixed:
        options["covariates"] = fixed if any("," in name for name in fixed) else ",".join(fixed)
    if library:
        options["library"] = library
    if memory != MEMORY:
        options["memory"] = memory
    if classes:
        options["classes"] = classes
    given = {
        "name": Path(path).stem,
        "labelled": labelled,
        "splits": splits,
        "seed": seed,
        "classes": classes,
        "options": options,
        "source": str(path),
    }
    with naming(path):
        return from_cells(cells, layer, counts, str(path), given, library)


def obs_columns(path: str) -> tuple[str, ...]:
    """Names of the columns of ``obs`` of an h5ad file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, naming it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an h5ad file")
    with reading(Path(path), "an h5ad file of AnnData"), opened(path) as file:
        return tuple(columns_of(file))


def _asked(file: h5py.File, labels: str | Sequence[str], names: list[str]) -> list[str]:
    # A column's own name may have commas.
    return [labels] if isinstance(labels, str) and labels in columns_of(file) else names


def _cells(
    path: str,
    layer: str,
    labels: str | Sequence[str],
    covariates: str | Sequence[str],
    splits: Splits,
    memory: int,
) -> Cells:
    names, fixed = modalities.listed(labels), modalities.listed(covariates)
    columns = f" and obs columns {', '.join([*names, *fixed])}" if names or fixed else ""
    with reading(Path(path), f"an h5ad file of AnnData with {layer!r}{columns}"):
        with opened(path) as file:
            if "header" in file and "sites" in file:
                sites = ", ".join(file["sites"])
                raise ValueError(f"it is a file of data.write with sites {sites}: name it .h5")
            x = values_of(file, layer, path, memory)
            names, fixed = _asked(file, labels, names), _asked(file, covariates, fixed)
            cells = Cells(
                x=x if isinstance(x, Column) else Given(x),
                genes=names_along(file, "raw/var" if layer == "raw/X" else "var"),
                names=names_along(file, "obs"),
                labels={name: column(file, name) for name in names},
                splits=column(file, splits) if isinstance(splits, str) else None,
                covariates={name: column(file, name) for name in fixed},
            )
        known = [cells.splits] if cells.splits is not None else []
        known += [*cells.labels.values(), *cells.covariates.values()]
        if any(len(found.values) != len(x) for found in known):
            raise ValueError(f"obs has not {len(x)} rows like {layer}")
    return cells
