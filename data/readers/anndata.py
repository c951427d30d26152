"""AnnData h5ad files: counts of genes by cell, and what was done to each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ppl_models.config import unknown
from ppl_models.data.readers.cell_rows import cell_rows
from ppl_models.data.readers.files import naming, reading
from ppl_models.data.store.checked_h5 import opened
from ppl_models.data.store.h5_walk import RATIO, SLACK
from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables.cells import Cells, from_cells
from ppl_models.data.tables.given import Given
from ppl_models.data.tables.labels import Classes, text_of
from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.own_arrays import SPLITS, Splits
from ppl_models.data.tables.table import Dataset

MEMORY = 256 << 20  # bytes


def load_file(
    path: str,
    label: str | Sequence[str] = "",
    layer: str = "X",
    counts: bool = True,
    labelled: int | None = None,
    splits: Splits = SPLITS,
    seed: int = 0,
    classes: Mapping[str, Classes] | None = None,
    covariates: str | Sequence[str] = "",
    library: str = "",
    memory: int = MEMORY,
) -> Dataset:
    """Site ``x`` (genes of each cell) and, where asked for, labels from the table of cells.

    Names of genes and cells come along. Categories keep their order, also those of no cell; whole
    numbers are classes in their order. Values that would take more than ``memory`` stay in the
    file and are read by blocks of cells, where they are dense or CSR; CSC is made whole.

    Args:
        path: The file; read with h5py, in the layouts of anndata before and since 0.7.
        label: Column of ``obs`` that says what was done to a cell, such as ``gene``; several
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

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has no such column or layer, naming it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an h5ad file")
    names, fixed = _listed(label), _listed(covariates)
    part = splits if isinstance(splits, str) else None
    columns = f" and obs columns {', '.join([*names, *fixed])}" if names or fixed else ""
    with reading(Path(path), f"an h5ad file of AnnData with {layer!r}{columns}"):
        with opened(path) as file:
            if "header" in file and "sites" in file:
                sites = ", ".join(file["sites"])
                raise ValueError(f"it is a file of data.write with sites {sites}: name it .h5")
            x = values_of(file, layer, path, memory)
            names, fixed = _asked(file, label, names), _asked(file, covariates, fixed)
            cells = Cells(
                x=x if isinstance(x, Column) else Given(x),
                genes=names_along(file, "raw/var" if layer == "raw/X" else "var"),
                names=names_along(file, "obs"),
                labels={name: column(file, name) for name in names},
                splits=None if part is None else column(file, part),
                covariates={name: column(file, name) for name in fixed},
            )
        known = [cells.splits] if cells.splits is not None else []
        known += [*cells.labels.values(), *cells.covariates.values()]
        if any(len(found.values) != len(x) for found in known):
            raise ValueError(f"obs has not {len(x)} rows like {layer}")
    options = {"label": ",".join(names), "layer": layer, "counts": counts, "splits": splits}
    if any("," in name for name in names):
        options["label"] = names
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


def _listed(columns: str | Sequence[str]) -> list[str]:
    return [n for n in columns.split(",") if n] if isinstance(columns, str) else list(columns)


def values_of(file: h5py.File, layer: str, path: str, memory: int) -> Array | Column:
    """Values ``(cells, genes)`` of float32, or a column of them that stays in the file.

    Args:
        file: The open file.
        layer: Where they are.
        path: The file's.
        memory: Bytes that they may take.

    Raises:
        ValueError: See :func:`matrix`.
    """
    found = _node(file, layer)
    dense = isinstance(found, h5py.Dataset)
    shape, by_row = (found.shape, True) if dense else _sparse(file, layer)
    if by_row and 4 * shape[0] * shape[1] > memory and 0 not in shape:
        if not dense:
            _check_pointers(found, layer, shape, len(found["data"]))
        return Column(cell_rows(path, layer, found, (shape[0], shape[1]), memory))
    return matrix(file, layer)


def _node(file: h5py.File, layer: str) -> h5py.Dataset | h5py.Group:
    if layer not in file:
        layers = [f"layers/{name}" for name in file.get("layers", {})]
        there = [name for name in ("X", "raw/X") if name in file] + layers
        raise ValueError(f"no {layer!r}; there is {', '.join(there or file) or 'nothing'}")
    found = file[layer]
    if isinstance(found, h5py.Dataset) and len(found.shape) != 2:
        raise ValueError(f"{layer} has shape {found.shape}")
    return found


def _sparse(file: h5py.File, layer: str) -> tuple[tuple[int, ...], bool]:
    """Shape of a sparse matrix, and whether its rows are stored one after the other."""
    attrs = file[layer].attrs
    kind = _text(attrs.get("encoding-type", attrs.get("h5sparse_format", b"")))
    shape = tuple(int(n) for n in attrs.get("shape", attrs.get("h5sparse_shape", ())))
    by_row = kind in ("csr_matrix", "csr")
    if len(shape) != 2 or not (by_row or kind in ("csc_matrix", "csc")):
        raise ValueError(f"{layer} is {kind or 'unknown'} of shape {shape}, expected csr or csc")
    # The names of genes are stored, as the pointers of rows are; a width alone may be anything.
    genes = _genes(file, layer)
    if shape[1] != genes if genes is not None else 4 * shape[0] * shape[1] > _most(file):
        raise ValueError(f"{layer} has shape {shape}, but var has {genes or 'no'} rows")
    return shape, by_row


