"""Rows that have any subset of several sites of the data, such as an image or a caption.

A batch of rows that all have the same ones simply lacks the others. Rows that have different ones
come as one batch, too: each site ``s`` then has a value in every row and a mark ``s_observed``
``(B,)`` beside it, 1 in the rows that have it. What stands in the others counts nowhere. A mark
without its site says that the story is to leave the site out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch

MARK = "_observed"


def mark(site: str) -> str:
    """What the site that says which rows have a site is called."""
    return site + MARK


def observed(values: Mapping[str, Tensor], site: str) -> Tensor | None:
    """In which rows a site of a batch is observed ``(B,)``; None where there is no mark."""
    there = values.get(mark(site))
    return None if there is None else there > 0


def told(batch: Mapping[str, Tensor], sites: Iterable[str]) -> list[str]:
    """The sites that a story has in these rows: all but those of which only a mark is there."""
    return [site for site in sites if site in batch or mark(site) not in batch]


def sample(batch: Batch, site: str, fn: dist.TorchDistribution, sites: Collection[str]) -> Tensor:
    """A site of the data that rows may lack; in the rows that lack it, it does not count.

    Where the batch lacks it and has another, it is drawn, and its density left out: nothing
    hangs on it, so that its integral is 1. Where the batch has none of them, it is a site as any
    other is.

    Args:
        batch: The rows.
        site: Its name.
        fn: Its distribution.
        sites: Names of all such sites of the story.

    Returns:
        Its values.
    """
    value, there = batch.get(site), observed(batch, site)
    if value is None and any(other in batch for other in sites):
        with poutine.mask(mask=False):
            # Observed, as no guide samples it and no algorithm is to look for its values.
            made: Tensor = pyro.sample(site, fn, obs=fn.sample())
        return made
    masked = there is not None and value is not None
    with poutine.mask(mask=there) if masked else nullcontext():
        drawn: Tensor = pyro.sample(site, fn, obs=value)
    return drawn


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
    """In which rows a site is observed ``(B,)``, or True or False where it is in all or in none."""
    if site not in batch:
        return False
    there = observed(batch, site)
    return True if there is None else there
