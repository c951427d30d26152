r"""Importance sampling and sampling-importance-resampling, with the guide as the proposal.

The weight of draw k of a row is :math:`w_k = \sum_y p(x, y, z_{y,k}) / q(z_{y,k} | x, y)`, a
draw of the code for every value of the labels; its mean is p(x). Picking k by its weight and
then y by its share of :math:`w_k` is picking (y, k) by weight: labels cost no variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import arviz as az
import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior import importance_weights
from ppl_models.inference.posterior.draws import score
from ppl_models.inference.posterior.groups import (
    POSTERIOR_CELLS,
    SAMPLE,
    Array,
    Groups,
    Variables,
    event_dims,
    host,
    provenance,
)
from ppl_models.inference.posterior.importance_weights import log_mean
from ppl_models.inference.posterior.known_rows import add_known
from ppl_models.inference.posterior.plated_scores import Plated, picked
from ppl_models.inference.posterior.rows import (
    Sites,
    chosen,
    elements_there,
    undisturbed,
    weighed,
    with_gaps,
)
from ppl_models.inference.posterior.target import rows_of, sites_of_rows
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import is_enumerated, latent_sites
from ppl_models.inference.traces.weights import Weights
from ppl_models.pair import Pair

LEAST = 2  # draws, without which there is no standard error


def importance(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    draws: int = 1000,
    enumerate_labels: bool = True,
    seed: int = 0,
) -> az.InferenceData:
    """Weigh draws of the guide by the model, row by row.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table; all by default.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws per row.
        enumerate_labels: Sum the guide's labels out in every weight. Otherwise they are drawn
            from the guide like the codes, for labels with too many joint values.
        seed: Seed; the global random state stays as it was.

    Returns:
        ``proposal``: draws of the guide, which count by their weights (labels as integers; the
        first ones only where all would exceed 5e7 numbers);
        ``sample_stats``: ``log_weight`` over ``(chain, draw, datum)``, nats; ``diagnostics``
        per row: ``log_evidence`` = log of the mean weight and its standard error
        ``log_evidence_error``, ``ess_is``, ``khat`` (PSIS), ``elbo``, ``iw_bound``;
        ``observed_data``; ``constant_data``.

    Raises:
        ValueError: If an option is out of range, a site stands outside the data plate, or the
            rows do not fit the model.
        UnhandledSite: If the labels have too many joint values, or only the model has a label
            and labels are not enumerated.
    """
    (draws,) = at_least(draws=(draws, LEAST))
    table, index = chosen(pair, table, rows)
    weights: list[Array] = []
    values: dict[str, list[Array]] = {}
    with undisturbed(pair, seed), torch.no_grad():
        seen = weighed(pair, table, given, index)
        sites = sites_of_rows(pair, seen, plates_within=True)
        kept = max(1, POSTERIOR_CELLS // (len(seen) * _cells(sites)))
        for part in propose(pair, seen, sites, draws, enumerate_labels):
            weights.append(host(part.log_weight))
            for name, value in part.values.items():
                values.setdefault(name, []).append(host(value[:kept]))
    log_weight = np.concatenate(weights, 1)
    proposal = {name: np.concatenate(parts, 1) for name, parts in values.items()}
    drawn: dict[str, Variables] = {
        "proposal": _draws(sites, proposal),
        "sample_stats": {"log_weight": ((*SAMPLE, "datum"), log_weight[None])},
    }
    return _finish(
        pair, table.rows(index), seen, sites, "importance", seed, {"objective": "none"},
        drawn, log_weight,
    )  # fmt: skip


def sir(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    draws: int = 200,
    proposals: int = 1000,
    enumerate_labels: bool = True,
    seed: int = 0,
) -> az.InferenceData:
    """Draws of the posterior: proposals of the guide, picked by their weights (Rubin 1987).

    Args:
        pair: As for :func:`importance`.
        table: As for :func:`importance`.
        rows: As for :func:`importance`.
        given: As for :func:`importance`.
        draws: Draws per row, picked with replacement. Their number of effective draws is not
            above ``ess_is``.
        proposals: Draws of the guide that they are picked from.
        enumerate_labels: As for :func:`importance`.
        seed: As for :func:`importance`.

    Returns:
        ``posterior``: draws of equal weight, labels as integers; ``diagnostics`` of the
        proposals per row, ``observed_data`` and ``constant_data`` as :func:`importance`.

    Raises:
        ValueError: As :func:`importance`.
        UnhandledSite: As :func:`importance`.
    """
    draws, proposals = at_least(draws=(draws, 1), proposals=(proposals, LEAST))
    table, index = chosen(pair, table, rows)
    weights: list[Array] = []
    values: dict[str, list[Array]] = {}
    with undisturbed(pair, seed), torch.no_grad():
        seen = weighed(pair, table, given, index)
        sites = sites_of_rows(pair, seen, plates_within=True)
        for part in propose(pair, seen, sites, proposals, enumerate_labels):
            weights.append(host(part.log_weight))
            for name, value in part.picked(draws).items():
                values.setdefault(name, []).append(host(value))
    posterior = {name: np.concatenate(parts, 1) for name, parts in values.items()}
    more = {"objective": "none", "proposals": proposals}
    return _finish(
        pair, table.rows(index), seen, sites, "sir", seed, more,
        {"posterior": _draws(sites, posterior)}, np.concatenate(weights, 1),
    )  # fmt: skip


@dataclass(frozen=True)
class Proposals:
    """Draws of the guide for a block of rows.

    Attributes:
        log_weight: Their log weights ``(K, B)``, labels summed out.
        values: ``(K, B, *event)`` by site; labels, as places in their supports, are drawn
            within each weight, and so is the code that goes with them.
    """

    log_weight: Tensor
    values: dict[str, Tensor]

    def picked(self, draws: int) -> dict[str, Tensor]:
        """So many draws per row, each picked by its weight."""
        choice = _by_weight(self.log_weight.T, draws)
        rows = torch.arange(choice.shape[1], device=choice.device)
        return {name: value[choice, rows] for name, value in self.values.items()}


def propose(
    pair: Pair, seen: Table, sites: Sites, draws: int, enumerate_labels: bool = True
) -> Iterator[Proposals]:
    """Draw and weigh, in blocks of rows whose tensors fit into a step of memory.

    Args:
        pair: The pair.
        seen: The rows with what is conditioned on.
        sites: Their random variables.
        draws: Draws K per row.
        enumerate_labels: Sum the guide's labels out.

    Raises:
        ValueError: If the guide has a point for a site, naming it.
    """
    if sites.points:
        raise ValueError(
            f"site {sites.points[0]!r} is a point in the guide, which has no density: rows have "
            "no importance weights, no k-hat and no evidence; expected a guide of densities"
        )
    own = [name for name in sites.labels if name not in sites.guided]
    most = sites.draws_at_a_time(pair, 1, sites.labels if enumerate_labels else own)
    for block in torch.arange(len(seen)).split(max(1, most // draws)):
        batch = rows_of(seen.rows(block), pair)
        counts = [len(part) for part in torch.arange(draws).split(max(1, most // len(block)))]
        parts = [_propose(pair, batch, sites, own, k, enumerate_labels) for k in counts]
        names = parts[0].values
        yield Proposals(
            torch.cat([part.log_weight for part in parts]),
            {name: torch.cat([part.values[name] for part in parts]) for name in names},
        )


def _propose(
    pair: Pair, batch: Batch, sites: Sites, own: Sequence[str], draws: int, summed: bool
) -> Proposals:
    # Nothing is differentiated, so draws without a path gradient are as good as any.
    run = Evaluation(pair.model, pair.guide, batch).weights(
        draws, enumerate_labels=summed, cut="all"
    )
    if sites.nesting > 1:
        return _with_plates(pair, batch, sites, draws, run)
    nodes = dict(latent_sites(run.guide))
    dims = {n: s["infer"]["_enumerate_dim"] for n, s in nodes.items() if is_enumerated(s)}
    order = sorted(dims, key=dims.__getitem__)
    sizes = [len(sites.latents[name].values()) for name in order]
    log_w = run.log_w.expand(*sizes, draws, batch.count)
    flat = log_w.reshape(-1, draws, batch.count)
    (which,) = _by_weight(flat.movedim(0, -1), 1)
    places = dict(zip(order, torch.unravel_index(which, sizes), strict=True)) if order else {}
    at = (
        *places.values(),
        torch.arange(draws, device=which.device).unsqueeze(-1),
        torch.arange(batch.count, device=which.device),
    )
    values, full = {}, {}
    for name, node in nodes.items():
        site = sites.latents[name]
        wide = node["value"].expand(*log_w.shape, *site.event)
        full[name] = site.values()[places[name]] if name in places else wide[at]
        values[name] = places[name] if name in places else site.stored(full[name])
    if own:
        values |= score(pair.model, batch, full, own, draws).draw()
    return Proposals(flat.logsumexp(0), values)


def _with_plates(pair: Pair, batch: Batch, sites: Sites, draws: int, run: Weights) -> Proposals:
    """The same where rows have plates within them: no joint tensor of their labels is formed."""
    drawn = (replace(term, value=-term.value) for term in run.terms["q"])
    terms, size = [*run.terms["p"], *drawn], (draws, batch.count)
    scores = Plated(terms, run.labels, (), *size, sites.nesting, run.padding)
    places = scores.draw()
    dims = {dim: places[label.name] for dim, label in run.labels.items()}
    there = elements_there(pair.model, batch, sites)
    values = {}
    for name, site in sites.latents.items():
        if name in places:
            stored = site.by_row(places[name])
        else:
            event = len(site.event)
            value = picked(run.guide.nodes[name]["value"], dims, event)
            inner = value.shape[value.dim() - event - sites.nesting :]
            stored = site.stored(value.reshape(-1, *inner).expand(draws, *inner))
        values[name] = with_gaps(stored, there.get(name))
    return Proposals(scores.marginal(), values)


def _by_weight(log_w: Tensor, draws: int) -> Tensor:
    """Places ``(draws, ...)`` in the last dimension; at random where all weights are zero."""
    some = log_w.amax(-1, keepdim=True) > -math.inf
    picks: Tensor = dist.Categorical(logits=log_w.where(some, 0.0)).sample(torch.Size([draws]))
    return picks


def _cells(sites: Sites) -> int:
    """Numbers in one draw of a row."""
    return max(1, sum(math.prod(site.shape) for site in sites.latents.values()))


def _draws(sites: Sites, values: dict[str, Array]) -> Variables:
    return {
        name: ((*SAMPLE, "datum", *event_dims(sites.latents[name])), array[None])
        for name, array in values.items()
    }


def _finish(
    pair: Pair, table: Table, seen: Table, sites: Sites, method: str, seed: int,
    more: dict[str, Any], drawn: dict[str, Variables], log_weight: Array,
) -> az.InferenceData:  # fmt: skip
    groups = Groups(table, sites)
    for name, variables in drawn.items():
        groups.add(name, variables)
    evidence, error = log_mean(log_weight)
    told = {"log_evidence": evidence, "log_evidence_error": error}
    told |= importance_weights.per_row(log_weight)
    groups.add("diagnostics", {name: (("datum",), value) for name, value in told.items()})
    add_known(groups, pair, seen, table, sites)
    return groups.finish(provenance(pair, seen, sites, method, seed, more))
