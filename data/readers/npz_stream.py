"""Arrays of npz files, read to their checksums: whole, or in rows where memory is too small."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ppl_models.data.readers import zip_members
from ppl_models.data.readers.files import reading
from ppl_models.data.store.stored_array import Array

ROWS = 1024


def names(archive: zipfile.ZipFile) -> list[str]:
    """Names of the arrays of an archive, in their order there."""
    return [name.removesuffix(".npy") for name in archive.namelist()]


def array(archive: zipfile.ZipFile, name: str) -> Array:
    """An array of an archive of :func:`ppl_models.data.readers.zip_members.opened`.

    Nothing is allocated before its shape is known to be that of its bytes.

    Raises:
        KeyError: If there is none of this name.
        ValueError: If it is no array of plain numbers or strings, or damaged.
        zipfile.BadZipFile: If it is damaged.
    """
    with _member(archive, name) as file:
        shape, fortran, dtype = _header(file, archive.getinfo(file.name).file_size)
        size = math.prod(shape) * dtype.itemsize
        data = np.empty(size, np.uint8)
        view, filled = data.data, 0
        while filled < size and (count := _fill(file, view[filled : filled + zip_members.BLOCK])):
            filled += count
        if filled < size or file.read(1):  # the end checks the checksum
            raise ValueError("its length is not that of its shape")
    return data.view(dtype).reshape(shape, order="F" if fortran else "C")


def shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of an array, without reading it.

    Raises:
        ValueError: If the file or the array cannot be read.
    """
    with (
        reading(path, f"an npz with an array {name!r}"),
        zip_members.opened(path) as archive,
        _member(archive, name) as file,
    ):
        return _rows_header(archive, file)[0]


def rows(path: Path, name: str, dtype: str = "uint8") -> Iterator[Array]:
    """An array, some rows at a time; the last comes only if the whole has its checksum.

    Raises:
        ValueError: If it is damaged, cut short or of another type.
    """
    with (
        reading(path, f"an npz with an array {name!r} of {dtype}"),
        zip_members.opened(path) as archive,
        _member(archive, name) as file,
    ):
        whole, found = _rows_header(archive, file)
        if found != np.dtype(dtype):
            raise ValueError(f"it is {found}")
        size = math.prod(whole[1:]) * found.itemsize
        for start in range(0, whole[0], ROWS):
            count = min(ROWS, whole[0] - start)
            data = file.read(count * size)
            last = start + count == whole[0]
            if len(data) < count * size or (last and file.read(1)):
                raise ValueError("its length is not that of its shape")
            yield np.frombuffer(data, found).reshape(count, *whole[1:])


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    there = archive.namelist()
    return archive.open(f"{name}.npy" if f"{name}.npy" in there else name)


def _fill(file: Any, view: memoryview) -> int:
    count: int = file.readinto(view)
    return count


def _rows_header(
    archive: zipfile.ZipFile, file: IO[bytes]
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    whole, fortran, dtype = _header(file, archive.getinfo(file.name).file_size)
    if fortran or not whole or 0 in whole:
        raise ValueError(f"it is {dtype} of shape {whole}")
    return whole, dtype


def _header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type; all that a member of ``size`` bytes holds."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"it has version {version} of the npy format, expected (1, 0) or (2, 0)")
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    held = size - file.tell()
    if (
        min(shape, default=0) < 0
        or math.prod(shape) * dtype.itemsize != held
        or not dtype.itemsize
    ):
        raise ValueError(
            f"it claims {dtype} of shape {shape}; its length is not that of its shape, it has "
            f"{held} bytes"
        )
    return shape, fortran, dtype
