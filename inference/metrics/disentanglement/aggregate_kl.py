r"""The mean KL of a code in its three parts, from the mixture of all rows' posteriors.

With :math:`q(z) = \sum_n w_n q(z|x_n)`, :math:`E_n KL(q(z|n) \| p(z)) = I(z; n) +
KL(q(z) \| \prod_j q(z_j)) + KL(\prod_j q(z_j) \| p(z))`, the last a sum over coordinates where the
prior is (Chen et al. 2018, arXiv 1802.04942, equation 2). A batch only estimates the mixture
(:func:`ppl_models.inference.kl_parts`); here all rows are in it, and draws are all that is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr
from torch import Tensor

from ppl_models.config import at_least, check_seed, names
from ppl_models.data.factors.grid import FactorData
from ppl_models.data.tables.table import Table
from ppl_models.inference.metrics.disentanglement.encoding import (
    BLOCK,
    cells_of,
    code_sites,
    is_redrawn,
    looks_at,
)
from ppl_models.inference.metrics.disentanglement.results import CODE, VERSIONS
from ppl_models.inference.objectives.code_terms.total_correlation import components
from ppl_models.inference.posterior.groups import Array, entry_name, host
from ppl_models.inference.posterior.rows import chosen, conditioned, undisturbed
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.inference.posterior.target import rows_at_a_time, rows_of, sites_of_rows
from ppl_models.inference.traces.codes import Codes
from ppl_models.inference.traces.evaluation import Evaluation, Lead
from ppl_models.inference.traces.sites import UnhandledSite
from ppl_models.pair import Pair

CELLS = 2_000_000  # densities of coordinates held at a time: 16 MB in double precision
LEAST_DRAWS = 2  # of a row, from whose spread errors are told
PARTS = ("mutual_information", "total_correlation", "dimension_wise", "kl")
Make = Callable[[Mapping[str, Tensor]], Any]


@dataclass(frozen=True)
class _Site:
    """A code of some rows: what its posteriors are made of, and draws of them.

    Attributes:
        make: A distribution from parameters.
        parameters: ``(C, B, D)`` each, C components in a row.
        shares: Log of how probable each component is ``(C, B)``.
        draws: ``(S, B, D)``.
        log_prior: Of the draws ``(S, B)``.
        log_priors: Of their coordinates ``(S, B, D)``, NaN where these are not independent.
        weights: Log of how much each draw counts in its row ``(S, B)``.
    """

    make: Make
    parameters: dict[str, Tensor]
    shares: Tensor
    draws: Tensor
    log_prior: Tensor
    log_priors: Tensor
    weights: Tensor


def kl_decomposition(
    pair: Pair,
    data: Table | FactorData,
    rows: Any = None,
    *,
    sites: Sequence[str] = (),
    weights: Any = None,
    draws: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    r"""Mutual information, total correlation and dimension-wise KL of a code, in nats.

    The mixture of all rows is evaluated in double precision and in blocks; its cost is that of
    (rows x draws) x rows densities of each coordinate. ``mutual_information`` is of the code
    with the row's number and at most the entropy of the weights, log N where rows count alike.
    A posterior that hangs on a missing label is the mixture over its values.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        data: Rows; or the factors of a set of images, whose cells are drawn once each.
        rows: Positions in the table, or numbers of cells; all by default.
        sites: Latent sites whose numbers are the code, side by side; all continuous ones of the
            guide by default. Each is a vector of independent coordinates given the row.
        weights: How much each row counts ``(N,)``, such as ``factors.correlated("positions",
            0.3)``, which makes the mixture that of correlated sampling; alike by default.
        draws: Draws of the guide in each row, at least 2.
        seed: Of the draws, and of nuisance in images that are drawn.

    Returns:
        ``mutual_information``, ``total_correlation``, ``dimension_wise`` and ``kl``, the first
        three of which add up to the last, each with the standard error of its draws
        (``kl_error``, ...); and ``dimension_wise_per_code`` over ``code``, the KL of each
        coordinate of the mixture to its prior, NaN where the prior's are not independent. It
        goes into an InferenceData by :func:`attach`.

    Raises:
        ValueError: If an option is out of range, weights do not fit the rows, the rows do not
            fit the pair, or a code is no vector of independent coordinates given the row, hangs
            on draws of another, or stands beside another and hangs on a missing label.
    """
    draws = at_least(draws=(draws, LEAST_DRAWS))[0]
    seed, wanted = check_seed(seed), names("sites", sites)
    count, tables, nuisance = _tables(pair, data, rows, seed)
    shares = _normalised(weights, count)
    found: dict[str, list[_Site]] = {}
    labels: list[str] = []
    with undisturbed(pair, seed), torch.no_grad():
        for table in tables:
            seen = conditioned(pair, table, None, torch.arange(len(table)))
            there = sites_of_rows(pair, seen)
            asked = code_sites(pair, there, wanted)
            if not labels:
                labels = [
                    entry_name(name, there.latents[name].event, entry)
                    for name in asked
                    for entry in range(math.prod(there.latents[name].event))
                ]
            size = rows_at_a_time(pair, there, there.labels, draws)
            for block in torch.arange(len(seen)).split(size):
                run = _run(pair, rows_of(seen.rows(block), pair), draws)
                for name in asked:
                    found.setdefault(name, []).append(_site(run, name, len(asked) > 1))
        parts = _parts([_joined(blocks) for blocks in found.values()], shares, draws)
    source = {
        "pair": pair.source,
        "data": data.name,
        "rows": count,
        "weights": "alike" if weights is None else "given",
        "nuisance": nuisance,
        "draws": draws,
        "seed": seed,
    }
    return _result(parts, labels, source)


def _tables(
    pair: Pair, data: Table | FactorData, rows: Any, seed: int
) -> tuple[int, Iterator[Table], str]:
    """How many rows, some at a time, and what their nuisance is."""
    if isinstance(data, FactorData):
        cells = cells_of(data, rows)
        looks = (as_fitted(pair, table) for table in looks_at(data, cells, seed))
        return len(cells), looks, "one look at each cell" if is_redrawn(data) else "none"
    if not isinstance(data, Table):
        raise ValueError(
            f"data are a {type(data).__name__}, expected a table, such as the test part of a data "
            "set, or its factors (data.factor_data)"
        )
    table, index = chosen(pair, data, rows)
    return len(index), (table.rows(block) for block in index.split(BLOCK)), "as in the rows"


def _normalised(weights: Any, count: int) -> Tensor:
    """Weights of rows that add up to one, ``(N,)``."""
    if weights is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    given = torch.as_tensor(np.asarray(weights, dtype=np.float64))
    good = given.isfinite() & (given >= 0)
    if given.shape != (count,) or not bool(good.all()) or not bool(given.any()):
        raise ValueError(
            f"weights have shape {tuple(given.shape)}, expected ({count},), finite, none of them "
            "negative and not all 0"
        )
    return given / given.sum()


def _run(pair: Pair, batch: Any, draws: int) -> Evaluation:
    def lead(run: Evaluation) -> Lead:
        return Lead(run, run.weights(draws))

    return Evaluation(pair.model, pair.guide, batch, leads=lead)


def _site(run: Evaluation, name: str, beside: bool) -> _Site:
    codes = run.codes(name)
    if codes.given_draws:
        raise UnhandledSite(
            f"site {name!r} hangs on draws of other codes, so that its posterior given the row "
            "alone is not known; expected codes that hang on the row and its labels"
        )
    make, parameters, shares = components(codes)
    if beside and len(shares) > 1:
        raise UnhandledSite(
            f"site {name!r} hangs on a missing label, and is asked beside other codes; name it "
            "alone by sites="
        )
    w = run.lead
    prior, value = w.model.nodes[name]["fn"], w.guide.nodes[name]["value"]
    return _Site(
        make,
        {key: of.double() for key, of in parameters.items()},
        shares.expand(-1, run.batch.count).double(),
        codes.values.double(),
        codes.by_draw(prior.log_prob(value)).double(),
        _by_coordinate(codes, prior, value).double(),
        codes.log_weights.double(),
    )


def _by_coordinate(codes: Codes, prior: Any, value: Tensor) -> Tensor:
    if not isinstance(prior, dist.Independent) or prior.base_dist.event_shape:
        return torch.full_like(codes.values, torch.nan)
    each = prior.base_dist.log_prob(value)
    return torch.stack([codes.by_draw(of) for of in each.unbind(-1)], -1)


def _joined(blocks: Sequence[_Site]) -> _Site:
    """One site of the rows of all blocks."""
    first = blocks[0]
    each = {key: torch.cat([b.parameters[key] for b in blocks], 1) for key in first.parameters}
    tensors = ("shares", "draws", "log_prior", "log_priors", "weights")
    others = {name: torch.cat([getattr(b, name) for b in blocks], 1) for name in tensors}
    return _Site(first.make, each, **others)


def _parts(codes: Sequence[_Site], shares: Tensor, draws: int) -> dict[str, tuple[Array, Array]]:
    """Value and error of each part, and those of the coordinates as ``per_code``."""
    S, B = codes[0].weights.shape
    shares = shares.to(codes[0].weights.device)
    size = sum(site.draws.shape[-1] for site in codes)
    within = codes[0].shares  # of the components of a row, (C, B)
    in_mixture = within + shares.log()
    by_draw = {name: shares.new_empty(S * B) for name in PARTS}
    per_code = shares.new_empty(S * B, size)
    at_a_time = max(1, CELLS // (len(within) * B * size))
    for block in torch.arange(S * B, device=shares.device).split(at_a_time):
        row = block % B
        log_q, own, log_p, log_ps = [], [], [], []
        for site in codes:
            z = site.draws.flatten(0, 1)[block]
            log_q.append(site.make(site.parameters).log_prob(z[:, None, None]))  # b x C x N x D
            mine = {key: of[:, row] for key, of in site.parameters.items()}
            own.append(site.make(mine).log_prob(z).sum(-1))  # C x b
            log_p.append(site.log_prior.flatten()[block])
            log_ps.append(site.log_priors.flatten(0, 1)[block])
        each = torch.cat(log_q, -1)
        joint = torch.logsumexp((each.sum(-1) + in_mixture).flatten(1), 1)
        marginals = torch.logsumexp((each + in_mixture.unsqueeze(-1)).flatten(1, 2), 1)
        given = torch.logsumexp(torch.stack(own).sum(0) + within[:, row], 0)
        apart, prior = marginals.sum(-1), torch.stack(log_p).sum(0)
        parts = (given - joint, joint - apart, apart - prior, given - prior)
        for name, value in zip(PARTS, parts, strict=True):
            by_draw[name][block] = value
        per_code[block] = marginals - torch.cat(log_ps, -1)
    counts = codes[0].weights.exp()  # S x B
    found = {
        name: _mean(value.reshape(S, B), counts, shares, draws) for name, value in by_draw.items()
    }
    of_codes = per_code.reshape(S, B, size)
    told = [_mean(value, counts, shares, draws) for value in of_codes.unbind(-1)]
    means, errors = (np.stack(of) for of in zip(*told, strict=True))
    return {**found, "per_code": (means, errors)}


def _mean(values: Tensor, counts: Tensor, shares: Tensor, draws: int) -> tuple[Array, Array]:
    """The mean over rows and their draws, and its standard error: rows are all there are.

    Args:
        values: ``(S, B)``.
        counts: How much a draw counts in its row ``(S, B)``.
        shares: How much a row counts ``(B,)``.
        draws: K, of which each has a value for each label.
    """
    rows = values.shape[1]
    of_draws = draws * (counts * values).reshape(-1, draws, rows).sum(0)  # K x B
    mean = (shares * of_draws.mean(0)).sum()
    error = (shares.square() * of_draws.var(0) / draws).sum().sqrt()
    return host(mean), host(error)


def _result(
    parts: Mapping[str, tuple[Array, Array]], labels: Sequence[str], source: Mapping[str, Any]
) -> xr.Dataset:
    variables: dict[str, Any] = {}
    for name in PARTS:
        value, error = parts[name]
        variables |= {name: ((), value), f"{name}_error": ((), error)}
    value, error = parts["per_code"]
    variables["dimension_wise_per_code"] = (CODE, value)
    variables["dimension_wise_per_code_error"] = (CODE, error)
    return xr.Dataset(variables, {CODE: list(labels)}, {**source, **VERSIONS})
