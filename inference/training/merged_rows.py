"""Rows that lack different sites as one kind of rows, for a stage that takes them so."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor

from ppl_models.data.tables.marked import marked
from ppl_models.data.tables.table import Table
from ppl_models.guides.protocol import listed
from ppl_models.inference.objectives.stage import Stage
from ppl_models.inference.traces.sites import random_sites
from ppl_models.modalities import mark
from ppl_models.pair import Pair
from ppl_models.quiet import quiet


def merged(pair: Pair, stage: Stage, table: Table) -> Table:
    """The rows of a stage, with marks of what they have where the stage merges them.

    Args:
        pair: The pair, whose story and guide read the marks.
        stage: The stage.
        table: Its rows.

    Raises:
        ValueError: If a factor of the guide reads a site and not its mark, or the story scores a
            site in rows that lack it; naming it.
    """
    found = marked(table, stage.merge)
    gaps = [site for site in stage.merge if mark(site) in found.sites.keys() - table.sites.keys()]
    if not gaps:
        return table
    for factor, given in (listed(pair.guide) or {}).items():
        for site in gaps:
            if site in given and mark(site) not in given:
                raise ValueError(
                    f"factor {factor!r} reads {site!r}, which rows of {table.name} lack, and not "
                    f"{mark(site)!r}; expected guides.Product or guides.Mixture of experts, or "
                    f"stage {stage.name!r} without {site!r} in merge"
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
                f"expected modalities.sample, or stage {stage.name!r} without {site!r} in merge"
            )
    return found
