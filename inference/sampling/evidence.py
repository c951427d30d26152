"""The log evidence of single rows, three ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, native, unknown
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.groups import Array, host, plain_attrs, provenance
from ppl_models.inference.posterior.importance_weights import log_mean
from ppl_models.inference.posterior.rows import Sites, chosen, undisturbed, weighed
from ppl_models.inference.posterior.target import (
    fixed,
    rows_at_a_time,
    rows_of,
    sites_of_rows,
    target,
)
from ppl_models.inference.sampling.annealing import PILOT, Between, anneal
from ppl_models.inference.sampling.importance import LEAST, propose
from ppl_models.pair import Pair

METHODS = ("ais", "smc", "iw")
STARTS = ("guide", "prior")
POPULATIONS = 20  # of SMC; their spread is its standard error
STEEPNESS = 4.0  # of the sigmoid on which temperatures lie


def log_evidence(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    method: str = "ais",
    given: Sequence[str] | None = None,
    draws: int = 200,
    temperatures: int | Sequence[float] = 30,
    start: str = "guide",
    leapfrogs: int = 3,
    seed: int = 0,
) -> xr.Dataset:
    """Estimate log p(x) of each row, codes integrated and labels summed out.

    All three are unbiased for p(x). Importance weighting (``"iw"``) is the cheapest and fails
    where the guide is narrower than the posterior; annealing (``"ais"``, ``"smc"``; see
    ``inference.annealed``) walks from the guide, or the prior, to the posterior. Without a
    continuous latent site the answer is the exact sum, and its error zero.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table; all by default.
        method: ``"ais"``, ``"smc"`` or ``"iw"``.
        given: Sites to condition on; the card's data sites by default.
        draws: Particles per row; for ``"smc"`` a multiple of 20, the independent populations.
        temperatures: How many steps lead from the start to the posterior (on a sigmoid, closer
            at both ends: Wu et al. 2017, arXiv 1611.04273), or the inverse temperatures
            themselves, increasing to 1.
        start: Where annealing starts: ``"guide"``, or ``"prior"``, which needs more
            temperatures and no trained guide.
        leapfrogs: Leapfrog steps of the one HMC trajectory at each temperature.
        seed: Seed; the global random state stays as it was.

    Returns:
        Over ``datum`` (row numbers), in nats: ``log_evidence``, its standard error
        ``log_evidence_error`` (an estimate is low by about half its square; where it is above
        1, neither is to be trusted), and ``acceptance_rate`` of annealing.

    Raises:
        ValueError: If a name or option is unknown or out of range, a site stands outside the
            data plate, a latent site is neither continuous nor a label that can be listed,
            or the rows do not fit the model.
    """
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    if start not in STARTS:
        raise ValueError(unknown("start", start, STARTS))
    draws, leapfrogs = at_least(draws=(draws, LEAST), leapfrogs=(leapfrogs, 1))
    betas = _inverse_temperatures(temperatures)
    if method == "smc" and draws % POPULATIONS:
        raise ValueError(f"draws is {draws}, expected a multiple of {POPULATIONS} for smc")
    table, index = chosen(pair, table, rows)
    with undisturbed(pair, seed), fixed(pair):
        seen = weighed(pair, table, given, index)
        by_guide = method == "iw" or start == "guide"
        sites = sites_of_rows(pair, seen, by_guide)
        if method == "iw":
            with torch.no_grad():
                weights = [host(part.log_weight) for part in propose(pair, seen, sites, draws)]
            found = _dataset(log_mean(np.concatenate(weights, 1)))
        else:
            populations = POPULATIONS if method == "smc" else draws
            shape = (populations, draws // populations)
            found = _annealed(pair, seen, sites, start, betas, leapfrogs, shape)
    more = {"objective": "none", "draws": draws}
    attrs = provenance(pair, seen, sites, method, seed, more)
    found.attrs = plain_attrs(attrs)
    return found.assign_coords(datum=seen.numbers.cpu().numpy())


def _inverse_temperatures(given: int | Sequence[float]) -> list[float]:
    given = native(given)
    if isinstance(given, int):
        at_least(temperatures=(given, 1))
        places = torch.linspace(-STEEPNESS, STEEPNESS, given + 1, dtype=torch.float64).sigmoid()
        return ((places[1:] - places[0]) / (places[-1] - places[0])).tolist()
    betas = [float(beta) for beta in given]
    steps = np.diff([0.0, *betas])
    if not len(betas) or not bool((steps > 0).all()) or betas[-1] != 1:
        raise ValueError(f"temperatures is {betas}, expected numbers above 0, increasing to 1")
    return betas


def _annealed(
    pair: Pair,
    seen: Table,
    sites: Sites,
    start: str,
    betas: Sequence[float],
    leapfrogs: int,
    shape: tuple[int, int],
) -> xr.Dataset:
    logs: list[Array] = []
    accepted: list[Array] = []
    step = rows_at_a_time(pair, sites, sites.labels, max(math.prod(shape), PILOT))
    for block in torch.arange(len(seen)).split(step):
        batch = rows_of(seen.rows(block), pair)
        found = target(pair, batch, guide=start == "guide", rows_alone=True)
        if start == "guide":
            labels = [name for name in sites.labels if name in sites.guided]
            between = Between(found, pair.guide, labels)
        else:
            between = Between(found, _prior(pair), sites.labels)
        path = betas if found.transforms else [1.0]
        log_z, rate = anneal(between, path, leapfrogs, *shape)
        logs.append(host(log_z))
        accepted.append(host(rate))
    result = _dataset(log_mean(np.concatenate(logs, 1)))
    return result.assign(acceptance_rate=("datum", np.concatenate(accepted)))


def _prior(pair: Pair) -> Callable[[Batch], Any]:
    # What is observed keeps its value, but does not count.
    def hidden(site: Any) -> bool:
        return bool(site["is_observed"])

    program: Callable[[Batch], Any] = poutine.block(pair.model, hide_fn=hidden)
    return program


def _dataset(estimate: tuple[Array, Array]) -> xr.Dataset:
    names = ("log_evidence", "log_evidence_error")
    return xr.Dataset({n: ("datum", v) for n, v in zip(names, estimate, strict=True)})
