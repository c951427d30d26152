"""Whether rows have an evidence: what the densities of a pair's sites are of.

The card says it (:class:`ppl_models.pair.Card`), and a run of the model is asked as well: a pair
all of whose data are Deltas or masked scores no data, whatever its card says.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.inference.traces.sites import random_sites
from ppl_models.pair import Pair
from ppl_models.quiet import quiet
from ppl_models.sample_sites import base_of


def no_evidence(pair: Pair, batch: Batch) -> str:
    """Why rows have no evidence of data; empty where they have one.

    Args:
        pair: The pair.
        batch: Rows with what is conditioned on, of the pair's type.
    """
    name = pair.card.name
    if pair.card.density == "codes":
        return f"{name} has a density of codes, not of data, so that rows have no evidence"
    if pair.card.density == "none":
        return f"{name} makes data and has no density of them, so that rows have no evidence"
    with poutine.block(), torch.no_grad(), quiet(batch.rows.device):
        trace = poutine.trace(pair.model).get_trace(batch)
    sites = dict(random_sites(trace))
    seen = [site for site in pair.card.data if site in batch]
    if not seen or any(site in sites and _scored(sites[site]) for site in seen):
        return ""
    return (
        f"{name} scores no data: its model has no density of {', '.join(map(repr, seen))} (a "
        "Delta, masked, or no site), so that rows have no evidence; its card should say density"
    )


def check_evidence(pair: Pair, batch: Batch) -> None:
    """Refuse a pair whose rows have no evidence.

    Raises:
        ValueError: Saying why they have none.
    """
    if reason := no_evidence(pair, batch):
        raise ValueError(reason)


def _scored(site: Any) -> bool:
    """Whether an observed value adds to the density."""
    fn, mask = site["fn"], site["mask"]
    masks = [mask]
    while isinstance(base := base_of(fn, through_masks=False), dist.MaskedDistribution):
        masks.append(base._mask)
        fn = base.base_dist
    # A mask of the rows says what these few rows have, and others may have more.
    off = any(m is False or (isinstance(m, Tensor) and not (m.dim() or bool(m))) for m in masks)
    return site["is_observed"] and not off and not isinstance(base, dist.Delta)
