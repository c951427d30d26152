"""Opening InferenceData files: arrays are read from the file when they are used.

xarray opens a netCDF4 file in 5 milliseconds a variable, which is a third of a second for a
posterior of ten groups; reading the HDF5 file itself takes a tenth of that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing as xarray_indexing

from ppl_models.inference.posterior.groups import Array

indexing: Any = xarray_indexing  # its types ask for more than its own classes give

OURS = "ppl-models"  # what the attribute creation_library says of a file that we wrote
# Attributes of HDF5's and netCDF's own bookkeeping.
HIDDEN = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "dtype", "_FillValue")


def read(path: Path) -> tuple[dict[str, xr.Dataset], dict[str, Any]] | None:
    """Groups and attributes of a file that this library wrote; None for a file of others.

    Raises:
        OSError: If it is no HDF5 file.
    """
    file = h5py.File(path)
    attrs = _attributes(file)
    if attrs.get("creation_library") != OURS:
        file.close()
        return None
    return {name: _dataset(group) for name, group in file.items()}, attrs


def _dataset(group: Any) -> xr.Dataset:
    # The dataset's arrays keep the file open; HDF5 closes it with the last of them.
    stored = {n: v for n, v in group.items() if not _is_bare(v)}
    variables = {name: _variable(name, values) for name, values in stored.items()}
    coordinates = {n: variables.pop(n) for n in list(variables) if variables[n].dims == (n,)}
    return xr.Dataset(variables, coordinates, _attributes(group))


def _variable(name: str, values: Any) -> xr.Variable:
    scale = values.attrs.get("CLASS") == b"DIMENSION_SCALE"
    dims = (name,) if scale else tuple(Path(dim[0].name).name for dim in values.dims)
    if scale:
        return xr.Variable(dims, _Stored(values)[indexing.BasicIndexer((slice(None),))])
    # As xarray opens files: what was read whole is kept, and may be written to in memory.
    kinds: Any = indexing  # xarray's own annotations do not fit one another
    lazy = kinds.CopyOnWriteArray(kinds.LazilyIndexedArray(_Stored(values)))
    return xr.Variable(dims, kinds.MemoryCachedArray(lazy), _attributes(values))


def _is_bare(values: Any) -> bool:
    """Whether it stands for a dimension that has no coordinate."""
    return bytes(values.attrs.get("NAME", b"")).startswith(b"This is a netCDF dimension but not")


def _attributes(node: Any) -> dict[str, Any]:
    found = {}
    for name, value in node.attrs.items():
        if name not in HIDDEN and not name.startswith("_N"):
            single = isinstance(value, np.ndarray) and value.shape == (1,)
            found[name] = value[0] if single else value
    return found


class _Stored(BackendArray):
    """An array in the file, as xarray's lazy indexing asks for it."""

    def __init__(self, values: Any) -> None:
        self.values = values
        self.shape = values.shape
        self.text = h5py.check_string_dtype(values.dtype) is not None
        self.mask = values.attrs.get("dtype") in ("bool", b"bool")
        self.dtype = np.dtype(object if self.text else bool if self.mask else values.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Stored:
        return self  # a file that nobody writes to

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.values.file.filename, self.values.name)

    def __getitem__(self, key: Any) -> Array:
        found: Array = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._read
        )
        return found

    def _read(self, key: tuple[Any, ...]) -> Array:
        part = self.values.asstr()[key] if self.text else self.values[key]
        return np.asarray(part).astype(str if self.text else self.dtype)


def _reopened(path: str, name: str) -> _Stored:
    return _Stored(h5py.File(path)[name])
