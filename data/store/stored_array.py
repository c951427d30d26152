"""Arrays of an h5 file, read by blocks of rows that are checked before a row is given out.

Blocks are the chunks of ordinary h5 data sets. Where each lies in the file is asked of the h5
library once; from then on blocks are read from the open file itself, so that several threads
read at once, without the library's lock.
"""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


class OpenFile:
    """A file held open for reading; it opens itself again in a process it is sent to.

    A file that is replaced under its name stays readable as it was.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._whole = os.path.abspath(path)  # the process it is sent to may be in another folder
        self._handle = os.open(path, os.O_RDONLY)
        self._sums: dict[tuple[Any, ...], int] = {}  # of checked blocks

    def read(self, size: int, place: int) -> bytes:
        """Bytes at a place; fewer where the file ends."""
        return os.pread(self._handle, size, place)

    def read_into(self, buffer: memoryview, place: int) -> int:
        """Bytes at a place, into a buffer; returns how many there were."""
        return os.preadv(self._handle, [buffer], place)

    def is_whole(self, data: memoryview, checksum: int, name: str, number: int) -> bool:
        """Whether a block is what was written.

        Its CRC-32 costs more than all else about reading it. It is computed when the block is
        first read, and again once the file has changed; else the block must have the sum of
        8-byte words that it had then.

        Args:
            data: The block as it was read.
            checksum: Its CRC-32.
            name: Name of its array.
            number: Its number there.
        """
        words = np.frombuffer(data, np.uint64, len(data) // 8)
        total = int(words.sum()) + int.from_bytes(data[words.nbytes :], "little")
        key = (name, number, os.fstat(self._handle).st_mtime_ns)
        if key in self._sums:
            return total == self._sums[key]
        if zlib.crc32(data) != checksum:
            return False
        self._sums[key] = total
        return True

    def __del__(self) -> None:
        if (handle := self.__dict__.pop("_handle", None)) is not None:
            os.close(handle)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFile, (self._whole,)


@dataclass(frozen=True)
class Stored:
    """One array of a file, in blocks of rows.

    Attributes:
        name: Its name in the file.
        file: The file.
        encoding: ``bits`` (eight binary values a byte), or the numpy type of the values.
        shape: Shape ``(N, ...)`` of the values.
        divisor: What stored bytes are divided by.
        block: Rows per block.
        places: Offset and size in the file of each block ``(blocks, 2)``, and whether it is
            compressed ``(blocks, 3)``.
        checksums: CRC-32 of each block's rows ``(blocks,)``.
        digest: SHA-256 of all rows as they are stored, and of how they are read.
        memory: Bytes that a stream of the file may hold.
    """

    name: str
    file: OpenFile
    encoding: str
    shape: tuple[int, ...]
    divisor: float
    block: int
    places: Array
    checksums: Array
    digest: str
    memory: int

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values, once decoded."""
        if self.encoding in ("bits", "uint8"):
            return torch.float32
        found: torch.dtype = getattr(torch, self.encoding)
        return found

    @property
    def width(self) -> int:
        """Values per row as stored."""
        return stored_width(self.encoding, self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes per row as stored, before compression."""
        return self.width * stored_type(self.encoding).itemsize

    def read_block(self, number: int, out: Array) -> Array:
        """Read a block into a buffer and check it there.

        Args:
            number: The block.
            out: ``(block, width)`` of stored numbers.

        Returns:
            Its rows as they are stored ``(n, width)``, the first of the buffer.

        Raises:
            ValueError: If they are not what was written, naming file, array and rows.
        """
        start = number * self.block
        rows = min(self.block, self.shape[0] - start)
        place, size, packed = (int(v) for v in self.places[number])
        whole = memoryview(out.reshape(-1).view(np.uint8).data)
        if packed:
            inflated = _inflate(self.file.read(size, place), len(whole))
            found = len(inflated)
            whole[:found] = inflated
        else:
            found = self.file.read_into(whole, place)
        data, checksum = whole[: rows * self.row_bytes], int(self.checksums[number])
        if found < len(data) or not self.file.is_whole(data, checksum, self.name, number):
            raise ValueError(
                f"{self.file.path} is damaged: rows {start}..{start + rows - 1} of array "
                f"{self.name!r} are not what was written; copy or build the file again"
            )
        return out[:rows]

    def buffer(self, blocks: int) -> Array:
        """Room for blocks ``(blocks, block, width)``."""
        return np.empty((blocks, self.block, self.width), stored_type(self.encoding))

    def raw(self, rows: Array) -> Array:
        """Rows ``(n,)`` as they are stored ``(n, width)``; each block is read once."""
        out = np.empty((len(rows), self.width), stored_type(self.encoding))
        if not len(rows):  # of an empty part
            return out
        (buffer,) = self.buffer(1)
        blocks = rows // self.block
        order = np.argsort(blocks, kind="stable")
        numbers, first = np.unique(blocks[order], return_index=True)
        for number, part in zip(numbers, np.split(order, first[1:]), strict=True):
            out[part] = self.read_block(int(number), buffer)[rows[part] - number * self.block]
        return out

    def blocks_of(self, rows: Array) -> tuple[Array, Array]:
        """The blocks that rows ``(n,)`` are in, and the places ``(n,)`` of the rows in them.

        Places count through the blocks, ``block`` rows in each.
        """
        numbers = rows // self.block
        there = np.zeros(len(self.places), bool)
        there[numbers] = True
        nth = there.cumsum() - 1
        return np.flatnonzero(there), nth[numbers] * self.block + rows % self.block

    def decode(self, raw: Array) -> Tensor:
        """Values ``(n, ...)`` of rows as they are stored."""
        if self.encoding == "bits":
            raw = np.unpackbits(raw, axis=1, count=math.prod(self.shape[1:]))
        values = torch.from_numpy(raw)
        if self.encoding in ("bits", "uint8"):
            values = values.float()
            if self.divisor != 1:
                values.div_(self.divisor)
        return values.reshape(len(raw), *self.shape[1:])

    def read(self, rows: Tensor) -> Tensor:
        """Values ``(n, ...)`` of rows ``(n,)``."""
        return self.decode(self.raw(rows.numpy()))


def stored_type(encoding: str) -> np.dtype[Any]:
    """Type of the stored numbers."""
    return np.dtype(np.uint8 if encoding == "bits" else encoding)


def stored_width(encoding: str, shape: tuple[int, ...]) -> int:
    """Stored numbers per row of values of a shape."""
    values = math.prod(shape)
    return -(-values // 8) if encoding == "bits" else values


def _inflate(data: bytes, size: int) -> bytes:
    # Bounded: a damaged stream must not grow beyond its block.
    try:
        return zlib.decompressobj().decompress(data, size)
    except zlib.error:
        return b""
