"""Rows that have any subset of several sites of the data, such as an image or a caption.

A batch of rows that all have the same ones simply lacks the others. Rows that have different ones
come as one batch, too: each site ``s`` then has a value in every row and a mark ``s_observed``
``(B,)`` beside it, 1 in the rows that have it. What stands in the others counts nowhere. A mark
without its site says that the story is to leave the site out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch

MARK = "_observed"
_ASKED: ContextVar[bool] = ContextVar("predicted", default=False)


def mark(site: str) -> str:
    """What the site that says which rows have a site is called."""
    return site + MARK


def observed(values: Mapping[str, Tensor], site: str) -> Tensor | None:
    """In which rows a site of a batch is observed ``(B,)``; None where there is no mark."""
    there = values.get(mark(site))
    return None if there is None else there > 0


def told(batch: Mapping[str, Tensor], sites: Collection[str]) -> list[str]:
    """The sites that a story has in these rows.

    They are those that the batch has, or all where it has none of them, as in draws from the
    prior. What it lacks beside others has a density whose integral is 1, and is left out; unless
    somebody asks for what it would be (:func:`predicted`).

    Args:
        batch: The rows.
        sites: Names of all such sites of the story.
    """
    some = any(site in batch for site in sites)
    return [
        site
        for site in sites
        if site in batch or (mark(site) not in batch and (_ASKED.get() or not some))
    ]


def sample(batch: Batch, site: str, fn: dist.TorchDistribution, sites: Collection[str]) -> Tensor:
    """A site of the data that rows may lack; in the rows that lack it, it does not count.

    Args:
        batch: The rows.
        site: Its name, one of those :func:`told`.
        fn: Its distribution.
        sites: Names of all such sites of the story.

    Returns:
        Its values.
    """
    value, there = batch.get(site), observed(batch, site)
    mask: Tensor | bool | None = None if value is None else there
    if value is None and any(other in batch for other in sites):
        # Observed, as no guide samples it and no algorithm is to look for its values.
        value, mask = fn.sample(), False
    with nullcontext() if mask is None else poutine.mask(mask=mask):
        drawn: Tensor = pyro.sample(site, fn, obs=value)
    return drawn


@contextmanager
def predicted() -> Iterator[None]:
    """Stories draw what rows lack, too, without counting it: for interventions and predictions."""
    token = _ASKED.set(True)
    try:
        yield
    finally:
        _ASKED.reset(token)


def only(batch: Batch, kept: Collection[str], sites: Iterable[str]) -> Batch:
    """The same rows with some of the sites alone; a story leaves the others out.

    Args:
        batch: The rows.
        kept: Names of those that stay, as far as they are there.
        sites: Names of all such sites of the story; whatever else the batch has stays.
    """
    gone = [site for site in sites if site not in kept]
    none = batch.rows.new_zeros(batch.count)
    stay = {n: v for n, v in batch.items() if n not in gone}
    return batch.replace({**stay, **{mark(site): none for site in gone}})


def has(batch: Batch, site: str) -> Tensor | bool:
    """In which rows a site is observed ``(B,)``; True or False where in all or in none."""
    if site not in batch:
        return False
    there = observed(batch, site)
    return True if there is None else there
