"""InferenceData files: netCDF4 (HDF5), written block by block, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import xarray as xr

from ppl_models.files import write_atomically
from ppl_models.full_disk import Disk
from ppl_models.inference.posterior.groups import ROWS, Array

CHUNK_BYTES = 1 << 20  # of HDF5 chunks: what is read for a single row
SAVED_BYTES = 1 << 25  # copied at a time from what is in memory or another file

# Digits of draws are random: gzip makes them a tenth smaller and 20 times slower. Integers and
# masks are mostly zero bytes.
PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


class File:
    """A store of named arrays in a netCDF4 file; see ``groups.Memory``.

    Args:
        path: The file, which is created.
    """

    def __init__(self, path: Path) -> None:
        self.disk = Disk(path)
        # Numbers go straight to HDF5: netCDF's own assignment takes milliseconds.
        self.data = h5py.File(self.disk, "w", track_order=True)
        self.file = h5netcdf.File(self.data, "w")

    def create(
        self, group: str, name: str, dims: tuple[str, ...], shape: tuple[int, ...], like: Array
    ) -> Callable[[tuple[slice, ...], Array], None]:
        """Reserve an array; returns what assigns to a part of it.

        Args:
            group: Name of the group.
            name: Name of the variable.
            dims: Names of its dimensions.
            shape: Its shape.
            like: The first part, whose type and rows the file's layout follows.
        """
        where = self._group(group)
        for dim, size in zip(dims, shape, strict=True):
            if dim not in where.dimensions:
                where.dimensions[dim] = size
        kind = like.dtype.kind
        dtype: Any = {"b": np.dtype("i1"), "U": h5py.string_dtype(), "O": h5py.string_dtype()}
        options: dict[str, Any] = {}
        if ROWS in dims and 0 not in shape:
            options["chunks"] = _chunks(dims, like)
            options |= PACKED if kind in "iub" else {}
        variable = where.create_variable(name, dims, dtype.get(kind, like.dtype), **options)
        values = self.data[f"{group}/{name}"]
        if kind == "b":
            variable.attrs["dtype"] = "bool"  # xarray's mark

        def assign(at: tuple[slice, ...], part: Array) -> None:
            values[at] = part.view("i1") if kind == "b" else _plain(part)
            self.disk.check()

        return assign

    def attributes(self, group: str | None, attrs: Mapping[str, Any]) -> None:
        """Attributes of a group, or of the file."""
        target = self.file if group is None else self._group(group)
        for name, value in attrs.items():
            target.attrs[name] = value

    def close(self) -> None:
        """Complete the file.

        Raises:
            OSError: If the disk did not take all of it.
        """
        self.file.close()
        self.data.close()
        self.disk.close()
        self.disk.check()

    def _group(self, name: str) -> Any:
        return self.file[name] if name in self.file.groups else self.file.create_group(name)


def write(path: Path, fill: Callable[[File], None]) -> None:
    """Let a function fill a file; one of that name is replaced only when it is complete.

    Args:
        path: The file.
        fill: Called with the empty file.

    Raises:
        OSError: In one line, if the folder is missing, cannot be written or is full; nothing
            is left behind.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: {path.parent} is no folder")

    def whole(part: Path) -> None:
        file = File(part)
        try:
            fill(file)
        finally:
            file.close()

    write_atomically(path, whole)


def copy(datasets: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any], file: File) -> None:
    """Write datasets as the groups of a file, some rows at a time."""
    file.attributes(None, attrs)
    for group, dataset in datasets.items():
        for name, variable in dataset.variables.items():
            dims, shape = tuple(map(str, variable.dims)), variable.shape
            step = max(1, variable.sizes.get(ROWS, 1))
            step = max(1, SAVED_BYTES * step // max(1, variable.nbytes))
            assign = None
            for start in range(0, variable.sizes.get(ROWS, 1), step):
                at = {ROWS: slice(start, start + step)} if ROWS in dims else {}
                part = variable.isel(at).values
                assign = assign or file.create(group, str(name), dims, shape, part)
                assign(tuple(at.get(dim, slice(None)) for dim in dims), part)
        file.attributes(group, dataset.attrs)


def _plain(part: Array) -> Array:
    return part.astype(object) if part.dtype.kind == "U" else part


def _chunks(dims: tuple[str, ...], like: Array) -> tuple[int, ...]:
    """All of a row stands in one chunk, with as many of its block's rows as divide the block."""
    place = dims.index(ROWS)
    rows = like.shape[place]
    most = max(1, CHUNK_BYTES * rows // max(1, like.nbytes))
    fit = next(n for n in range(min(rows, most), 0, -1) if rows % n == 0)
    return tuple(fit if n == place else size for n, size in enumerate(like.shape))
