"""Draws of the sites outside the data plate: what all rows share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.inference.posterior.draws import Given
from ppl_models.inference.posterior.groups import SAMPLE, Variables, event_dims, host
from ppl_models.inference.posterior.rows import Conditioned, Site, shared_site
from ppl_models.inference.traces.sites import Program, latent_sites
from ppl_models.pair import Pair
from ppl_models.sample_sites import base_of, is_local


@dataclass(frozen=True)
class Outside:
    """Draws of the guide for the sites outside the data plate; there may be none.

    Attributes:
        pair: The pair.
        sites: The sites, all their dimensions as event.
        values: Draws ``(S + 1, *event)``; the last one is spare.
        log_p: Joint log density of the first S under the model ``(S,)``.
        log_q: The same under the guide.
        parameters: loc and scale of those whose factor is a Normal of its own.
        structure: Of discrete ones, the probability of each entry (of its values, where these are
            more than 0 and 1) under the guide, averaged over the draws before it, and its most
            probable value.
    """

    pair: Pair
    sites: dict[str, Site]
    values: dict[str, Tensor]
    log_p: Tensor
    log_q: Tensor
    parameters: Variables
    structure: Variables = field(default_factory=dict)

    def at(self, draw: int) -> Program:
        """The pair given one draw, which leaves the rows; the pair itself without such sites."""
        if not self.sites:
            return self.pair
        given = Given({name: value[draw] for name, value in self.values.items()})
        return Conditioned(self.pair, given(self.pair.model), given(self.pair.guide))

    def posterior(self) -> Variables:
        """The draws of one chain, for ``posterior``."""
        return {
            name: ((*SAMPLE, *event_dims(site)), host(self.values[name][None, :-1]))
            for name, site in self.sites.items()
        }

    def stats(self) -> Variables:
        """Their log densities, for ``sample_stats``."""
        if not self.sites:
            return {}
        both = {"log_p_outside": self.log_p, "log_q_outside": self.log_q}
        return {name: (SAMPLE, host(value[None])) for name, value in both.items()}


def draw_outside(pair: Pair, batch: Batch, draws: int) -> Outside:
    """Draw the sites outside the data plate, one draw after another.

    Guides over them have no dimension for draws, and network weights with one could not be
    multiplied by a batch.

    Raises:
        ValueError: If the guide does not sample one of them, or one that the model lacks.
    """
    model = _outside(poutine.trace(pair.model).get_trace(batch))
    guide = _outside(poutine.trace(pair.guide).get_trace(batch))
    for name in model:
        if name not in guide:
            raise ValueError(
                f"site {name!r} stands outside the data plate and is latent, but the guide does "
                "not sample it; use guides.Mixed, or inference.nuts, which needs no guide"
            )
    for name in guide:
        if name not in model:
            raise ValueError(f"the guide samples site {name!r}, which is not latent in the model")
    sites = {name: shared_site(name, site) for name, site in model.items()}
    runs = [_draw(pair, batch, list(sites)) for _ in range(draws + 1 if sites else 0)]
    zero = batch.rows.new_zeros((0,), dtype=torch.float32)
    if not runs:
        return Outside(pair, {}, {}, zero, zero, {})
    values = {name: torch.stack([run[0][name]["value"] for run in runs]) for name in sites}
    return Outside(
        pair,
        sites,
        values,
        torch.stack([run[1] for run in runs[:-1]]),
        torch.stack([run[2] for run in runs[:-1]]),
        _parameters(sites, runs[0][0], runs[-1][0]),
        _structure(sites, [run[0] for run in runs[:-1]]),
    )


def _outside(trace: poutine.Trace) -> dict[str, Any]:
    return {name: site for name, site in latent_sites(trace) if not is_local(site)}


def _draw(pair: Pair, batch: Batch, names: Sequence[str]) -> tuple[dict[str, Any], Tensor, Tensor]:
    """One draw: the guide's sites, and their log densities under model and guide."""
    q = _outside(poutine.trace(pair.guide).get_trace(batch))
    values = {name: q[name]["value"] for name in names}
    p = poutine.trace(poutine.condition(pair.model, data=values)).get_trace(batch).nodes
    return q, _log_density(p, names), _log_density(q, names)


def _log_density(nodes: Any, names: Sequence[str]) -> Tensor:
    logs = [
        scale_and_mask(nodes[n]["fn"].log_prob(nodes[n]["value"]), mask=nodes[n]["mask"]).sum()
        for n in names
    ]
    return torch.stack(logs).sum()


def _parameters(sites: dict[str, Site], first: Any, other: Any) -> Variables:
    found: Variables = {}
    for name, site in sites.items():
        both = [base_of(run[name]["fn"]) for run in (first, other)]
        if not all(isinstance(base, dist.Normal) for base in both):
            continue
        for part in ("loc", "scale"):
            one, two = (getattr(base, part).expand(site.shape) for base in both)
            if torch.equal(one, two):  # else it depends on the sites before it
                found[f"{name}_{part}"] = (event_dims(site), host(one))
    return found


def _structure(sites: dict[str, Site], runs: Sequence[Any]) -> Variables:
    found: Variables = {}
    for name, site in sites.items():
        base = base_of(runs[0][name]["fn"])
        if not base.support.is_discrete or not base.has_enumerate_support:
            continue
        values = base.enumerate_support(expand=False)
        entries = len(base.event_shape)  # one value of several numbers, such as a one-hot vector
        batch = site.shape[: len(site.shape) - entries]
        log_q = [base_of(run[name]["fn"]).log_prob(values) for run in runs]
        probs = torch.stack([v.expand(len(values), *batch).exp() for v in log_q]).mean(0)
        dims = event_dims(site)
        most = values.reshape(len(values), *base.event_shape)[probs.argmax(0)]
        found[name] = (dims, host(most))
        two = not entries and values.flatten().tolist() == [0, 1]
        whole = probs[1] if two else probs.movedim(0, -1)
        of = dims[: len(batch)] + (() if two else (f"{name}_class",))
        found[f"{name}_probs"] = (of, host(whole))
    return found
