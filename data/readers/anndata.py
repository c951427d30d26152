"""AnnData h5ad files: counts of genes by cell, and what was done to each cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ppl_models.config import unknown
from ppl_models.data.readers.files import naming, reading
from ppl_models.data.store.checked_h5 import opened
from ppl_models.data.store.h5_walk import RATIO, SLACK
from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables.own_arrays import SPLITS, Splits, build
from ppl_models.data.tables.table import Dataset

OLD_MISSING = ("", "nan")


def load_file(
    path: str,
    label: str = "",
    layer: str = "X",
    counts: bool = True,
    labelled: int | None = None,
    splits: Splits = SPLITS,
    seed: int = 0,
) -> Dataset:
    """Site ``x`` (genes of each cell) and, where asked for, labels from the table of cells.

    Args:
        path: The file; read with h5py, in the layouts of anndata before and since 0.7.
        label: Column of ``obs`` that says what was done to a cell, such as ``gene``; several
            with commas between. Each becomes a label site of its name.
        layer: Where the values are: ``X``, ``raw/X`` or ``layers/NAME``; dense, CSR or CSC.
        counts: Whether values must be counts, whole and not negative.
        labelled: Training rows that keep their label, balanced over the classes; all if None.
        splits: Shares, or numbers, of training, validation and test rows.
        seed: Seed of the split and of the labels that are kept.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has no such column or layer, naming it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an h5ad file")
    names = [name for name in label.split(",") if name]
    columns = f" and obs columns {', '.join(names)}" if names else ""
    with reading(Path(path), f"an h5ad file of AnnData with {layer!r}{columns}"):
        with opened(path) as file:
            if "header" in file and "sites" in file:
                sites = ", ".join(file["sites"])
                raise ValueError(f"it is a file of data.write with sites {sites}: name it .h5")
            x = matrix(file, layer)
            labels = {name: column(file, name) for name in names}
        if any(len(values) != len(x) for values in labels.values()):
            raise ValueError(f"obs has not {len(x)} rows like {layer}")
    if counts and ((x < 0) | (x != np.rint(x))).any():
        row, gene = np.argwhere((x < 0) | (x != np.rint(x)))[0]
        raise ValueError(
            f"{path}: {layer} holds {x[row, gene]} at row {row}, column {gene}, expected counts; "
            "name another layer, or say counts=False"
        )
    options = {"label": label, "layer": layer, "counts": counts, "splits": list(splits)}
    with naming(path):
        made = build(
            {"x": x, **labels},
            Path(path).stem,
            labelled,
            {},
            splits,
            {},
            seed,
            options,
            source=str(path),
        )
    return dataclasses.replace(made, roles=dict.fromkeys(names, "intervention"))


def matrix(file: h5py.File, layer: str) -> Array:
    """Values ``(cells, genes)`` of float32, dense.

    Raises:
        ValueError: If there is no such layer, or a sparse one does not fit together.
    """
    if layer not in file:
        layers = [f"layers/{name}" for name in file.get("layers", {})]
        there = [name for name in ("X", "raw/X") if name in file] + layers
        raise ValueError(f"no {layer!r}; there is {', '.join(there or file) or 'nothing'}")
    found = file[layer]
    if isinstance(found, h5py.Dataset):
        dense: Array = found[()].astype(np.float32)
        if dense.ndim != 2:
            raise ValueError(f"{layer} has shape {dense.shape}")
        return dense
    attrs = found.attrs
    kind = _text(attrs.get("encoding-type", attrs.get("h5sparse_format", b"")))
    shape = tuple(int(n) for n in attrs.get("shape", attrs.get("h5sparse_shape", ())))
    by_row = kind in ("csr_matrix", "csr")
    if len(shape) != 2 or not (by_row or kind in ("csc_matrix", "csc")):
        raise ValueError(f"{layer} is {kind or 'unknown'} of shape {shape}, expected csr or csc")
    values, minor, starts = (found[name][()] for name in ("data", "indices", "indptr"))
    lines, across = shape if by_row else shape[::-1]
    spans = np.diff(starts)
    if (
        starts.shape != (lines + 1,)
        or starts[0] != 0
        or starts[-1] != len(values)
        or len(values) != len(minor)
        or (spans < 0).any()
        or (len(minor) and not 0 <= minor.min() <= minor.max() < across)
    ):
        raise ValueError(f"{layer}: data, indices and indptr do not fit a matrix of {shape}")
    # The names of genes are stored, as the pointers of rows are; a width alone may be anything.
    genes = _genes(file, layer)
    if shape[1] != genes if genes is not None else 4 * lines * across > _most(file):
        raise ValueError(f"{layer} has shape {shape}, but var has {genes or 'no'} rows")
    out = np.zeros((lines, across), np.float32)
    # Entries of one place add up, as sparse matrices have it.
    np.add.at(out, (np.repeat(np.arange(lines), spans), minor), values.astype(np.float32))
    return out if by_row else np.ascontiguousarray(out.T)


def _genes(file: h5py.File, layer: str) -> int | None:
    table = file.get("raw/var" if layer.startswith("raw/") else "var")
    if isinstance(table, h5py.Group):
        table = table.get(_text(table.attrs.get("_index", "_index")))
    return len(table) if isinstance(table, h5py.Dataset) else None


def _most(file: h5py.File) -> int:
    return SLACK + RATIO * Path(file.filename).stat().st_size


def column(file: h5py.File, name: str) -> Array:
    """A column of the table of cells as strings; None where there is no value.

    Raises:
        ValueError: If there is no such column, or its codes are out of range.
    """
    obs = file["obs"]
    if isinstance(obs, h5py.Dataset):  # before anndata 0.7: one compound array
        known = obs.dtype.names or ()
        if name not in known:
            raise ValueError(unknown("obs column", name, known))
        values, categories = obs[name], file.get(f"uns/{name}_categories")
    else:
        if name not in obs:
            raise ValueError(unknown("obs column", name, sorted(obs)))
        values, categories = obs[name], obs.get(f"__categories/{name}")
        if isinstance(values, h5py.Group):
            values, categories = values["codes"], values["categories"]
    return _words(values[()], None if categories is None else categories[()])


def _words(values: Array, categories: Sequence[Any] | None) -> Array:
    if categories is None:
        texts = [_text(value) for value in values.tolist()]
        return np.array([None if t.lower() in OLD_MISSING else t for t in texts], dtype=object)
    codes = values.astype(np.int64)
    if ((codes < -1) | (codes >= len(categories))).any():
        raise ValueError(f"codes reach from {codes.min()} to {codes.max()}")
    # The last entry is for code -1.
    return np.array([*map(_text, categories), None], dtype=object)[codes]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
