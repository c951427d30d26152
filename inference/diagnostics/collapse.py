r"""Latents that say nothing of the data, and codes that are not where the prior puts them.

With q(z) the average of q(z | x) over rows, the mean KL of the rows is
:math:`\overline{KL}(q(z|x) \| p(z)) = I_q(x; z) + KL(q(z) \| p(z))` (Hoffman and Johnson 2016,
"ELBO surgery"): a latent without KL is collapsed, and one whose KL is all in the second term has
left its prior without telling rows apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr
from pyro import poutine
from scipy import stats
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least
from ppl_models.covariates import covariates_of, empty
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.draws import Many, draw_data
from ppl_models.inference.posterior.groups import Array, entry_name, host
from ppl_models.inference.posterior.rows import Sites, chosen, conditioned, undisturbed
from ppl_models.inference.posterior.target import rows_at_a_time, rows_of, sites_of_rows
from ppl_models.inference.traces.sites import latent_sites
from ppl_models.pair import Pair

ACTIVE = 0.01  # least variance of posterior means, of the prior's (Burda et al. 2016)
SILENT = 0.01  # nats of KL per row below which a site is collapsed
LEAST_DRAWS, LEAST_ROWS = 2, 20
PRIOR = 5000  # draws from which the prior's variance is taken, to 2 %
PERMUTATIONS = 500
KERNEL_ROWS = 1000  # most rows that are compared pair by pair


def active_units(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    draws: int = 50,
    seed: int = 0,
) -> xr.Dataset:
    """Which latents are in use: activity and KL of every number of a code, and of every site.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table, at least 20; all by default.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws of the guide per row.
        seed: Seed; the global random state stays as it was.

    Returns:
        - Over ``unit`` (numbers of codes, ``z[0]``): ``activity``, the variance over rows of
          the guide's mean, as a share of the prior's variance (Burda, Grosse and Salakhutdinov
          2016, arXiv 1509.00519, without the latter; corrected for the noise of the means);
          ``active``, whether it is above 0.01; ``kl``, the mean of log q - log p of this
          number in nats (NaN where its entries are not independent in guide and model).
        - Over ``site``: ``kl`` as ``site_kl``, of codes and labels, with standard error over
          rows ``site_kl_error``; ``collapsed``, whether it is below 0.01 nats.

        Attributes: ``active_units``, ``units``.

    Raises:
        ValueError: If an option is out of range, a site stands outside the data plate, or the
            rows do not fit the model.
    """
    table, index = chosen(pair, table, rows)
    draws, _ = at_least(draws=(draws, LEAST_DRAWS), rows=(len(index), LEAST_ROWS))
    means: dict[str, list[Array]] = {}
    noise: dict[str, list[Array]] = {}
    kls: dict[str, list[Array]] = {}
    apart: dict[str, list[Array]] = {}
    with undisturbed(pair, seed), torch.no_grad():
        seen = conditioned(pair, table, given, index)
        sites = sites_of_rows(pair, seen)
        for block in torch.arange(len(seen)).split(rows_at_a_time(pair, sites, (), draws)):
            batch = rows_of(seen.rows(block), pair)
            for name, (value, whole, parts) in _compared(pair, batch, sites, draws).items():
                kls.setdefault(name, []).append(host(whole.mean(0)))
                if sites.latents[name].support is None:
                    flat = value.reshape(draws, batch.count, -1).double()
                    means.setdefault(name, []).append(host(flat.mean(0)))
                    noise.setdefault(name, []).append(host(flat.var(0) / draws))
                    apart.setdefault(name, []).append(host(parts.mean(0)))
        prior = _prior(pair, sites, PRIOR, seen)
    unit: dict[str, list[Any]] = {"unit": [], "activity": [], "kl": []}
    for name, blocks in means.items():
        mean, error, kl = (np.concatenate(v) for v in (blocks, noise[name], apart[name]))
        spread = prior[name].var(0, ddof=1)
        activity = (mean.var(0, ddof=1) - error.mean(0)) / spread
        unit["activity"] += list(activity.clip(0))
        unit["kl"] += list(kl.mean(0))
        shape = sites.latents[name].event
        unit["unit"] += [entry_name(name, shape, entry) for entry in range(mean.shape[1])]
    active = np.array(unit["activity"]) > ACTIVE
    of_rows = {name: np.concatenate(blocks) for name, blocks in kls.items()}
    told = np.array([value.mean() for value in of_rows.values()])
    return xr.Dataset(
        {
            "activity": ("unit", np.array(unit["activity"], dtype=float)),
            "active": ("unit", active.astype(bool)),
            "kl": ("unit", np.array(unit["kl"], dtype=float)),
            "site_kl": ("site", told),
            "site_kl_error": (
                "site",
                np.array([v.std(ddof=1) / np.sqrt(len(v)) for v in of_rows.values()]),
            ),
            "collapsed": ("site", told < SILENT),
        },
        {"unit": np.array(unit["unit"], dtype=str), "site": list(of_rows)},
        {"active_units": int(active.sum()), "units": len(active)},
    )


def aggregate_posterior(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """How far the average of the rows' posteriors is from the prior.

    One draw per row is compared with as many draws of the model. Where the model fits the rows
    and the guide the model, the two have one distribution; with enough rows, any real model is
    told apart, so go by the distances, and by the p-values where rows are few.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table, at least 20; all by default.
        given: Sites to condition on; the card's data sites by default.
        seed: Seed; the global random state stays as it was.

    Returns:
        - Over ``unit``: ``shift`` of the mean and ``ratio`` of the standard deviation, in units
          of the prior's; ``distance``, the largest difference of the two distribution functions
          (Kolmogorov and Smirnov), and its ``p_value``.
        - Over ``site`` (codes): ``mmd``, the kernel distance of the joint distributions (Gretton
          et al. 2012, JMLR 13; squared, unbiased, Gaussian kernel as wide as the median
          distance, up to 1000 rows), and its ``mmd_p_value`` by 500 permutations.
        - Over ``class`` (labels, ``y=0``): ``posterior_share`` of rows and ``prior_share``.

    Raises:
        ValueError: As :func:`active_units`.
    """
    table, index = chosen(pair, table, rows)
    at_least(rows=(len(index), LEAST_ROWS))
    values: dict[str, list[Array]] = {}
    with undisturbed(pair, seed), torch.no_grad():
        seen = conditioned(pair, table, given, index)
        sites = sites_of_rows(pair, seen)
        for block in torch.arange(len(seen)).split(rows_at_a_time(pair, sites, (), 1)):
            batch = rows_of(seen.rows(block), pair)
            with Many(1):
                trace = poutine.trace(pair.guide).get_trace(batch)
            for name, node in latent_sites(trace):
                value = sites.latents[name].stored(node["value"])[0]
                values.setdefault(name, []).append(host(value.reshape(batch.count, -1)))
        prior = _prior(pair, sites, len(seen), seen)
        shuffle = np.random.default_rng(int(torch.randint(2**62, ())))
    drawn = {name: np.concatenate(parts) for name, parts in values.items()}
    unit: dict[str, list[Any]] = {n: [] for n in ("unit", "shift", "ratio", "distance", "p_value")}
    joint: dict[str, list[Any]] = {"site": [], "mmd": [], "mmd_p_value": []}
    share: dict[str, list[Any]] = {"class": [], "posterior_share": [], "prior_share": []}
    for name, own in drawn.items():
        site, other = sites.latents[name], prior[name]
        if site.support is not None:
            for place in range(len(site.support)):
                share["class"].append(f"{name}={place}")
                share["posterior_share"].append((own == place).mean())
                share["prior_share"].append((other == place).mean())
            continue
        for entry in range(own.shape[1]):
            ours, theirs = own[:, entry], other[:, entry]
            test = stats.ks_2samp(ours, theirs)
            unit["unit"].append(entry_name(name, site.event, entry))
            unit["shift"].append((ours.mean() - theirs.mean()) / theirs.std())
            unit["ratio"].append(ours.std() / theirs.std())
            unit["distance"].append(test.statistic)
            unit["p_value"].append(test.pvalue)
        distance, p_value = _mmd(own[:KERNEL_ROWS], other[:KERNEL_ROWS], shuffle)
        for key, told in zip(joint, (name, distance, p_value), strict=True):
            joint[key].append(told)
    data: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for dim, columns in (("unit", unit), ("site", joint), ("class", share)):
        coords[dim] = np.array(columns.pop(dim), dtype=str)
        data |= {key: (dim, np.array(column, dtype=float)) for key, column in columns.items()}
    return xr.Dataset(data, coords)


def _prior(pair: Pair, sites: Sites, draws: int, seen: Table) -> dict[str, Array]:
    """Draws ``(draws, numbers)`` of every latent site from the model, at the rows' covariates."""
    rows = empty(pair, draws, {name: seen.sites[name][:] for name in covariates_of(pair)})
    new = draw_data(pair.model, rows, {}, 1)
    return {
        name: host(site.stored(new[name])[0].reshape(draws, -1))
        for name, site in sites.latents.items()
    }


