"""Cells of an h5ad file that are read block by block and never stand in memory together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ppl_models.data.store.stored_array import Array, OpenFile, Stored
from ppl_models.data.tables.vectors import EXACT

BLOCK = 1 << 20  # bytes of values, which are read and shuffled together
CHUNK = 1 << 18  # stored numbers that are looked at at once
CACHE = 16 << 20  # bytes of the h5 library's, so that compressed chunks are unpacked once


@dataclass(frozen=True)
class CellRows(Stored):
    """The values of cells in an h5ad file, dense or CSR, as float32.

    Its blocks are rows one after the other. Of a sparse matrix the pointers of rows stand in
    memory, 8 bytes a row.

    Attributes:
        starts: Where each row begins among the entries of a sparse matrix ``(N + 1,)``; empty of a
            dense one.
        stamp: Size and time of change of the file; another one is refused when rows are read.
    """

    starts: Array
    stamp: tuple[int, int]

    def read_block(self, number: int, out: Array) -> Array:
        """Read a block into a buffer.

        Args:
            number: The block.
            out: ``(block, D)`` of float32.

        Returns:
            Its rows ``(n, D)``, the first of the buffer.

        Raises:
            ValueError: If the file is another one by now, or a row does not fit.
        """
        first = number * self.block
        last = min(first + self.block, self.shape[0])
        found = self._opened()[self.name]
        rows = out[: last - first]
        if not len(self.starts):
            rows[:] = found[first:last]
            return rows
        ends = self.starts[first : last + 1]
        columns = found["indices"][ends[0] : ends[-1]]
        if len(columns) and not 0 <= columns.min() <= columns.max() < self.shape[1]:
            raise ValueError(f"{self.file.path}: rows {first}..{last - 1} of {self.name} name a "
                             f"column beyond {self.shape[1] - 1}")  # fmt: skip
        values = found["data"][ends[0] : ends[-1]].astype(np.float32)
        rows[:] = 0
        _add(rows, ends - ends[0], columns, values)
        return rows

    def blocks_in_order(self) -> Iterator[tuple[int, Array]]:
        """The first row of each block, and its rows; in one buffer, which the next overwrites."""
        (out,) = self.buffer(1)
        for number in range(len(self.places)):
            yield number * self.block, self.read_block(number, out)

    def _opened(self) -> h5py.File:
        # The h5 library's handles are none of another process's.
        kept: dict[int, h5py.File] = self.__dict__.setdefault("_files", {})
        if (file := kept.get(os.getpid())) is None:
            kept.clear()
            file = h5py.File(self.file.path, "r", locking="best-effort", rdcc_nbytes=CACHE)
            kept[os.getpid()] = file
        if stamp_of(self.file.path) != self.stamp:
            raise ValueError(f"{self.file.path} has changed since it was loaded; load it again")
        return file

    def __getstate__(self) -> dict[str, Any]:
        """All but the open file."""
        return {name: value for name, value in self.__dict__.items() if name != "_files"}


def stamp_of(path: str) -> tuple[int, int]:
    """What changes with a file: its size, and when it was written."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def _add(rows: Array, starts: Array, columns: Array, values: Array) -> None:
    """Add the entries of a CSR matrix to rows of zeros; entries of one place add up."""
    from scipy import sparse

    sparse.csr_matrix((values, columns, starts), shape=rows.shape).toarray(out=rows)


def cell_rows(path: str, layer: str, node: Any, shape: tuple[int, int], memory: int) -> CellRows:
    """The rows of a dense or CSR layer, all of which are looked at once.

    Args:
        path: The file.
        layer: Its name in the file.
        node: The open data set, or group of a CSR matrix whose pointers have been checked.
        shape: Cells and genes.
        memory: Bytes that a stream of the rows holds at most.

    Raises:
        ValueError: If a number is not finite in single precision, or would be rounded; naming
            row and column.
    """
    block = max(1, BLOCK // (4 * shape[1]))
    dense = isinstance(node, h5py.Dataset)
    starts = np.zeros(0, np.int64) if dense else node["indptr"][()].astype(np.int64)
    blocks = -(-shape[0] // block)
    found = CellRows(
        name=layer,
        file=OpenFile(path),
        encoding="float32",
        shape=shape,
        divisor=1,
        block=block,
        places=np.zeros((blocks, 2), np.int64),
        checksums=np.zeros(blocks, np.int64),
        digest=_digest(node, starts, shape),
        memory=max(memory, 4 * block * 4 * shape[1]),
        starts=starts,
        stamp=stamp_of(path),
    )
    whole = (node if dense else node["data"]).dtype.kind in "iu"
    for first, rows in found.blocks_in_order():
        bad = ~np.isfinite(rows) if not whole else np.abs(rows) > EXACT
        if bad.any():
            row, gene = np.argwhere(bad)[0]
            raise ValueError(
                f"{layer} holds {rows[row, gene]:g} at row {first + row}, column {gene}, expected "
                + (f"whole numbers up to {EXACT}" if whole else "finite numbers")
            )
    return found


def _digest(node: Any, starts: Array, shape: tuple[int, int]) -> str:
    """SHA-256 of the stored numbers, read in pieces."""
    total = hashlib.sha256(f"{shape} {len(starts)}".encode() + starts.tobytes())
    dense = isinstance(node, h5py.Dataset)
    for array in (node,) if dense else (node["indices"], node["data"]):
        step = max(1, CHUNK // (shape[1] if dense else 1))
        for first in range(0, len(array), step):
            total.update(np.ascontiguousarray(array[first : first + step]).data)
    return total.hexdigest()
