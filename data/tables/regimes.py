"""Rows grouped by what is observed in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_HIDDEN = 62  # partially observed sites whose pattern fits the bits of an int64


@dataclass(frozen=True)
class Regime:
    """Rows of a table that share what is observed.

    Attributes:
        sites: Observed sites, in the table's order.
        index: Positions ``(n,)`` in the table, increasing.
    """

    sites: tuple[str, ...]
    index: Tensor


def grouped(
    name: str, sites: tuple[str, ...], observed: Mapping[str, Tensor], numbers: Tensor
) -> tuple[list[Regime], Tensor]:
    """The regimes, most observed sites first, and for each row the place of its own ``(N,)``.

    Args:
        name: Name of the table.
        sites: All its sites.
        observed: Masks ``(N,)`` of those that are hidden in some rows.
        numbers: Row numbers ``(N,)``.

    Raises:
        ValueError: If there are too many sites of that kind.
    """
    always = tuple(s for s in sites if s not in observed)
    if not observed:
        whole = torch.arange(len(numbers), device=numbers.device)
        return [Regime(always, whole)], torch.zeros_like(whole)
    if len(observed) > MOST_HIDDEN:
        raise ValueError(
            f"{name} has {len(observed)} sites that are hidden in some rows, "
            f"expected at most {MOST_HIDDEN}"
        )
    pattern = torch.zeros_like(numbers)
    for mask in observed.values():  # sites listed first in the highest bits
        pattern = 2 * pattern + mask
    codes, code_of_row = torch.unique(pattern, return_inverse=True)
    ranked = sorted(range(len(codes)), key=lambda i: (int(codes[i]).bit_count(), int(codes[i])))[
        ::-1
    ]
    place_of_row = torch.tensor(ranked, device=codes.device).argsort()[code_of_row]
    ends = place_of_row.bincount().cumsum(0).tolist()
    groups = place_of_row.argsort(stable=True).tensor_split(ends[:-1])
    regimes = []
    for rank, index in zip(ranked, groups, strict=True):
        bits = f"{int(codes[rank]):0{len(observed)}b}"
        seen = {s for s, bit in zip(observed, bits, strict=True) if bit == "1"}
        regimes.append(Regime(tuple(s for s in sites if s in seen or s in always), index))
    return regimes, place_of_row