def _compared(
    pair: Pair, batch: Batch, sites: Sites, draws: int
) -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    """By site of the guide: draws, log q - log p of them ``(S, B)``, and of each number."""
    with Many(draws):
        guide = poutine.trace(pair.guide).get_trace(batch)
    values = {name: node["value"] for name, node in latent_sites(guide)}
    with Many(draws):
        model = poutine.trace(poutine.condition(pair.model, data=values)).get_trace(batch)
    found = {}
    for name, value in values.items():
        q, p = guide.nodes[name]["fn"], model.nodes[name]["fn"]
        shape = (draws, batch.count)
        whole = (q.log_prob(value) - p.log_prob(value)).expand(shape)
        numbers = value[0, 0].numel()
        parts = whole.unsqueeze(-1) if numbers == 1 else whole.new_full((*shape, numbers), np.nan)
        if numbers > 1 and _independent(q) and _independent(p):
            each = q.base_dist.log_prob(value) - p.base_dist.log_prob(value)
            parts = each.expand(*shape, *value.shape[2:]).reshape(*shape, numbers)
        found[name] = (value, whole, parts)
    return found


def _independent(fn: Any) -> bool:
    return isinstance(fn, dist.Independent) and not fn.base_dist.event_shape


def _mmd(ours: Array, theirs: Array, random: np.random.Generator) -> tuple[float, float]:
    """Squared kernel distance of two samples ``(n, D)`` of one size, and its p-value."""
    both = np.concatenate([ours, theirs]).astype(np.float64)
    both = both / both.std(0).clip(1e-12)
    square = (both**2).sum(1)
    apart = (square[:, None] + square - 2 * both @ both.T).clip(0)
    kernel = np.exp(-apart / np.median(apart[np.triu_indices(len(both), 1)]))
    np.fill_diagonal(kernel, 0)
    count = len(ours)

    def distances(signs: Array) -> Array:
        # Signs +1 for one sample and -1 for the other: within minus between.
        within = ((signs @ kernel) * signs).sum(1)
        total = kernel.sum()
        same, other = (total + within) / 2, (total - within) / 2
        distance: Array = same / (count * (count - 1)) - other / count**2
        return distance

    first = np.repeat([1.0, -1.0], count)
    measured = float(distances(first[None])[0])
    signs = random.permuted(np.tile(first, (PERMUTATIONS, 1)), axis=1)
    beyond = int((distances(signs) >= measured).sum())
    return measured, (1 + beyond) / (1 + PERMUTATIONS)
