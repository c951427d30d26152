"""A number for what a row holds, by which it is known again."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from ppl_models.data.tables.table import Table

CELLS = 4_000_000  # numbers read at a time


def row_marks(table: Table, sites: Iterable[str], index: Tensor) -> Tensor:
    """A whole number for the values of each of some rows.

    It is of the values in single precision, so that a cast to another type is no other row, and
    does not depend on the order of the sites. What is hidden, or not in the table, adds nothing.

    Args:
        table: The table.
        sites: Names of sites; those that it lacks are left out.
        index: Positions ``(n,)``.

    Returns:
        int64 ``(n,)``, on the CPU.
    """
    marks = torch.zeros(len(index), dtype=torch.int64)
    for site in sites:
        if site not in table.sites:
            continue
        values = table.sites[site]
        width = max(1, values.shape[1:].numel())
        weights = _weights(zlib.crc32(site.encode()), width)
        start = 0
        for part in index.split(max(1, CELLS // width)):
            cells = values.index_select(0, part.to(values.device)).cpu().reshape(len(part), -1)
            if cells.is_floating_point():
                # Adding 0 makes -0 a 0.
                bits = (cells.float() + 0.0).view(torch.int32).long()
                bits = bits.masked_fill(cells.isnan(), 0)
            else:
                bits = cells.long() + 1  # hidden labels are -1
            marks[start : start + len(part)] += (bits * weights).sum(-1)
            start += len(part)
    return marks


def _weights(start: int, count: int) -> Tensor:
    """Odd whole numbers without order, always the same; products of int64 run over on purpose."""
    mixed = (torch.arange(count, dtype=torch.int64) + start + 1) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return (mixed ^ (mixed >> 31)) | 1
