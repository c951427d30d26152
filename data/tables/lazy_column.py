"""Columns: sites whose rows are made when they are asked for, from a file or by a renderer."""

from __future__ import annotations

import copy
import hashlib
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 14  # rows made at a time where all are wanted


class Source(Protocol):
    """Where the rows of a column come from.

    Attributes:
        shape: Shape ``(N, ...)`` of all rows.
        dtype: Floating type of the values.
        digest: What tells these values from others, such as a checksum.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """See the class."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """See the class."""
        ...

    @property
    def digest(self) -> str:
        """See the class."""
        ...

    def read(self, rows: Tensor) -> Tensor:
        """Values ``(n, ...)`` of these rows ``(n,)``, on the CPU."""
        ...


class Values(Protocol):
    """What a table and its readers ask of a site: a tensor answers to it, and so does a column."""

    @property
    def shape(self) -> torch.Size:
        """``(N, ...)``."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        ...

    @property
    def device(self) -> torch.device:
        """Where they come."""
        ...

    def __len__(self) -> int:
        """Number of rows N."""
        ...

    def dim(self) -> int:
        """Number of dimensions."""
        ...

    def is_floating_point(self) -> bool:
        """Whether they are numbers, not labels."""
        ...

    def __getitem__(self, rows: Any, /) -> Tensor:
        """Values of one row, or of some."""
        ...

    def index_select(self, dim: int, rows: Tensor, /) -> Tensor:
        """Values ``(n, ...)`` at positions ``(n,)`` of dimension 0."""
        ...

    def masked_fill(self, mask: Tensor, value: float, /) -> Values:
        """The same with a value in the masked rows ``(N, 1, ...)``."""
        ...

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Values:
        """The same on another device or in another type."""
        ...

    def cpu(self) -> Values:
        """The same on the CPU."""
        ...

    def contiguous(self) -> Values:
        """The same, with its rows one after the other."""
        ...

    def numpy(self) -> np.ndarray[Any, Any]:
        """All values."""
        ...


class Reordered:
    """A source with the numbers of each row in another order.

    Args:
        source: Vectors ``(N, D)``.
        order: Places ``(D,)`` in the source's rows.
    """

    def __init__(self, source: Source, order: Tensor) -> None:
        self.source, self.order = source, order
        self.shape, self.dtype = source.shape, source.dtype
        told = source.digest.encode() + order.numpy().tobytes()
        self.digest = hashlib.sha256(told).hexdigest()

    def read(self, rows: Tensor) -> Tensor:
        """Values ``(n, D)`` of these rows."""
        return self.source.read(rows)[:, self.order]


def is_lazy(values: Values) -> TypeGuard[Column]:
    """Whether values are made when they are asked for."""
    return isinstance(values, Column)


class Column:
    """Floating values of a site of a :class:`Table` that do not stand in memory.

    It answers to what a table and its readers ask of a tensor; what needs all values at once,
    such as :meth:`numpy`, makes them all.

    Args:
        source: Where rows come from; its values are finite.
        index: Rows ``(N,)`` of the source; all of them when left out.
    """

    def __init__(self, source: Source, index: Tensor | None = None) -> None:
        self.source = source
        self.index = torch.arange(source.shape[0]) if index is None else index
        self.dtype = source.dtype
        self.device = torch.device("cpu")
        self.hidden: Tensor | None = None
        self.fill = float("nan")  # what stands in the hidden rows

    @property
    def shape(self) -> torch.Size:
        """``(N, ...)``."""
        return torch.Size((len(self.index), *self.source.shape[1:]))

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.index)

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Always."""
        return True

    def __getitem__(self, rows: Any) -> Tensor:
        """Values of one row, or of some: a slice, a tensor of positions or a mask."""
        chosen = torch.arange(len(self))[_on_cpu(rows)]
        if not chosen.dim():
            return self.index_select(0, chosen[None])[0]
        return self.index_select(0, chosen)

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Values ``(n, ...)`` at positions ``(n,)``; ``dim`` is 0."""
        rows = rows.cpu()
        values = self.source.read(self.index[rows]).to(self.dtype)
        if self.hidden is not None:
            values[self.hidden[rows]] = self.fill
        return values.to(self.device)

    def rows(self, rows: Tensor) -> Column:
        """The column of these rows, still not in memory."""
        rows = rows.cpu()
        return self._like(
            index=self.index[rows], hidden=None if self.hidden is None else self.hidden[rows]
        )

    def reordered(self, order: Tensor) -> Column:
        """The column with the numbers of each row in another order ``(D,)``."""
        return self._like(source=Reordered(self.source, order))

    def masked_fill(self, mask: Tensor, value: float) -> Column:
        """The column with a value in the masked rows, and in those that were masked before.

        Args:
            mask: ``(N, 1, ...)``.
            value: The value.
        """
        mask = mask.flatten().cpu()
        hidden = mask if self.hidden is None else self.hidden | mask
        return self._like(hidden=hidden if bool(hidden.any()) else None, fill=value)

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Column:
        """The column whose values come on another device or in another type."""
        return self._like(
            device=self.device if device is None else torch.device(device),
            dtype=self.dtype if dtype is None else dtype,
        )

    def cpu(self) -> Column:
        """The column whose values come on the CPU."""
        return self.to(device="cpu")

    def contiguous(self) -> Column:
        """The column itself."""
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        """All values."""
        values = np.empty(self.shape, torch.empty((), dtype=self.dtype).numpy().dtype)
        for start in range(0, len(self), BLOCK):
            values[start : start + BLOCK] = self[start : start + BLOCK].cpu().numpy()
        return values

    def fingerprint(self) -> bytes:
        """Bytes that tell the values from others, without making them."""
        hidden = b"" if self.hidden is None else self.hidden.numpy().tobytes()
        if self.hidden is not None and self.fill == self.fill:
            hidden += repr(self.fill).encode()
        return self.source.digest.encode() + self.index.numpy().tobytes() + hidden

    def _like(self, **changes: Any) -> Column:
        new = copy.copy(self)
        new.__dict__.update(changes)
        return new


def _on_cpu(rows: Any) -> Any:
    return rows.cpu() if isinstance(rows, Tensor) else rows
