"""Rows that lack different sites as one kind of rows, for a pair that takes them so."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor

from ppl_models.data.tables.marked import marked
from ppl_models.data.tables.table import Table
from ppl_models.guides.protocol import listed
from ppl_models.inference.traces.sites import random_sites
from ppl_models.modalities import mark
from ppl_models.pair import Pair
from ppl_models.quiet import quiet


def merged(pair: Pair, table: Table) -> Table:
    """Rows with marks of what they have, of the sites that the pair says they may lack.

    Args:
        pair: The pair, whose story and guide read the marks.
        table: The rows.

    Raises:
        ValueError: If a factor of the guide reads a site and not its mark, or the story scores a
            site in rows that lack it; naming it.
    """
    found = marked(table, pair.may_lack)
    gaps = [
        site for site in pair.may_lack if mark(site) in found.sites.keys() - table.sites.keys()
    ]
    if not gaps:
        return table
    for factor, given in (listed(pair.guide) or {}).items():
        for site in gaps:
            if site in given and mark(site) not in given:
                raise ValueError(
                    f"factor {factor!r} reads {site!r}, which rows of {table.name} lack, and not "
                    f"{mark(site)!r}; expected guides.Product or guides.Mixture of experts, "
                    f"or {pair.card.name} without {site!r} in may_lack"
                )
    few = found.rows(torch.arange(min(2, len(found))))
    (batch,) = few.without(*pair.card.labels).batches()
    batch = batch.to(pair.like().device, pair.like().dtype)
    with poutine.block(), torch.no_grad(), quiet(batch.rows.device, None, pair):
        sites = dict(random_sites(poutine.trace(pair.model).get_trace(batch)))
    for site in gaps:
        if site in sites and not isinstance(sites[site]["mask"], Tensor):
            raise ValueError(
                f"the story scores {site!r} in all rows, and some of {table.name} lack it; "
                f"expected modalities.sample, or {pair.card.name} without {site!r} in may_lack"
            )
    return found
