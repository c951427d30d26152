"""Rows that are sets: elements padded to one length, and which of them are there.

A set of at most M elements comes as a site ``x`` ``(B, M, ...)`` with a covariate ``x_there``
``(B, M)`` beside it, 1 where there is an element and 0 in the padding. Without it, all are there.

Shapes: B rows, M elements. A plate within the rows has its dimension left of theirs, so that a
site in it has the batch shape ``(M, B)``: :func:`inside` moves values there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

THERE = "_there"  # what the site that says which elements there are is called after the set's


def set_of(card: Any) -> str:
    """The set of a pair's card: the site of the data that has a covariate ``..._there`` beside it.

    Raises:
        ValueError: In one line, if there is not exactly one.
    """
    sets = [name for name in card.data if name + THERE in card.covariates]
    if len(sets) != 1:
        raise ValueError(
            f"{card.name} has the sets {sets}, expected one site of the data with a covariate of "
            f"its name and {THERE!r}, which says what elements there are"
        )
    found: str = sets[0]
    return found


def present(batch: Mapping[str, Tensor], site: str, most: int, rows: int) -> Tensor:
    """Which elements of a set there are ``(B, M)``.

    Args:
        batch: The observed sites.
        site: The set.
        most: Elements of a row of which nothing is known, as in draws from the prior.
        rows: Number of rows B.
    """
    known = batch.get(site + THERE)
    if known is not None:
        return known > 0
    seen = batch.get(site)
    like = next(iter(batch.values()), None) if seen is None else seen
    device = None if like is None else like.device
    count = most if seen is None else seen.shape[1]
    return torch.ones(rows, count, dtype=torch.bool, device=device)


def filled(values: Tensor, there: Tensor) -> Tensor:
    """A set whose padding is what no density and no gradient stumbles over.

    A masked density still takes part in the gradient, as zero times what it is: with NaN, NaN.

    Args:
        values: ``(B, M, ...)``; the padding may hold anything.
        there: ``(B, M)``.

    Returns:
        The same with each row's first element in the padding, which is in the support of every
        site that the element is in; ones in rows without elements.
    """
    wide = there.reshape(*there.shape, *[1] * (values.dim() - 2))
    first = there.int().argmax(1).reshape(-1, 1, *[1] * (values.dim() - 2))
    first = values.gather(1, first.expand(-1, 1, *values.shape[2:]))
    first = torch.where(wide.any(1, keepdim=True), first, torch.ones_like(first))
    return torch.where(wide, values, first)


def inside(values: Tensor) -> Tensor:
    """A set ``(B, M, ...)`` as the values ``(M, B, ...)`` of a site in a plate within the rows."""
    return values.transpose(0, 1)


def observed(batch: Mapping[str, Tensor], site: str, there: Tensor) -> Tensor | None:
    """The values ``(M, B, ...)`` of an observed set, its padding filled; None where it is latent.

    Args:
        batch: The observed sites.
        site: The set.
        there: ``(B, M)``, as :func:`present` has it.
    """
    values = batch.get(site)
    return None if values is None else inside(filled(values, there))


class plate:
    """The plate over the elements of a set, within the rows' plate; padding does not count.

    One that is made once may be entered several times, by stories that go back and forth between
    a set and its elements.

    Args:
        name: Its name, which is that of the dimension in an export.
        there: ``(B, M)``.
        dim: Its dimension.
    """

    def __init__(self, name: str, there: Tensor, dim: int = -2) -> None:
        mask = there.T.reshape(-1, *[1] * (-dim - 2), len(there))
        self._within = pyro.plate(name, there.shape[1], dim=dim), poutine.mask(mask=mask)

    def __enter__(self) -> None:
        for context in self._within:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self._within):
            context.__exit__(*error)


def mean(codes: Tensor, there: Tensor) -> Tensor:
    """The mean ``(..., B, D)`` over elements that there are, whatever their order; 0 of none.

    Args:
        codes: ``(..., B, M, D)``, finite in the padding too.
        there: ``(B, M)``.
    """
    weights = there.to(codes.dtype)
    return (codes * weights.unsqueeze(-1)).sum(-2) / weights.sum(1, keepdim=True).clamp(min=1)
