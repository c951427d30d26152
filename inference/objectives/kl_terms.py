"""KL terms of single sites: weights, free bits, and capacities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective, check_choice
from ppl_models.inference.objectives.loss_parts import KL, RECONSTRUCTION, printed
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.nesting import without_plates
from ppl_models.inference.traces.per_row import mean_of_draws, row_density
from ppl_models.inference.traces.sites import (
    UnhandledSite,
    check_prior,
    is_enumerated,
    latent_sites,
    model_only,
)
from ppl_models.inference.traces.weights import Weights, closed_kl
from ppl_models.sample_sites import is_local

Beta = float | Anneal | Mapping[str, float | Anneal]


@dataclass(frozen=True)
class FreeBits:
    r"""A floor under the KL term of drawn sites: :math:`\max(\lambda, KL)`.

    Kingma et al. 2016 (arXiv 1606.04934, eq. 15). Below the floor a term has no gradient. Sites
    that are summed out have none.

    Args:
        nats: The floor :math:`\lambda`, in nats, a number or an :class:`Anneal`.
        per: The floor is of each latent ``"dimension"`` (for vectors of independent
            components) or of each ``"site"``.
        over: The KL that is compared is its mean over the rows of the ``"batch"``, as in the
            paper (labelled and unlabelled batches each have their own), or each ``"row"``'s.

    Raises:
        ValueError: If an option is out of range.
    """

    nats: float | Anneal
    per: Literal["dimension", "site"] = "dimension"
    over: Literal["batch", "row"] = "batch"

    def __post_init__(self) -> None:
        """Check the options."""
        check_range("nats of FreeBits", self.nats, 0)
        check_choice("per", self.per, ("dimension", "site"))
        check_choice("over", self.over, ("batch", "row"))

    @property
    def across_rows(self) -> bool:
        """Whether a floor is under the mean of several rows."""
        return self.nats != 0 and self.over == "batch"

    def __str__(self) -> str:
        """E.g. ``0.5 nats per dimension``."""
        return f"{written(self.nats)} nats per {self.per}"


def check_beta(beta: Beta) -> None:
    """Raise a ValueError where a weight is negative, naming the site."""
    if not isinstance(beta, Mapping):
        check_range("beta", beta, 0)
        return
    for name, weight in beta.items():
        check_range(f"beta of site {name!r}", weight, 0)


def site_kl(
    run: Evaluation, w: Weights, name: str, analytic: bool | None, dimensions: bool = False
) -> Tensor:
    r"""KL(q || p) of one latent site given those before it, per row.

    Averaged over the draws, and over missing labels weighted by q(y | x); that of a label
    itself is :math:`\sum_y q(y|x) [\log q(y|x) - \log p(y)]`.

    Args:
        run: The run.
        w: Its weights, whose draws are used.
        name: The site, drawn or summed out by the guide inside the data plate.
        analytic: In closed form; if False log q - log p at the draws, if None only where there is
            no closed form.
        dimensions: Keep the components of an independent vector apart.

    Returns:
        ``(B,)``, or ``(D, B)`` with ``dimensions``; nats.

    Raises:
        UnhandledSite: If there is no closed form, or the components depend on each other.
    """
    q_site, p_site = w.guide.nodes[name], w.model.nodes[name]
    q, p, value = q_site["fn"], p_site["fn"], q_site["value"]
    event = q.event_dim if dimensions else 0
    if event:
        q, p = _components(name, q), _components(name, p)
    gap: Tensor | None = None
    if analytic is not False and not is_enumerated(q_site):
        try:
            gap = closed_kl(name, q, p, value)
        except UnhandledSite:
            if analytic:
                raise
    if gap is None:
        gap = q.log_prob(value) - p.log_prob(value)
    batch = gap.flatten(gap.dim() - event).select(-1, 0) if event else gap
    check_prior(name, batch, model_only(w.model, dict(latent_sites(w.guide))))
    parts = gap.flatten(gap.dim() - event).unbind(-1) if event else (gap,)
    kl = torch.stack([mean_of_draws(w, row_density(run, q_site, part)) for part in parts])
    return kl if dimensions else kl[0]


def _components(name: str, fn: Any) -> Any:
    if isinstance(fn, dist.Independent) and not fn.base_dist.event_dim:
        return fn.base_dist
    raise UnhandledSite(
        f"site {name!r} ({type(fn).__name__}) has no independent components for free bits per "
        'dimension; use per="site"'
    )


@torch.no_grad()
def by_site(w: Weights) -> dict[str, Tensor]:
    """What minus a bound with its draws averaged outside the log is made of, per row.

    Args:
        w: The weights that the bound was made from.

    Returns:
        Minus log p of what is observed, and log q - log p of each site of the guide, ``(B,)``,
        averaged over draws and labels; nothing where the labels are summed term by term, or in
        the model alone, so that the bound forms no such numbers.
    """
    if w.term_by_term or any(not label.in_guide for label in w.labels.values()):
        return {}
    costs: dict[str, Tensor] = {}
    for kind in ("labels", "q"):
        for term in w.terms[kind]:
            if term.plates:
                return {}
            costs[f"{KL}({printed(term.name)})"] = term.value
    observed: Tensor | None = None
    for term in w.terms["p"]:
        if term.plates:
            return {}
        name = f"{KL}({printed(term.name)})"
        if name in costs:
            costs[name] = costs[name] - term.value
        else:
            observed = -term.value if observed is None else observed - term.value
    if observed is not None:
        costs = {RECONSTRUCTION: observed, **costs}
    log_q = w.log_q_labels_by_draw
    labels = None if log_q is None else log_q.exp()
    return {
        name: _mean_of_rows(without_plates(cost, w.nesting), labels)
        for name, cost in costs.items()
    }


def _mean_of_rows(value: Tensor, labels: Tensor | None) -> Tensor:
    if labels is not None:
        value = labels * value
    rows = value.shape[-1]
    if value.numel() == rows:
        return value.reshape(rows)
    # Draws are averaged over, labels have been weighed.
    total = value.reshape(-1, rows).sum(0)
    return total if value.shape[-2] == 1 else total / value.shape[-2]


def reweighted(
    run: Evaluation,
    w: Weights,
    analytic: bool,
    beta: Beta,
    free_bits: FreeBits,
    progress: float,
) -> Tensor | float:
    """What weights and floors of the KL terms change in a loss of each row.

    Args:
        run: The run.
        w: The weights that the bound was made from.
        analytic: Whether the bound has its KL terms in closed form.
        beta: Weight of all sites inside the data plate, or by site (the others at 1).
        free_bits: The floor.
        progress: Share of training that is done.

    Returns:
        ``(B,)``, or 0.0 where nothing changes.

    Raises:
        UnhandledSite: If ``beta`` names a site that is neither latent nor observed.
    """
    if isinstance(beta, float | int) and beta == 1 and free_bits.nats == 0:
        return 0.0
    latent = {name: site for name, site in latent_sites(w.guide) if is_local(site)}
    by_site = beta if isinstance(beta, Mapping) else dict.fromkeys(latent, beta)
    for name in by_site:
        if name not in latent and name not in run.batch:
            raise UnhandledSite(
                f"beta names site {name!r}, which the guide does not sample inside the data "
                f"plate; it samples {list(latent)}"
            )
    floor = value_at(free_bits.nats, progress)
    change: Tensor | float = 0.0
    for name, site in latent.items():
        weight = value_at(by_site.get(name, 1.0), progress)
        floored = floor > 0 and not is_enumerated(site)
        if weight == 1 and not floored:
            continue
        kl = site_kl(run, w, name, analytic, dimensions=floored and free_bits.per == "dimension")
        kl = kl.reshape(-1, run.batch.count)
        if weight != 1:
            change = change + (weight - 1) * kl.sum(0)
        if floored:
            compared = kl
            if free_bits.over == "batch":
                compared = run.every_row(kl).mean(-1, keepdim=True)
            change = change + weight * (floor - compared).clamp_min(0).sum(0)
    return change


class Capacity(Objective):
    r"""Holds the KL of a site at a capacity: :math:`\gamma\,|KL - C|` in place of the KL.

    Burgess et al. 2018 (arXiv 1804.03599, eq. 8). The bound beside it must leave the site's own
    KL out: ``EnumeratedELBO(kl="analytic", beta={"z": 0}) + Capacity("z", 1000, Anneal(0, 25))``.
    The KL has its closed form where there is one, and is else that of the bound's draws. Missing
    labels weigh it by q(y | x). Rows that observe the site add nothing.

    Args:
        site: A site of the guide inside the data plate.
        gamma: Weight :math:`\gamma`, a number or an :class:`Anneal`.
        capacity: :math:`C` in nats, likewise.
        over: Compare the mean KL over the ``"batch"``, as published code does, or each
            ``"row"``'s. Either way the term counts once per row.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        site: str,
        gamma: float | Anneal,
        capacity: float | Anneal,
        over: Literal["batch", "row"] = "batch",
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"gamma of Capacity({site!r})", gamma, 0)
        check_range(f"capacity of Capacity({site!r})", capacity, 0)
        check_choice("over", over, ("batch", "row"))
        self.site, self.gamma, self.capacity = site, gamma, capacity
        self.over = over

    @property
    def across_rows(self) -> bool:  # type: ignore[override]
        """Whether the mean over a batch is compared."""
        return self.over == "batch"

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        gamma, capacity = written(self.gamma), written(self.capacity)
        return f"-{gamma} |KL(q({self.site}|...) || p({self.site}|...)) - {capacity}|"

    def rows(self, run: Evaluation) -> Tensor:
        """The term per row."""
        if self.site in run.batch:
            return zero_loss(run)
        w = run.lead
        names = [name for name, site in latent_sites(w.guide) if is_local(site)]
        if self.site not in names:
            raise UnhandledSite(
                f"Capacity holds site {self.site!r}, which the guide does not sample inside the "
                f"data plate; it samples {names}"
            )
        kl = site_kl(run, w, self.site, analytic=None)
        if self.over == "batch":
            kl = run.every_row(kl).mean().expand_as(kl)
        gamma, capacity = (value_at(n, self.progress) for n in (self.gamma, self.capacity))
        return gamma * (kl - capacity).abs()
