"""Arrays of npz files that are larger than memory, read from front to back."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ppl_models.data.readers.files import reading
from ppl_models.data.store.stored_array import Array

ROWS = 1024


def shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of an array, without reading it.

    Raises:
        ValueError: If the file or the array cannot be read.
    """
    with (
        reading(path, f"an npz with an array {name!r}"),
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as file,
    ):
        return _header(file)[0]


def rows(path: Path, name: str, dtype: str = "uint8") -> Iterator[Array]:
    """An array, some rows at a time; the last comes only if the whole has its checksum.

    Raises:
        ValueError: If it is damaged, cut short or of another type.
    """
    with (
        reading(path, f"an npz with an array {name!r} of {dtype}"),
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as file,
    ):
        whole, found = _header(file)
        if found != np.dtype(dtype):
            raise ValueError(f"it is {found}")
        size = int(np.prod(whole[1:])) * found.itemsize
        for start in range(0, whole[0], ROWS):
            count = min(ROWS, whole[0] - start)
            data = file.read(count * size)
            last = start + count == whole[0]
            if len(data) < count * size or (last and file.read(1)):
                raise ValueError("its length is not that of its shape")
            yield np.frombuffer(data, found).reshape(count, *whole[1:])


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    whole, fortran, dtype = read(file)
    if fortran or dtype.hasobject or not whole or 0 in whole:
        raise ValueError(f"it is {dtype} of shape {whole}")
    return whole, dtype