def _check_pointers(found: h5py.Group, layer: str, shape: tuple[int, ...], entries: int) -> Array:
    """Where each line begins among the entries, once these fit.

    Args:
        found: The sparse matrix.
        layer: Its name.
        shape: Lines and the numbers in each.
        entries: How many are stored.
    """
    starts: Array = found["indptr"][()]
    if (
        starts.shape != (shape[0] + 1,)
        or starts[0] != 0
        or starts[-1] != entries
        or entries != len(found["indices"])
        or (np.diff(starts.astype(np.int64)) < 0).any()
    ):
        raise ValueError(f"{layer}: data, indices and indptr do not fit a matrix of {shape}")
    return starts


def matrix(file: h5py.File, layer: str) -> Array:
    """Values ``(cells, genes)`` of float32, dense.

    Raises:
        ValueError: If there is no such layer, or a sparse one does not fit together.
    """
    from scipy import sparse

    found = _node(file, layer)
    if isinstance(found, h5py.Dataset):
        dense: Array = found[()].astype(np.float32)
        return dense
    shape, by_row = _sparse(file, layer)
    lines = shape if by_row else shape[::-1]
    starts = _check_pointers(found, layer, lines, len(found["data"]))
    minor = found["indices"][()]
    if len(minor) and not 0 <= minor.min() <= minor.max() < lines[1]:
        raise ValueError(f"{layer}: data, indices and indptr do not fit a matrix of {shape}")
    values = found["data"][()].astype(np.float32)
    made = (sparse.csr_matrix if by_row else sparse.csc_matrix)((values, minor, starts), shape)
    # Entries of one place add up, as sparse matrices have it.
    out: Array = made.toarray(order="C")
    return out


def _genes(file: h5py.File, layer: str) -> int | None:
    table = file.get("raw/var" if layer.startswith("raw/") else "var")
    if isinstance(table, h5py.Group):
        table = table.get(_text(table.attrs.get("_index", "_index")))
    if isinstance(table, h5py.Group):  # of strings that may be missing
        table = table.get("values")
    return len(table) if isinstance(table, h5py.Dataset) else None


def _most(file: h5py.File) -> int:
    return SLACK + RATIO * Path(file.filename).stat().st_size


def column(file: h5py.File, name: str) -> Given:
    """A column of the table of cells, its categories in their order.

    Raises:
        ValueError: If there is no such column, or its codes are out of range.
    """
    obs = file["obs"]
    if isinstance(obs, h5py.Dataset):  # before anndata 0.7: one compound array
        known = obs.dtype.names or ()
        if name not in known:
            raise ValueError(unknown("obs column", name, known))
        values, categories = Given(obs[name]), file.get(f"uns/{name}_categories")
    else:
        if name not in obs:
            raise ValueError(unknown("obs column", name, sorted(set(obs) - {"__categories"})))
        if isinstance(obs[name], h5py.Group) and "codes" in obs[name]:
            values, categories = Given(obs[name]["codes"][()]), obs[name]["categories"]
        else:
            values, categories = _values(obs[name]), obs.get(f"__categories/{name}")
    if categories is None:
        return values
    kept = _values(categories)
    codes = values.values.astype(np.int64)
    if ((codes < -1) | (codes >= len(kept.values))).any():
        raise ValueError(f"codes reach from {codes.min()} to {codes.max()}")
    return Given(codes, categories=tuple(_texts(kept.values)))


def names_along(file: h5py.File, table: str) -> tuple[str, ...] | None:
    """Names of the rows of ``obs`` or ``var``, if it has some."""
    found = file.get(table)
    if isinstance(found, h5py.Dataset):
        index = found["index"] if "index" in (found.dtype.names or ()) else None
    elif found is None:
        return None
    else:
        name = found.attrs.get("_index", "_index" if "_index" in found else "index")
        index = _values(found[_text(name)]).values if _text(name) in found else None
    names = () if index is None else tuple(map(str, _texts(index)))
    return names if any(names) else None


def _asked(file: h5py.File, label: str | Sequence[str], names: list[str]) -> list[str]:
    # A column's own name may have commas.
    obs = file["obs"]
    known = obs.dtype.names or () if isinstance(obs, h5py.Dataset) else obs
    return [label] if isinstance(label, str) and label in known else names


def _values(node: h5py.Dataset | h5py.Group) -> Given:
    """An array, or a nullable one, which is values beside a mask."""
    if isinstance(node, h5py.Group):
        return Given(node["values"][()], node["mask"][()].astype(bool))
    return Given(node[()])


def _texts(values: Array) -> list[Any]:
    listed: list[Any] = values.tolist()
    return text_of(listed) if all(isinstance(v, bytes) for v in listed) else listed


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
