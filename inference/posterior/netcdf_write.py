"""InferenceData files: netCDF4 (HDF5), written block by block, so that memory stays flat."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pandas as pd
import xarray as xr

from ppl_models.data.store import checked_h5
from ppl_models.files import write_atomically
from ppl_models.full_disk import Disk
from ppl_models.inference.posterior.groups import ROWS, Array
from ppl_models.inference.posterior.netcdf_kinds import (
    OTHER,
    check_attribute,
    check_texts,
    name_problem,
    stored,
)

CHUNK_BYTES = 1 << 20  # of HDF5 chunks: what is read for a single row
SAVED_BYTES = 1 << 25  # copied at a time from what is in memory or another file

# Digits of draws are random: gzip makes them a tenth smaller and 20 times slower. Integers and
# masks are mostly zero bytes.
PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


NONE: Mapping[str, Any] = types.MappingProxyType({})


class File:
    """A store of named arrays in a netCDF4 file; see ``groups.Memory``.

    Args:
        path: The file, which is created.
    """

    def __init__(self, path: Path) -> None:
        self.disk = Disk(path)
        # Large attributes need the formats of HDF5 1.8, which older libraries do not take up by
        # themselves. Numbers go straight to HDF5: netCDF's own assignment takes milliseconds.
        self.data = h5py.File(self.disk, "w", track_order=True, libver="v108")
        self.file = h5netcdf.File(self.data, "w")
        self.named: dict[str, list[str]] = {}  # coordinates that are not their dimension's

    def create(
        self,
        group: str,
        name: str,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        like: Array,
        attrs: Mapping[str, Any] = NONE,
    ) -> Callable[[tuple[slice, ...], Array], None]:
        """Reserve an array; returns what assigns to a part of it.

        Args:
            group: Name of the group.
            name: Name of the variable.
            dims: Names of its dimensions.
            shape: Its shape.
            like: The first part, whose type and rows the file's layout follows.
            attrs: Its attributes, as they are stored.
        """
        where = self.dimensions(group, dict(zip(dims, shape, strict=True)))
        kind = like.dtype.kind
        dtype: Any = {"b": np.dtype("i1"), "U": h5py.string_dtype(), "O": h5py.string_dtype()}
        options: dict[str, Any] = {}
        if ROWS in dims and 0 not in shape:
            options["chunks"] = _chunks(dims, like)
            options |= PACKED if kind in "iub" else {}
        variable = where.create_variable(name, dims, dtype.get(kind, like.dtype), **options)
        other = name in where.dimensions and (not dims or dims[0] != name)
        values = self.data[f"{group}/{OTHER if other else ''}{name}"]
        for key, value in attrs.items():
            variable.attrs[key] = value
        if kind == "b":
            variable.attrs["dtype"] = "bool"  # xarray's mark

        def assign(at: tuple[slice, ...], part: Array) -> None:
            if kind == "U":
                _check_texts(f"variable {name!r} of group {group!r}", part)
            values[at] = part.view("i1") if kind == "b" else _plain(part)
            self.disk.check()

        return assign

    def dimensions(self, group: str, sizes: Mapping[str, int]) -> Any:
        """A group with these dimensions, those that are not there yet made."""
        where = self._group(group)
        for dim, size in sizes.items():
            if dim not in where.dimensions:
                where.dimensions[dim] = size
        return where

    def coordinate(self, group: str, name: str) -> None:
        """Mark a variable as a coordinate beside that of its dimension, as xarray does."""
        named = self.named.setdefault(group, [])
        named.append(name)
        self.attributes(group, {"coordinates": " ".join(named)})

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
    checked_h5.trust(path)


@dataclass(frozen=True)
class Content:
    """What goes into a group, as it is stored.

    Attributes:
        variables: Arrays by name.
        attrs: Attributes of the variables by their names.
        named: Coordinates that are not their dimension's.
        own: Attributes of the group.
    """

    variables: dict[str, xr.Variable]
    attrs: dict[str, dict[str, Any]]
    named: list[str]
    own: dict[str, Any]


def contents(
    datasets: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any]
) -> tuple[dict[str, Content], dict[str, Any]]:
    """Datasets and attributes as they are stored; numbers stay where they are.

    Raises:
        ValueError: Naming what netCDF cannot hold.
    """
    found = {}
    for group, dataset in datasets.items():
        _check_name(f"group {group!r}", group)
        where = f"of group {group!r}"
        variables, marks = {}, {}
        for name, variable in dataset.variables.items():
            what = f"variable {name!r} {where}"
            _check_name(what, name)
            for dim in variable.dims:
                _check_name(f"dimension {dim!r} of {what}", dim)
            if isinstance(dataset.indexes.get(name), pd.MultiIndex):
                raise ValueError(
                    f"{what} is a MultiIndex, which netCDF cannot hold; call .reset_index first"
                )
            try:
                variables[str(name)], mark = stored(variable)
            except ValueError as error:
                raise ValueError(f"{what} {error}") from None
            marks[str(name)] = _checked_attributes(variable.attrs, what, True) | mark
        named = [str(n) for n in dataset.coords if dataset[n].dims != (n,)]
        for name in named:
            if len(name.split()) != 1 or name != name.strip():
                raise ValueError(
                    f"coordinate {name!r} {where} has a space in its name, which netCDF keeps "
                    "for data only"
                )
        own = _checked_attributes(dataset.attrs, f"group {group!r}", False)
        found[group] = Content(variables, marks, named, own)
    return found, _checked_attributes(attrs, "the file", False)


def _check_name(what: str, name: object) -> None:
    if problem := name_problem(name):
        raise ValueError(f"{what}: its name {problem}")


def _checked_attributes(attrs: Mapping[Any, Any], of: str, variable: bool) -> dict[str, Any]:
    kept = {}
    for name, value in attrs.items():
        try:
            kept[str(name)] = check_attribute(name, value, variable)
        except ValueError as error:
            raise ValueError(f"attribute {name!r} of {of} {error}") from None
    return kept


def copy(groups: Mapping[str, Content], attrs: Mapping[str, Any], file: File) -> None:
    """Write what :func:`contents` found, some rows at a time."""
    file.attributes(None, attrs)
    for group, content in groups.items():
        # A variable of a dimension's name that is not its coordinate must find it there.
        for variable in content.variables.values():
            file.dimensions(group, {str(dim): size for dim, size in variable.sizes.items()})
        for name, variable in content.variables.items():
            _copy_variable(file, group, name, variable, content.attrs[name])
        file.attributes(group, content.own)
        for name in content.named:
            file.coordinate(group, name)


def _copy_variable(
    file: File, group: str, name: str, variable: xr.Variable, attrs: Mapping[str, Any]
) -> None:
    dims = tuple(map(str, variable.dims))
    rows = variable.sizes.get(ROWS, 1)
    step = max(1, SAVED_BYTES * max(1, rows) // max(1, variable.nbytes))
    assign = None
    for start in range(0, max(1, rows), step):
        at = {ROWS: slice(start, start + step)} if ROWS in dims else {}
        part = variable.isel(at).values
        assign = assign or file.create(group, name, dims, variable.shape, part, attrs)
        assign(tuple(at.get(dim, slice(None)) for dim in dims), part)


def _check_texts(what: str, part: Array) -> None:
    try:
        check_texts(part.ravel().tolist())
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None


def _plain(part: Array) -> Array:
    return part.astype(object) if part.dtype.kind == "U" else part


def _chunks(dims: tuple[str, ...], like: Array) -> tuple[int, ...]:
    """All of a row stands in one chunk, with as many of its block's rows as divide the block."""
    place = dims.index(ROWS)
    rows = like.shape[place]
    most = max(1, CHUNK_BYTES * rows // max(1, like.nbytes))
    fit = next(n for n in range(min(rows, most), 0, -1) if rows % n == 0)
    return tuple(fit if n == place else size for n, size in enumerate(like.shape))
