"""How AnnData lays out values, columns and names in an h5 file, or in a group of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ppl_models.config import unknown
from ppl_models.data.readers.cell_rows import cell_rows
from ppl_models.data.store.h5_walk import RATIO, SLACK
from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables.given import Given
from ppl_models.data.tables.labels import text_of
from ppl_models.data.tables.lazy_column import Column


def values_of(file: h5py.Group, layer: str, path: str, memory: int) -> Array | Column:
    """Values ``(cells, genes)`` of float32, or a column of them that stays in the file.

    Args:
        file: The open file, or the group of a modality.
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
        return Column(cell_rows(path, found.name.strip("/"), found, (shape[0], shape[1]), memory))
    return matrix(file, layer)


def _node(file: h5py.Group, layer: str) -> h5py.Dataset | h5py.Group:
    if layer not in file:
        layers = [f"layers/{name}" for name in file.get("layers", {})]
        there = [name for name in ("X", "raw/X") if name in file] + layers
        raise ValueError(f"no {layer!r}; there is {', '.join(there or file) or 'nothing'}")
    found = file[layer]
    if isinstance(found, h5py.Dataset) and len(found.shape) != 2:
        raise ValueError(f"{layer} has shape {found.shape}")
    return found


def _sparse(file: h5py.Group, layer: str) -> tuple[tuple[int, ...], bool]:
    """Shape of a sparse matrix, and whether its rows are stored one after the other."""
    attrs = file[layer].attrs
    kind = text(attrs.get("encoding-type", attrs.get("h5sparse_format", b"")))
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


def matrix(file: h5py.Group, layer: str) -> Array:
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


def _genes(file: h5py.Group, layer: str) -> int | None:
    table = file.get("raw/var" if layer.startswith("raw/") else "var")
    if isinstance(table, h5py.Group):
        table = table.get(text(table.attrs.get("_index", "_index")))
    if isinstance(table, h5py.Group):  # of strings that may be missing
        table = table.get("values")
    return len(table) if isinstance(table, h5py.Dataset) else None


def _most(file: h5py.Group) -> int:
    return SLACK + RATIO * Path(file.file.filename).stat().st_size


def column(file: h5py.Group, name: str) -> Given:
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


def names_along(file: h5py.Group, table: str) -> tuple[str, ...] | None:
    """Names of the rows of ``obs`` or ``var``, if it has some."""
    found = file.get(table)
    if isinstance(found, h5py.Dataset):
        index = found["index"] if "index" in (found.dtype.names or ()) else None
    elif found is None:
        return None
    else:
        name = found.attrs.get("_index", "_index" if "_index" in found else "index")
        index = _values(found[text(name)]).values if text(name) in found else None
    names = () if index is None else tuple(map(str, _texts(index)))
    return names if any(names) else None


def _values(node: h5py.Dataset | h5py.Group) -> Given:
    """An array, or a nullable one, which is values beside a mask."""
    if isinstance(node, h5py.Group):
        return Given(node["values"][()], node["mask"][()].astype(bool))
    return Given(node[()])


def _texts(values: Array) -> list[Any]:
    listed: list[Any] = values.tolist()
    return text_of(listed) if all(isinstance(v, bytes) for v in listed) else listed


def text(value: Any) -> str:
    """An attribute's text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def columns_of(file: h5py.Group) -> list[str]:
    """Names of the columns of ``obs``; none where it has no such table."""
    obs = file.get("obs", {})
    if isinstance(obs, h5py.Dataset):
        return list(obs.dtype.names or ())
    return sorted(set(obs) - {"__categories"})
