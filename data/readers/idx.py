"""Reader of idx files, the format of MNIST: plain or gzipped, any element type.

Format: two zero bytes, a type code, the number of dimensions, their sizes as big-endian
uint32, then the elements, big-endian, last dimension fastest.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

CODES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_DIMS = 32  # that every version of numpy takes
BLOCK = 1 << 20  # bytes read at a time
RATIO = 1032  # of what deflate can hold to its bytes, at best


def read(path: str | Path, dims: int | None = None) -> np.ndarray[Any, Any]:
    """The array in an idx file, in the machine's byte order.

    Memory grows with what the file holds, whatever size its header claims.

    Args:
        path: The file; that it is gzipped is seen from its first bytes.
        dims: Expected number of dimensions; any if None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no idx file, truncated, damaged or has bytes to spare; naming the
            file and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an idx file")
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not gzipped:
            return _parse(path, file, dims)
        try:
            with gzip.open(file) as inner:
                return _parse(path, inner, dims)
        except EOFError:
            raise ValueError(f"{path}: the gzip stream is truncated, expected its end") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip stream is damaged ({error}), expected a whole one"
            ) from None


def read_labelled(
    images: str | Path, labels: str | Path
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images ``(N, H, W)`` and their labels ``(N,)`` from two idx files.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: See :func:`read`; also if the files disagree in their number of rows.
    """
    y = read(labels, dims=1)
    x = read(images, dims=3)
    if len(x) != len(y):
        raise ValueError(
            f"{images} has {len(x)} images but {labels} has {len(y)} labels, expected as many"
        )
    return x, y


def _parse(path: Path, file: io.BufferedIOBase, dims: int | None) -> np.ndarray[Any, Any]:
    magic = _take(file, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in CODES:
        raise ValueError(
            f"{path}: starts with {magic.hex() or 'nothing'}, expected the magic number of an "
            "idx file (0000, type 08..0e, dimensions)"
        )
    if not 0 < magic[3] <= MOST_DIMS:
        raise ValueError(
            f"{path}: magic number {magic.hex()} announces {magic[3]} dimensions, expected 1 to "
            f"{MOST_DIMS}"
        )
    if dims is not None and magic[3] != dims:
        raise ValueError(
            f"{path}: magic number {magic.hex()} announces {magic[3]} dimensions, expected {dims}"
        )
    header = _take(file, 4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise ValueError(
            f"{path}: truncated, {len(header)} bytes of sizes, expected {4 * magic[3]}"
        )
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(0, len(header), 4)]
    if 0 in shape:
        raise ValueError(f"{path}: has no elements, its sizes are {tuple(shape)}")
    dtype = np.dtype(CODES[magic[2]])
    size = math.prod(shape) * dtype.itemsize
    if isinstance(file, gzip.GzipFile) and size > RATIO * (packed := path.stat().st_size):
        raise ValueError(
            f"{path}: truncated, its {packed} bytes cannot hold {size} of elements for shape "
            f"{tuple(shape)}, expected at most {RATIO * packed}"
        )
    data = _take(file, size)
    if len(data) < size:
        raise ValueError(
            f"{path}: truncated, {len(data)} bytes of elements, expected {size} for shape "
            f"{tuple(shape)}"
        )
    if file.read(1):  # also reads, and so checks, the checksum at the end of a gzip stream
        raise ValueError(
            f"{path}: has bytes after its {size} bytes of elements, expected its end there"
        )
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _take(file: io.BufferedIOBase, size: int) -> bytearray:
    # In blocks: one read(size) would allocate all of it before seeing how much there is.
    data = bytearray()
    while len(data) < size and (block := file.read(min(BLOCK, size - len(data)))):
        data += block
    return data
