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

from ppl_models.data.store import checked_h5
from ppl_models.inference.posterior.groups import Array
from ppl_models.inference.posterior.netcdf_kinds import HIDDEN, OTHER, as_read

indexing: Any = xarray_indexing  # its types ask for more than its own classes give

OURS = "ppl-models"  # what the attribute creation_library says of a file that we wrote


def read(path: Path) -> tuple[dict[str, xr.Dataset], dict[str, Any]] | None:
    """Groups and attributes of a file that this library wrote; None for a file of others.

    Raises:
        OSError: If it is no HDF5 file.
        ValueError: If it is damaged, claims more numbers than it can hold, or leads to other
            files.
    """
    checked_h5.check(path)
    # By its whole name, as what is pickled may be opened from another folder.
    file = h5py.File(path.absolute())
    try:
        attrs = _attributes(file)
        if str(attrs.get("creation_library")) != OURS:
            _check(file, set())
            file.close()
            return None
        groups = _members(file)
        return {name: _dataset(group) for name, group in groups.items()}, attrs
    except BaseException:
        file.close()
        raise


def _check(group: Any, seen: set[int]) -> None:
    """Refuse, in a file of others, what :func:`_members` refuses, before they read it."""
    seen.add(h5py.h5o.get_info(group.id).addr)
    for node in _members(group).values():
        if isinstance(node, h5py.Group):
            if h5py.h5o.get_info(node.id).addr in seen:
                raise ValueError(f"group {node.name} stands in it twice")
            _check(node, seen)


def _members(group: Any) -> dict[str, Any]:
    """What stands in a group itself, and nothing that a link leads to."""
    found = {}
    for name in group:
        link = group.id.links.get_info(name.encode("utf-8", "surrogateescape"))
        if link.type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{group.name.rstrip('/')}/{name} is a link to elsewhere")
        found[name] = group[name]
    return found


def _dataset(group: Any) -> xr.Dataset:
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{group.name} is no group")
    # The dataset's arrays keep the file open; HDF5 closes it with the last of them.
    stored = {
        name: values
        for name, values in _members(group).items()
        if not isinstance(values, h5py.Datatype) and not _is_bare(values)
    }
    names = {name: name.removeprefix(OTHER) for name in stored}
    variables = {names[name]: _variable(names[name], values) for name, values in stored.items()}
    attrs = _attributes(group)
    named = str(attrs.pop("coordinates", "")).split()
    coordinates = {n: variables.pop(n) for n in list(variables) if variables[n].dims == (n,)}
    coordinates |= {n: variables.pop(n) for n in named if n in variables}
    return xr.Dataset(variables, coordinates, attrs)


def _variable(name: str, values: Any) -> xr.Variable:
    if not isinstance(values, h5py.Dataset):
        raise ValueError(f"{values.name} is a group within a group")
    stored = _Stored(values)
    dims = _dims(name, values)
    if dims == (name,):
        index = stored[indexing.BasicIndexer((slice(None),))]
        return xr.Variable(dims, index, stored.attrs)
    # As xarray opens files: what was read whole is kept, and may be written to in memory.
    kinds: Any = indexing  # xarray's own annotations do not fit one another
    lazy = kinds.CopyOnWriteArray(kinds.LazilyIndexedArray(stored))
    return xr.Variable(dims, kinds.MemoryCachedArray(lazy), stored.attrs)


def _dims(name: str, values: Any) -> tuple[str, ...]:
    if values.attrs.get("CLASS") == b"DIMENSION_SCALE":
        if len(values.shape) == 1:
            return (name,)
        # One of several dimensions has no list of them, but their numbers in the file.
        number = {
            int(scale.attrs["_Netcdf4Dimid"]): Path(scale.name).name
            for scale in values.parent.values()
            if scale.attrs.get("CLASS") == b"DIMENSION_SCALE"
        }
        return tuple(number[int(one)] for one in values.attrs["_Netcdf4Coordinates"])
    names = []
    for place, (dim, size) in enumerate(zip(values.dims, values.shape, strict=True)):
        if not len(dim):
            raise ValueError(f"dimension {place} of {values.name} has no name")
        scale = dim[0]
        if scale.shape[:1] != (size,):
            raise ValueError(
                f"dimension {place} of {values.name} has {size} entries, but {scale.name} has "
                f"shape {scale.shape}"
            )
        names.append(scale.name.rpartition("/")[2])
    return tuple(names)


def _is_bare(values: Any) -> bool:
    """Whether it stands for a dimension that has no coordinate."""
    return bytes(values.attrs.get("NAME", b"")).startswith(b"This is a netCDF dimension but not")


def _attributes(node: Any) -> dict[str, Any]:
    found = {}
    kept = node.attrs
    for name in kept:
        if name not in HIDDEN:  # whose lists of references take longer to read than all else
            value = kept[name]
            single = isinstance(value, np.ndarray) and value.shape == (1,)
            found[name] = value[0] if single else value
    return found


class _Stored(BackendArray):
    """An array in the file, as xarray's lazy indexing asks for it.

    Attributes:
        attrs: Its attributes, but those that say what its numbers mean.
    """

    def __init__(self, values: Any) -> None:
        self.values = values
        self.shape = values.shape
        string = h5py.check_string_dtype(values.dtype)
        # Bytes have a length, text has none.
        self.text = string is not None and string.length is None
        self.dtype, self.convert, self.attrs = as_read(
            values.dtype, self.text, _attributes(values)
        )

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
        try:
            part = self.values.asstr()[key] if self.text else self.values[key]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.values.file.filename} is damaged: {self.values.name} cannot be read "
                f"({str(error).splitlines()[0]})"
            ) from None
        return self.convert(np.asarray(part))


def _reopened(path: str, name: str) -> _Stored:
    return _Stored(h5py.File(path)[name])
